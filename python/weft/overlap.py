"""Two-batch overlap: where a batch is cut, and in which order the stages of its halves run."""

from collections.abc import Sequence

from weft import _weft
from weft._weft import LayerLayout, Split, SplitChild
from weft.errors import WeftError
from weft.forward_mode import ForwardMode

__all__ = [
    "LayerLayout",
    "Split",
    "SplitChild",
    "compute_split_seq_index",
    "compute_split_token_index",
    "is_two_chunk",
    "replay_split",
    "split",
    "split_or_reason",
    "stage_order",
    "stages",
]

_WITH_LENGTHS = (ForwardMode.EXTEND, ForwardMode.MIXED)
_WITH_WIDTH = (ForwardMode.DECODE, ForwardMode.TARGET_VERIFY)


def compute_split_seq_index(
    forward_mode: ForwardMode,
    num_tokens: int | None,
    extend_lens: Sequence[int] | None,
    token_num_per_seq: int | None,
    *,
    threshold: float = 0.48,
) -> int:
    """Return the first sequence of the second half; SGLang's rule and signature.

    Args:
        forward_mode: the batch's mode; every member has a rule.
        num_tokens: rows of the batch; not used by EXTEND and MIXED.
        extend_lens: new tokens of each sequence; needed by EXTEND and MIXED.
        token_num_per_seq: rows of a sequence; needed by DECODE (1) and TARGET_VERIFY.
        threshold: of the two-chunk split, at most 0.5; 0 switches it off.

    Raises:
        WeftError: an argument that the mode needs is missing or out of range.
    """
    lens, width = _checked(forward_mode, extend_lens, token_num_per_seq)
    if num_tokens is None and forward_mode not in _WITH_LENGTHS:
        raise WeftError(f"split: a {forward_mode.name} batch needs num_tokens")
    return _weft.compute_split_seq_index(forward_mode, num_tokens or 0, lens, width, threshold)


def compute_split_token_index(
    split_seq_index: int,
    forward_mode: ForwardMode,
    extend_seq_lens: Sequence[int] | None,
    token_num_per_seq: int | None,
    *,
    threshold: float = 0.48,
) -> int:
    """Return the first token of the second half, given `compute_split_seq_index`; SGLang's rule and signature.

    Unlike SGLang's it has a rule for PREBUILT: 0.

    Raises:
        WeftError: an argument that the mode needs is missing or out of range.
    """
    lens, width = _checked(forward_mode, extend_seq_lens, token_num_per_seq)
    return _weft.compute_split_token_index(split_seq_index, forward_mode, lens, width, threshold)


def is_two_chunk(extend_lens: Sequence[int], *, threshold: float = 0.48) -> bool:
    """Tell whether the cut is at half the tokens instead of at the best place between two sequences."""
    return _weft.is_two_chunk(extend_lens, threshold)


def split(
    forward_mode: ForwardMode,
    *,
    extend_lens: Sequence[int] | None = None,
    prefix_lens: Sequence[int] | None = None,
    seq_lens: Sequence[int] | None = None,
    num_tokens: int | None = None,
    token_num_per_seq: int | None = None,
    threshold: float = 0.48,
    attn_tp_size: int = 1,
    mix_decode_bs: int = 0,
    num_token_non_padded: int | None = None,
    num_micro_batches: int = 2,
) -> Split | None:
    """Cut a batch into micro-batches: two by SGLang's rules, or more by the same rules for shares of 1 / n.

    Args:
        forward_mode: the batch's mode.
        extend_lens: EXTEND, MIXED: new tokens of each sequence.
        prefix_lens: EXTEND, MIXED: tokens of each sequence already in the cache; default zeros.
        seq_lens: tokens of each sequence; DECODE, TARGET_VERIFY (before the draft tokens): to be cut, may be left out.
        num_tokens: rows of the batch; default what the lengths say.
        token_num_per_seq: TARGET_VERIFY: draft tokens of a sequence; DECODE: 1 by default.
        threshold: of the two-chunk split, at most 0.5; 0 switches it off.
        attn_tp_size: the children's `padded_len` is a multiple of it.
        mix_decode_bs: MIXED: decode sequences at the end of the batch.
        num_token_non_padded: real rows, if padding follows them; default all.
        num_micro_batches: children, 2 to 16.

    Returns:
        The split; None if a sequence has no tokens (`split_or_reason` says which). A child may be empty, but none holds
        an empty sequence.

    Raises:
        WeftError: an argument that the mode needs is missing, out of range, or contradicts another.
    """
    result = split_or_reason(
        forward_mode,
        extend_lens=extend_lens,
        prefix_lens=prefix_lens,
        seq_lens=seq_lens,
        num_tokens=num_tokens,
        token_num_per_seq=token_num_per_seq,
        threshold=threshold,
        attn_tp_size=attn_tp_size,
        mix_decode_bs=mix_decode_bs,
        num_token_non_padded=num_token_non_padded,
        num_micro_batches=num_micro_batches,
    )
    return None if isinstance(result, str) else result


