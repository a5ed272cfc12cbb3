"""The step planner: all that ranks must agree on, as a pure function of what each DP rank says of its batch.

>>> parallel = ParallelConfig(tp_size=2, dp_size=2, enable_dp_attention=True)
>>> config = PlanConfig(parallel, graph_buckets=[4, 8])
>>> step = make_step_plan([RankState(ForwardMode.DECODE, 3), RankState()], config)
>>> step.graph_bucket
[4, 4]
"""

import json
from collections.abc import Sequence
from pathlib import Path

from weft import _weft
from weft._weft import (
    CollectiveRecord,
    DpPadding,
    MicroBatchPlan,
    ModelShape,
    ParallelConfig,
    PlanConfig,
    RankState,
    StepPlan,
    TboCostTable,
)
from weft.errors import WeftError
from weft.forward_mode import ForwardMode

__all__ = [
    "CollectiveRecord",
    "DpPadding",
    "ForwardMode",
    "MicroBatchPlan",
    "ModelShape",
    "ParallelConfig",
    "PlanConfig",
    "RankState",
    "StepPlan",
    "TboCostTable",
    "dp_padding",
    "load_tbo_cost_table",
    "make_step_plan",
    "shared_trace_hash",
    "step_trace",
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


def step_trace(plan: StepPlan, config: PlanConfig, model: ModelShape, rank: int) -> list[CollectiveRecord]:
    """Return the collectives that `rank` executes in a step, in order, without running anything.

    Args:
        plan: what `make_step_plan` returned.
        config: the configuration that it was made from.
        model: what of the model the collectives depend on.
        rank: 0 to tp_size - 1.

    Raises:
        WeftError: the plan is of another configuration, or the rank is not in it.
    """
    return _weft.step_trace(plan, config, model, rank)


def shared_trace_hash(trace: Sequence[CollectiveRecord]) -> int:
    """Return a number that is the same on every rank if all ran alike: for the next step's `RankState.trace_hash`."""
    return _weft.shared_trace_hash(trace)


def load_tbo_cost_table(path: str | Path) -> TboCostTable:
    """Read the cost table of `--tbo-gate auto`.

    Args:
        path: a JSON object of four lists of one length: `tokens` (rows of the busiest DP rank, ascending from 1), and
            the microseconds of `compute_us`, `dispatch_us` and `combine_us`, of one layer or of all layers.

    Raises:
        WeftError: the file cannot be read, or is no such table; the message names the file and the entry.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WeftError(f"cost table {path}: {error.strerror}; give a readable file") from error
    except ValueError as error:
        raise WeftError(f"cost table {path} is no JSON: {error}") from error
    if not isinstance(table, dict) or set(table) != set(_COST_TABLE):
        raise WeftError(f"cost table {path}: give one object with the lists {', '.join(_COST_TABLE)} and nothing else")
    for name, column in table.items():
        kinds = int if name == "tokens" else (int, float)
        if not isinstance(column, list) or not all(isinstance(x, kinds) and type(x) is not bool for x in column):
            raise WeftError(f"cost table {path}: {name} must be a list of {'integers' if kinds is int else 'numbers'}")
    try:
        return TboCostTable(**table)
    except (WeftError, TypeError) as error:
        raise WeftError(f"cost table {path}: {error}") from error


_COST_TABLE = ("tokens", "compute_us", "dispatch_us", "combine_us")
