"""python -m weft.simulate: a readable timeline, the same for the same seed, and a trace."""

import json
import re

import pytest

from weft import simulate
from weft.errors import WeftError

SMALL = "--ranks 4 --dp 2 --enable-dp-attention --model-path demo --steps 40 --width 100"


def run(capsys, text):
    assert simulate.main(text.split()) == 0
    return capsys.readouterr().out


def test_64_ranks_need_no_further_argument(capsys):
    output = run(capsys, "--ranks 64 --steps 64 --width 100")
    blocks = output.split("\n\nA row:")[0].split("\n\n")
    for block in blocks:
        labels = [line[:9].rstrip() for line in block.splitlines()]
        assert labels == ["step", "schedule", "dispatch", *(f"rank {rank}" for rank in range(64))]
        assert all(len(line) <= 100 for line in block.splitlines())
    cells = re.findall(r" ([EMDVP]\d+(?:g\d+)?)", output)
    assert {cell[0] for cell in cells} >= set("ED")
    assert any("g" in cell for cell in cells), "no step replays a graph"
    assert " AB" in output
    rank_steps = int(re.search(r"rank-steps +([\d,]+)", output)[1].replace(",", ""))
    steps = int(re.search(r"\nsteps +([\d,]+)", output)[1])
    assert rank_steps == 64 * steps > 0


def test_ranks_that_run_the_same_share_a_row_and_a_seed_gives_one_run(capsys):
    first = run(capsys, f"{SMALL} --seed 3")
    assert "rank 0-1" in first
    assert "rank 2-3" in first
    assert run(capsys, f"{SMALL} --seed 3") == first
    assert run(capsys, f"{SMALL} --seed 4") != first


def test_without_mixed_chunk_nothing_is_mixed(capsys):
    assert not re.search(r" M\d", run(capsys, SMALL).split("A row:")[0])
    assert re.search(r" M\d", run(capsys, f"{SMALL} --enable-mixed-chunk").split("A row:")[0])


def test_the_trace_shows_each_rank_its_steps_and_its_streams(capsys, tmp_path):
    path = tmp_path / "trace.json"
    run(capsys, f"--ranks 4 --steps 24 --trace {path}")
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    streams = {(event["pid"], event["args"]["name"]) for event in events if event["name"] == "thread_name"}
    assert streams == {(rank, stream) for rank in range(4) for stream in ("step", "compute", "comm")}
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] > 0 for event in spans)
    assert {"dispatch", "combine"} <= {event["name"] for event in spans if event["cat"] == "comm"}
    # The two micro-batches of a step are at work at once, one on each stream.
    own = [event for event in spans if event["pid"] == 0]
    dispatches = [event for event in own if event["name"] == "dispatch"]
    assert any(
        compute["cat"] == "compute"
        and compute["args"]["micro_batch"] == 1 - dispatch["args"]["micro_batch"]
        and compute["ts"] < dispatch["ts"] + dispatch["dur"]
        and dispatch["ts"] < compute["ts"] + compute["dur"]
        for dispatch in dispatches
        for compute in own
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--ranks 4 --tp 2", "--ranks 4 with --tp-size 2"),
        ("--ranks 3 --model-path demo", "4 heads"),
        ("--ranks 4 --steps 0", "--steps 0"),
        ("--ranks 4 --model-path nowhere", "nowhere"),
    ],
)
def test_what_cannot_run_is_refused(arguments, says):
    with pytest.raises(WeftError, match=re.escape(says)):
        simulate.main(arguments.split())
