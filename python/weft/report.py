"""Tables and pictures of what ran, as text and as a trace for Perfetto."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from weft.comm import LayerLayout

TimelineEvent = tuple[int, str, str, float, float, int]  # rank, stream, name, start_us, end_us, micro-batch


def table(header: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Columns as wide as their widest cell; the first `left` are left-aligned."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def stats_table(stats: Mapping[str, object]) -> str:
    """The counters of each rank, one row a counter; those that are 0 everywhere are left out."""
    ranks = stats.get("ranks")
    if not isinstance(ranks, list) or not ranks:
        return ""
    columns = [_flat("", rank) for rank in ranks]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        [name, *(_grouped(column.get(name, 0)) for column in columns)]
        for name in names
        if name != "rank" and any(column.get(name) for column in columns)
    ]
    return table(["", *(f"rank {i}" for i in range(len(ranks)))], rows)


def ledger_table(ledger: Sequence[tuple[int, str, int]]) -> str:
    """What each rank allocates, in MiB, by kind (the name up to a slash); ranks that are alike share a column."""
    sums: dict[int, dict[str, int]] = {}
    for rank, name, size in ledger:
        kinds = sums.setdefault(rank, {})
        kind = name.split("/", 1)[0]
        kinds[kind] = kinds.get(kind, 0) + size
    names = list(dict.fromkeys(kind for kinds in sums.values() for kind in kinds))
    columns: dict[tuple[int, ...], list[int]] = {}
    for rank, kinds in sorted(sums.items()):
        columns.setdefault(tuple(kinds.get(name, 0) for name in names), []).append(rank)
    header = ["MiB", *(f"rank{'s' if len(same) > 1 else ''} {','.join(map(str, same))}" for same in columns.values())]
    rows = [[name, *(f"{sizes[i] / 2**20:,.1f}" for sizes in columns)] for i, name in enumerate(names)]
    rows.append(["all", *(f"{sum(sizes) / 2**20:,.1f}" for sizes in columns)])
    return table(header, rows)


def layouts_table(layers: Sequence[LayerLayout]) -> str:
    """Where the rows of each layer are, and what moves them; neighbours that are alike share a row."""
    names = ("input", "attn", "mlp", "middle_residual", "output", "prepare_attn", "prepare_mlp", "postprocess")
    rows: list[list[str]] = []
    firsts: list[int] = []
    for i, layer in enumerate(layers):
        cells = ["sparse" if layer.sparse else "dense", *(str(getattr(layer, name)) for name in names)]
        if not rows or rows[-1] != cells:
            rows.append(cells)
            firsts.append(i)
    lasts = [*(first - 1 for first in firsts[1:]), len(layers) - 1]
    spans = [str(a) if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True)]
    header = ["layer", "kind", *(name.replace("middle_", "") for name in names)]
    return table(header, [[span, *row] for span, row in zip(spans, rows, strict=True)], left=len(header))


def picture(timeline: Sequence[TimelineEvent], width: int = 100, ranks: int = 2) -> str:
    """One step as text: a line for each stream of the first ranks, time to the right.

    A letter is the micro-batch that a stream works on (A, B); a blank is a stream that waits.
    """
    shown = [event for event in timeline if event[0] < ranks]
    if not shown:
        return ""
    begin, end = min(event[3] for event in shown), max(event[4] for event in shown)
    scale = width / max(end - begin, 1e-9)
    lines: dict[tuple[int, str], list[str]] = {}
    # "compute" stands above "comm".
    for rank, stream, _, start, stop, micro_batch in sorted(shown, key=lambda e: (e[0], e[1] != "compute", e[1], e[3])):
        line = lines.setdefault((rank, stream), [" "] * width)
        first = min(width - 1, int((start - begin) * scale))
        last = max(first + 1, min(width, round((stop - begin) * scale)))
        line[first:last] = ["AB"[micro_batch] if micro_batch in (0, 1) else "-"] * (last - first)
    label = max(len(f"rank {rank} {stream}") for rank, stream in lines)
    rows = [f"{f'rank {rank} {stream}':<{label}} |{''.join(line)}|" for (rank, stream), line in lines.items()]
    scale_line = f"{'':<{label}}  0{f'{end - begin:,.0f} us':>{width - 1}}"
    return "\n".join([*rows, scale_line])


def overlap(timeline: Sequence[TimelineEvent], rank: int = 0) -> float:
    """The share of a step in which one micro-batch communicates on `rank` while the other computes."""
    total = 0.0
    mine = [event for event in timeline if event[0] == rank]
    if not mine:
        return 0.0
    for _, one_stream, _, one_start, one_end, one in mine:
        for _, other_stream, _, other_start, other_end, other in mine:
            if {one, other} == {0, 1} and (one_stream, other_stream) == ("comm", "compute"):
                total += max(0.0, min(one_end, other_end) - max(one_start, other_start))
    return total / max(max(event[4] for event in mine) - min(event[3] for event in mine), 1e-9)


def write_trace(timeline: Sequence[TimelineEvent], path: Path) -> None:
    """Write trace-event JSON, which https://ui.perfetto.dev opens: a process a rank, a thread a stream."""
    streams = sorted({(rank, stream) for rank, stream, *_ in timeline})
    thread = {key: index for index, key in enumerate(streams)}
    events: list[dict[str, object]] = []
    for rank, stream in streams:
        events.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}})
        events.append(
            {"ph": "M", "name": "thread_name", "pid": rank, "tid": thread[rank, stream], "args": {"name": stream}}
        )
    for rank, stream, name, start, end, micro_batch in timeline:
        events.append(
            {
                "ph": "X",
                "name": name,
                "cat": stream,
                "pid": rank,
                "tid": thread[rank, stream],
                "ts": start,
                "dur": max(0.0, end - start),
                "args": {"micro_batch": micro_batch},
            }
        )
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), encoding="utf-8")


def _flat(prefix: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat |= _flat(f"{prefix}.{key}" if prefix else str(key), item)
    return flat


def _grouped(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
