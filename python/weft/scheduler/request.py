"""A request as the scheduler sees it, and the changes that one step makes."""

from dataclasses import dataclass, field
from enum import Enum


class RequestState(Enum):
    WAITING = "waiting"  # nothing of it is in the core
    PREFILL = "prefill"  # admitted; part of its prompt has been scheduled
    RUNNING = "running"  # its whole prompt has been scheduled
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One request. `rid` and `dp_rank` are set when it is admitted; rids are reused after it has left the core."""

    input_ids: list[int]
    max_new_tokens: int  # at least 1
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logprob_start: int = -1  # first prompt position whose log-probability is wanted; -1: none
    return_logprob: bool = False
    top_logprobs_num: int = 0

    state: RequestState = RequestState.WAITING
    rid: int = -1
    dp_rank: int = -1
    num_scheduled: int = 0  # prompt tokens given to the core
    num_output: int = 0  # tokens received; counted when it ends

    @property
    def num_tokens(self) -> int:
        """The most tokens that it can ever hold."""
        return len(self.input_ids) + self.max_new_tokens

    @property
    def rest(self) -> int:
        """Prompt tokens not yet given to the core."""
        return len(self.input_ids) - self.num_scheduled


@dataclass(slots=True)
class Step:
    """What changes in one step; the core keeps the rest."""

    sequence: int  # 1, 2, ...
    decode: list[bool]  # one a DP rank: its running requests decode
    admissions: list[Request] = field(default_factory=list)
    prefill: list[tuple[int, int]] = field(default_factory=list)  # (rid, prompt tokens), in order
    release: list[int] = field(default_factory=list)  # rids to drop
