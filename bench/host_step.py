"""What does Python cost in a step? 8 DP ranks x 256 running requests, and a core that answers at once.

    python bench/host_step.py [--ranks 8] [--requests 256] [--steps 400] [--json]

A step's time is that from the end of one call into the core to the beginning of the next, summed over a step: planning,
handing over, taking tokens. Every request runs; every `--finish-every` steps one request a rank ends and another comes,
as in steady serving. First the outputs are checked: each request got its own tokens, in order.
"""

import argparse
import json
import platform
import queue
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from weft.scheduler import Request, Scheduler, SchedulerConfig, Step
from weft.step_loop import Job, StepLoop, Update


@dataclass
class Result:
    rids: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]
    finished: npt.NDArray[np.uint8]
    output_logprobs: list[tuple[int, float, list[tuple[int, float]]]] = field(default_factory=list)
    input_logprobs: list[tuple[int, int, list[float], list[list[tuple[int, float]]]]] = field(default_factory=list)


class InstantCore:
    """Every running request's next token is its number of tokens so far. Its own time is not counted."""

    def __init__(self, slots: int) -> None:
        self.running = np.zeros(slots, dtype=bool)
        self.count = np.zeros(slots, dtype=np.int64)
        self.limit = np.zeros(slots, dtype=np.int64)
        self.tickets = 0
        self.results: dict[int, Result] = {}
        self.left_at = time.perf_counter()
        self.python_s: list[float] = []
        self.spent = 0.0

    def submit(self, step: Step) -> int:
        self.spent += time.perf_counter() - self.left_at
        for request in step.admissions:
            self.count[request.rid], self.limit[request.rid] = 0, request.max_new_tokens
        started = [rid for rid, _ in step.prefill]
        rids = np.concatenate([np.array(started, np.int64), np.flatnonzero(self.running)])
        self.running[started] = True
        tokens = self.count[rids].astype(np.int32)
        self.count[rids] += 1
        done = self.count[rids] >= self.limit[rids]
        self.running[rids[done]] = False
        self.tickets += 1
        self.results[self.tickets] = Result(rids, tokens, (done * 2).astype(np.uint8))
        self.left_at = time.perf_counter()
        return self.tickets

    def wait(self, ticket: int) -> Result:
        self.python_s.append(self.spent + time.perf_counter() - self.left_at)
        self.spent = 0.0
        result = self.results.pop(ticket)
        self.left_at = time.perf_counter()
        return result

    def stats(self) -> dict[str, object]:
        return {}

    def trace_next_step(self) -> None:
        pass

    def timeline(self) -> list[tuple[int, str, str, float, float, int]]:
        return []

    def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--finish-every", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = SchedulerConfig(
        dp_size=options.ranks,
        max_running_requests=options.requests,
        prefill_tokens_per_step=options.requests * 16,
        chunked=True,
        mixed=True,
        page_size=16,
        num_pages=1 << 20,
    )
    slots = options.ranks * options.requests
    core = InstantCore(slots)
    loop = StepLoop(core, Scheduler(config), None)
    updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
    # Lengths differ, so that from the first lengths on some request ends every few steps and a waiting one follows.
    lengths = [options.steps // 2 + (i // options.ranks) * options.finish_every for i in range(2 * slots)]
    jobs = [Job(Request(input_ids=[1] * 16, max_new_tokens=n), i, updates, str(i), n) for i, n in enumerate(lengths)]
    loop.add(jobs)
    for _ in jobs:
        update = updates.get()
        expected = list(range(lengths[update.index]))
        assert update.ids == expected, f"request {update.index} got other tokens than its own"
    loop.close()
    full = core.python_s[10 : options.steps]  # all slots are taken
    micro = sorted(1e6 * s for s in full)
    row = {
        "ranks": options.ranks,
        "requests": options.requests,
        "steps": len(micro),
        "p10_us": micro[len(micro) // 10],
        "median_us": statistics.median(micro),
        "p90_us": micro[len(micro) * 9 // 10],
    }
    if options.json:
        print(json.dumps({"python": platform.python_version(), "cpu": platform.processor(), **row}))
        return
    print(f"Python {platform.python_version()}; every request got its own tokens\n")
    print("ranks  requests  steps  |  p10_us  median_us  p90_us")
    print(
        f"{row['ranks']:5}  {row['requests']:8}  {row['steps']:5}  |  {row['p10_us']:6.0f}  {row['median_us']:9.0f}"
        f"  {row['p90_us']:6.0f}"
    )


if __name__ == "__main__":
    main()
