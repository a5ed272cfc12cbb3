"""Show what server arguments come to: python -m weft.launch_server --model-path M [server arguments] --dry-run

Only config.json is read. The HTTP server is not there yet, so without --dry-run this says so and ends.
"""

import sys
from collections.abc import Mapping, Sequence

from weft import gpu
from weft.comm import model_layouts
from weft.core_config import memory_ledger
from weft.engine_config import EngineConfig, resolve
from weft.errors import WeftError
from weft.flags import Parser
from weft.memory import free_memory_bytes
from weft.progress import run
from weft.report import layouts_table, ledger_table, table
from weft.server_args import Origin, ServerArgs, flag_table


def main(argv: Sequence[str]) -> int:
    """Print the dry run.

    Raises:
        WeftError: the arguments are refused or planned; a server was asked for.
    """
    parser = Parser(
        "python -m weft.launch_server",
        "Show what server arguments come to. weft has no HTTP server yet: add --dry-run.",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print each value and its origin, the layouts, the graphs and the memory of each rank, and end; reads"
        " config.json, but no weight",
    )
    ServerArgs.add_cli_args(parser)
    options = parser.parse(argv)
    args = ServerArgs.from_cli_args(options)
    if not options.dry_run:
        raise WeftError(
            "weft has no HTTP server yet; use weft.Engine or python -m weft.generate with these flags, or add --dry-run"
            " to see what they come to"
        )
    planned = args.planned()
    if planned:
        print(arguments_table(args, {}))
        raise WeftError("\n".join(["this cannot run yet:", *planned]))
    print(describe(resolve(args)))
    return 0


def describe(config: EngineConfig) -> str:
    """All that is decided before a weight is read."""
    args, model = config.args, config.model
    buckets = config.graph_batch_sizes()
    ledger = memory_ledger(config)
    total = sum(size for _, _, size in ledger)
    free = gpu.free_bytes() if config.on_gpu else free_memory_bytes()
    fits = "" if total <= free else " This does not fit: an Engine would be refused when it takes its memory."
    layouts = "Layouts of the layers:\n\n" + layouts_table(model_layouts(str(model.path), args.parallel))
    if args.enable_layernorm_sp:
        scattered = model_layouts(str(model.path), args.parallel, layernorm_sp=True)
        layouts += f"\n\nIn steps that prefill (--enable-layernorm-sp):\n\n{layouts_table(scattered)}"
    sections = [
        arguments_table(args, config.resolved()),
        f"Model: {model.architecture}, {model.num_layers} layers, {model.num_experts} experts, {model.dtype}",
        layouts,
        f"A step holds up to {config.scheduler.max_tokens_per_step} rows of a DP rank,"
        f" its KV cache {config.max_total_tokens} tokens.",
        f"Decode graphs of a DP rank: {' '.join(map(str, buckets)) or 'none'}",
        f"Memory of each rank, {total / 2**20:,.1f} MiB in all of {free / 2**20:,.0f} MiB that are free."
        f"{fits}\n\n{ledger_table(ledger)}",
    ]
    return "\n\n".join(sections)


def arguments_table(args: ServerArgs, resolved: Mapping[str, tuple[object, Origin]]) -> str:
    """A row a flag, those that are planned last. `resolved`: what the model decides."""
    works: list[list[str]] = []
    planned: list[list[str]] = []
    for name, spec, _ in flag_table():
        value, origin = resolved.get(name, (getattr(args, name), args.origins[name]))
        given = args.user_values.get(name, value)
        note = origin if given == value or origin == "user" else f"{origin} from {given}"
        (works if spec.works else planned).append([spec.name, _text(value), note])
    header = ["flag", "value", "origin"]
    return f"{table(header, works, left=3)}\n\nPlanned:\n\n{table(header, planned, left=3)}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(run(main))
