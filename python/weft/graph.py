"""Which batch sizes are captured as graphs, and which one a batch replays."""

from collections.abc import Sequence

from weft import _weft

__all__ = ["bucket_of", "capture_batch_sizes", "cpu_capture_batch_sizes", "filter_capture_sizes"]


def capture_batch_sizes(max_bs: int, *, speculative: bool = False, disable_padding: bool = False) -> list[int]:
    """Return the decode batch sizes to capture up to `max_bs`, ascending; SGLang's list for GPUs."""
    return _weft.capture_batch_sizes(max_bs, speculative, disable_padding)


def cpu_capture_batch_sizes(max_bs: int) -> list[int]:
    """Return the decode batch sizes to capture up to `max_bs`, ascending; SGLang's list for CPUs."""
    return _weft.cpu_capture_batch_sizes(max_bs)


def filter_capture_sizes(
    sizes: Sequence[int],
    *,
    pool_size: int,
    two_batch_overlap: bool,
    gathered_buffer: bool,
    attn_tp_size: int,
    tokens_per_req: int = 1,
) -> list[int]:
    """Return the sizes that a runner can capture, ascending.

    Args:
        sizes: candidates, in requests.
        pool_size: most requests of one DP rank.
        two_batch_overlap: every graph holds two halves, so sizes are even.
        gathered_buffer: rows are spread over the attention-TP group, so they are a multiple of its size.
        attn_tp_size: ranks of an attention-TP group.
        tokens_per_req: rows of one request.

    Raises:
        WeftError: no size is left; the message says which rule removed them.
    """
    return _weft.filter_capture_sizes(
        sizes, pool_size, two_batch_overlap, gathered_buffer, attn_tp_size, tokens_per_req
    )


def bucket_of(buckets: Sequence[int], size: int) -> int | None:
    """Return the smallest of the ascending `buckets` that holds `size`, or None."""
    return _weft.bucket_of(buckets, size)
