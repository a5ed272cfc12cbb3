"""What the running requests of a DP rank hold: slots, KV pages, and the work still expected of them."""

from collections import deque
from dataclasses import dataclass, field

from weft.scheduler.request import Request


@dataclass(slots=True)
class RankLoad:
    """One DP rank. A request keeps its slot and its pages until no step in flight can touch them."""

    dp_rank: int
    free_rids: deque[int]
    free_pages: int
    page_size: int
    num_running: int = 0  # requests whose prompt is in, and that are not known to have ended
    outstanding: int = 0  # tokens still to be computed for all admitted requests, if none stops early
    chunked: Request | None = None  # the one request that is partly in
    retiring: deque[tuple[int, int, int]] = field(default_factory=deque)  # (last step, rid, pages), by step

    def pages_of(self, request: Request) -> int:
        """Pages for all tokens that the request can reach: once admitted it cannot run out."""
        return -(-request.num_tokens // self.page_size)

    def can_admit(self, request: Request) -> bool:
        return bool(self.free_rids) and self.pages_of(request) <= self.free_pages

    def admit(self, request: Request) -> None:
        request.rid = self.free_rids.popleft()
        request.dp_rank = self.dp_rank
        self.free_pages -= self.pages_of(request)
        self.outstanding += request.num_tokens

    def leave(self, request: Request, last_step: int) -> None:
        """The request has ended; step `last_step` is the last that may touch what it holds."""
        self.outstanding -= request.rest + request.max_new_tokens - request.num_output
        self.retiring.append((last_step, request.rid, self.pages_of(request)))

    def retire(self, done_step: int) -> None:
        """Free what ended requests held, as far as steps up to `done_step` have ended."""
        while self.retiring and self.retiring[0][0] <= done_step:
            _, rid, pages = self.retiring.popleft()
            self.free_rids.append(rid)
            self.free_pages += pages
