"""What Engine.generate returns: SGLang's dictionaries, typed, and how they are made of ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from weft.sampling_params import SamplingParams
from weft.tokenizer import Detokenizer, Tokenizer, unfinished_stop


class StopReason(TypedDict):
    type: Literal["stop"]
    matched: int | str  # the token or the string that ended it


class LengthReason(TypedDict):
    type: Literal["length"]
    length: int


class AbortReason(TypedDict):
    type: Literal["abort"]
    message: str
    status_code: int | None
    err_type: str | None


FinishReason = StopReason | LengthReason | AbortReason
TokenLogprob = tuple[float | None, int, str | None]  # (log-probability, id, text if it was asked for)
TopLogprobs = list[tuple[float, int, str | None]]


class MetaInfo(TypedDict):
    """Log-probabilities are there if they were asked for. Input ones begin at logprob_start_len, with None."""

    id: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    dp_rank: int | None
    e2e_latency: NotRequired[float]  # seconds; when the request has ended
    input_token_logprobs: NotRequired[list[TokenLogprob]]
    output_token_logprobs: NotRequired[list[TokenLogprob]]
    output_token_logprobs_length: NotRequired[int]
    input_top_logprobs: NotRequired[list[TopLogprobs | None]]
    output_top_logprobs: NotRequired[list[TopLogprobs | None]]


class GenerateOutput(TypedDict):
    """One answer, or in a stream what there is of it so far."""

    text: NotRequired[str]  # not with --skip-tokenizer-init
    output_ids: list[int]
    meta_info: MetaInfo
    index: NotRequired[int]  # in a stream of several: which prompt


def abort_reason(message: str, status_code: int | None = None, err_type: str | None = None) -> AbortReason:
    return {"type": "abort", "message": message, "status_code": status_code, "err_type": err_type}


@dataclass(slots=True)
class RawLogprobs:
    """Log-probabilities of one request as the core gives them. Grows while the request runs."""

    start: int  # of the prompt, as logprob_start_len
    top: int
    input_values: list[float]  # from position start + 1
    input_top: list[list[tuple[int, float]]]
    output_values: list[float]
    output_top: list[list[tuple[int, float]]]


class TextBuilder:
    """The text of one answer, never longer than what is certain: half a character or half a stop string waits."""

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self._params = params
        self._detokenizer = Detokenizer(tokenizer, params.skip_special_tokens)

    def push(self, ids: Sequence[int]) -> str:
        """Add ids; return the cumulative text."""
        self._detokenizer.push(ids)
        text = self._detokenizer.text
        return text[: len(text) - unfinished_stop(text, self._params.stop_strings)]

    def finish(self, ids: Sequence[int], reason: FinishReason) -> str:
        """Add the last ids; return the whole text, without the stop string or token unless no_stop_trim."""
        matched = reason["matched"] if reason["type"] == "stop" else None
        trim = not self._params.no_stop_trim
        if isinstance(matched, int) and trim:
            ids = ids[:-1]
        self._detokenizer.push(ids)
        self._detokenizer.finish()
        text = self._detokenizer.text
        place = text.find(matched) if isinstance(matched, str) and trim else -1
        return text if place < 0 else text[:place]


def add_logprobs(
    meta: MetaInfo, raw: RawLogprobs, prompt: Sequence[int], output: Sequence[int], tokenizer: Tokenizer | None
) -> None:
    """Fill in the log-probabilities of a prompt and of the tokens so far; with text if there is a tokenizer."""

    def entry(value: float | None, token: int) -> TokenLogprob:
        return value, token, None if tokenizer is None else tokenizer.decode([token], skip_special_tokens=False)

    def tops(rows: Sequence[Sequence[tuple[int, float]]]) -> list[TopLogprobs | None]:
        texts = None if tokenizer is None else tokenizer
        return [
            [(value, token, None if texts is None else texts.decode([token], False)) for token, value in row] or None
            for row in rows
        ]

    asked = [] if raw.start < 0 else prompt[raw.start :]
    values: list[float | None] = [None, *raw.input_values]
    meta["input_token_logprobs"] = [entry(value, token) for value, token in zip(values, asked, strict=False)]
    count = min(len(output), len(raw.output_values))
    meta["output_token_logprobs"] = [entry(raw.output_values[i], output[i]) for i in range(count)]
    meta["output_token_logprobs_length"] = count
    if raw.top:
        meta["input_top_logprobs"] = tops([[], *raw.input_top][: len(asked)])
        meta["output_top_logprobs"] = tops(raw.output_top[:count])
