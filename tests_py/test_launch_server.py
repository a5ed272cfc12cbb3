"""python -m weft.launch_server: the dry run reads config.json only, and says what is not there yet."""

import json
import shlex
from pathlib import Path

import pytest

from weft import launch_server
from weft.errors import WeftError
from weft.model_info import model_directory

SEEDS = [
    case["args"]
    for case in json.loads((Path(__file__).parent / "cases" / "server_args_cases.json").read_text())["versions"][
        "8905cbd4"
    ]
    if case.get("from_seed")
]


@pytest.fixture
def config_only(tmp_path):
    """A model's directory with config.json, and nothing else."""
    config = (model_directory("demo") / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    return str(tmp_path)


def dry_run(capsys, text):
    status = launch_server.main([*shlex.split(text), "--dry-run"])
    assert status == 0
    return capsys.readouterr().out


def rows_of(output):
    """{flag: (value, origin)} of the printed tables."""
    rows = [line.split() for line in output.splitlines() if line.startswith("--") and not line.startswith("---")]
    return {row[0]: (row[1], " ".join(row[2:])) for row in rows}


def test_a_dry_run_shows_values_layouts_graphs_and_memory(config_only, capsys):
    output = dry_run(
        capsys,
        f"--model-path {config_only} --tp 4 --dp 2 --enable-dp-attention --moe-a2a-backend deepep"
        " --chunked-prefill-size 256 --cuda-graph-bs 2 4 --max-total-tokens 1k",
    )
    rows = rows_of(output)
    assert rows["--tp-size"] == ("4", "user")
    assert rows["--ep-size"] == ("4", "derived")
    assert rows["--chunked-prefill-size"] == ("128", "derived from 256")
    assert rows["--context-length"] == ("4096", "model")
    assert rows["--dtype"] == ("bfloat16", "model")
    assert rows["--page-size"] == ("1", "derived")
    assert rows["--max-total-tokens"] == ("1000", "user")
    assert rows["--port"] == ("30000", "default")
    assert "scattered_to_tp_attn_full" in output
    assert "Decode graphs of a DP rank: 2 4\n" in output
    assert "ranks 0,1,2,3" in output
    assert [line.split()[0] for line in output.splitlines()[-5:]] == ["weights", "work", "state", "kv", "all"]


def test_layernorm_sp_has_layouts_of_its_own_in_steps_that_prefill(config_only, capsys):
    output = dry_run(capsys, f"--model-path {config_only} --tp 2 --enable-sp")
    usual, scattered = output.split("In steps that prefill (--enable-layernorm-sp):")
    assert "gather_hidden_states_and_residual" in usual
    assert "SCATTERED" not in usual
    assert "gather_hidden_states " in scattered


def test_a_dry_run_says_what_does_not_fit(config_only, capsys, monkeypatch):
    arguments = f"--model-path {config_only} --max-total-tokens 1k"
    assert "does not fit" not in dry_run(capsys, arguments)
    monkeypatch.setattr("weft.launch_server.free_memory_bytes", lambda: 1 << 20)
    assert "of 1 MiB that are free. This does not fit" in dry_run(capsys, arguments)


def test_without_graphs_there_are_none(config_only, capsys):
    assert "Decode graphs of a DP rank: none" in dry_run(capsys, f"--model-path {config_only} --disable-cuda-graph")


def test_the_server_itself_is_not_there_yet():
    with pytest.raises(WeftError, match=r"no HTTP server yet; use weft\.Engine or python -m weft\.generate"):
        launch_server.main(["--model-path", "demo"])


def test_a_dry_run_of_what_is_planned_shows_the_values_and_what_is_missing(capsys):
    with pytest.raises(WeftError, match="cannot run yet:\n--device cuda with --tp-size 8 is planned"):
        launch_server.main(["--model-path", "nowhere", "--device", "cuda", "--tp", "8", "--dry-run"])
    assert rows_of(capsys.readouterr().out)["--tp-size"] == ("8", "user")


@pytest.mark.parametrize("command", SEEDS)
def test_the_commands_of_the_pull_requests_run_or_say_why_not(command, capsys):
    """Each flag that stands in the way is named, with what to do."""
    argv = ["demo" if word == "m" else word for word in shlex.split(command)]
    obstacles = {"--attention-backend", "--port", "--nnodes", "--device"} & set(argv)
    if not obstacles:
        assert launch_server.main([*argv, "--dry-run"]) == 0
        return
    with pytest.raises(WeftError) as caught:
        launch_server.main([*argv, "--dry-run"])
    for name in obstacles:
        assert any(name in line and ("; " in line or ": " in line) for line in str(caught.value).splitlines()), name
