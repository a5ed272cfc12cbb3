"""Engine: a model that answers. The only place where Python meets the compiled core."""

import itertools
import logging
import queue
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np

from weft import _weft
from weft.core_config import MAX_TOP_LOGPROBS, runtime_config
from weft.engine_config import EngineConfig, resolve
from weft.errors import WeftError
from weft.model_info import model_directory
from weft.outputs import GenerateOutput, MetaInfo, RawLogprobs, TextBuilder, abort_reason, add_logprobs
from weft.report import TimelineEvent, ledger_table
from weft.sampling_params import SamplingParams
from weft.scheduler import Request, Scheduler, Step
from weft.server_args import ServerArgs
from weft.step_loop import Core, Job, StepLoop, StepResult, Update
from weft.tokenizer import Detokenizer, Tokenizer

Params = SamplingParams | Mapping[str, object]
_log = logging.getLogger("weft")


class Engine:
    """A loaded model, its ranks and its scheduler. Use it as a context manager; calls from several threads may overlap.

    `Engine(model_path="demo", tp_size=2)`: the keyword arguments are the fields of ServerArgs, or SGLang's aliases.
    The memory that each rank will take goes to the logger "weft" before a weight is read.

    Raises:
        WeftError: the arguments are refused, or the model cannot be loaded.
    """

    def __init__(
        self,
        server_args: ServerArgs | None = None,
        *,
        core_factory: Callable[[EngineConfig], Core] | None = None,
        **kwargs: object,
    ) -> None:
        """Load the model.

        Args:
            server_args: instead of keyword arguments.
            core_factory: makes what runs the steps; the compiled core by default.
            kwargs: fields of ServerArgs.
        """
        if server_args is not None and kwargs:
            raise WeftError(f"server_args was given together with {', '.join(kwargs)}; give one of the two")
        self.server_args = server_args or ServerArgs.from_kwargs(**kwargs)
        self.config = resolve(self.server_args)
        self.tokenizer: Tokenizer | None = None
        if not self.server_args.skip_tokenizer_init:
            self.tokenizer = Tokenizer(model_directory(self.server_args.tokenizer_path or self.server_args.model_path))
        self._core = (core_factory or CompiledCore)(self.config)
        scheduler = Scheduler(self.config.scheduler)
        self._why_impossible = scheduler.why_impossible
        self._loop = StepLoop(
            self._core, scheduler, self.tokenizer, overlap=not self.server_args.disable_overlap_schedule
        )
        self._ordinal = itertools.count()
        # An engine that nobody closed is closed when it is collected, or at exit.
        self._finalizer = weakref.finalize(self, self._loop.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs and free the model, within 2 s. Callers that still wait get a WeftError."""
        self._finalizer()

    shutdown = close  # SGLang's name

    @property
    def max_request_tokens(self) -> int:
        """Tokens that one request may hold, prompt and answer together."""
        return min(self.config.context_length, self.config.max_total_tokens)

    def stats(self) -> dict[str, Any]:
        """What each rank really ran since the start."""
        return self._core.stats()

    def trace_next_step(self) -> None:
        """Record when each stage of the next step runs, on every rank and stream."""
        self._core.trace_next_step()

    def timeline(self) -> list[TimelineEvent]:
        """The last step that was traced; empty if none has ended."""
        return self._core.timeline()

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        """End the request of that name, or all. Who waits for it gets what there is, and finish_reason `abort`."""
        self._loop.abort(lambda job: abort_all or job.rid == rid)

    @overload
    def generate(
        self,
        prompt: str | None = ...,
        sampling_params: Params | None = ...,
        input_ids: Sequence[int] | None = ...,
        *,
        return_logprob: bool = ...,
        logprob_start_len: int = ...,
        top_logprobs_num: int = ...,
        return_text_in_logprobs: bool = ...,
        stream: Literal[False] = ...,
        rid: str | None = ...,
    ) -> GenerateOutput: ...
    @overload
    def generate(
        self,
        prompt: Sequence[str] | None = ...,
        sampling_params: Params | Sequence[Params] | None = ...,
        input_ids: Sequence[Sequence[int]] | None = ...,
        *,
        return_logprob: bool | Sequence[bool] = ...,
        logprob_start_len: int | Sequence[int] = ...,
        top_logprobs_num: int | Sequence[int] = ...,
        return_text_in_logprobs: bool = ...,
        stream: Literal[False] = ...,
        rid: Sequence[str] | None = ...,
    ) -> list[GenerateOutput]: ...
    @overload
    def generate(
        self,
        prompt: str | Sequence[str] | None = ...,
        sampling_params: Params | Sequence[Params] | None = ...,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = ...,
        *,
        return_logprob: bool | Sequence[bool] = ...,
        logprob_start_len: int | Sequence[int] = ...,
        top_logprobs_num: int | Sequence[int] = ...,
        return_text_in_logprobs: bool = ...,
        stream: Literal[True],
        rid: str | Sequence[str] | None = ...,
    ) -> Iterator[GenerateOutput]: ...
    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Params | Sequence[Params] | None = None,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        return_logprob: bool | Sequence[bool] = False,
        logprob_start_len: int | Sequence[int] = -1,
        top_logprobs_num: int | Sequence[int] = 0,
        return_text_in_logprobs: bool = False,
        stream: bool = False,
        rid: str | Sequence[str] | None = None,
    ) -> GenerateOutput | list[GenerateOutput] | Iterator[GenerateOutput]:
        """Answer one prompt or a list of them.

        Args:
            prompt: a text or texts; or instead
            input_ids: the token ids of one prompt or of several.
            sampling_params: for all prompts, or one for each.
            return_logprob: log-probabilities of the answer's tokens.
            logprob_start_len: with them those of the prompt, from this position; -1: none.
            top_logprobs_num: and of so many most likely tokens at each place.
            return_text_in_logprobs: each log-probability with its token's text.
            stream: return an iterator over what there is so far: all text until now, not only the new part. Closing
                it, or letting go of it, aborts what still runs.
            rid: names for abort_request.

        Returns:
            A GenerateOutput; a list for a list of prompts; with stream an iterator, in which several prompts'
            outputs carry `index`.

        Raises:
            WeftError: the arguments are wrong, then nothing has run; or the core failed. In a list a bad prompt stops
                no other: its output has finish_reason `abort`, status_code 400 and the message.
        """
        single, ids = self._prompts(prompt, input_ids)
        count = len(ids)
        params = _spread(sampling_params, (SamplingParams, Mapping), count, "sampling_params")
        wants = _spread(return_logprob, bool, count, "return_logprob")
        starts = _spread(logprob_start_len, int, count, "logprob_start_len")
        tops = _spread(top_logprobs_num, int, count, "top_logprobs_num")
        names = [uuid.uuid4().hex for _ in ids] if rid is None else _spread(rid, str, count, "rid", one_each=True)
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        answers: list[_Answer] = []
        for i in range(count):
            try:
                job, sampling = self._job(i, ids[i], params[i], wants[i], starts[i], tops[i], stream, names[i], updates)
                answers.append(_Answer(job, sampling, self.tokenizer, return_text_in_logprobs))
            except WeftError as error:
                if single:
                    raise
                answers.append(_Answer(_refused_job(i, updates, names[i], str(error)), None, self.tokenizer, False))
        outputs = _Outputs(self._loop, updates, answers, indexed=not single)
        self._loop.add([answer.job for answer in answers if answer.params is not None])
        if stream:
            return outputs
        return outputs.all()[0] if single else outputs.all()

    def _prompts(
        self, prompt: str | Sequence[str] | None, input_ids: Sequence[int] | Sequence[Sequence[int]] | None
    ) -> tuple[bool, list[list[int]]]:
        """Whether it is one prompt, and the ids of each."""
        if (prompt is None) == (input_ids is None):
            raise WeftError("give either prompt or input_ids")
        if prompt is not None:
            if self.tokenizer is None:
                raise WeftError("a text prompt needs a tokenizer; pass input_ids, or drop --skip-tokenizer-init")
            texts = [prompt] if isinstance(prompt, str) else list(prompt)
            if not all(isinstance(text, str) for text in texts):
                raise WeftError("prompt must be a string or a list of strings")
            return isinstance(prompt, str), [self.tokenizer.encode(text) for text in texts]
        items: list[Any] = list(input_ids or ())
        if not items or isinstance(items[0], (int, np.integer)):
            return True, [items]
        return False, [list(item) for item in items]

    def _job(
        self,
        index: int,
        ids: list[int],
        given: Params | None,
        return_logprob: bool,
        start: int,
        top: int,
        stream: bool,
        rid: str,
        updates: "queue.SimpleQueue[Update]",
    ) -> tuple[Job, SamplingParams]:
        """Check one request against the model and the cache, and make it."""
        params = given if isinstance(given, SamplingParams) else SamplingParams.from_dict(given or {})
        self._check_ids(ids)
        if params.stop_strings and self.tokenizer is None:
            raise WeftError("stop strings need a tokenizer; use stop_token_ids, or drop --skip-tokenizer-init")
        if not -1 <= start <= len(ids):
            raise WeftError(f"logprob_start_len={start} must be from -1 to the prompt's {len(ids)} tokens")
        if not 0 <= top <= MAX_TOP_LOGPROBS:
            raise WeftError(f"top_logprobs_num={top} must be from 0 to {MAX_TOP_LOGPROBS}")
        max_new_tokens = min(params.max_new_tokens, self.max_request_tokens - len(ids))
        stop_ids = () if params.ignore_eos else (*self.config.model.eos_token_ids, *(params.stop_token_ids or ()))
        ordinal = next(self._ordinal)
        seed = _mix(self.config.random_seed, ordinal) if params.sampling_seed is None else params.sampling_seed
        request = Request(
            input_ids=ids,
            max_new_tokens=max(1, max_new_tokens),
            temperature=0.0 if params.greedy else params.temperature,
            top_p=params.top_p,
            top_k=0 if params.greedy or params.top_k < 0 else min(params.top_k, self.config.model.vocab_size),
            min_p=params.min_p,
            seed=seed,
            stop_token_ids=stop_ids,
            logprob_start=start + 1 if return_logprob and 0 <= start < len(ids) - 1 else -1,
            return_logprob=return_logprob,
            top_logprobs_num=top if return_logprob else 0,
        )
        impossible = self._why_impossible(request.num_tokens)
        if impossible is not None:
            raise WeftError(impossible)
        job = Job(
            request=request,
            index=index,
            updates=updates,
            rid=rid,
            max_new_tokens=max_new_tokens,
            stream=stream,
            logprobs=RawLogprobs(start, top, [], [], [], []) if return_logprob else None,
            stops=params.stop_strings,
            # Special tokens are text here: a stop string may name one.
            text=Detokenizer(self.tokenizer, False) if params.stop_strings and self.tokenizer is not None else None,
        )
        return job, params

    def _check_ids(self, ids: list[int]) -> None:
        if not ids:
            raise WeftError("the prompt is empty; send at least one token")
        if len(ids) >= self.max_request_tokens:
            raise WeftError(
                f"the prompt has {len(ids)} tokens; with one token of answer at most {self.max_request_tokens} fit"
                f" (--context-length {self.config.context_length}, --max-total-tokens {self.config.max_total_tokens})"
            )
        vocab = self.config.model.vocab_size
        if not all(isinstance(token, (int, np.integer)) and 0 <= token < vocab for token in ids):
            raise WeftError(f"input_ids must be integers from 0 to {vocab - 1}")


class CompiledCore:
    """The runtime in C++, behind the scheduler's types.

    For tests: with `poison` all that must not matter (padding, workspaces, unused KV) is NaN before each step; a rank
    dispatches `dispatch_chunk_rows` rows at once; `num_threads` cores are shared by all ranks, 0 for all there are.
    """

    def __init__(
        self, config: EngineConfig, *, poison: bool = False, dispatch_chunk_rows: int = 1024, num_threads: int = 0
    ) -> None:
        core = runtime_config(config, poison, dispatch_chunk_rows, num_threads)
        _log.info("memory of each rank:\n%s", ledger_table(_weft.memory_ledger(core)))
        self._runtime = _weft.Runtime(core)

    def submit(self, step: Step) -> int:
        admissions = [
            _weft.Admission(
                rid=request.rid,
                dp_rank=request.dp_rank,
                input_ids=request.input_ids,
                max_new_tokens=request.max_new_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                top_k=request.top_k,
                min_p=request.min_p,
                seed=request.seed,
                stop_token_ids=request.stop_token_ids,
                logprob_start=request.logprob_start,
                return_logprob=request.return_logprob,
                top_logprobs_num=request.top_logprobs_num,
            )
            for request in step.admissions
        ]
        return self._runtime.submit(
            _weft.StepBatch(admissions=admissions, prefill=step.prefill, decode=step.decode, release=step.release)
        )

    def wait(self, ticket: int) -> StepResult:
        return self._runtime.wait(ticket)

    def stats(self) -> dict[str, Any]:
        return self._runtime.stats()

    def trace_next_step(self) -> None:
        self._runtime.trace_next_step()

    def timeline(self) -> list[TimelineEvent]:
        return self._runtime.timeline()

    def close(self) -> None:
        self._runtime.close()


class _Answer:
    """One prompt of a generate() call, in the waiting thread."""

    def __init__(
        self, job: Job, params: SamplingParams | None, tokenizer: Tokenizer | None, text_in_logprobs: bool
    ) -> None:
        self.job = job
        self.params = params  # None: the request was refused
        self.done = False
        self._ids: list[int] = []
        self._text = TextBuilder(tokenizer, params or SamplingParams()) if tokenizer is not None else None
        self._logprob_tokenizer = tokenizer if text_in_logprobs else None
        self._started = time.perf_counter()

    def output(self, update: Update, indexed: bool) -> GenerateOutput:
        """What there is after `update`."""
        self._ids += update.ids
        request, reason = self.job.request, update.reason
        meta: MetaInfo = {
            "id": self.job.rid,
            "finish_reason": reason,
            "prompt_tokens": len(request.input_ids),
            "completion_tokens": len(self._ids),
            "cached_tokens": 0,
            "dp_rank": request.dp_rank if request.dp_rank >= 0 else None,
        }
        if reason is not None:
            self.done = True
            meta["e2e_latency"] = time.perf_counter() - self._started
        if self.job.logprobs is not None:
            add_logprobs(meta, self.job.logprobs, request.input_ids, self._ids, self._logprob_tokenizer)
        output: GenerateOutput = {"output_ids": list(self._ids), "meta_info": meta}
        if self._text is not None:
            text, ids = self._text, update.ids
            output["text"] = text.push(ids) if reason is None else text.finish(ids, reason)
        if indexed:
            output["index"] = self.job.index
        return output


class _Outputs(Iterator[GenerateOutput]):
    """What comes of a generate() call, as it comes. Letting go of it aborts what still runs."""

    def __init__(
        self, loop: StepLoop, updates: "queue.SimpleQueue[Update]", answers: list[_Answer], indexed: bool
    ) -> None:
        self._loop, self._updates, self._answers, self._indexed = loop, updates, answers, indexed
        self._running = len(answers)

    def __next__(self) -> GenerateOutput:
        if self._running == 0:
            raise StopIteration
        update = self._updates.get()
        if update.error is not None:
            self._running = 0
            raise WeftError(str(update.error)) from update.error
        output = self._answers[update.index].output(update, self._indexed)
        self._running -= update.reason is not None
        return output

    def all(self) -> list[GenerateOutput]:
        """The whole answers, in the order of the prompts."""
        outputs: dict[int, GenerateOutput] = {}
        try:
            for output in self:
                outputs[output["index"] if self._indexed else 0] = output
        finally:
            self.close()
        for output in outputs.values():
            output.pop("index", None)
        return [outputs[i] for i in range(len(self._answers))]

    def close(self) -> None:
        """Abort what still runs. Does nothing when all have ended."""
        if self._running:
            self._running = 0
            mine = self._updates
            self._loop.abort(lambda job: job.updates is mine)

    def __del__(self) -> None:
        self.close()


def _refused_job(index: int, updates: "queue.SimpleQueue[Update]", rid: str, message: str) -> Job:
    """A job that has already ended: it never reaches the scheduler."""
    updates.put(Update(index, [], abort_reason(message, 400, "BadRequestError")))
    return Job(Request(input_ids=[], max_new_tokens=1), index, updates, rid, 0)


def _spread(value: object, kinds: type | tuple[type, ...], count: int, name: str, one_each: bool = False) -> list[Any]:
    """One value for each prompt: `value` for all, or the items of a list of that length."""
    if value is None or isinstance(value, kinds):
        if one_each and count != 1:
            raise WeftError(f"{name}={value!r}: {count} prompts need a list of {count}")
        return [value] * count
    items = list(value) if isinstance(value, (list, tuple)) else None
    if items is None or not all(item is None or isinstance(item, kinds) for item in items):
        raise WeftError(f"{name} of type {type(value).__name__} is neither one value nor a list of them")
    if len(items) != count:
        raise WeftError(f"{name} has {len(items)} items for {count} prompts")
    return items


def _mix(seed: int, ordinal: int) -> int:
    """A seed for the request of that ordinal (the finaliser of splitmix64)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + ordinal + 1) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return (value ^ value >> 31) >> 1
