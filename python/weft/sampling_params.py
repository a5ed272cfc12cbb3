"""How a request's tokens are drawn and when it ends: SGLang's names and defaults."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from weft.errors import WeftError

_GREEDY_BELOW = 1e-6  # temperatures below are greedy
_SEED_LIMIT = 1 << 63


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request. None means the default.

    Order of the filters: temperature, top_k, top_p, min_p. The same sampling_seed gives the same text, whatever else
    runs. A stop string ends the text before it, unless no_stop_trim. ignore_eos ignores stop_token_ids too.

    Raises:
        WeftError: a value is out of range, or one that weft lacks is asked for.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1  # -1: all
    min_p: float = 0.0
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    no_stop_trim: bool = False
    sampling_seed: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, least, most in _NUMBERS:
            self._check_number(name, least, most)
        for name in ("ignore_eos", "skip_special_tokens", "no_stop_trim"):
            if not isinstance(getattr(self, name), bool):
                raise WeftError(f"{name}={getattr(self, name)!r} must be True or False")
        if self.top_p == 0:
            raise WeftError("top_p must be in (0, 1], got 0")
        if self.top_k == 0:
            raise WeftError("top_k must be -1 (all) or at least 1, got 0")
        if not all(isinstance(text, str) and text for text in self.stop_strings):
            raise WeftError(f"stop={self.stop!r} must be a string or a list of strings, none of them empty")
        if not all(isinstance(token, int) and token >= 0 for token in self.stop_token_ids or ()):
            raise WeftError(f"stop_token_ids={self.stop_token_ids!r} must be token ids")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW or self.top_k == 1

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "SamplingParams":
        """Of SGLang's dictionary. A parameter that weft lacks may hold its default, nothing else."""
        known: dict[str, object] = {}
        for key, value in values.items():
            if value is None:
                continue
            if key in _NAMES:
                known[key] = value
            elif key not in _LACKING:
                raise WeftError(f"unknown sampling parameter {key!r}; weft has {', '.join(sorted(_NAMES))}")
            elif value not in _LACKING[key]:
                raise WeftError(f"weft does not have the sampling parameter {key} (given {value!r}); remove it")
        return cls(**known)  # type: ignore[arg-type]  # __post_init__ checks the types

    def _check_number(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if value is None and name == "sampling_seed":
            return
        whole = name in ("max_new_tokens", "top_k", "sampling_seed")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise WeftError(f"{name}={value!r} must be {'an integer' if whole else 'a number'}")
        if not math.isfinite(value) or not least <= value <= most:
            raise WeftError(f"{name} must be {_range(least, most)}, got {value}")


_NAMES = frozenset(item.name for item in fields(SamplingParams))
_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("max_new_tokens", 0, math.inf),
    ("temperature", 0, math.inf),
    ("top_p", 0, 1),
    ("top_k", -1, math.inf),
    ("min_p", 0, 1),
    ("sampling_seed", 0, _SEED_LIMIT - 1),
)
# Parameters of SGLang that weft lacks: the values that ask for nothing.
_LACKING: dict[str, tuple[object, ...]] = {
    "min_new_tokens": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "n": (1,),
    "stop_regex": (),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
    "spaces_between_special_tokens": (True,),
    "logit_bias": ({},),
    "stream_interval": (1,),
    "custom_params": ({},),
}


def _range(least: float, most: float) -> str:
    return f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
