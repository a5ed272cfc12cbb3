"""The gate of two-batch overlap: its cost table, its flags, and that a run obeys it."""

import json

import pytest

from weft import Engine, SamplingParams, ServerArgs, plan
from weft.engine_config import resolve
from weft.errors import WeftError

OVERLAP = {"tp": 2, "dp": 2, "enable_dp_attention": True, "enable_two_batch_overlap": True}
NEVER_PAYS = {"tokens": [1, 1000], "compute_us": [10, 1000], "dispatch_us": [0, 0], "combine_us": [0, 0]}
ALWAYS_PAYS = {"tokens": [1, 1000], "compute_us": [1, 1000], "dispatch_us": [0.5, 500], "combine_us": [0.5, 500]}


def write(directory, table):
    path = directory / "costs.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table), encoding="utf-8")
    return str(path)


def test_a_table_is_read_from_json(tmp_path):
    table = plan.load_tbo_cost_table(write(tmp_path, NEVER_PAYS))
    assert (table.tokens, table.compute_us) == ([1, 1000], [10, 1000])
    assert table.whole_us(1) == 10
    assert table.split_us(1, 1) == 20


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "give one object with the lists tokens, compute_us"),
        (ALWAYS_PAYS | {"more": [1]}, "and nothing else"),
        (ALWAYS_PAYS | {"tokens": [1.5, 2]}, "tokens must be a list of integers"),
        (ALWAYS_PAYS | {"combine_us": [True, 1]}, "combine_us must be a list of numbers"),
        (ALWAYS_PAYS | {"combine_us": 3}, "combine_us must be a list of numbers"),
        (ALWAYS_PAYS | {"combine_us": [-1, 1]}, r"combine_us\[0\]=-1"),
        (ALWAYS_PAYS | {"combine_us": []}, "combine_us has 0 entries for 2 of tokens"),
        (NEVER_PAYS | {"tokens": [7, 7]}, r"tokens\[1\]=7 after 7"),
        (ALWAYS_PAYS | {"tokens": [1, 1 << 70]}, "costs.json"),
        ({name: [] for name in ALWAYS_PAYS}, "give at least one"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name_and_entry(tmp_path, table, message):
    with pytest.raises(WeftError, match=message) as error:
        plan.load_tbo_cost_table(write(tmp_path, table))
    assert "costs.json" in str(error.value)


def test_a_missing_file_is_refused_before_a_weight_is_read():
    args = ServerArgs.from_kwargs(model_path="demo", tbo_cost_table="no/such.json", **OVERLAP)
    with pytest.raises(WeftError, match=r"no/such\.json: No such file"):
        resolve(args)


def tbo_steps(**flags):
    with Engine(model_path="demo", **OVERLAP, **flags) as engine:
        prompts = [f"{a} + {a} =" for a in range(12)]
        outputs = engine.generate(prompts, SamplingParams(temperature=0, max_new_tokens=6))
        ranks = engine.stats()["ranks"]
    steps = {sum(rank["steps"].values()) for rank in ranks}
    overlapped = {rank["tbo_steps"] for rank in ranks}
    assert all(rank["graph_replays"] > 0 for rank in ranks), "graphs are of one micro-batch, or of two"
    assert len(steps) == len(overlapped) == 1, "every rank runs the same plan"
    return steps.pop(), overlapped.pop(), [output["output_ids"] for output in outputs]


def test_a_run_obeys_the_table_and_its_numbers_do_not_change(tmp_path):
    steps, overlapped, ids = tbo_steps(tbo_cost_table=write(tmp_path, NEVER_PAYS))
    assert steps > 0
    assert overlapped == 0
    forced_steps, forced, forced_ids = tbo_steps(tbo_gate="always")
    assert forced > 0
    assert tbo_steps(tbo_cost_table=write(tmp_path, ALWAYS_PAYS)) == (forced_steps, forced, forced_ids)
    assert tbo_steps() == (forced_steps, forced, forced_ids), "always without a table"
    assert ids == forced_ids
