"""Which requests run in the next step, and how many tokens of each. Policy only: it sees counts, never tensors."""

from weft.scheduler.policy import Scheduler, SchedulerConfig
from weft.scheduler.request import Request, RequestState, Step

__all__ = ["Request", "RequestState", "Scheduler", "SchedulerConfig", "Step"]
