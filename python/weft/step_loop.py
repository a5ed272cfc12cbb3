"""The thread that plans steps, runs them on the core, and hands out tokens."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from weft.errors import WeftError
from weft.outputs import FinishReason, RawLogprobs, abort_reason
from weft.report import TimelineEvent
from weft.scheduler import Request, RequestState, Scheduler, Step
from weft.tokenizer import Detokenizer, Tokenizer, find_stop

_JOIN_S = 0.5  # twice at most: close() takes less than 2 s
FAILED = 3  # StepResult.finished: the core could not sample
NOT_FINITE = "the model's probabilities are not finite for this request; check the checkpoint and the dtype"


class StepResult(Protocol):
    """What a step produced (`weft._weft.StepResult`)."""

    @property
    def rids(self) -> npt.NDArray[np.int64]: ...
    @property
    def tokens(self) -> npt.NDArray[np.int32]: ...
    @property
    def finished(self) -> npt.NDArray[np.uint8]: ...  # 0 runs on, 1 stop token, 2 length, 3 failed (token -1)
    @property
    def output_logprobs(self) -> Sequence[tuple[int, float, list[tuple[int, float]]]]: ...
    @property
    def input_logprobs(self) -> Sequence[tuple[int, int, list[float], list[list[tuple[int, float]]]]]: ...


class Core(Protocol):
    """What runs steps: `weft._weft.Runtime`, behind the scheduler's types. Errors are WeftError."""

    def submit(self, step: Step) -> int: ...  # a ticket, 0 if there was nothing to run; at most two are open
    def wait(self, ticket: int) -> StepResult: ...
    def stats(self) -> dict[str, Any]: ...
    def trace_next_step(self) -> None: ...  # record when each stage of the next step runs
    def timeline(self) -> list[TimelineEvent]: ...  # of the last step that was traced
    def close(self) -> None: ...  # from any thread; a wait() in progress then fails


@dataclass(frozen=True, slots=True)
class Update:
    """News of one job: tokens since the last update, and how it ended if it did."""

    index: int
    ids: list[int]
    reason: FinishReason | None = None
    error: WeftError | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A request and who waits for it. The loop's thread writes, the waiting thread reads what `updates` announced."""

    request: Request
    index: int  # in its generate() call
    updates: "queue.SimpleQueue[Update]"
    rid: str  # the user's name for it
    max_new_tokens: int  # as asked and clipped; may be 0, while the core always makes one token
    stream: bool = False
    logprobs: RawLogprobs | None = None
    stops: Sequence[str] = ()
    text: Detokenizer | None = None  # with stop strings: what they are looked for in

    @property
    def watched(self) -> bool:
        """Each of its tokens is looked at when it comes."""
        return self.stream or bool(self.stops)


@dataclass(slots=True)
class _Open:
    """A step that runs."""

    ticket: int
    sequence: int


