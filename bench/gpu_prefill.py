"""How fast does a GPU take prompts in, beside the rate of a plain matrix product in the same run?

    python bench/gpu_prefill.py [--model NAME ...] [--tokens 4096 8192 16384 32768] [--rounds 3] [--json]

Shapes of Qwen3-8B and Qwen3-30B-A3B with dummy bf16 weights; one prompt, one token of answer. First two layers of each
must give the CPU's log-probabilities.

    ms         median time of the call, scheduler and sampling included; prompts above --chunked-prefill-size (its
               default for the card) are taken in chunks
    TFLOP/s    2 * parameters that a token meets * tokens, and causal attention, over that time
    gemm       TFLOP/s of PyTorch's bf16 product of two 8192 x 8192 matrices, which takes turns with the prompts
    of_gemm    TFLOP/s / gemm

Needs torch with CUDA.
"""

import argparse
import json
import statistics
import tempfile

import torch
from gpu_common import (
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

SIZE = 8192


def gemm_tflops() -> float:
    """The median of ten products."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(13):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        a @ b
        end.record()
        end.synchronize()
        rates.append(2 * SIZE**3 / start.elapsed_time(end) / 1e9)
    del a, b
    torch.cuda.empty_cache()
    return statistics.median(rates[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["qwen3-8b", "qwen3-30b-a3b"], choices=list(SHAPES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    need_gpu("gpu_prefill")
    about, errors = machine(), check_all(options.model)
    if not options.json:
        print_about(about, options.rounds, errors)
    columns = [("model", "s"), ("tokens", "d"), ("ms", ".1f"), ("tok/s", ",.0f"), ("TFLOP/s", ".0f"), ("gemm", ".0f")]
    table = Table([*columns, ("of_gemm", ".0%")], options.json)
    for name in options.model:
        shape = SHAPES[name]
        vocab = int(shape.config["vocab_size"])
        with tempfile.TemporaryDirectory() as directory:
            write_config(shape, directory)
            with make_engine(directory, 1, context_length=max(options.tokens) + 64) as engine:
                for tokens in options.tokens:
                    (prompt,) = make_prompts(1, tokens, vocab)
                    ask(engine, [prompt], 1)
                    seconds, gemm = [], []
                    for _ in range(options.rounds):
                        seconds.append(ask(engine, [prompt], 1))
                        gemm.append(gemm_tflops())
                    median, rate = statistics.median(seconds), statistics.median(gemm)
                    flops = 2 * shape.params_of_token() * tokens + shape.attention_flops(tokens)
                    row = {"model": shape.title, "tokens": tokens, "ms": median * 1e3, "tok/s": tokens / median}
                    row |= {"TFLOP/s": flops / median / 1e12, "gemm": rate, "of_gemm": flops / median / 1e12 / rate}
                    table.add(row)
    if options.json:
        print(json.dumps(about | {"max_err": errors, "torch": torch.__version__, "rows": table.rows}))


if __name__ == "__main__":
    main()
