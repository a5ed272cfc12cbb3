"""A trained Mixture-of-Experts model answers questions: python -m weft.demo

On the GPU if there is one: prefill chunks mixed with decode, graphs. Else on four ranks of this machine: tensor
parallel inside two DP attention groups, experts reached by dispatch, two batches overlapped. Then what ran, a picture
of one step, and a trace of it for Perfetto.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from weft import gpu
from weft.bench import demo_tasks
from weft.bench.demo_tasks import Example, Skill, Split
from weft.engine import Engine
from weft.errors import WeftError
from weft.flags import Parser
from weft.outputs import GenerateOutput
from weft.progress import note, run
from weft.report import TimelineEvent, overlap, picture, stats_table, write_trace
from weft.server_args import DEMO_MODEL, ServerArgs

GPU_DEMO_ARGS = "--device cuda --enable-mixed-chunk --chunked-prefill-size 256"
CPU_DEMO_ARGS = (
    "--device cpu --tp 4 --dp 2 --enable-dp-attention --moe-a2a-backend deepep --enable-two-batch-overlap"
    " --enable-mixed-chunk --chunked-prefill-size 256"
)
# Questions of each kind that are shown, and that only run along, so that batches are worth splitting.
_SHOWN = {Skill.WORD_PROBLEM: 4, Skill.COPY: 1, Skill.REVERSE: 1, Skill.SORT: 1, Skill.LOOKUP: 1}
_ALONG = 24
_TRACES = 12  # steps that are traced to find the one with the most overlap


def main(argv: Sequence[str]) -> int:
    """Run the demo; return 1 if the model gave no right answer at all."""
    demo_args = CPU_DEMO_ARGS if gpu.memory_mib() is None else GPU_DEMO_ARGS
    parser = Parser("python -m weft.demo", f"The demo of weft. Without server arguments: {demo_args}")
    parser.add_argument("--trace", type=Path, default=Path("weft_demo_trace.json"), help="where the trace is written")
    ServerArgs.add_cli_args(parser)
    options = parser.parse(argv)
    given = [name for name in vars(options) if name != "trace"]
    if not given:
        options = parser.parse([*argv, *demo_args.split()])
    if not hasattr(options, "model_path"):
        options.model_path = DEMO_MODEL
    args = ServerArgs.from_cli_args(options)
    note("loading ...")
    with Engine(args) as engine:
        print(f"weft {'--model-path ' + args.model_path} {' '.join(argv) if given else demo_args}\n")
        right, total, timeline = answer(engine, questions())
        print(f"{right} of {total} right\n\nWhat each rank ran:\n")
        print(stats_table(engine.stats()))
    if timeline:
        print("\nOne step (A, B: the micro-batch a stream works on; a blank waits):\n")
        print(picture(timeline))
        write_trace(timeline, options.trace)
        print(f"\nA trace of it, for https://ui.perfetto.dev: {options.trace.resolve()}")
    return 0 if right else 1


def questions() -> list[Example]:
    """Those that are shown, then those that run along."""
    shown = [e for skill, num in _SHOWN.items() for e in demo_tasks.generate(Split.TEST, skill, num, seed=1)]
    along = [
        example
        for skill in (Skill.LOOKUP, Skill.WORD_PROBLEM)
        for example in demo_tasks.generate(Split.TEST, skill, _ALONG // 2, seed=2)
    ]
    return [*shown, *along]


def answer(engine: Engine, examples: Sequence[Example]) -> tuple[int, int, list[TimelineEvent]]:
    """Stream the answers; print the first ones. Returns (right, all, the timeline of one step)."""
    if engine.tokenizer is None:
        raise WeftError("the demo shows text, so --skip-tokenizer-init cannot be used here; remove it")
    tokenizer = engine.tokenizer
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": e.prompt}]) for e in examples]
    start, tokens = time.perf_counter(), 0
    stream = engine.generate(
        input_ids=prompts,
        sampling_params={"temperature": 0, "max_new_tokens": demo_tasks.MAX_ANSWER_TOKENS},
        stream=True,
    )
    screen = Screen(examples[: sum(_SHOWN.values())])
    tracer = Tracer(engine)
    right = 0
    for output in tracer.watch(stream):
        tokens += bool(output["output_ids"])
        screen.update(output)
        if output["meta_info"]["finish_reason"] is not None:
            right += demo_tasks.is_correct(examples[output["index"]], output["text"])
    seconds = time.perf_counter() - start
    print(f"{len(examples)} answers, {tokens} tokens in {seconds:.1f} s: {tokens / seconds:.0f} tokens/s;", end=" ")
    return right, len(examples), tracer.best


class Screen:
    """Prints answers in order while all of them grow at once: the first unfinished one is live."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._last: dict[int, GenerateOutput] = {}
        self._current = -1
        self._printed = 0
        self._next()

    def update(self, output: GenerateOutput) -> None:
        self._last[output["index"]] = output
        while self._current < len(self._examples) and (now := self._last.get(self._current)) is not None:
            print(now["text"][self._printed :].replace("\n", "\n     "), end="", flush=True)
            self._printed = len(now["text"])
            if now["meta_info"]["finish_reason"] is None:
                return
            verdict = "right" if demo_tasks.is_correct(self._examples[self._current], now["text"]) else "WRONG"
            print(f"   [{verdict}]\n")
            self._next()

    def _next(self) -> None:
        self._current, self._printed = self._current + 1, 0
        if self._current < len(self._examples):
            question = self._examples[self._current].prompt.replace("\n", " ")
            print(f"  Q  {question if len(question) < 300 else question[:200] + ' ... ' + question[-60:]}")
            print("  A  ", end="", flush=True)


class Tracer:
    """Asks for traces of steps while answers come, and keeps the one with the most overlap."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left = _TRACES
        self.best: list[TimelineEvent] = []

    def watch(self, stream: Iterator[GenerateOutput]) -> Iterator[GenerateOutput]:
        self._engine.trace_next_step()
        for seen, output in enumerate(stream, 1):
            if self._left and seen % 8 == 0:
                self._look()
            yield output

    def _look(self) -> None:
        timeline = self._engine.timeline()
        if timeline:
            self._left -= 1
            if not self.best or overlap(timeline) > overlap(self.best):
                self.best = timeline
            self._engine.trace_next_step()


if __name__ == "__main__":
    sys.exit(run(main))
