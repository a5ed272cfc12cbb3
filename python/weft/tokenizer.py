"""Text to token ids and back: tokenizer.json, the chat template, and text that grows token by token."""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from weft.errors import WeftError

Message = Mapping[str, Any]  # {"role": ..., "content": ...}; templates may read other keys


class Tokenizer:
    """A Hugging Face fast tokenizer. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        """Read tokenizer.json and, for the chat template, tokenizer_config.json and chat_template.jinja.

        Raises:
            WeftError: tokenizer.json is missing or malformed.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise WeftError(f"{path} does not exist; name another --tokenizer-path or use --skip-tokenizer-init")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise WeftError(f"{path}: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._config = _read_config(directory)
        self._template = _chat_template(directory, self._config)

    @property
    def vocab_size(self) -> int:
        """Ids lie below; added tokens are included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation, as the model's template writes it.

        Raises:
            WeftError: the model has no template, or the template refuses the messages.
        """
        if self._template is None:
            raise WeftError("this tokenizer has no chat template; send the text itself")
        special = {key: _token_text(value) for key, value in self._config.items() if key.endswith("_token")}
        try:
            template = _environment().from_string(self._template)
            text = template.render(messages=messages, add_generation_prompt=add_generation_prompt, **special)
        except Exception as error:  # a template is code of the checkpoint's: anything may come out of it
            raise WeftError(f"chat template: {error}") from error
        # The template writes the special tokens itself.
        return self.encode(text, add_special_tokens=False)


class Detokenizer:
    """The text of a growing list of ids. Never shows half a character: bytes wait for the rest of it.

    Only the tail is decoded again, from the last two places where the text was whole: a tokenizer may drop or add a
    space at the start of what it decodes, so a piece's text is the difference of two decodings with one start.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._ids: list[int] = []
        self._start = 0  # decoding begins here
        self._shown = 0  # ids whose text has been shown
        self.text = ""

    def push(self, ids: Sequence[int]) -> str:
        """Add ids; return the text that became whole."""
        self._ids.extend(ids)
        before, after = self._tail()
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        return self._show(after[len(before) :])

    def finish(self) -> str:
        """No more ids come: return what waited, a broken character as U+FFFD."""
        before, after = self._tail()
        return self._show(after[len(before) :])

    def _tail(self) -> tuple[str, str]:
        decode, skip = self._tokenizer.decode, self._skip_special_tokens
        return decode(self._ids[self._start : self._shown], skip), decode(self._ids[self._start :], skip)

    def _show(self, text: str) -> str:
        self._start, self._shown = self._shown, len(self._ids)
        self.text += text
        return text


def unfinished_stop(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


def find_stop(text: str, stops: Sequence[str], start: int = 0) -> str | None:
    """The stop string that occurs first in `text`; of two at one place, the earlier in the list."""
    found = [(place, index) for index, stop in enumerate(stops) if (place := text.find(stop, start)) >= 0]
    return stops[min(found)[1]] if found else None


def _read_config(directory: Path) -> Mapping[str, Any]:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeftError(f"{path}: {error}") from error
    return config if isinstance(config, dict) else {}


def _chat_template(directory: Path, config: Mapping[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # named ones
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_text(value: object) -> object:
    """A special token is its text, or a description that holds it."""
    return value.get("content") if isinstance(value, dict) else value


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(value: object, indent: int | None = None, ensure_ascii: bool = False, sort_keys: bool = False) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
