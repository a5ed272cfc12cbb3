"""What this machine and this build of weft have, and which kernel serves each op: python -m weft.doctor"""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from weft import _weft
from weft.flags import Parser
from weft.memory import free_memory_bytes
from weft.progress import run

_GIB = 1 << 30


def main(argv: Sequence[str]) -> int:
    """Print the report; 0 also where there is no GPU."""
    Parser("python -m weft.doctor", "What this machine has, and which kernel serves each op.").parse(argv)
    print("\n".join(report()))
    return 0


def report() -> list[str]:
    """The lines that main prints."""
    cuda = _weft.cuda_info()
    lines = [
        f"weft    {_version()}, Python {sys.version.split()[0]}",
        f"memory  {free_memory_bytes() / _GIB:.1f} GiB that this process may still take",
        "",
        *_kernels("CPU", _weft.cpu_kernels()),
        "",
    ]
    if cuda["emulated"]:
        lines.append("CUDA    emulated on the CPU: a build for tests of kernels, slow by design")
    elif not cuda["built"] or not cuda["gpus"]:
        lines.append(f"CUDA    {cuda['why_no_gpu']}")
    for number, gpu in enumerate(cuda["gpus"]):
        lines.append(
            f"GPU {number}   {gpu['name']}, compute capability {gpu['compute_capability']}, {gpu['multiprocessors']}"
            f" multiprocessors, {gpu['free_bytes'] / _GIB:.1f} of {gpu['total_bytes'] / _GIB:.1f} GiB free"
        )
    if cuda["built"]:
        lines += ["", *_kernels("CUDA", _weft.cuda_kernels())]
    return lines


def _kernels(title: str, rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """A table of (op, kernel, why there is no faster one); ops of one kernel share a line."""
    ops: dict[tuple[str, str], list[str]] = {}
    for op, kernel, why in rows:
        ops.setdefault((kernel, why), []).append(op)
    lines = [f"{title} kernels"]
    for (kernel, why), names in ops.items():
        lines.append(f"  {kernel}: {', '.join(names)}")
        if why:
            lines.append(f"    not faster because: {why}")
    return lines


def _version() -> str:
    try:
        return version("weft")
    except PackageNotFoundError:
        return "(from a source tree)"


if __name__ == "__main__":
    sys.exit(run(main))
