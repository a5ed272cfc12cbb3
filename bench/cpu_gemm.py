"""How fast are weft's CPU matrix products beside PyTorch's, on the same cores?

    python bench/cpu_gemm.py [--threads N] [--dtype bf16] [--rounds 5] [--seconds 0.3] [--json FILE]

out[m, n] = a[m, k] * w[n, k]^T. Both sides use the same cores; weights rotate through 128 MB, so that they come from
memory as a model's do. weft and PyTorch take turns, `rounds` times, `seconds` each; times are medians over all calls
of all rounds, weft's through a stream of the CPU device. weft's results are checked against f64 first (max_err is in
units of sqrt(k)).

    ratio    PyTorch's time / weft's: above 1, weft is faster
    GB/s     n * k * bytes of an element / time
    GFLOP/s  2 * m * n * k / time
    floor    time to read the weights once at the rate at which these cores read memory, measured here, in us
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from common import Program, build, commit, cpu_name

SHAPES = [(m, n, k) for n, k in [(4096, 4096), (2048, 2048), (768, 2048)] for m in [1, 16, 64, 256]]
COLD_BYTES = 128 << 20
MAX_ERROR = {"f32": 1e-5, "bf16": 1e-5, "f16": 1e-5}
TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def time_torch(weights: list[torch.Tensor], a: torch.Tensor, seconds: float) -> list[float]:
    """Microseconds a call, for samples of about 5 ms of calls."""
    next_weight = 0

    def call() -> None:
        nonlocal next_weight
        torch.nn.functional.linear(a, weights[next_weight])
        next_weight = (next_weight + 1) % len(weights)

    call()
    start = time.perf_counter()
    call()
    calls = max(1, int(5e-3 / (time.perf_counter() - start)))
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls * 1e6)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=len(cores), help="cores for either side")
    parser.add_argument("--dtype", choices=sorted(TORCH_DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()

    program = build("bench_gemm")
    os.sched_setaffinity(0, cores[: args.threads])
    torch.set_num_threads(args.threads)
    dtype = TORCH_DTYPES[args.dtype]
    weft = Program(program, str(args.threads))
    load_before = os.getloadavg()[0]
    read_rate = float(weft.ask("read 1")["gb_per_s"])
    isa = weft.ask("isa")["isa"]
    print(
        f"{cpu_name()}, {args.threads} threads, {isa}, {args.dtype}, commit {commit()}, torch {torch.__version__}, "
        f"load {load_before:.2f}, reads {read_rate:.1f} GB/s"
    )
    print(f"{'m':>4} {'n':>5} {'k':>5} | {'weft_us':>9} {'torch_us':>9} {'ratio':>6} | ", end="")
    print(f"{'GB/s':>6} {'GFLOP/s':>8} {'floor':>7} | max_err")

    rows: list[dict[str, object]] = []
    element = torch.empty(0, dtype=dtype).element_size()
    for m, n, k in SHAPES:
        copies = COLD_BYTES // (n * k * element) + 1
        weights = [torch.rand(n, k).to(dtype) for _ in range(copies)]
        a = torch.rand(m, k).to(dtype)
        weft_us: list[float] = []
        torch_us: list[float] = []
        error = 0.0
        for _ in range(args.rounds):
            answer = weft.ask(f"gemm {args.dtype} {m} {n} {k} {args.seconds}")
            weft_us += answer["us"]
            error = max(error, answer["max_error"])
            time.sleep(0.02)
            torch_us += time_torch(weights, a, args.seconds)
            time.sleep(0.02)  # PyTorch's threads spin for a while before they sleep
        if error > MAX_ERROR[args.dtype]:
            sys.exit(f"cpu_gemm: m={m} n={n} k={k} is wrong by {error} * sqrt(k)")
        ours, theirs = statistics.median(weft_us), statistics.median(torch_us)
        row = {
            "m": m,
            "n": n,
            "k": k,
            "weft_us": round(ours, 2),
            "torch_us": round(theirs, 2),
            "ratio": round(theirs / ours, 3),
            "gb_per_s": round(n * k * element / ours / 1e3, 2),
            "gflop_per_s": round(2 * m * n * k / ours / 1e3, 1),
            "floor_us": round(n * k * element / read_rate / 1e3, 2),
            "max_error": error,
        }
        rows.append(row)
        print(f"{m:>4} {n:>5} {k:>5} | {ours:>9.1f} {theirs:>9.1f} {theirs / ours:>6.2f} | ", end="")
        print(f"{row['gb_per_s']:>6} {row['gflop_per_s']:>8} {row['floor_us']:>7} | {error:.1e}", flush=True)
    if args.json:
        report = {
            "machine": cpu_name(),
            "threads": args.threads,
            "isa": isa,
            "dtype": args.dtype,
            "commit": commit(),
            "torch": torch.__version__,
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
            "read_gb_per_s": read_rate,
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
