"""Write docs/flags.md from the tables of the flags: python tools/flags_doc.py > docs/flags.md

Cells of the matrix are not written down anywhere: each pair of features is tried.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from weft.combinations import COMBINATIONS, DERIVED_COMBINATIONS, PLANNED, RANGES, Refused
from weft.core_config import memory_ledger
from weft.engine_config import resolve
from weft.errors import WeftError
from weft.flags import Flag
from weft.refused_flags import REFUSED_FLAGS
from weft.server_args import DEMO_MODEL, ServerArgs, flag_table

INTRODUCTION = """# Flags

Written by `python tools/flags_doc.py > docs/flags.md`; a test checks that it is current.

weft takes SGLang's flags, with SGLang's names, aliases, types and defaults; only sizes of the KV cache have defaults
of weft's own: `--page-size` on a GPU, `--max-running-requests`, `--max-total-tokens` and `--mem-fraction-static`. A
flag of SGLang has one of three states:

- it **works**;
- it is **planned**: it parses, is checked and derives like any other, and `Engine` refuses it before any work, saying
  what is missing and what to use;
- weft **does not have** it: the parser says so and what to use.

`python -m weft.launch_server --model-path M ... --dry-run` prints each resolved value with its origin (user, default,
model, derived), the layouts of the layers, the decode graphs and the memory of each rank. It reads only config.json.
Nothing is changed silently: where SGLang resets a flag, weft refuses if you gave it. Flags cannot be abbreviated.
In Python, `weft.Engine(tp_size=2)` takes the same names and aliases with `_` for `-`. Integers marked "suffix" may be
written as 4k, 1.5M or 4Ki.
"""

MATRIX = f"""## Features with each other

Each pair is tried on `--tp-size 4 --model-path {DEMO_MODEL}`, with what either needs to work alone. `+`: works, and a
test runs it. `p`: planned. `-`: the same flag with two values. A letter: refused, for the reason below.
"""


@dataclass(frozen=True)
class Feature:
    """Values of fields, and what else they need to be valid alone."""

    name: str
    values: Mapping[str, object]
    needs: Mapping[str, object] = field(default_factory=dict)


DISPATCH = {"moe_a2a_backend": "deepep"}
DP = {"enable_dp_attention": True, "dp_size": 2}
FEATURES = (
    Feature("expert groups (`--ep-size 4`)", {"ep_size": 4}),
    Feature("DP attention (`--enable-dp-attention --dp-size 2`)", DP),
    Feature("`--enable-dp-lm-head`", {"enable_dp_lm_head": True}, DP),
    Feature("`--moe-dense-tp-size 1`", {"moe_dense_tp_size": 1}),
    Feature("gathered experts (`--moe-a2a-backend none`)", {"moe_a2a_backend": "none"}),
    Feature("dispatch (`--moe-a2a-backend deepep`)", DISPATCH),
    Feature("`--deepep-mode normal`", {"deepep_mode": "normal"}, DISPATCH),
    Feature("`--deepep-mode low_latency`", {"deepep_mode": "low_latency"}, DISPATCH),
    Feature("`--enable-layernorm-sp`", {"enable_layernorm_sp": True}),
    Feature("`--enable-two-batch-overlap`", {"enable_two_batch_overlap": True}, DISPATCH),
    Feature("`--enable-mixed-chunk`", {"enable_mixed_chunk": True}),
    Feature("no chunks (`--chunked-prefill-size -1`)", {"chunked_prefill_size": -1}),
    Feature("`--disable-overlap-schedule`", {"disable_overlap_schedule": True}),
    Feature("graph sizes (`--cuda-graph-bs-decode 8 16`)", {"cuda_graph_bs_decode": (8, 16)}),
    Feature("`--disable-decode-cuda-graph`", {"disable_decode_cuda_graph": True}),
    Feature("`--disable-cuda-graph-padding`", {"disable_cuda_graph_padding": True}),
    Feature("`--page-size 16`", {"page_size": 16}),
    Feature("`--load-format dummy`", {"load_format": "dummy"}),
    Feature("`--skip-tokenizer-init`", {"skip_tokenizer_init": True}),
    Feature("`--enable-single-batch-overlap`", {"enable_single_batch_overlap": True}),
    Feature("`--device cuda`", {"device": "cuda"}),
    Feature("two nodes (`--nnodes 2`)", {"nnodes": 2}, {"dist_init_addr": "localhost:50000"}),
    Feature("`--quantization fp8`", {"quantization": "fp8"}),
    Feature("`--kv-cache-dtype fp8_e4m3`", {"kv_cache_dtype": "fp8_e4m3"}),
    Feature("`--schedule-policy lpm`", {"schedule_policy": "lpm"}),
    Feature("`--speculative-algorithm EAGLE`", {"speculative_algorithm": "EAGLE"}),
    Feature("`--disaggregation-mode prefill`", {"disaggregation_mode": "prefill"}),
    Feature("`--disaggregation-mode decode`", {"disaggregation_mode": "decode"}),
    Feature("HTTP server (`--port 8000`)", {"port": 8000}),
)


def arguments_of(one: Feature, other: Feature) -> dict[str, object] | None:
    """Fields of both together; None if they want the same flag with two values."""
    if any(other.values[name] != value for name, value in one.values.items() if name in other.values):
        return None
    base = {"model_path": DEMO_MODEL, "device": "cpu", "tp_size": 4}
    return {**base, **one.needs, **other.needs, **one.values, **other.values}


def state_of(arguments: Mapping[str, object]) -> tuple[str, str]:
    """("works" | "planned" | "refused", why)."""
    try:
        args = ServerArgs.from_kwargs(**arguments)
        planned = args.planned()
        if planned:
            return "planned", "\n".join(planned)
        memory_ledger(resolve(args))
    except WeftError as error:
        return "refused", str(error)
    return "works", ""


def matrix() -> str:
    """A row and a column a feature, and the reasons."""
    reasons: dict[str, str] = {}
    rows = []
    for i, one in enumerate(FEATURES):
        cells = []
        for other in FEATURES:
            arguments = arguments_of(one, other)
            state, why = ("same flag", "") if arguments is None else state_of(arguments)
            if state == "refused":
                # The pair and its mirror give the same message.
                cells.append(reasons.setdefault(why, _letter(len(reasons))))
            else:
                cells.append({"works": "+", "planned": "p", "same flag": "-"}[state])
        rows.append([f"{i + 1} {one.name}", *cells])
    legend = "\n".join(f"- **{letter}**: {_text(why)}" for why, letter in reasons.items())
    return f"{MATRIX}\n{_table(['', *(str(i + 1) for i in range(len(FEATURES)))], rows)}\n\n{legend}\n"


def flags(works: bool) -> str:
    """The table of the flags that work, or of the others."""
    rows = []
    for _, spec, default in flag_table():
        if spec.works == works:
            meaning = spec.help if works else f"{spec.help}; needs {spec.planned}"
            if spec.planned_values:
                meaning += f" (planned: {', '.join(spec.planned_values)})"
            rows.append([_names(spec), _kind(spec), _default(spec, default), meaning])
    return _table(["flag", "type", "default", "meaning" if works else "meaning, and what it needs"], rows)


def lacking() -> str:
    """SGLang's flags and values that weft does not have."""
    rows = [[entry.subject, " ".join(f"`{name}`" for name in entry.names), entry.advice] for entry in REFUSED_FLAGS]
    values = [
        [f"`{spec.name}`", " ".join(f"`{value}`" for value in spec.lacks), f"use {' or '.join(spec.choices)}"]
        for _, spec, _ in flag_table()
        if spec.lacks
    ]
    values += [
        [f"`{spec.name}`", " ".join(f"`{value}`" for value in spec.planned_values), f"planned: needs {spec.planned}"]
        for _, spec, _ in flag_table()
        if spec.planned_values
    ]
    return (
        f"{_table(['subject', 'flags', 'why, and what to use'], rows)}\n\n"
        f"Values of other flags:\n\n{_table(['flag', 'values', 'what to use'], values)}"
    )


