"""The GPU that weft runs on: the first that CUDA shows (CUDA_VISIBLE_DEVICES chooses)."""

from weft import _weft


def memory_mib() -> int | None:
    """All of its memory; None if there is none to use. An emulated one is used only where it is asked for."""
    status = _weft.cuda_status()
    return None if status["why_no_gpu"] or status["emulated"] else _weft.gpu_total_bytes() >> 20


def free_bytes() -> int:
    """What of its memory nobody uses now."""
    return _weft.gpu_free_bytes()


def why_unusable() -> str:
    """For messages; empty if it can be used."""
    return _weft.cuda_status()["why_no_gpu"]
