"""How fast is a layer's mixture of experts on a GPU, beside the time to read the weights of the experts it meets?

    python bench/gpu_moe.py [--rows 1 4 16 64 128 512 4096] [--program build/cuda/bench_moe] [--json FILE]

The experts of Qwen3-30B-A3B and DeepSeek-V2-Lite, bf16, with random weights and rows, so that routing is as good as
even. Blocks of 4 and of 16 rows are checked against weft's CPU backend first. Times are us of an op in a CUDA graph of
48 layers that takes turns through two sets of weights, much larger than the L2 cache; `block` is all of it in one
graph, launched early behind each other, as the engine runs it: up to 8 rows with one op for experts and combine. So it
may be less than the sum of the four.

    touched   experts that got a row
    floor     their weights / 4.2 TB/s, or 2 flops a weight and copy / 790 TFLOP/s if that is more
    of_floor  floor / block
    torch     PyTorch: the same steps, experts one after another in a CUDA graph, for one fixed routing
    ratio     torch / block

Needs torch with CUDA. --program: a bench_moe that is built already.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from common import HBM_BYTES_PER_S, Program, build, commit

MODELS = {"qwen3-30b-a3b": (128, 8, 2048, 768), "deepseek-v2-lite": (64, 6, 2048, 1408)}
OPS = ("router", "route", "experts", "combine")
MAX_ERROR = 0.01
BF16_FLOPS = 790e12
TORCH_ROWS = 512  # above it PyTorch's loop is no baseline anyone would use


class Torch:
    """Weights of one layer, and a block by a loop over experts."""

    def __init__(self, experts: int, top_k: int, hidden: int, inter: int) -> None:
        def weights(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.03

        self.top_k = top_k
        self.router = weights(experts, hidden)
        self.gate_up = [weights(2 * inter, hidden) for _ in range(experts)]
        self.down = [weights(hidden, inter) for _ in range(experts)]

    def block(self, x: torch.Tensor, rows_of: list[torch.Tensor]) -> torch.Tensor:
        """rows_of: the rows of each expert, fixed, as a graph cannot choose them."""
        scores = torch.softmax((x @ self.router.T).float(), dim=-1)
        weights, _ = torch.topk(scores, self.top_k, dim=-1)
        out = torch.zeros_like(x)
        for expert, rows in enumerate(rows_of):
            if rows.numel() == 0:
                continue
            gate, up = (x[rows] @ self.gate_up[expert].T).chunk(2, dim=-1)
            copies = (torch.nn.functional.silu(gate) * up) @ self.down[expert].T
            out.index_add_(0, rows, copies * weights[rows, :1].to(x.dtype))
        return out

    def time(self, rows: int) -> float:
        x = torch.randn(rows, self.router.shape[1], device="cuda", dtype=torch.bfloat16)
        chosen = torch.topk(x @ self.router.T, self.top_k, dim=-1).indices
        rows_of = [(chosen == expert).any(-1).nonzero().flatten() for expert in range(len(self.down))]
        self.block(x, rows_of)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(4):
                self.block(x, rows_of)
        samples = []
        for _ in range(7):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(5):
                graph.replay()
            torch.cuda.synchronize()
            samples.append((time.perf_counter() - start) / 20 * 1e6)
        return statistics.median(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 128, 512, 4096])
    parser.add_argument("--model", choices=sorted(MODELS), nargs="+", default=list(MODELS))
    parser.add_argument("--program", type=Path, help="a bench_moe; by default one is built")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_moe: PyTorch sees no GPU")
    weft = Program(args.program or build("bench_moe"))
    print(f"{torch.cuda.get_device_name()}, commit {commit()}, torch {torch.__version__}")
    table: list[dict[str, object]] = []
    for name in args.model:
        experts, top_k, hidden, inter = MODELS[name]
        weft.ask(f"model {experts} {top_k} {hidden} {inter}")
        error = max(weft.ask(f"check {rows}")["error"] for rows in (4, 16))
        if not error < MAX_ERROR:
            sys.exit(f"gpu_moe: {name} is wrong by {error} of its result")
        print(f"{name}: error {error:.1e}")
        head = " ".join(f"{op:>8}" for op in OPS)
        print(f"{'rows':>6} {'touched':>8} | {head} {'block':>8} {'floor':>8} {'of_floor':>8} | ", end="")
        print(f"{'torch':>8} {'ratio':>6}")
        peer = Torch(experts, top_k, hidden, inter)
        for rows in args.rows:
            us = weft.ask(f"time {rows}")
            read_us = us["touched"] * 3 * hidden * inter * 2 / HBM_BYTES_PER_S * 1e6
            math_us = rows * top_k * 6 * hidden * inter / BF16_FLOPS * 1e6
            floor = max(read_us, math_us)
            torch_us = peer.time(rows) if rows <= TORCH_ROWS else None
            row = {"model": name, "rows": rows, "floor": round(floor, 2), "torch": torch_us, **us}
            table.append(row)
            times = " ".join(f"{us[op]:>8.1f}" for op in OPS)
            beside = f"{torch_us:>8.1f} {torch_us / us['block']:>6.2f}" if torch_us else f"{'-':>8} {'-':>6}"
            print(
                f"{rows:>6} {us['touched']:>8.1f} | {times} {us['block']:>8.1f} {floor:>8.1f} "
                f"{floor / us['block']:>8.2f} | {beside}",
                flush=True,
            )
        del peer
        torch.cuda.empty_cache()
    if args.json:
        report = {"gpu": torch.cuda.get_device_name(), "commit": commit(), "rows": table}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