def combinations(entries: Sequence[Refused]) -> str:
    names = {name: spec.name for name, spec, _ in flag_table()}
    rows = [
        [" ".join(f"`{names[name]}`" for name in it.names), it.why, it.fix, it.sglang or "refuses it too"]
        for it in entries
    ]
    return _table(["flags", "why", "what to do", "SGLang"], rows)


def planned_combinations() -> str:
    names = {name: spec.name for name, spec, _ in flag_table()}
    rows = [[" ".join(f"`{names[name]}`" for name in it.names), it.why, it.fix] for it in PLANNED]
    return _table(["flags", "what it needs", "what to do"], rows)


def document() -> str:
    """All of docs/flags.md."""
    parts = [
        INTRODUCTION,
        f"## Flags that work\n\n{flags(works=True)}\n",
        f"## Planned flags\n\nThe default always works.\n\n{flags(works=False)}\n",
        f"## What weft does not have\n\n{lacking()}\n",
        f"## Combinations that are refused\n\n{combinations([*COMBINATIONS, *DERIVED_COMBINATIONS])}\n",
        f"## Combinations that are planned\n\n{planned_combinations()}\n",
        f"## Values that are refused\n\n{combinations(RANGES)}\n",
        matrix(),
    ]
    return "\n".join(parts)


def _names(spec: Flag) -> str:
    old = [*spec.deprecated, *(name for name, _ in spec.shorthands)]
    text = " ".join(f"`{name}`" for name in spec.names)
    return f"{text} (deprecated: {' '.join(f'`{name}`' for name in old)})" if old else text


def _kind(spec: Flag) -> str:
    if spec.choices:
        return ", ".join(spec.choices)
    if spec.kind is bool:
        return "flag"
    return spec.kind.__name__ + (" (suffix)" if spec.human else "") + (" ..." if spec.many else "")


def _default(spec: Flag, value: object) -> str:
    if value is None:
        return spec.unset
    return "off" if value is False else "required" if value == "" else f"`{value}`"


def _letter(index: int) -> str:
    return chr(ord("a") + index) if index < 26 else _letter(index // 26 - 1) + _letter(index % 26)


def _text(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(document(), end="")
