"""How many tokens a second does a GPU make of 256 requests that all wait at the start?

    python bench/offline_throughput.py [--model NAME ...] [--temperature 0.6 0] [--rounds 3] [--json]

Shapes of Qwen3-0.6B and Qwen3-30B-A3B with dummy bf16 weights. 256 requests of 100 to 1024 random tokens, each answered
with 100 to 1024 tokens whatever they are: 142,827 tokens in, 133,966 out. First two layers must give the CPU's
log-probabilities; then the same requests run with 32 tokens each, to warm up.

    tok/s      output tokens over the whole time, median of the rounds; spread: (largest - smallest) / median
    floor      what reading the weights once a step, and all keys and values, leaves at 4.2 TB/s
    vllm, sglang   vLLM 0.26.0 and SGLang 0.5.17 on one H200; at_least, goal: what weft is to reach there
"""

import argparse
import json
import random
import statistics
import sys
import tempfile

from common import HBM_BYTES_PER_S
from gpu_common import (
    PEERS,
    SHAPES,
    Prompts,
    Shape,
    Table,
    ask,
    check_all,
    machine,
    make_engine,
    need_gpu,
    print_about,
    write_config,
)

REQUESTS = 256
# By model and temperature: tokens/s of PEERS.
MEASURED = {
    ("qwen3-0.6b", 0.6): (23713, 21261, 25000, 30000),
    ("qwen3-0.6b", 0.0): (23350, 22592, 25000, 30000),
    ("qwen3-30b-a3b", 0.6): (5853, 5731, 6300, 7500),
}


def make_load() -> tuple[Prompts, list[int]]:
    """The requests that the others were measured with."""
    random.seed(0)
    prompts = [[random.randint(0, 10000) for _ in range(random.randint(100, 1024))] for _ in range(REQUESTS)]
    outputs = [random.randint(100, 1024) for _ in range(REQUESTS)]
    if (sum(map(len, prompts)), sum(outputs)) != (142827, 133966):
        sys.exit("offline_throughput: this Python draws other numbers than the reference load has")
    return prompts, outputs


def floor_seconds(shape: Shape, prompts: Prompts, outputs: list[int]) -> float:
    """All decode steps, with every request in from the first."""
    kv = sum(n * (len(prompt) + n / 2) for prompt, n in zip(prompts, outputs, strict=True))
    weights = sum(shape.params_read(sum(n > step for n in outputs)) for step in range(max(outputs)))
    return (2 * weights + kv * shape.kv_bytes_per_token()) / HBM_BYTES_PER_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["qwen3-0.6b", "qwen3-30b-a3b"], choices=list(SHAPES))
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.6, 0.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    need_gpu("offline_throughput")
    prompts, outputs = make_load()
    about, errors = machine(), check_all(options.model)
    if not options.json:
        print_about(about, options.rounds, errors)
    columns = [("model", "s"), ("temperature", ".1f"), ("tok/s", ",.0f"), ("spread", ".1%"), ("floor", ",.0f")]
    table = Table([*columns, ("fraction", ".0%"), *((name, ",.0f") for name in PEERS)], options.json)
    for name in options.model:
        shape = SHAPES[name]
        with tempfile.TemporaryDirectory() as directory:
            write_config(shape, directory)
            with make_engine(directory, REQUESTS) as engine:
                for temperature in options.temperature:
                    ask(engine, prompts, 32, temperature)
                    times = [ask(engine, prompts, outputs, temperature) for _ in range(options.rounds)]
                    rates = [sum(outputs) / seconds for seconds in times]
                    rate = statistics.median(rates)
                    row = {"model": shape.title, "temperature": temperature, "tok/s": rate}
                    row["spread"] = (max(rates) - min(rates)) / rate
                    row["floor"] = sum(outputs) / floor_seconds(shape, prompts, outputs)
                    row["fraction"] = rate / row["floor"]
                    table.add(row | dict(zip(PEERS, MEASURED.get((name, temperature), ()), strict=False)))
    if options.json:
        print(json.dumps(about | {"max_err": errors, "rows": table.rows}))


if __name__ == "__main__":
    main()
