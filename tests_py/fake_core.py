"""A core without a model: it keeps the contract of `weft.step_loop.Core`, checks the scheduler, and makes its tokens
from what a request has seen. What it answers depends on no other request."""

import hashlib
import threading
from dataclasses import dataclass, field

import numpy as np

from weft.engine_config import EngineConfig
from weft.errors import WeftError
from weft.scheduler import Request, SchedulerConfig, Step


def next_token(prompt, output, vocab_size, seed=0):
    """The token after `prompt` and `output`."""
    text = repr((list(prompt), list(output), seed)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little") % vocab_size


def logprob_of(context, token):
    """A stand-in for log p(token | context)."""
    return -float((sum(context) * 31 + token * 7) % 97) / 10


def expected_output(prompt, max_new_tokens, stop_token_ids, vocab_size, seed=0):
    output = []
    while len(output) < max_new_tokens:
        output.append(next_token(prompt, output, vocab_size, seed))
        if output[-1] in stop_token_ids:
            break
    return output


@dataclass
class Seen:
    """A request in the core."""

    request: Request
    given: int = 0
    output: list = field(default_factory=list)
    stopped: bool = False  # by a stop token; steps already submitted still run a row of it

    @property
    def ended(self):
        return self.stopped or len(self.output) >= self.request.max_new_tokens


@dataclass
class Result:
    rids: np.ndarray
    tokens: np.ndarray
    finished: np.ndarray
    output_logprobs: list
    input_logprobs: list


class FakeCore:
    """Steps run when they are submitted, in order; results are handed out by wait()."""

    def __init__(self, config: SchedulerConfig, vocab_size: int = 64):
        self.config, self.vocab_size = config, vocab_size
        self.requests: dict[int, Seen] = {}
        self.leaving: list[tuple[int, Seen]] = []  # (last step that may touch it, request): still holds its pages
        self.results: dict[int, Result | Exception] = {}
        self.num_steps = 0
        self.mixed_steps = 0
        self.traced = False
        self.chunks: dict[Request, list[int]] = {}
        self.unlike_modes = 0
        self.fail_at = 0  # a step of that number fails
        self.permits: threading.Semaphore | None = None  # wait() takes one
        self.closed = threading.Event()

    @classmethod
    def of_engine(cls, config: EngineConfig):
        return cls(config.scheduler, config.model.vocab_size)

    # ---- Core ----

    def submit(self, step: Step) -> int:
        assert len(self.results) < 2, "three steps are open"
        config = self.config
        ticket = self.num_steps + 1
        for rid in step.release:
            self.leaving.append((self.num_steps, self.requests.pop(rid)))
        self.drop_left()
        for request in step.admissions:
            assert request.rid not in self.requests, f"rid {request.rid} is taken"
            self.requests[request.rid] = Seen(request)
        self.check_capacity()
        rows = [0] * config.dp_size
        decoding = [
            seen
            for seen in self.requests.values()
            if seen.given == len(seen.request.input_ids)
            and step.decode[seen.request.dp_rank]
            and len(seen.output) < seen.request.max_new_tokens
        ]
        partial = [0] * config.dp_size
        sampled: list[Seen] = []
        input_logprobs = []
        for rid, tokens in step.prefill:
            seen = self.requests[rid]
            self.chunks.setdefault(seen.request, []).append(tokens)
            self.prefill(seen, tokens, input_logprobs)
            rows[seen.request.dp_rank] += tokens
            if seen.given < len(seen.request.input_ids):
                assert config.chunked, "a prompt was cut though chunks are off"
                assert tokens % config.page_size == 0, "a chunk that is not the last is not whole pages"
                partial[seen.request.dp_rank] += 1
            else:
                sampled.append(seen)
        assert max(partial) <= 1, "a rank has two requests that are partly in"
        prefill_ranks = {self.requests[rid].request.dp_rank for rid, _ in step.prefill}
        for seen in decoding:
            rows[seen.request.dp_rank] += 1
        decode_ranks = {seen.request.dp_rank for seen in decoding}
        if not config.mixed:
            assert not prefill_ranks & decode_ranks, "prefill and decode share a step though mixed chunk is off"
        self.mixed_steps += bool(prefill_ranks & decode_ranks)
        self.unlike_modes += bool(prefill_ranks - decode_ranks) and bool(decode_ranks - prefill_ranks)
        assert max(rows) <= config.max_tokens_per_step, f"{rows} rows, capacity {config.max_tokens_per_step}"
        if not any(rows):
            return 0
        self.num_steps = ticket
        self.results[ticket] = (
            WeftError(f"rank 1, op combine: step {ticket} was told to fail")
            if ticket == self.fail_at
            else self.run(sampled + decoding, input_logprobs)
        )
        return ticket

    def wait(self, ticket: int) -> Result:
        assert ticket == min(self.results), "steps end in order"
        while self.permits is not None and not self.permits.acquire(timeout=0.01):
            if self.closed.is_set():
                raise WeftError("the core was closed")
        result = self.results.pop(ticket)
        if isinstance(result, Exception):
            raise result
        for rid, finished in zip(result.rids.tolist(), result.finished.tolist(), strict=True):
            seen = self.requests.get(rid)
            if finished and seen is not None and seen.ended:
                self.leaving.append((self.num_steps, self.requests.pop(rid)))
        self.drop_left(done=ticket)
        return result

    def stats(self):
        rank = {"steps": {"MIXED": self.mixed_steps, "EXTEND": 0}, "real_tokens": self.num_steps}
        return {"ranks": [rank] * self.config.dp_size}

    def trace_next_step(self):
        self.traced = True

    def timeline(self):
        if not self.traced:
            return []
        return [
            (0, "compute", "attn", 0.0, 10.0, 0),
            (0, "comm", "dispatch", 10.0, 18.0, 0),
            (0, "compute", "attn", 10.0, 20.0, 1),
            (1, "compute", "attn", 1.0, 9.0, 0),
        ]

    def close(self):
        self.closed.set()

    # ---- inside ----

    def prefill(self, seen, tokens, input_logprobs):
        request = seen.request
        start, end = seen.given, seen.given + tokens
        assert tokens > 0
        assert end <= len(request.input_ids), "more prompt tokens than the prompt has"
        seen.given = end
        first = max(request.logprob_start, start)
        if request.logprob_start >= 0 and first < end:
            ids = request.input_ids
            values = [logprob_of(ids[:place], ids[place]) for place in range(first, end)]
            tops = [[(ids[place], -0.5)] * request.top_logprobs_num for place in range(first, end)]
            input_logprobs.append((request.rid, first, values, tops))

    def run(self, rows, input_logprobs):
        rids, tokens, finished, output_logprobs = [], [], [], []
        for seen in rows:
            request = seen.request
            token = next_token(
                request.input_ids, seen.output, self.vocab_size, request.seed if request.temperature else 0
            )
            if request.return_logprob:
                value = logprob_of(request.input_ids + seen.output, token)
                output_logprobs.append((request.rid, value, [(token, value)] * request.top_logprobs_num))
            rids.append(request.rid)
            tokens.append(token)
            if seen.stopped:  # a discarded row
                finished.append(0)
                continue
            seen.output.append(token)
            seen.stopped = token in request.stop_token_ids
            finished.append(1 if seen.stopped else 2 if seen.ended else 0)
        return Result(
            np.array(rids, np.int64),
            np.array(tokens, np.int32),
            np.array(finished, np.uint8),
            output_logprobs,
            input_logprobs,
        )

    def drop_left(self, done=None):
        """Free what no open step can touch."""
        oldest = min(self.results, default=self.num_steps + 1)
        self.leaving = [(last, seen) for last, seen in self.leaving if last >= oldest]

    def check_capacity(self):
        config = self.config
        held = list(self.requests.values()) + [seen for _, seen in self.leaving]
        for rank in range(config.dp_size):
            mine = [seen.request for seen in held if seen.request.dp_rank == rank]
            pages = sum(-(-request.num_tokens // config.page_size) for request in mine)
            assert pages <= config.num_pages, f"rank {rank} holds {pages} of {config.num_pages} pages"
            assert len(mine) <= config.max_running_requests, f"rank {rank} holds {len(mine)} requests"
            assert len({request.rid for request in mine}) == len(mine), "two requests share a rid"
