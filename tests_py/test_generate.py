"""python -m weft.generate over a core without a model."""

import json

import pytest

from conftest import EOS, VOCAB_SIZE
from fake_core import FakeCore, expected_output
from weft import WeftError, generate
from weft.progress import run


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr("weft.engine.CompiledCore", FakeCore.of_engine)


def answer_of(capsys, *argv):
    status = generate.main([*argv, "--max-new-tokens", "6"])
    return status, capsys.readouterr()


def test_one_prompt_prints_its_answer(fake_model, capsys):
    status, output = answer_of(capsys, "--model-path", fake_model, "--prompt", "hi", "--tp", "2")
    assert status == 0
    assert output.out.count("\n") >= 1
    assert output.err == "", "no progress where there is no terminal"


def test_json_prints_an_object_a_prompt_in_order(fake_model, capsys, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("b\n\nc\n")
    status, output = answer_of(
        capsys, "--model-path", fake_model, "--prompt", "a", "--prompts-file", str(path), "--json"
    )
    objects = [json.loads(line) for line in output.out.splitlines()]
    assert status == 0
    assert [it["prompt"] for it in objects] == ["a", "b", "c"]
    for it in objects:
        letter = ord(it["prompt"])
        ids = it["output_ids"]
        assert len(ids) == 6
        assert it["meta_info"]["prompt_tokens"] == 1
        assert any(expected_output([t], 6, (EOS,), VOCAB_SIZE) == ids for t in range(256)), letter


def test_json_lines_hold_prompts_of_several_lines(fake_model, capsys, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('"two\\nlines"\n')
    _, output = answer_of(capsys, "--model-path", fake_model, "--prompts-file", str(path), "--json", "--chat")
    it = json.loads(output.out)
    assert it["prompt"] == "two\nlines"
    assert it["meta_info"]["prompt_tokens"] == len("two\nlines") + 2


def test_a_bad_prompt_is_named_and_the_others_are_answered(fake_model, capsys):
    status, output = answer_of(capsys, "--model-path", fake_model, "--prompt", "a" * 300, "--prompt", "b", "--json")
    assert status == 1
    assert "300 tokens" in output.err
    assert len(json.loads(output.out.splitlines()[1])["output_ids"]) == 6


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "there is no prompt"),
        (["--prompts-file", "/nowhere"], "--prompts-file /nowhere"),
        (["--prompt", "a", "--tp", "3"], "4 heads"),
        (["--prompt", "a", "--skip-tokenizer-init"], "--skip-tokenizer-init"),
        (["--prompt", "a", "--promt", "b"], "did you mean --prompt?"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
    ],
)
def test_wrong_arguments_are_one_line(fake_model, argv, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["generate", "--model-path", fake_model, *argv])
    assert run(generate.main) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_prompt_files_must_hold_strings(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(WeftError, match="JSON string"):
        generate.read_prompts(path)
