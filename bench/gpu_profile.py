"""The kernels of one decode step, one by one, as CUPTI saw them."""

import sys

from gpu_common import Prompts, Table, ask

import weft

Kernel = tuple[str, float, float]  # name, start and end in us


def step_kernels(kernels: list[Kernel], first: str = "scatter_blocks") -> list[Kernel]:
    """Those of one step in the middle of a recording; `first`: a part of the name of a step's first kernel."""
    kernels = sorted(kernels, key=lambda kernel: kernel[1])
    starts = [i for i, (name, _, _) in enumerate(kernels) if first in name]
    if len(starts) < 3:
        sys.exit(f"the profile has {len(starts)} kernels named {first}, of {len(kernels)} in all")
    middle = len(starts) // 2
    return kernels[starts[middle] : starts[middle + 1]]


def short_name(name: str) -> str:
    """Without weft's namespaces and the parameters. Arguments of templates stay, casts in them too."""
    for noise in ("void ", "weft::kernels::", "(anonymous namespace)::"):
        name = name.replace(noise, "")
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:i].strip()
    return name


def print_kernels(kernels: list[Kernel], top: int) -> None:
    """By the time that a kernel adds: from the end of all that started before it, or its start, to its own end."""
    rows: dict[str, tuple[int, float, float]] = {}
    end = kernels[0][1]
    idle = 0.0
    for full_name, start, stop in kernels:
        idle += max(start - end, 0.0)
        adds = max(stop - max(start, end), 0.0)
        end = max(end, stop)
        name = short_name(full_name)
        count, total, own = rows.get(name, (0, 0.0, 0.0))
        rows[name] = (count + 1, total + adds, own + stop - start)
    print(f"{len(kernels)} kernels, {end - kernels[0][1]:.1f} us, of which {idle:.1f} idle")
    table = Table((("adds_us", ".1f"), ("count", "d"), ("adds_each", ".2f"), ("runs_each", ".2f")))
    for name, (count, adds, own) in sorted(rows.items(), key=lambda item: -item[1][1])[:top]:
        table.add({"adds_us": adds, "count": count, "adds_each": adds / count, "runs_each": own / count}, note=name)


def profile(engine: weft.Engine, prompts: Prompts, temperature: float = 0.0, top: int = 16) -> None:
    """Print the kernels of one replayed decode step.

    Needs torch with CUDA, for its profiler. The program must have imported torch before weft: gpu_decode.py says why.
    """
    import torch

    # acc_events: without it the profiler warns that it clears events, which it does not here.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as recorded:
        ask(engine, prompts, 12, temperature)
    events = [e for e in recorded.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [(e.name, e.time_range.start, e.time_range.end) for e in events]
    print_kernels(step_kernels(kernels), top)
