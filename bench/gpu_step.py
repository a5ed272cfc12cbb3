"""What does a replayed decode step cost besides its kernels, and where does the GPU's time go?

    python bench/gpu_step.py [--model NAME ...] [--batch 1 16 128 256] [--kv 1024] [--page-size 64] [--steps 100]
                             [--device cuda] [--json]

Shapes of Qwen3-0.6B, Qwen3-8B, Qwen3-30B-A3B and DeepSeek-V2-Lite with weights of zeros (each sampled token is
checked), one graph a batch size. Steps are enqueued as the runtime does it, two in flight; plans and inputs, made by
another thread there, count for `step` alone. All times are microseconds a step, means over `steps`.

    step        wall clock
    host        of the host, enqueueing a step: inputs packed, upload, replay, download
    between     GPU: from the end of a step's LM head to the first kernel of the next
    embedding, attention, feed_forward, logits    GPU, by stamps of the first kernel of each
    capture_ms, graph_mb    of one graph, on average: host time to capture, instantiate and upload; device memory

Aims: host <= 20, between <= 20.
"""

import argparse
import json
import subprocess
import sys
import tempfile

from common import build
from gpu_common import SHAPES, Table, machine, write_config

COLUMNS = [
    ("model", "s"),
    ("batch", "d"),
    ("kv", "d"),
    ("step", ".1f"),
    ("host", ".1f"),
    ("between", ".1f"),
    ("embedding", ".1f"),
    ("attention", ".1f"),
    ("feed_forward", ".1f"),
    ("logits", ".1f"),
    ("capture_ms", ".2f"),
    ("graph_mb", ".2f"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16, 128, 256])
    parser.add_argument("--kv", nargs="+", type=int, default=[1024], help="tokens of a request before the first step")
    parser.add_argument("--page-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    program = build("bench_step")
    about = machine()
    if not args.json:
        print(f"{about['card']}, commit {about['commit']}, page size {args.page_size}; every token is right\n")
    table = Table(COLUMNS, args.json)
    for name in args.model:
        with tempfile.TemporaryDirectory() as folder:
            write_config(SHAPES[name], folder)
            loads = [f"{batch}:{kv}" for batch in args.batch for kv in args.kv]
            command = [str(program), folder, args.device, str(args.steps), str(args.page_size), *loads]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"gpu_step: {name} failed")
        graphs, *rows = [json.loads(line) for line in done.stdout.splitlines()]
        for row in rows:
            table.add(
                {"model": name}
                | {key.removesuffix("_us"): value for key, value in row.items()}
                | {
                    "capture_ms": graphs["capture_us"] / graphs["graphs"] / 1e3,
                    "graph_mb": graphs["graph_bytes"] / graphs["graphs"] / 2**20,
                }
            )
    if args.json:
        print(json.dumps({"about": about, "rows": table.rows}, indent=1))


if __name__ == "__main__":
    main()
