"""The step planner: all that ranks must agree on, as a pure function of what each DP rank says of its batch.

>>> parallel = ParallelConfig(tp_size=2, dp_size=2, enable_dp_attention=True)
>>> config = PlanConfig(parallel, graph_buckets=[4, 8])
>>> step = make_step_plan([RankState(ForwardMode.DECODE, 3), RankState()], config)
>>> step.graph_bucket
[4, 4]
"""

from collections.abc import Sequence

from weft import _weft
from weft._weft import DpPadding, MicroBatchPlan, ParallelConfig, PlanConfig, RankState, StepPlan
from weft.forward_mode import ForwardMode

__all__ = [
    "DpPadding",
    "ForwardMode",
    "MicroBatchPlan",
    "ParallelConfig",
    "PlanConfig",
    "RankState",
    "StepPlan",
    "dp_padding",
    "make_step_plan",
]


def make_step_plan(rank_states: Sequence[RankState], config: PlanConfig) -> StepPlan:
    """Agree on one step.

    Args:
        rank_states: one a DP rank.
        config: the same on every rank.

    Raises:
        WeftError: a state contradicts itself or another one; the message names the DP rank.
    """
    return _weft.make_step_plan(rank_states, config)


def dp_padding(
    global_num_tokens: Sequence[int], *, attn_tp_size: int, attn_dp_size: int, is_extend_in_batch: bool
) -> DpPadding:
    """Pad each DP rank's rows for a gathered buffer.

    Args:
        global_num_tokens: one count a DP rank, or the own count alone.
        attn_tp_size: counts are rounded up to a multiple of it.
        attn_dp_size: number of DP ranks.
        is_extend_in_batch: whether any rank extends.

    Raises:
        WeftError: a wrong number of counts, or a negative one.
    """
    return _weft.dp_padding(global_num_tokens, attn_tp_size, attn_dp_size, is_extend_in_batch)