class StepLoop:
    """Runs jobs until closed. All public methods may be called from any thread.

    With `overlap`, step n + 1 is planned and submitted before the result of step n is read.
    """

    def __init__(self, core: Core, scheduler: Scheduler, tokenizer: Tokenizer | None, overlap: bool = True) -> None:
        self._core, self._scheduler, self._tokenizer, self._overlap = core, scheduler, tokenizer, overlap
        slots = len(scheduler.alive)
        self._jobs: dict[Request, Job] = {}
        self._by_rid: list[Job | None] = [None] * slots
        self._watched: npt.NDArray[np.bool_] = np.zeros(slots, dtype=np.bool_)
        self._num_output: npt.NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        # One row a slot; pages of memory that no token reached are never touched, so width costs nothing.
        self._output: npt.NDArray[np.int32] = np.empty((slots, 256), dtype=np.int32)
        self._lock = threading.Lock()  # guards _inbox together with _end
        self._inbox: deque[Callable[[], None]] = deque()
        self._end: WeftError | None = None  # why no new job is taken
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="weft-engine", daemon=True)
        self._thread.start()

    # ---- any thread ----

    def add(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; one step sees all of them.

        Raises:
            WeftError: the engine is closed or has failed.
        """

        def deliver() -> None:
            for job in jobs:
                self._jobs[job.request] = job
                self._scheduler.add(job.request)

        with self._lock:
            if self._end is not None:
                raise WeftError(str(self._end))
            self._inbox.append(deliver)
        self._wake.set()

    def abort(self, match: Callable[[Job], bool], message: str = "Aborted") -> None:
        """End the jobs that match; who waits for them is told."""

        def deliver() -> None:
            for job in [job for job in self._jobs.values() if match(job)]:
                self._finish(job, abort_reason(message))

        with self._lock:
            if self._end is not None:
                return
            self._inbox.append(deliver)
        self._wake.set()

    def close(self) -> None:
        """End all jobs and the core, within 2 s. A second call does nothing."""
        self._closing = True
        self._wake.set()
        if self._thread is threading.current_thread():
            return
        self._thread.join(_JOIN_S)
        self._core.close()  # also ends a wait() that the thread is stuck in
        self._thread.join(_JOIN_S)

    # ---- the loop's thread ----

    def _run(self) -> None:
        end = WeftError("the engine is closed")
        try:
            open_step: _Open | None = None
            while not self._closing:
                if open_step is None and self._scheduler.idle and not self._inbox:
                    self._wake.wait()
                self._wake.clear()
                while self._inbox:
                    self._inbox.popleft()()
                open_step = self._step(open_step)
        except Exception as error:  # whatever it is, those who wait must learn of it
            if not self._closing:
                end = WeftError(f"the engine stopped: {error}; make a new Engine")
                end.__cause__ = error
        finally:
            with self._lock:
                self._end = end
                while self._inbox:
                    self._inbox.popleft()()
            for job in self._jobs.values():
                job.updates.put(Update(job.index, [], error=end))
            self._jobs.clear()

    def _step(self, before: _Open | None) -> _Open | None:
        """Plan and submit a step, then take the result of the one before."""
        step = self._scheduler.plan()
        ticket = 0
        if step is not None:
            self._take_slots(step)
            ticket = self._core.submit(step)
        if before is not None:
            self._take_result(before)
        if step is None or ticket == 0:
            if step is not None:  # nothing ran, and all steps before it have ended
                self._scheduler.retire(step.sequence)
            elif before is None and not self._scheduler.idle:
                raise WeftError(
                    f"requests wait but none can run: {self._scheduler.num_running} running,"
                    f" {self._scheduler.free_pages} free pages a DP rank"
                )
            if step is not None and before is None and not step.release:
                raise WeftError(f"the core had nothing to run where {self._scheduler.num_running} requests run")
            return None
        now = _Open(ticket, step.sequence)
        if self._overlap:
            return now
        self._take_result(now)
        return None

    def _take_slots(self, step: Step) -> None:
        for request in step.admissions:
            job = self._jobs[request]
            rid = request.rid
            self._by_rid[rid] = job
            self._watched[rid] = job.watched
            self._num_output[rid] = 0
            if request.max_new_tokens > self._output.shape[1]:
                wider = np.empty((len(self._output), max(request.max_new_tokens, 2 * self._output.shape[1])), np.int32)
                wider[:, : self._output.shape[1]] = self._output
                self._output = wider

    def _take_result(self, step: _Open) -> None:
        result = self._core.wait(step.ticket)
        rids, tokens, finished = result.rids, result.tokens, result.finished
        alive = self._scheduler.alive
        self._take_logprobs(result, alive)
        live = alive[rids]
        if not live.all():  # rows of requests that ended after this step was planned
            rids, tokens, finished = rids[live], tokens[live], finished[live]
        place = self._num_output[rids]
        self._output[rids, place] = tokens
        self._num_output[rids] = place + 1
        self._scheduler.commit(rids)
        notable = np.flatnonzero(self._watched[rids] | (finished != 0))
        for i in notable.tolist():
            job = self._by_rid[rids[i]]
            if job is not None:
                self._take_token(job, int(tokens[i]), int(finished[i]))
        self._scheduler.retire(step.sequence)

    def _take_logprobs(self, result: StepResult, alive: npt.NDArray[np.bool_]) -> None:
        for rid, _first, values, tops in result.input_logprobs:
            job = self._by_rid[rid]
            if alive[rid] and job is not None and job.logprobs is not None:
                job.logprobs.input_values.extend(values)
                job.logprobs.input_top.extend(tops)
        for rid, value, top in result.output_logprobs:
            job = self._by_rid[rid]
            if alive[rid] and job is not None and job.logprobs is not None:
                job.logprobs.output_values.append(value)
                job.logprobs.output_top.append(top)

    def _take_token(self, job: Job, token: int, finished: int) -> None:
        """SGLang's order: length, stop token, stop string."""
        num_output = int(self._num_output[job.request.rid])
        if finished == FAILED:
            self._num_output[job.request.rid] = num_output - 1
            self._finish(job, abort_reason(NOT_FINITE, 500, "InternalServerError"))
        elif finished and num_output >= job.request.max_new_tokens:
            self._finish(job, {"type": "length", "length": job.max_new_tokens})
        elif finished:
            self._finish(job, {"type": "stop", "matched": token})
        elif job.text is not None and (stop := self._found_stop(job, job.text, token)) is not None:
            self._finish(job, {"type": "stop", "matched": stop}, ended_by_core=False)
        elif job.stream:
            job.updates.put(Update(job.index, [token]))
            return
        elif not finished:
            return

    def _found_stop(self, job: Job, text: Detokenizer, token: int) -> str | None:
        new = text.push([token])
        if not new:
            return None
        longest = max(map(len, job.stops))
        return find_stop(text.text, job.stops, max(0, len(text.text) - len(new) - longest))

    def _finish(self, job: Job, reason: FinishReason, ended_by_core: bool = True) -> None:
        request, scheduler = job.request, self._scheduler
        ids: list[int] = []
        if request.state is not RequestState.WAITING:
            count = int(self._num_output[request.rid])
            ids = self._output[request.rid, :count].tolist()
            self._by_rid[request.rid] = None
        if reason["type"] == "abort" or not ended_by_core:
            scheduler.abort(request, len(ids))
        else:
            scheduler.finish(request, len(ids))
        del self._jobs[request]
        ids = ids[: job.max_new_tokens]
        # A stream has seen all tokens but the last of a job that the core or a stop string ended.
        if job.stream:
            ids = ids[-1:] if reason["type"] != "abort" else []
        job.updates.put(Update(job.index, ids, reason))
