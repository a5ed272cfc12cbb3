"""Defaults by the memory of a GPU, SGLang's, and those for no GPU or an unknown one."""

import math

# GPU memory in MiB (not reached), chunked prefill size, largest decode graph below 4 ranks, and from 4 ranks on.
_BY_MEMORY: tuple[tuple[float, int, int, int], ...] = (
    (20480, 2048, 8, 8),
    (35840, 2048, 24, 80),
    (61440, 4096, 32, 160),
    (163840, 8192, 256, 512),
    (math.inf, 16384, 512, 512),
)
_UNKNOWN = (4096, 160, 160)
# Page tables travel to the GPU with each step: with SGLang's 1 they are as large as the tokens that run.
PAGE_SIZE = 64


def chunked_prefill_size(gpu_memory_mib: int | None) -> int:
    """Prompt tokens of a step, before DP attention divides them."""
    return _row(gpu_memory_mib)[0]


def graph_max_bs(gpu_memory_mib: int | None, tp_size: int) -> int:
    """The largest batch that a decode graph is captured for."""
    return _row(gpu_memory_mib)[1 if tp_size < 4 else 2]


def _row(gpu_memory_mib: int | None) -> tuple[int, int, int]:
    if gpu_memory_mib is None:
        return _UNKNOWN
    return next((chunk, few, many) for below, chunk, few, many in _BY_MEMORY if gpu_memory_mib < below)
