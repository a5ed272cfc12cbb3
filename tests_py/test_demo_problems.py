"""The word problems that C++ tests ask the demo model."""

import importlib.util
from pathlib import Path

from weft.bench.demo_tasks import MAX_ANSWER_TOKENS

TOOL = Path(__file__).resolve().parent.parent / "tools" / "demo_problems.py"
spec = importlib.util.spec_from_file_location("demo_problems", TOOL)
demo_problems = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo_problems)


def test_the_committed_file_is_what_the_tool_makes() -> None:
    assert demo_problems.FILE.read_text(encoding="utf-8") == demo_problems.problems(), (
        "run: PYTHONPATH=python python tools/demo_problems.py"
    )


def test_every_answer_ends_within_the_tokens_that_a_model_may_spend() -> None:
    for line in demo_problems.problems().splitlines()[1:]:
        seed, prompt, answer = (field.split() for field in line.split(" ; "))
        assert len(seed) == 1
        assert prompt
        assert 0 < len(answer) <= MAX_ANSWER_TOKENS
        assert answer[-1] == "1", "the model's end of sequence"
