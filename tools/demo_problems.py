"""Writes word problems of the demo model as token ids, for C++ tests that ask them without Python's part of weft.

    PYTHONPATH=python python tools/demo_problems.py

Run it when the demo model's tokenizer, chat template or tasks change; a test compares the file with what this makes.
"""

from pathlib import Path

from weft.bench.demo_tasks import Skill, Split, generate
from weft.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "python" / "weft" / "demo_model"
FILE = ROOT / "tests_cpp" / "runtime" / "demo_problems.txt"
SEEDS = (0, 1, 2, 3)
NUM_PROBLEMS = 32  # of each seed
END = "<|end|>"


def problems() -> str:
    """The file's text: a line for each problem, `seed ; prompt ids ; answer ids`, the end of sequence included."""
    tokenizer = Tokenizer(MODEL)
    lines = ["# Held-out word problems: seed ; prompt ; answer, as token ids. Made by tools/demo_problems.py."]
    for seed in SEEDS:
        for example in generate(Split.TEST, Skill.WORD_PROBLEM, NUM_PROBLEMS, seed):
            prompt = tokenizer.apply_chat_template([{"role": "user", "content": example.prompt}])
            answer = tokenizer.encode(example.answer_text + END)
            lines.append(" ; ".join([str(seed), " ".join(map(str, prompt)), " ".join(map(str, answer))]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(problems(), encoding="utf-8")
