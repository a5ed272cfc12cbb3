"""What a command shows while it works, and how it ends."""

import logging
import sys
import time
from collections.abc import Callable, Sequence

from weft.errors import WeftError


class Progress:
    """One line on a terminal's stderr, rewritten a few times a second; silent where there is no terminal."""

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit = total, unit
        self._on = sys.stderr.isatty()
        self._start = time.perf_counter()
        self._shown = 0.0

    def show(self, done: int, note: str = "") -> None:
        now = time.perf_counter()
        if not self._on or (now - self._shown < 0.1 and done < self._total):
            return
        self._shown = now
        line = f"{done}/{self._total} {self._unit}, {now - self._start:.1f} s{', ' + note if note else ''}"
        print(f"\r{line:<79}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A line on stderr, if a terminal is there to read it."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def show_log() -> None:
    """What weft logs goes to stderr, if a terminal is there to read it."""
    logger = logging.getLogger("weft")
    if sys.stderr.isatty() and not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)


def run(main: Callable[[Sequence[str]], int]) -> int:
    """Call a program's main; an error of weft is one line on stderr and exit status 1."""
    show_log()
    try:
        return main(sys.argv[1:])
    except WeftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
