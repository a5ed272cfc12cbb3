"""Where the rows of each layer are, and what moves them."""

from collections.abc import Sequence

from weft import _weft
from weft._weft import LayerLayout, ParallelConfig
from weft.errors import WeftError

__all__ = ["LayerLayout", "layer_layouts", "model_layouts"]


def layer_layouts(
    pattern: str | Sequence[bool],
    *,
    tp_size: int,
    attn_dp_size: int,
    moe_a2a_backend: str,
    moe_dense_tp_size: int | None,
    two_batch_overlap: bool,
) -> list[LayerLayout]:
    """Return the layouts and boundary operations of each layer.

    Args:
        pattern: one entry a layer: "D" or False dense, "S" or True sparse (MoE).
        tp_size: ranks of the model replica.
        attn_dp_size: attention groups; 1 without DP attention.
        moe_a2a_backend: none or deepep.
        moe_dense_tp_size: None, 1 or tp_size.
        two_batch_overlap: whether the flag is on.

    Raises:
        WeftError: an unknown letter, or sizes that do not fit together.
    """
    if isinstance(pattern, str) and not set(pattern) <= {"D", "S"}:
        raise WeftError(f"layer_layouts: pattern {pattern!r} has letters other than D (dense) and S (sparse)")
    sparse = [letter == "S" for letter in pattern] if isinstance(pattern, str) else list(pattern)
    parallel = ParallelConfig(
        tp_size=tp_size,
        dp_size=attn_dp_size,
        enable_dp_attention=attn_dp_size > 1,
        ep_size=1 if moe_a2a_backend == "none" else tp_size,
        moe_a2a_backend=moe_a2a_backend,
        moe_dense_tp_size=moe_dense_tp_size,
        enable_two_batch_overlap=two_batch_overlap,
    )
    return _weft.layer_layouts(sparse, parallel)


def model_layouts(model_path: str, parallel: ParallelConfig) -> list[LayerLayout]:
    """Return the layouts and boundary operations of each layer of a checkpoint; only its config.json is read.

    Raises:
        WeftError: config.json is missing, or names a model that weft lacks.
    """
    return _weft.layer_layouts(_weft.sparse_layers(model_path), parallel)
