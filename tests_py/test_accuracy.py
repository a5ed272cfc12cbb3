"""python -m weft.bench.accuracy and weft.demo over a core without a model: what they ask, count and print."""

import json

import pytest

from fake_core import FakeCore
from weft import WeftError, demo
from weft.bench import accuracy
from weft.bench.demo_tasks import Skill, Split


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr("weft.engine.CompiledCore", FakeCore.of_engine)


@pytest.fixture
def long_model(fake_model, tmp_path):
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return fake_model


def test_examples_are_spread_over_the_skills_and_interleaved():
    examples = accuracy.make_examples(Split.TEST, list(Skill), 12, 0)
    assert len(examples) == 12
    assert [e.skill for e in examples[:5]] == list(Skill)
    counts = [sum(e.skill is skill for e in examples) for skill in Skill]
    assert counts == [3, 3, 2, 2, 2]


def test_json_is_one_object_with_accuracy_skills_speed_and_stats(long_model, capsys):
    status = accuracy.main(["--model-path", long_model, "--num-examples", "10", "--parallel", "4", "--json"])
    it = json.loads(capsys.readouterr().out)
    assert status == 0
    assert it["accuracy"] == 0
    assert set(it["skills"]) == {skill.value for skill in Skill}
    assert it["tokens_per_s"] > 0
    assert len(it["stats"]["ranks"]) == 1


def test_right_answers_count(long_model, capsys, monkeypatch):
    monkeypatch.setattr("weft.bench.demo_tasks.is_correct", lambda example, text: example.skill is Skill.SORT)
    accuracy.main(["--model-path", long_model, "--num-examples", "10", "--json"])
    it = json.loads(capsys.readouterr().out)
    assert it["accuracy"] == 0.2
    assert it["skills"]["sort"] == {"num_examples": 2, "accuracy": 1.0}


def test_compare_runs_twice_and_counts_identical_outputs(long_model, capsys):
    argv = ["--model-path", long_model, "--num-examples", "10", "--skill", "copy", "--skill", "sort"]
    accuracy.main([*argv, "--json", "--compare", "--enable-mixed-chunk --chunked-prefill-size 32"])
    it = json.loads(capsys.readouterr().out)
    assert it["compare"]["identical"] == 10
    assert it["compare"]["stats"]["ranks"][0]["steps"]["MIXED"] > 0
    accuracy.main([*argv, "--compare", "--tp 2"])
    output = capsys.readouterr().out
    assert "identical outputs: 10 of 10" in output
    assert "tokens/s" in output


def test_wrong_arguments_are_refused_before_a_model_is_loaded(long_model):
    with pytest.raises(WeftError, match="at least 1"):
        accuracy.main(["--model-path", long_model, "--num-examples", "0"])
    with pytest.raises(WeftError, match="--enable-dp-attention"):
        accuracy.main(["--model-path", long_model, "--compare", "--tp 2 --dp 2"])


def test_the_demo_shows_answers_counters_a_picture_and_a_trace(long_model, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "DEMO_MODEL", long_model)
    trace = tmp_path / "trace.json"
    status = demo.main(["--trace", str(trace)])
    output = capsys.readouterr().out
    assert status == 1, "no answer of the fake core is right"
    assert output.count("  Q  ") == 8
    assert output.count("[WRONG]") == 8
    assert demo.CPU_DEMO_ARGS in output
    assert "steps.MIXED" in output
    assert "rank 0 compute |" in output
    assert str(trace) in output
    assert json.loads(trace.read_text())["traceEvents"]
