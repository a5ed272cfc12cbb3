"""How fast are weft's matrix products on a GPU beside PyTorch's (cuBLAS), and beside what the card can do?

    python bench/gpu_gemm.py [--rows 1 4 16 64 128 1024] [--program FILE] [--json FILE]

out[m, n] = a[m, k] * w[n, k]^T in bf16, for the projections of Qwen3-0.6B, Qwen3-8B and Qwen3-30B-A3B. Both sides run
captured graphs of many calls that follow each other, over weights that rotate through 256 MB, so that they come from
memory as a model's do; times are medians over replays. weft's results are checked against f64 first (max_err is in
units of sqrt(k); bf16 outputs round to 8 bits). gate_up: weft times gemm_silu_mul, PyTorch the product alone.

    floor_us   max(bytes of w, a and out at 4.2 TB/s; 2 * m * n * k at the rate of the largest product that PyTorch
               ran here)
    fraction   floor_us / weft_us
    ratio      torch_us / weft_us: above 1, weft is faster

--program: a bench_gpu_gemm that is built already.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

import torch
from common import HBM_BYTES_PER_S, Program, build, commit

COLD_BYTES = 256 << 20
MAX_ERROR = {"bf16": 0.006, "f32": 1e-5, "gated": 0.02}
# model, projection, n, k
SHAPES = [
    ("0.6B", "qkv", 4096, 1024),
    ("0.6B", "o", 1024, 2048),
    ("0.6B", "gate_up", 6144, 1024),
    ("0.6B", "down", 1024, 3072),
    ("0.6B", "lm_head", 151936, 1024),
    ("8B", "qkv", 6144, 4096),
    ("8B", "o", 4096, 4096),
    ("8B", "gate_up", 24576, 4096),
    ("8B", "down", 4096, 12288),
    ("30B-A3B", "qkv", 5120, 2048),
    ("30B-A3B", "o", 2048, 4096),
    ("30B-A3B", "router", 128, 2048),
]


def cublas_of_torch() -> dict[str, str]:
    """Lets weft load the cuBLASLt that PyTorch uses, if that came with a wheel."""
    for folder in map(Path, sys.path):
        library = folder / "nvidia" / "cu13" / "lib" / "libcublasLt.so.13"
        if library.exists():
            return {"WEFT_CUBLASLT_SO": str(library)}
    return {}


def time_torch(m: int, n: int, k: int) -> float:
    """Microseconds a call."""
    copies = COLD_BYTES // (n * k * 2) + 1
    weights = [torch.rand(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    a = torch.rand(m, k, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    calls = copies * max(1, 64 // copies)
    torch.mm(a, weights[0].t(), out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            torch.mm(a, weights[i % copies].t(), out=out)
    samples = []
    for _ in range(7):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / calls)
    return float(statistics.median(samples))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64, 128, 256, 1024, 4096])
    parser.add_argument("--program", type=Path, help="a bench_gpu_gemm that is built already")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_gemm: there is no GPU")
    weft = Program(args.program or build("bench_gpu_gemm"), env={**cublas_of_torch(), **os.environ})
    peak = 2 * 8192**3 / time_torch(8192, 8192, 8192) * 1e6
    about = {
        "gpu": torch.cuda.get_device_name(),
        "commit": commit(),
        "torch": torch.__version__,
        "peak_tflop_per_s": round(peak / 1e12, 1),
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    print(
        f"{'model':>8} {'product':>8} {'n':>6} {'k':>5} {'m':>5} | {'weft_us':>8} {'torch_us':>8} {'ratio':>6} | ",
        end="",
    )
    print(f"{'floor_us':>8} {'fraction':>8} | max_err")
    rows = []
    for model, product, n, k in SHAPES:
        for m in args.rows:
            if product == "lm_head" and m > 256:
                continue  # of a prompt, only the last row is asked for
            kind = "gated" if product == "gate_up" else "f32" if product in ("lm_head", "router") else "bf16"
            request = f"gated {m} {n // 2} {k}" if kind == "gated" else f"gemm {kind} {m} {n} {k}"
            answer = weft.ask(request)
            ours, error = statistics.median(answer["us"]), float(answer["max_error"])
            if not error <= MAX_ERROR[kind]:
                sys.exit(f"gpu_gemm: m={m} n={n} k={k} ({kind}) is wrong by {error}")
            theirs = time_torch(m, n, k)
            floor = max(2 * (n * k + m * k + m * n) / HBM_BYTES_PER_S, 2 * m * n * k / peak) * 1e6
            row = {"model": model, "product": product, "n": n, "k": k, "m": m, "weft_us": round(ours, 2)}
            row |= {"torch_us": round(theirs, 2), "ratio": round(theirs / ours, 2), "floor_us": round(floor, 2)}
            row |= {"fraction": round(floor / ours, 2), "max_err": error}
            rows.append(row)
            print(
                f"{model:>8} {product:>8} {n:>6} {k:>5} {m:>5} | {ours:>8.2f} {theirs:>8.2f} {theirs / ours:>6.2f} | ",
                end="",
            )
            print(f"{floor:>8.2f} {floor / ours:>8.2f} | {error:.1e}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
