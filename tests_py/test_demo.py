"""The demo model over the compiled core: right answers on every layout, and what the demo shows."""

import json

import pytest

from weft import demo
from weft.bench import accuracy

PR_24241 = "--tp 2 --dp 2 --enable-dp-attention --enable-mixed-chunk --chunked-prefill-size 256"


def test_problems_are_answered_as_well_on_any_layout(capsys):
    accuracy.main(["--num-examples", "60", "--device", "cpu", *PR_24241.split(), "--json", "--compare", "--tp 1"])
    it = json.loads(capsys.readouterr().out)
    assert it["compare"]["accuracy"] >= 0.95
    assert abs(it["accuracy"] - it["compare"]["accuracy"]) <= 1 / 60
    assert it["compare"]["identical"] >= 58, "bf16 may differ where two tokens are as likely"
    assert sum(rank["steps"]["MIXED"] for rank in it["stats"]["ranks"]) > 0


@pytest.mark.timeout(240)
def test_the_demo_answers_right_and_shows_how(capsys, tmp_path):
    trace = tmp_path / "trace.json"
    assert demo.main(["--trace", str(trace)]) == 0
    output = capsys.readouterr().out
    assert output.count("[right]") >= 7
    for text in ("tbo_steps_by_mode.MIXED", "graph_replays", "dispatch_steps.low_latency", "rank 0 compute |"):
        assert text in output
    spans = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert {span["args"]["micro_batch"] for span in spans} >= {0, 1}
    assert {span["pid"] for span in spans} == {0, 1, 2, 3}
