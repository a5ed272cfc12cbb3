"""Continuous batching over DP ranks: first come, first served, each request to the rank with the least work."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weft.scheduler.decode import RankLoad
from weft.scheduler.mixed import least_prefill_tokens, prefill_tokens
from weft.scheduler.prefill import PrefillBudget
from weft.scheduler.request import Request, RequestState, Step


@dataclass(frozen=True)
class SchedulerConfig:
    """Sizes are those of one DP rank."""

    dp_size: int
    max_running_requests: int
    prefill_tokens_per_step: int  # the chunk, or what one step takes without chunks
    chunked: bool
    mixed: bool
    page_size: int
    num_pages: int

    @property
    def max_tokens_per_step(self) -> int:
        """Rows that no step of a rank exceeds; buffers follow from it."""
        if not self.mixed:
            return max(self.prefill_tokens_per_step, self.max_running_requests)
        least = least_prefill_tokens(self.prefill_tokens_per_step, self.page_size)
        return max(self.prefill_tokens_per_step, least + self.max_running_requests)


class Scheduler:
    """Decides each step from counts, at a cost that follows what changes, not what runs. For one thread.

    `plan` makes a step; `commit` takes what it produced; `retire` says which steps can no longer touch anything. Steps
    may be planned before the results of earlier ones are known: a request is then taken to run on.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        slots = config.max_running_requests
        self._waiting: deque[Request] = deque()
        self._requests: list[Request | None] = [None] * (config.dp_size * slots)  # by rid
        # Of each rid: does it run? Rows of requests that ended after their step was planned are dropped by it.
        self.alive: npt.NDArray[np.bool_] = np.zeros(config.dp_size * slots, dtype=np.bool_)
        self._rank_of_rid = np.repeat(np.arange(config.dp_size), slots)
        self._ranks = [
            RankLoad(
                dp_rank=rank,
                free_rids=deque(range(rank * slots, (rank + 1) * slots)),
                free_pages=config.num_pages,
                page_size=config.page_size,
            )
            for rank in range(config.dp_size)
        ]
        self._release: list[Request] = []
        self._sequence = 0

    # ---- requests ----

    def why_impossible(self, num_tokens: int) -> str | None:
        """Why a request of so many tokens in all can never run; None if it can."""
        pages = -(-num_tokens // self.config.page_size)
        if pages <= self.config.num_pages:
            return None
        return (
            f"{num_tokens} tokens need {pages} KV pages but a DP rank has {self.config.num_pages};"
            " raise --max-total-tokens, or lower max_new_tokens"
        )

    def add(self, request: Request) -> None:
        """Queue a request that is not impossible."""
        self._waiting.append(request)

    def abort(self, request: Request, num_output: int) -> None:
        """End a request wherever it is, after `num_output` tokens. Does nothing if it has ended."""
        if request.state is RequestState.FINISHED:
            return
        request.num_output = num_output
        if request.state is not RequestState.WAITING:
            self._release.append(request)
            self.alive[request.rid] = False
            self._stop_running(request)
        request.state = RequestState.FINISHED  # a waiting one is skipped when its turn comes

    def request(self, rid: int) -> Request:
        """The request that holds a rid."""
        request = self._requests[rid]
        if request is None:
            raise KeyError(rid)
        return request

    @property
    def idle(self) -> bool:
        """Nothing waits, runs, or has to be released."""
        return not (self._waiting or self._release or any(r.num_running or r.chunked for r in self._ranks))

    @property
    def num_waiting(self) -> int:
        return sum(request.state is RequestState.WAITING for request in self._waiting)

    @property
    def num_running(self) -> list[int]:
        """Requests whose prompt is in, of each DP rank."""
        return [rank.num_running for rank in self._ranks]

    @property
    def free_pages(self) -> list[int]:
        """KV pages that no request has reserved, of each DP rank."""
        return [rank.free_pages for rank in self._ranks]

    # ---- steps ----

    def plan(self) -> Step | None:
        """The next step, or None if nothing can run or be released."""
        config = self.config
        step = Step(sequence=self._sequence + 1, decode=[rank.num_running > 0 for rank in self._ranks])
        self._plan_releases(step)
        running = [rank.num_running for rank in self._ranks]
        budgets = [
            PrefillBudget(
                tokens=prefill_tokens(config.prefill_tokens_per_step, count, config.page_size)
                if config.mixed
                else config.prefill_tokens_per_step,
                page_size=config.page_size,
                chunked=config.chunked,
            )
            for count in running
        ]
        for rank, budget in zip(self._ranks, budgets, strict=True):
            if rank.chunked is not None:
                self._prefill(rank.chunked, budget.offer(rank.chunked.rest), rank, budget, step)
        self._admit(budgets, step)
        if not config.mixed:  # prefill goes before decode
            step.decode = [runs and budget.empty for runs, budget in zip(step.decode, budgets, strict=True)]
        if not (step.prefill or step.release or any(step.decode)):
            return None
        self._sequence = step.sequence
        return step

    def commit(self, rids: npt.NDArray[np.int64]) -> None:
        """Take note that each of `rids` produced a token."""
        produced = np.bincount(self._rank_of_rid[rids], minlength=self.config.dp_size)
        for rank, count in zip(self._ranks, produced.tolist(), strict=True):
            rank.outstanding -= count

    def finish(self, request: Request, num_output: int) -> None:
        """The core has ended a request, after `num_output` tokens. Steps already planned may still touch it."""
        self.alive[request.rid] = False
        request.num_output = num_output
        self._stop_running(request)
        request.state = RequestState.FINISHED
        self._leave(request)

    def retire(self, done_step: int) -> None:
        """All steps up to `done_step` have ended."""
        for rank in self._ranks:
            rank.retire(done_step)

    # ---- inside a step ----

    def _plan_releases(self, step: Step) -> None:
        for request in self._release:
            step.release.append(request.rid)
            self._sequence = step.sequence  # the step that carries the release is the last to touch it
            self._leave(request)
        self._release.clear()

    def _admit(self, budgets: Sequence[PrefillBudget], step: Step) -> None:
        """Take waiting requests in order, each on the least loaded rank with room; stop at the first that fits none.

        A rank whose request is cut takes no other in this step.
        """
        while self._waiting:
            request = self._waiting[0]
            if request.state is RequestState.FINISHED:  # aborted while it waited
                self._waiting.popleft()
                continue
            rank, tokens = self._choose_rank(request, budgets)
            if rank is None:
                return
            self._waiting.popleft()
            rank.admit(request)
            self._requests[request.rid] = request
            self.alive[request.rid] = True
            request.state = RequestState.PREFILL
            step.admissions.append(request)
            self._prefill(request, tokens, rank, budgets[rank.dp_rank], step)

    def _choose_rank(self, request: Request, budgets: Sequence[PrefillBudget]) -> tuple[RankLoad | None, int]:
        best: RankLoad | None = None
        best_tokens = 0
        for rank in self._ranks:
            if rank.chunked is not None or (best is not None and rank.outstanding >= best.outstanding):
                continue
            tokens = budgets[rank.dp_rank].offer(len(request.input_ids))
            if tokens and rank.can_admit(request):
                best, best_tokens = rank, tokens
        return best, best_tokens

    def _prefill(self, request: Request, tokens: int, rank: RankLoad, budget: PrefillBudget, step: Step) -> None:
        step.prefill.append((request.rid, tokens))
        budget.take(tokens)
        request.num_scheduled += tokens
        rank.outstanding -= tokens
        if request.rest:
            rank.chunked = request
        else:
            rank.chunked = None
            rank.num_running += 1
            request.state = RequestState.RUNNING

    def _stop_running(self, request: Request) -> None:
        rank = self._ranks[request.dp_rank]
        if request.state is RequestState.RUNNING:
            rank.num_running -= 1
        elif rank.chunked is request:
            rank.chunked = None

    def _leave(self, request: Request) -> None:
        self._ranks[request.dp_rank].leave(request, self._sequence)
        self._requests[request.rid] = None
