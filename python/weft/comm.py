"""Where the rows of each layer are, and what moves them."""

from collections.abc import Sequence
from dataclasses import dataclass

from weft import _weft
from weft._weft import LayerLayout, ParallelConfig
from weft.errors import WeftError

__all__ = [
    "LayerLayout",
    "SequenceParallelRows",
    "layer_layouts",
    "model_layouts",
    "sequence_parallel_rows",
]


def layer_layouts(
    pattern: str | Sequence[bool],
    *,
    tp_size: int,
    attn_dp_size: int,
    moe_a2a_backend: str,
    moe_dense_tp_size: int | None,
    two_batch_overlap: bool,
    layernorm_sp: bool = False,
) -> list[LayerLayout]:
    """Return the layouts and boundary operations of each layer.

    Args:
        pattern: one entry a layer: "D" or False dense, "S" or True sparse (MoE).
        tp_size: ranks of the model replica.
        attn_dp_size: attention groups; 1 without DP attention.
        moe_a2a_backend: none or deepep.
        moe_dense_tp_size: None, 1 or tp_size.
        two_batch_overlap: whether the flag is on.
        layernorm_sp: of a step under sequence-parallel layernorm: rows are then scattered over the attention group
            from the embedding to the final norm.

    Raises:
        WeftError: an unknown letter, or sizes that do not fit together.
    """
    if isinstance(pattern, str) and not set(pattern) <= {"D", "S"}:
        raise WeftError(
            f"layer_layouts: pattern {pattern!r} has letters other than D (dense) and S (sparse); give those"
        )
    sparse = [letter == "S" for letter in pattern] if isinstance(pattern, str) else list(pattern)
    parallel = ParallelConfig(
        tp_size=tp_size,
        dp_size=attn_dp_size,
        enable_dp_attention=attn_dp_size > 1,
        ep_size=1 if moe_a2a_backend == "none" else tp_size,
        moe_a2a_backend=moe_a2a_backend,
        moe_dense_tp_size=moe_dense_tp_size,
        enable_two_batch_overlap=two_batch_overlap,
        enable_layernorm_sp=layernorm_sp,
    )
    return _weft.layer_layouts(sparse, parallel, layernorm_sp)


def model_layouts(model_path: str, parallel: ParallelConfig, *, layernorm_sp: bool = False) -> list[LayerLayout]:
    """Return the layouts and boundary operations of each layer of a checkpoint; only its config.json is read.

    Args:
        model_path: directory of the checkpoint.
        parallel: how ranks share the model.
        layernorm_sp: as for `layer_layouts`; `parallel` must enable it.

    Raises:
        WeftError: config.json is missing, or names a model that weft lacks; layernorm_sp is not enabled.
    """
    return _weft.layer_layouts(_weft.sparse_layers(model_path), parallel, layernorm_sp)


@dataclass(frozen=True)
class SequenceParallelRows:
    """The rows of a group of ranks, cut into one equal slice a rank."""

    padded: int  # rows of the group, a multiple of its ranks
    rows_per_rank: int
    rank_ranges: list[tuple[int, int]]  # begin and end of each rank's slice
    real_rows: list[int]  # of each slice, the first rows that are no padding


def sequence_parallel_rows(num_tokens: int, tp_size: int) -> SequenceParallelRows:
    """Return who has which rows under sequence-parallel layernorm.

    With fewer tokens than ranks the last ranks have padding alone.

    Args:
        num_tokens: real rows of the group.
        tp_size: its ranks.

    Raises:
        WeftError: a count below 0 or above 2**31 - 1, or ranks outside 1..65536.
    """
    slices = _weft.sequence_parallel_rows(num_tokens, tp_size)
    begin, end, _ = slices[0]
    return SequenceParallelRows(
        padded=slices[-1][1],
        rows_per_rank=end - begin,
        rank_ranges=[(begin, end) for begin, end, _ in slices],
        real_rows=[real for _, _, real in slices],
    )
