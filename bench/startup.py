"""How long until an engine on a GPU answers, phase by phase?

    python bench/startup.py [--model NAME ...] [--rounds 3] [--json]

Shapes of Qwen3-0.6B, Qwen3-8B and Qwen3-30B-A3B with dummy bf16 weights. Each round is a process of its own; medians.
Its first answer must have the tokens that it was asked for.

    import     from the start of Python to weft being imported
    engine     weft.Engine(): the sizes, the GPU's context, kernels, memory, weights and decode graphs
    first      the first answer, of one token to one short prompt
    batch      eight tokens each of 128 prompts
    total      all of these, until a batch is served
    weights_GB, GB/s   the weights without the embedding, and their rate over the whole of `engine`
    vllm, sglang   vLLM 0.26.0 and SGLang 0.5.17 until they are ready, on one H200; at_least, goal: of weft there
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

from gpu_common import (
    BF16,
    PEERS,
    SHAPES,
    Table,
    ask,
    machine,
    make_engine,
    make_prompts,
    need_gpu,
    print_about,
    write_config,
)

# Seconds of PEERS.
MEASURED = {"qwen3-0.6b": (70, 82, 30, 6), "qwen3-8b": (50, 36, 25, 8), "qwen3-30b-a3b": (92, 61, 45, 20)}
BATCH = 128


def run_once(name: str, started: float) -> None:
    """In a process of its own: print the phases."""
    times = {"import": time.time() - started}
    shape = SHAPES[name]
    vocab = int(shape.config["vocab_size"])
    with tempfile.TemporaryDirectory() as directory:
        write_config(shape, directory)
        mark = time.perf_counter()
        with make_engine(directory, 256) as engine:

            def phase(what: str) -> None:
                nonlocal mark
                times[what] = time.perf_counter() - mark
                mark = time.perf_counter()

            phase("engine")
            for what, count, output in (("first", 1, 1), ("batch", BATCH, 8)):
                ask(engine, make_prompts(count, 16, vocab), output)
                phase(what)
    print(json.dumps(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(MEASURED), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)  # of a round's process
    options = parser.parse_args()
    if options.started is not None:
        run_once(options.model[0], options.started)
        return
    need_gpu("startup")
    about = machine()
    if not options.json:
        print_about(about, options.rounds, {})
    columns = [("model", "s"), *((name, ".2f") for name in ("import", "engine", "first", "batch", "total"))]
    columns += [("weights_GB", ".1f"), ("GB/s", ".1f"), *((name, ".0f") for name in PEERS)]
    table = Table(columns, options.json)
    for name in options.model:
        rounds = []
        for _ in range(options.rounds):
            command = [sys.executable, __file__, "--model", name, "--started", str(time.time())]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{done.stderr}\nstartup: a round failed")
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
        row = {what: statistics.median(times[what] for times in rounds) for what in rounds[0]}
        row["total"] = statistics.median(sum(times.values()) for times in rounds)
        row["weights_GB"] = SHAPES[name].params_read(1e9) * BF16 / 1e9
        row["GB/s"] = row["weights_GB"] / row["engine"]
        table.add({"model": SHAPES[name].title} | row | dict(zip(PEERS, MEASURED.get(name, ()), strict=False)))
    if options.json:
        print(json.dumps(about | {"rows": table.rows}))


if __name__ == "__main__":
    main()
