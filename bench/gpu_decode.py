"""How long is a decode step on a GPU, beside what the memory allows and beside vLLM and SGLang?

    python bench/gpu_decode.py [--model NAME ...] [--batch 1 16 128 256] [--kv 256 1024 4096] [--rounds 3] [--profile]
                               [--json]

Shapes of Qwen3-0.6B, Qwen3-8B, Qwen3-30B-A3B and DeepSeek-V2-Lite with dummy bf16 weights. First two layers of each
must give the CPU's log-probabilities. All requests of a batch start together and answer greedily.

    kv         mean tokens of a request while it decodes. 256 is 128 random tokens in and 256 out, the load at which
               the others were measured; 1024 and 4096 have prompts as much longer (4096 at the end).
    weft_ms    (time for 256 tokens - time for 1 token) / 255, medians of the rounds: scheduler and sampling included
    spread     (slowest - fastest) / median of the rounds
    floor_ms   bytes that a step must read (weights once, the experts that some row chooses, keys and values) at
               4.2 TB/s; fraction: floor_ms / weft_ms
    vllm, sglang   vLLM 0.26.0 and SGLang 0.5.17 on one H200; at_least, goal: what weft is to reach there

--profile adds the kernels of one step, by the time that each adds to it (needs torch with CUDA: its profiler slows
steps by a tenth or more).
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile

# Before weft: libcufile, which comes with torch, has a C++ runtime in it. Behind weft's, free() aborts on pointers of
# the other one.
if "--profile" in sys.argv:
    import torch  # noqa: F401

from gpu_common import (
    CONTEXT,
    PEERS,
    SHAPES,
    Table,
    ask,
    check_all,
    machine,
    make_engine,
    make_prompts,
    need_gpu,
    print_about,
    write_config,
)
from gpu_profile import profile

import weft

OUTPUT = 256
LOAD = 256  # the kv of the reference load


def prompt_length(kv: int) -> int:
    return min(kv - OUTPUT // 2, CONTEXT - OUTPUT)


def measure(engine: weft.Engine, batch: int, kv: int, vocab: int, rounds: int) -> tuple[float, float]:
    """Median ms of a step, and the spread."""
    prompts = make_prompts(batch, prompt_length(kv), vocab, seed=batch)
    ask(engine, prompts, 4)
    steps = []
    for _ in range(rounds):
        first = ask(engine, prompts, 1)
        steps.append((ask(engine, prompts, OUTPUT) - first) / (OUTPUT - 1) * 1e3)
    median = statistics.median(steps)
    return median, (max(steps) - min(steps)) / median


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 128, 256])
    parser.add_argument("--kv", type=int, nargs="+", default=[LOAD, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.profile and options.json:
        parser.error("--profile prints tables; leave --json out")
    need_gpu("gpu_decode")
    about, errors = machine(), check_all(options.model)
    if not options.json:
        print_about(about, options.rounds, errors)
    columns = [("model", "s"), ("kv", "d"), ("batch", "d"), ("weft_ms", ".3f"), ("spread", ".1%"), ("floor_ms", ".3f")]
    columns += [("fraction", ".0%"), ("tok/s", ",.0f")]
    table = Table([*columns, *((name, ".3f") for name in PEERS)], options.json)
    for name in options.model:
        shape = SHAPES[name]
        vocab = int(shape.config["vocab_size"])
        loads = list(itertools.product(options.kv, options.batch))
        with tempfile.TemporaryDirectory() as directory:
            write_config(shape, directory)
            with make_engine(directory, max(options.batch)) as engine:
                # Those that would not all run at once are left out.
                room = engine.config.max_total_tokens
                loads = [(kv, batch) for kv, batch in loads if batch * (prompt_length(kv) + OUTPUT) <= room]
                for kv, batch in loads:
                    step, spread = measure(engine, batch, kv, vocab, options.rounds)
                    row = {"model": shape.title, "kv": kv, "batch": batch, "weft_ms": step, "spread": spread}
                    row["floor_ms"] = shape.decode_floor_ms(batch, prompt_length(kv) + OUTPUT / 2)
                    row["fraction"] = row["floor_ms"] / step
                    row["tok/s"] = batch / step * 1e3
                    if kv == LOAD and batch in shape.decode_ms:
                        row |= dict(zip(PEERS, shape.decode_ms[batch], strict=True))
                    table.add(row)
                for kv, batch in loads if options.profile else ():
                    print(f"\n{shape.title}, batch {batch}, kv {kv}: one step, kernel by kernel")
                    profile(engine, make_prompts(batch, prompt_length(kv), vocab))
    if options.json:
        print(json.dumps(about | {"max_err": errors, "rows": table.rows}))


if __name__ == "__main__":
    main()
