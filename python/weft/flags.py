"""How a field of ServerArgs becomes a flag, and what weft says of a flag or a value that it does not have.

A flag of SGLang has one of three states. It works. It is planned: it parses, is checked and derives like any other, but
nothing runs with it yet. Or weft does not have it: refused_flags.py says of each what to use instead.
"""

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import Field, dataclass, field
from typing import Any, NoReturn

from weft.errors import WeftError
from weft.refused_flags import ADVICE_OF_FLAG

_SI = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def human_readable_int(text: str) -> int:
    """An integer, optionally with a suffix: k, M, G, T (powers of 1000; may be decimal) or Ki, Mi, Gi, Ti (of 1024)."""
    match = re.fullmatch(r"(-?\d+)(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?", text, re.ASCII)
    if match is None or len(text) > 20:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer such as 4096, 4k, 1.5M or 4Ki")
    whole, fraction, suffix = match.groups()
    if fraction is None:
        return int(whole) * (_SI | _BINARY).get(suffix or "", 1)
    if suffix not in _SI:
        raise argparse.ArgumentTypeError(f"{text!r}: a decimal number needs one of the suffixes k, M, G, T")
    return round(float(whole + fraction) * _SI[suffix])


@dataclass(frozen=True)
class Flag:
    """What is known of one field. The first name is the flag's own; the others are aliases."""

    names: tuple[str, ...]
    help: str
    kind: type = str  # bool, int, float, str; of the items for a list
    deprecated: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()  # that weft has, now or planned
    lacks: tuple[str, ...] = ()  # SGLang's other choices
    human: bool = False  # human-readable integer
    many: bool = False  # one or more values
    unset: str = "derived"  # what a default of None stands for
    shorthands: tuple[tuple[str, str], ...] = ()  # retired flags without a value, and the value they stand for
    planned: str = ""  # what is not there yet, and what to use until then
    planned_values: tuple[str, ...] = ()  # to which that applies; empty: to all but the default

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def works(self) -> bool:
        """Whether some value other than the default works today."""
        return not self.planned or bool(self.planned_values)

    def is_planned(self, value: object, default: object) -> bool:
        """Whether nothing runs with `value` yet."""
        if not self.planned or value == default:
            return False
        return value in self.planned_values if self.planned_values else True

    def show(self, value: object) -> str:
        """The flag with its value, as on a command line."""
        if self.kind is bool:
            return self.name if value else f"no {self.name}"
        if value is None:
            return f"no {self.name}"
        if isinstance(value, tuple):
            return " ".join([self.name, *map(str, value)])
        plain = not isinstance(value, str) or re.fullmatch(r"[\w./:,+@=~-]+", value, re.ASCII)
        return f"{self.name} {value}" if plain else f"{self.name} {value!r}"

    def why_lacking(self, value: object) -> str | None:
        """Why weft does not have `value`, one of SGLang's choices; None if that is not so."""
        if value not in self.lacks:
            return None
        return f"weft does not have {self.show(value)}: {self.help}; use {' or '.join(self.choices)}"


def flag(
    default: object,
    *names: str,
    help: str,
    kind: type = str,
    deprecated: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    lacks: str = "",
    human: bool = False,
    many: bool = False,
    unset: str = "derived",
    shorthands: tuple[tuple[str, str], ...] = (),
    planned: str = "",
    planned_values: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401  # as dataclasses.field: it takes the type of the field
    """A dataclass field with its flag. `lacks` is a list of words."""
    spec = Flag(
        names,
        help,
        kind,
        deprecated,
        choices,
        tuple(lacks.split()),
        human,
        many,
        unset,
        shorthands,
        planned,
        planned_values,
    )
    return field(default=default, metadata={"flag": spec})


def flag_of(item: Field[Any]) -> Flag | None:
    found = item.metadata.get("flag")
    return found if isinstance(found, Flag) else None


class Parser(argparse.ArgumentParser):
    """No abbreviations; errors are WeftError; a flag that weft does not have is refused by name."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, usage="%(prog)s [flags]", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise WeftError(f"{message}; --help shows what each flag takes")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`.

        Flags that SGLang has and weft has not are set aside, with their values: `namespace.refused` says why of each,
        and ServerArgs.from_cli_args refuses them all at once.

        Raises:
            WeftError: a flag is unknown, or a value is malformed. `--help` prints and exits.
        """
        namespace, rest = self.parse_known_args(list(argv))
        refused: dict[str, str] = {}
        for word in rest:
            name = word.split("=", 1)[0]
            if not _is_flag(word):
                if not refused:
                    raise WeftError(f"{word!r} is not a flag; every argument begins with --")
            elif name in ADVICE_OF_FLAG:
                refused[name] = refused_message(name)
            else:
                raise WeftError(unknown_flag_message(name, list(self._option_string_actions)))
        if refused:
            namespace.refused = tuple(refused.values())
        return namespace


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\.?\d.*", word)


def add_flag(parser: argparse._ArgumentGroup, dest: str, spec: Flag, default: object) -> None:
    """Add one flag. What is not given on the command line stays out of the namespace."""
    text = spec.help
    if spec.choices:
        text += f" ({', '.join(spec.choices)})"
    if spec.kind is not bool:
        text += f" (default: {spec.unset if default is None else default})"
    if spec.planned_values:
        text += f" [planned: {', '.join(spec.planned_values)}]"
    deprecated = [*spec.deprecated, *(name for name, _ in spec.shorthands)]
    if deprecated:
        text += f" [deprecated: {', '.join(deprecated)}]"
    names, text = (*spec.names, *spec.deprecated), text.replace("%", "%%")
    if spec.kind is bool:
        parser.add_argument(*names, dest=dest, action="store_true", default=argparse.SUPPRESS, help=text)
        return
    parser.add_argument(
        *names,
        dest=dest,
        default=argparse.SUPPRESS,
        type=human_readable_int if spec.human else spec.kind,
        nargs="+" if spec.many else None,
        metavar=spec.kind.__name__.upper(),
        help=text,
    )
    for name, value in spec.shorthands:
        parser.add_argument(
            name, dest=dest, action="store_const", const=value, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def refused_message(name: str) -> str:
    """Why a flag of SGLang is refused, and what to use."""
    return f"weft does not have {name}: {ADVICE_OF_FLAG[name]}"


def unknown_flag_message(name: str, known: Sequence[str]) -> str:
    """Why `name` is refused: weft lacks this flag of SGLang, or nobody knows it."""
    if name in ADVICE_OF_FLAG:
        return refused_message(name)
    longer = [other for other in known if other.startswith(name)]
    close = longer if len(longer) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    hint = f"; did you mean {close[0]}?" if close else "; --help lists the flags"
    shown = name if name.isprintable() else repr(name)
    return f"unknown flag {shown}{hint} (flags cannot be abbreviated)"
