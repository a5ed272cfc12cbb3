"""weft: a runtime for Mixture-of-Experts language models."""

from weft.engine import Engine
from weft.errors import WeftError
from weft.outputs import GenerateOutput
from weft.sampling_params import SamplingParams
from weft.server_args import ServerArgs

__all__ = ["Engine", "GenerateOutput", "SamplingParams", "ServerArgs", "WeftError"]
