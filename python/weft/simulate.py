"""Simulate ranks on a laptop: python -m weft.simulate [server arguments] --ranks 64 [--trace FILE]

The real planner, executor, graphs, request tables and page allocator of every rank run on a device whose ops do
nothing, under a random stream of requests. Every collective must find its peers with the same op, group and bytes, and
what a step runs must be what was planned; the first thing that is wrong ends the run with an error that names rank and
step. Only the model's config.json is read.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weft import _weft
from weft.core_config import runtime_config
from weft.engine_config import EngineConfig, resolve
from weft.errors import WeftError
from weft.flags import Parser
from weft.forward_mode import ForwardMode
from weft.model_info import model_directory
from weft.progress import run
from weft.report import table, write_trace
from weft.server_args import DEMO_MODEL, ServerArgs

# Without other server arguments.
DEFAULT_ARGS = (
    "--dp {ranks} --enable-dp-attention --moe-a2a-backend deepep --enable-two-batch-overlap --enable-mixed-chunk"
)
# DeepSeek-V3's heads, experts and widths, so that many ranks divide them, in the layers of the demo model.
WIDE_MODEL = {
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
}
# Small, so that a short run meets its limits. Of a DP rank.
_RUNNING, _CONTEXT, _CHUNK = 16, 256, 64
_LETTERS = {
    ForwardMode.EXTEND: "E",
    ForwardMode.MIXED: "M",
    ForwardMode.DECODE: "D",
    ForwardMode.TARGET_VERIFY: "V",
    ForwardMode.PREBUILT: "P",
    ForwardMode.IDLE: ".",
}
_LEGEND = """\
A row: ranks that run the same. A column: a step. A cell: the mode (E extend, M mixed, D decode, . idle), the tokens,
and g with the rows of the graph that replays them (else the rank runs eager). schedule: whose stages all ranks run;
AB: two micro-batches, overlapped. dispatch: n normal, l low-latency, - rows are gathered; with the expert chunks, if
more than one."""


@dataclass(frozen=True)
class Cell:
    """One DP rank in one step."""

    mode: ForwardMode
    num_tokens: int
    num_rows: int  # with padding
    graph_bucket: int  # 0: eager

    def __str__(self) -> str:
        if not self.num_rows:
            return _LETTERS[self.mode]
        graph = f"g{self.graph_bucket}" if self.graph_bucket else ""
        return f"{_LETTERS[self.mode]}{self.num_tokens or ''}{graph}"


def main(argv: Sequence[str]) -> int:
    """Print the timeline and what it came to.

    Raises:
        WeftError: the arguments are refused, or the simulation found something wrong.
    """
    parser = Parser("python -m weft.simulate", __doc__)
    parser.add_argument(
        "--ranks",
        type=int,
        help="virtual ranks: --tp-size, if that is not given; without other server arguments also "
        + DEFAULT_ARGS.format(ranks="RANKS"),
    )
    parser.add_argument("--steps", type=int, default=48, help="steps that the scheduler tries")
    parser.add_argument("--seed", type=int, default=0, help="of the requests; the same seed gives the same run")
    parser.add_argument("--stop-chance", type=float, default=0.05, help="that a token ends its request")
    parser.add_argument("--trace", type=Path, help="write a trace for https://ui.perfetto.dev to this file")
    parser.add_argument("--width", type=int, default=0, help="columns of the timeline; default: the terminal's")
    ServerArgs.add_cli_args(parser)
    options = parser.parse(argv)
    own = {"ranks", "steps", "seed", "stop_chance", "trace", "width"}
    if options.steps < 1 or not 0 <= options.stop_chance <= 1:
        raise WeftError(f"--steps {options.steps} --stop-chance {options.stop_chance}: at least 1 step; from 0 to 1")
    if not set(vars(options)) - own:
        if options.ranks is None:
            options.ranks = 8
        defaults = DEFAULT_ARGS.format(ranks=options.ranks)
        options = parser.parse([*argv, "--ranks", str(options.ranks), *defaults.split()])
    if options.ranks is not None:
        given = getattr(options, "tp_size", options.ranks)
        if given != options.ranks:
            raise WeftError(f"--ranks {options.ranks} with --tp-size {given}: they are the same ranks; give only one")
        options.tp_size = options.ranks
    if not hasattr(options, "device"):
        options.device = "cpu"  # virtual ranks run nowhere
    with tempfile.TemporaryDirectory() as folder:
        if not hasattr(options, "model_path"):
            options.model_path = folder
            config = json.loads((model_directory(DEMO_MODEL) / "config.json").read_text(encoding="utf-8"))
            Path(folder, "config.json").write_text(json.dumps(config | WIDE_MODEL), encoding="utf-8")
        engine_config = resolve(_small(ServerArgs.from_cli_args(options), options))
        report = simulate(
            engine_config,
            num_steps=options.steps,
            seed=options.seed,
            stop_chance=options.stop_chance,
            with_spans=options.trace is not None,
        )
    args = engine_config.args
    width = options.width or shutil.get_terminal_size((118, 24)).columns
    print(timeline(report.steps, args.tp_size, width))
    print(f"\n{_LEGEND}\n\n{totals(report)}")
    if options.trace is not None:
        write_trace(step_events(report) + report.spans, options.trace)
        print(f"\nA trace of it, for https://ui.perfetto.dev: {options.trace.resolve()}")
    return 0


def simulate(
    config: EngineConfig, *, num_steps: int, seed: int = 0, stop_chance: float = 0.05, with_spans: bool = False
) -> _weft.SimulatedReport:
    """Run a random stream of requests on virtual ranks.

    Raises:
        WeftError: something is wrong: collectives that do not match, a wait without end, a token in two rows, a page
            with two owners, a size over its capacity.
    """
    longest = config.context_length // 4
    return _weft.simulate(
        runtime_config(config),
        num_steps=num_steps,
        max_prompt=longest,
        max_new_tokens=longest,
        seed=seed,
        stop_chance=stop_chance,
        mixed=config.args.enable_mixed_chunk,
        overlap=not config.args.disable_overlap_schedule,
        with_spans=with_spans,
    )


def cells(step: _weft.SimulatedStep) -> list[Cell]:
    """What each DP rank runs in a step."""
    plan = step.plan
    return [
        Cell(
            mode,
            sum(batch.num_tokens[dp_rank] for batch in plan.micro_batches),
            sum(batch.rows[dp_rank] for batch in plan.micro_batches),
            plan.graph_bucket[dp_rank],
        )
        for dp_rank, mode in enumerate(plan.modes)
    ]


def timeline(steps: Sequence[_weft.SimulatedStep], num_ranks: int, width: int) -> str:
    """Ranks as rows, steps as columns, in as many blocks as `width` columns ask for."""
    if not steps:
        return "no step has run: no request fits"
    columns = [
        [str(step.plan.step_id), _schedule(step.plan), _dispatch(step.plan), *map(str, cells(step))] for step in steps
    ]
    dp_size = len(columns[0]) - 3
    share = num_ranks // dp_size
    names = [f"{d * share}-{d * share + share - 1}" if share > 1 else str(d) for d in range(dp_size)]
    labels = ["step", "schedule", "dispatch", *(f"rank {name}" for name in names)]
    left = max(map(len, labels))
    blocks: list[str] = []
    while columns:
        widths: list[int] = []
        for column in columns:
            if widths and left + sum(widths) + len(widths) + 1 + max(map(len, column)) > width:
                break
            widths.append(max(map(len, column)) + 1)
        block, columns = columns[: len(widths)], columns[len(widths) :]
        lines: list[str] = []
        for row, label in enumerate(labels):
            texts = [f" {column[row].ljust(size - 1)}" for column, size in zip(block, widths, strict=True)]
            lines.append((label.ljust(left) + "".join(texts)).rstrip())
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def totals(report: _weft.SimulatedReport) -> str:
    """Counts over the run, one a line."""
    run_cells = [cell for step in report.steps for cell in cells(step)]
    tokens = sum(cell.num_tokens for cell in run_cells)
    rows = sum(cell.num_rows for cell in run_cells)
    busy = sum(bool(cell.num_tokens) for cell in run_cells)
    lines: list[list[object]] = [
        ["steps", report.totals.steps],
        ["rank-steps", report.totals.rank_steps],
        ["collectives that found their peers", report.totals.meetings],
        ["requests", report.totals.requests],
        ["rows of requests found over too late, discarded", report.totals.discarded_rows],
        ["overlapped steps", sum(step.plan.tbo for step in report.steps)],
        ["steps in which ranks' modes differ", sum(len(set(step.plan.modes)) > 1 for step in report.steps)],
        ["DP ranks' steps that replayed a graph", sum(bool(cell.graph_bucket) for cell in run_cells)],
        ["DP ranks' steps without a token", len(run_cells) - busy],
        ["tokens", tokens],
        ["rows of padding", rows - tokens],
    ]
    return table(["total", ""], [[name, f"{value:,}"] for name, value in lines])


def step_events(report: _weft.SimulatedReport) -> list[tuple[int, str, str, float, float, int]]:
    """A span for each step of each rank, named by its cell."""
    events = []
    for step in report.steps:
        row = cells(step)
        share = len(step.start_us) // len(row)
        for rank, (start, end) in enumerate(zip(step.start_us, step.end_us, strict=True)):
            name = f"step {step.plan.step_id}: {row[rank // share]}"
            events.append((rank, "step", name, float(start), float(end), -1))
    return events


def _small(args: ServerArgs, options: argparse.Namespace) -> ServerArgs:
    """The arguments, with small sizes where none are given."""
    sizes = {
        "max_running_requests": _RUNNING * args.attn_dp_size,
        "context_length": _CONTEXT,
        "max_total_tokens": _RUNNING * _CONTEXT // 2,
        "chunked_prefill_size": _CHUNK,
    }
    for name, value in sizes.items():
        if not hasattr(options, name):
            setattr(options, name, value)
    return ServerArgs.from_cli_args(options)


def _schedule(plan: _weft.StepPlan) -> str:
    return f"{_LETTERS[plan.schedule]}{' AB' if plan.tbo else ''}"


def _dispatch(plan: _weft.StepPlan) -> str:
    chunks = max(batch.expert_chunks for batch in plan.micro_batches)
    return ("-" if plan.dispatch == "none" else plan.dispatch[0]) + (f"x{chunks}" if chunks > 1 else "")


if __name__ == "__main__":
    sys.exit(run(main))