def split_or_reason(
    forward_mode: ForwardMode,
    *,
    extend_lens: Sequence[int] | None = None,
    prefix_lens: Sequence[int] | None = None,
    seq_lens: Sequence[int] | None = None,
    num_tokens: int | None = None,
    token_num_per_seq: int | None = None,
    threshold: float = 0.48,
    attn_tp_size: int = 1,
    mix_decode_bs: int = 0,
    num_token_non_padded: int | None = None,
    num_micro_batches: int = 2,
) -> Split | str:
    """As `split`, but where that returns None, return why the batch is not split."""
    if forward_mode is ForwardMode.DECODE and token_num_per_seq is None:
        token_num_per_seq = 1
    lens, width = _checked(forward_mode, extend_lens, token_num_per_seq)
    if num_tokens is None:
        if forward_mode in _WITH_WIDTH:
            if seq_lens is None:
                raise WeftError(f"split: a {forward_mode.name} batch needs num_tokens or seq_lens")
            num_tokens = len(seq_lens) * width
        else:
            num_tokens = sum(lens)
    return _weft.split(
        forward_mode,
        num_tokens,
        lens,
        prefix_lens if prefix_lens is not None else [],
        seq_lens if seq_lens is not None else [],
        width,
        threshold,
        attn_tp_size,
        mix_decode_bs,
        num_token_non_padded,
        num_micro_batches,
    )


def replay_split(bucket: int, num_tokens: int) -> tuple[int, int]:
    """Return the real rows in each half of a graph of `bucket` rows (an even number) that replays `num_tokens`."""
    return _weft.replay_split(bucket, num_tokens)


def stages(
    layouts: Sequence[LayerLayout],
    *,
    schedule: ForwardMode,
    dispatch: str,
    has_shared_experts: bool,
) -> tuple[list[list[tuple[int, str]]], int]:
    """Return the stages of a model, each a list of (layer, operation), and how far the first micro-batch runs ahead.

    Args:
        layouts: what `weft.comm.layer_layouts` returns.
        schedule: EXTEND or DECODE.
        dispatch: none, normal or low_latency.
        has_shared_experts: whether MoE layers have shared experts.
    """
    return _weft.stages(layouts, schedule, dispatch, has_shared_experts)


def stage_order(num_stages: int, delta_stages: int, num_micro_batches: int = 2) -> list[tuple[str, int]]:
    """Return the order in which micro-batches "a", "b", ... run their stages.

    Each starts `delta_stages` behind the one before it; in between they take turns.
    """
    order = _weft.stage_order(num_stages, delta_stages, num_micro_batches)
    return [(chr(ord("a") + micro_batch), stage) for micro_batch, stage in order]


def _checked(
    forward_mode: ForwardMode, extend_lens: Sequence[int] | None, token_num_per_seq: int | None
) -> tuple[Sequence[int], int]:
    """The arguments as the core takes them, if those that the mode needs are there."""
    if forward_mode in _WITH_LENGTHS and extend_lens is None:
        raise WeftError(f"split: a {forward_mode.name} batch needs extend_lens")
    if forward_mode in _WITH_WIDTH and token_num_per_seq is None:
        raise WeftError(f"split: a {forward_mode.name} batch needs token_num_per_seq")
    return ([] if extend_lens is None else extend_lens), (0 if token_num_per_seq is None else token_num_per_seq)
