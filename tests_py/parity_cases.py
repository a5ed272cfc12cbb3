"""The combinations of flags that parity is checked over, and a rule of its own for which of them weft accepts."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from parity_models import MODELS


@dataclass(frozen=True)
class Case:
    """One run: a value of each axis."""

    model: str
    tp: int
    dp: int
    dp_attention: bool
    ep: int | None  # None: not given
    dispatch: str  # none: gathered; else the mode of DeepEP
    dense_tp: int | None
    dp_lm_head: bool
    layernorm_sp: bool
    tbo: str  # off, or a policy
    mixed: bool
    page_chunk: tuple[int, int]  # tokens of a page; of a DP rank's chunk, -1 for none
    graphs: bool
    overlap_schedule: bool

    @property
    def attn_dp(self) -> int:
        return self.dp if self.dp_attention else 1

    @property
    def attn_tp(self) -> int:
        return self.tp // self.attn_dp

    def flags(self) -> dict[str, object]:
        """As keyword arguments of Engine; what is at its default is not given."""
        page, chunk = self.page_chunk
        flags: dict[str, object] = {
            "tp": self.tp,
            "dp": self.dp,
            "page_size": page,
            "chunked_prefill_size": chunk * self.attn_dp if chunk > 0 else -1,
        }
        if self.ep is not None:
            flags["ep"] = self.ep
        if self.dispatch != "none":
            flags |= {"moe_a2a_backend": "deepep", "deepep_mode": self.dispatch}
        if self.dense_tp is not None:
            flags["moe_dense_tp_size"] = self.dense_tp
        if self.tbo != "off":
            flags |= {"enable_two_batch_overlap": True, "tbo_policy": self.tbo}
        switches = {
            "enable_dp_attention": self.dp_attention,
            "enable_dp_lm_head": self.dp_lm_head,
            "enable_layernorm_sp": self.layernorm_sp,
            "enable_mixed_chunk": self.mixed,
            "disable_cuda_graph": not self.graphs,
            "disable_overlap_schedule": not self.overlap_schedule,
        }
        return flags | {name: True for name, on in switches.items() if on}

    def __str__(self) -> str:
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return "-".join(str(v) if k in ("model", "page_chunk") else f"{k}={v}" for k, v in values if v not in _QUIET)


_QUIET = (False, None, "none", "off")

AXES: dict[str, Sequence[object]] = {
    "model": tuple(MODELS),
    "tp": (1, 2, 4),
    "dp": (1, 2, 4),
    "dp_attention": (False, True),
    "ep": (None, 2, 4),
    "dispatch": ("none", "auto", "normal", "low_latency"),
    "dense_tp": (None, 1),
    "dp_lm_head": (False, True),
    "layernorm_sp": (False, True),
    "tbo": ("off", "any", "sglang"),
    "mixed": (False, True),
    "page_chunk": ((1, 1), (1, 7), (1, 16), (1, -1), (16, 16), (16, 48), (64, 64)),
    "graphs": (True, False),
    "overlap_schedule": (True, False),
}


# What flags alone decide: when it is refused, and the flags that the message must name.
_REFUSED: tuple[tuple[Callable[[Case], bool], tuple[str, ...]], ...] = (
    (lambda c: c.dp > 1 and not c.dp_attention, ("--dp-size", "--enable-dp-attention")),
    (lambda c: c.dp_attention and c.dp == 1, ("--dp-size", "--enable-dp-attention")),
    (lambda c: c.dp_attention and c.tp % c.dp != 0, ("--tp-size", "--dp-size")),
    (lambda c: c.dp_lm_head and not c.dp_attention, ("--enable-dp-lm-head", "--enable-dp-attention")),
    (lambda c: c.dispatch != "none" and c.ep not in (None, c.tp), ("--moe-a2a-backend", "--ep-size")),
    (lambda c: c.dispatch == "none" and c.tp % (c.ep or 1) != 0, ("--tp-size", "--ep-size")),
    (lambda c: c.layernorm_sp and c.tp == 1, ("--enable-layernorm-sp", "--tp-size")),
    (lambda c: c.layernorm_sp and c.attn_tp <= 1, ("--enable-layernorm-sp", "--dp-size")),
    (
        lambda c: c.tbo != "off" and c.dispatch == "none" and not c.dp_attention,
        ("--enable-two-batch-overlap", "--moe-a2a-backend", "--enable-dp-attention"),
    ),
    (lambda c: c.mixed and c.page_chunk[1] < 0, ("--enable-mixed-chunk", "--chunked-prefill-size")),
)


def refused_for(case: Case) -> list[tuple[str, ...]]:
    """The flags of each rule that the case breaks; empty if ServerArgs accepts it."""
    return [names for breaks, names in _REFUSED if breaks(case)]


def model_refuses(case: Case) -> str:
    """What the message says if the flags are fine but not for this model; empty if they are."""
    spec = MODELS[case.model]
    if spec.heads % case.attn_tp:
        return rf"attention runs on {case.attn_tp} ranks but the model has {spec.heads} heads; choose --tp-size"
    if not spec.experts and case.dispatch != "none":
        return "--moe-a2a-backend deepep .* no experts"
    if not spec.experts and (case.ep or 1) > 1:
        return f"--ep-size {case.ep} .* no experts"
    return ""


# Axes that the rules above read together with others; of the rest any values go with any layout.
_SCHEDULE = ("mixed", "page_chunk", "graphs", "overlap_schedule")


@functools.cache
def accepted_layouts() -> list[Case]:
    """Every model and layout that runs, with the first values of the schedule's axes."""
    axes = {name: values[:1] if name in _SCHEDULE else values for name, values in AXES.items()}
    cases = (Case(*values) for values in itertools.product(*axes.values()))
    return [case for case in cases if not refused_for(case) and not model_refuses(case)]


@functools.cache
def accepted_schedules() -> list[Case]:
    """Every schedule that runs, with the first values of the other axes."""
    axes = {name: values if name in _SCHEDULE else values[:1] for name, values in AXES.items()}
    return [case for case in (Case(*values) for values in itertools.product(*axes.values())) if not refused_for(case)]


def combine(layout: Case, schedule: Case) -> Case:
    return replace(layout, **{name: getattr(schedule, name) for name in _SCHEDULE})


def pairs_of(case: Case) -> set[tuple[tuple[str, object], tuple[str, object]]]:
    return set(itertools.combinations([(name, getattr(case, name)) for name in AXES], 2))


def pairwise_cases(seed: int = 0) -> list[Case]:
    """A few cases that hold every pair of values that any accepted case holds.

    Greedy: each time one that holds the most pairs not yet held, among every layout with a few schedules drawn for
    it. The same seed gives the same cases.
    """
    rng = random.Random(seed)
    schedules = accepted_schedules()
    cases = [combine(layout, schedule) for layout in accepted_layouts() for schedule in rng.sample(schedules, 4)]
    rng.shuffle(cases)
    codes = np.array([[values.index(getattr(c, name)) for name, values in AXES.items()] for c in cases])
    width = max(map(len, AXES.values()))
    columns = list(itertools.combinations(range(len(AXES)), 2))
    pairs = np.stack([(k * width + codes[:, i]) * width + codes[:, j] for k, (i, j) in enumerate(columns)], axis=1)
    missing = np.zeros(len(columns) * width * width, dtype=bool)
    missing[pairs] = True
    chosen = []
    while missing.any():
        best = int(missing[pairs].sum(axis=1).argmax())
        chosen.append(cases[best])
        missing[pairs[best]] = False
    return chosen
