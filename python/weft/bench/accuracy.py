"""Is the model right? python -m weft.bench.accuracy --num-examples 200 --parallel 128 [server arguments]

Held-out problems of the demo model's kind go through the Engine, `--parallel` of them at a time, greedily. The answers
are checked, so a wrong token shows. `--compare "<other server arguments>"` runs the problems a second time that way
and counts the outputs that are identical.
"""

import json
import shlex
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from weft.bench import demo_tasks
from weft.bench.demo_tasks import Example, Skill, Split
from weft.engine import Engine
from weft.errors import WeftError
from weft.flags import Parser
from weft.progress import Progress, note, run
from weft.report import stats_table, table
from weft.server_args import DEMO_MODEL, ServerArgs


@dataclass(frozen=True)
class Result:
    """One pass over the problems."""

    texts: list[str]
    output_ids: list[list[int]]
    correct: list[bool]
    num_tokens: int  # generated
    seconds: float
    stats: dict[str, Any]


def main(argv: Sequence[str]) -> int:
    """Print accuracy, speed and the paths that ran."""
    parser = Parser("python -m weft.bench.accuracy", "Held-out problems through the Engine: how many are right?")
    parser.add_argument("--num-examples", type=int, default=200, help="over all skills (default: 200)")
    parser.add_argument("--parallel", type=int, default=128, help="problems in flight (default: 128)")
    parser.add_argument(
        "--skill", action="append", choices=[skill.value for skill in Skill], help="only these skills; may be repeated"
    )
    parser.add_argument("--split", default="test", choices=[split.value for split in Split], help="(default: test)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--compare", metavar="ARGS", help="server arguments of a second run")
    ServerArgs.add_cli_args(parser)
    options = parser.parse(argv)
    if options.num_examples < 1 or options.parallel < 1:
        raise WeftError("--num-examples and --parallel must be at least 1")
    if not hasattr(options, "model_path"):
        options.model_path = DEMO_MODEL
    args = ServerArgs.from_cli_args(options)
    other = None if options.compare is None else other_args(options.compare, args.model_path)
    skills = [Skill(name) for name in options.skill or [skill.value for skill in Skill]]
    examples = make_examples(Split(options.split), skills, options.num_examples, options.seed)
    result = measure(args, examples, options.parallel)
    summary = summarise(examples, result)
    compared = None if other is None else measure(other, examples, options.parallel)
    identical = 0
    if compared is not None:
        identical = sum(a == b for a, b in zip(result.output_ids, compared.output_ids, strict=True))
        summary["compare"] = {"args": options.compare, "identical": identical, **summarise(examples, compared)}
    if options.json:
        print(json.dumps(summary))
        return 0
    print_result(" ".join(argv), examples, result)
    if compared is not None:
        print()
        print_result(options.compare, examples, compared)
        print(f"\nidentical outputs: {identical} of {len(examples)}")
    return 0


def other_args(text: str, model_path: str) -> ServerArgs:
    """The second run's arguments; its model is the first's unless it names one."""
    words = shlex.split(text)
    named = any(word.split("=")[0] in ("--model-path", "--model") for word in words)
    return ServerArgs.from_cli(words if named else ["--model-path", model_path, *words], "--compare")


def make_examples(split: Split, skills: Sequence[Skill], count: int, seed: int) -> list[Example]:
    """`count` problems, spread evenly over the skills and interleaved, so that long and short ones run together."""
    share = [count // len(skills) + (i < count % len(skills)) for i in range(len(skills))]
    lists = [demo_tasks.generate(split, skill, num, seed) for skill, num in zip(skills, share, strict=True)]
    return [examples[i] for i in range(max(share)) for examples in lists if i < len(examples)]


def measure(args: ServerArgs, examples: Sequence[Example], parallel: int) -> Result:
    """Ask all problems."""
    note(f"loading {args.model_path} on {args.place} ...")
    with Engine(args) as engine:
        if engine.tokenizer is None:
            raise WeftError("problems are text, so --skip-tokenizer-init cannot be used here; remove it")
        tokenizer = engine.tokenizer
        prompts = [tokenizer.apply_chat_template([{"role": "user", "content": e.prompt}]) for e in examples]
        sampling = {"temperature": 0, "max_new_tokens": demo_tasks.MAX_ANSWER_TOKENS}
        progress, lock = Progress(len(examples), "problems"), threading.Lock()
        done = right = 0

        def ask(index: int) -> tuple[str, list[int], bool]:
            nonlocal done, right
            output = engine.generate(input_ids=prompts[index], sampling_params=sampling)
            correct = demo_tasks.is_correct(examples[index], output["text"])
            with lock:
                done, right = done + 1, right + correct
                progress.show(done, f"{right} right")
            return output["text"], output["output_ids"], correct

        start = time.perf_counter()
        with ThreadPoolExecutor(min(parallel, len(examples))) as pool:
            answers = list(pool.map(ask, range(len(examples))))
        seconds = time.perf_counter() - start
        progress.clear()
        texts, output_ids, correct = (list(column) for column in zip(*answers, strict=True))
        return Result(texts, output_ids, correct, sum(map(len, output_ids)), seconds, engine.stats())


def summarise(examples: Sequence[Example], result: Result) -> dict[str, object]:
    """What --json prints."""
    skills = {}
    for skill in dict.fromkeys(example.skill for example in examples):
        mine = [right for example, right in zip(examples, result.correct, strict=True) if example.skill is skill]
        skills[skill.value] = {"num_examples": len(mine), "accuracy": sum(mine) / len(mine)}
    return {
        "accuracy": sum(result.correct) / len(examples),
        "num_examples": len(examples),
        "skills": skills,
        "tokens_per_s": result.num_tokens / result.seconds,
        "seconds": result.seconds,
        "stats": result.stats,
    }


def print_result(title: str, examples: Sequence[Example], result: Result) -> None:
    print(f"{title or 'default arguments'}\n")
    rows: list[list[object]] = []
    for skill in dict.fromkeys(example.skill for example in examples):
        mine = [right for example, right in zip(examples, result.correct, strict=True) if example.skill is skill]
        rows.append([skill.value, len(mine), sum(mine), f"{sum(mine) / len(mine):.1%}"])
    rows.append(["all", len(examples), sum(result.correct), f"{sum(result.correct) / len(examples):.1%}"])
    print(table(["skill", "problems", "right", "accuracy"], rows))
    rate = result.num_tokens / result.seconds
    print(f"\n{result.num_tokens} tokens in {result.seconds:.1f} s: {rate:.0f} tokens/s\n")
    print(stats_table(result.stats))


if __name__ == "__main__":
    sys.exit(run(main))
