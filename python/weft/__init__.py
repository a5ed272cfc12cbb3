"""weft: a runtime for Mixture-of-Experts language models."""

from weft import _load, comm, graph, overlap, plan  # noqa: F401 (_load comes first)
from weft.engine import Engine
from weft.errors import WeftError
from weft.forward_mode import ForwardMode
from weft.outputs import GenerateOutput
from weft.sampling_params import SamplingParams
from weft.server_args import ServerArgs

__all__ = [
    "Engine",
    "ForwardMode",
    "GenerateOutput",
    "SamplingParams",
    "ServerArgs",
    "WeftError",
    "comm",
    "graph",
    "overlap",
    "plan",
]
