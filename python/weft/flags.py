"""How a field of ServerArgs becomes a flag: names, aliases, parsing, and what weft says of flags it does not have."""

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import Field, dataclass, field
from typing import Any, NoReturn

from weft.errors import WeftError

_SI = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def human_readable_int(text: str) -> int:
    """An integer, optionally with a suffix: k, M, G, T (powers of 1000; may be decimal) or Ki, Mi, Gi, Ti (of 1024)."""
    match = re.fullmatch(r"(-?\d+)(\.\d+)?(Ki|Mi|Gi|Ti|k|M|G|T)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer such as 4096, 4k, 1.5M or 4Ki")
    whole, fraction, suffix = match.groups()
    if fraction is None:
        return int(whole) * (_SI | _BINARY).get(suffix or "", 1)
    if suffix not in _SI:
        raise argparse.ArgumentTypeError(f"{text!r}: a decimal number needs one of the suffixes k, M, G, T")
    return round(float(whole + fraction) * _SI[suffix])


@dataclass(frozen=True)
class Flag:
    """What the command line knows of one field. The first name is the flag's own; the others are aliases."""

    names: tuple[str, ...]
    help: str
    kind: type = str  # bool, int, float, str; of the items for a list
    deprecated: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    human: bool = False  # human-readable integer
    many: bool = False  # one or more values

    @property
    def name(self) -> str:
        return self.names[0]


def flag(  # as dataclasses.field, whose result takes the type of the field
    default: object,
    *names: str,
    help: str,
    kind: type = str,
    deprecated: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    human: bool = False,
    many: bool = False,
) -> Any:  # noqa: ANN401  # as dataclasses.field: it takes the type of the field
    """A dataclass field with its flag."""
    return field(default=default, metadata={"flag": Flag(names, help, kind, deprecated, choices, human, many)})


def flag_of(item: Field[Any]) -> Flag | None:
    found = item.metadata.get("flag")
    return found if isinstance(found, Flag) else None


class Parser(argparse.ArgumentParser):
    """No abbreviations; errors are WeftError; a flag that weft lacks is refused by name."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise WeftError(message)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`.

        Raises:
            WeftError: a flag is unknown or unsupported, or a value is malformed. `--help` prints and exits.
        """
        namespace, rest = self.parse_known_args(list(argv))
        if rest:
            raise WeftError(self._unknown(rest))
        return namespace

    def _unknown(self, rest: Sequence[str]) -> str:
        name = next((word.split("=", 1)[0] for word in rest if word.startswith("--")), rest[0])
        if not name.startswith("-"):
            return f"{name!r} is not a flag; every argument begins with --"
        return unknown_flag_message(name, list(self._option_string_actions))


def add_flag(parser: argparse._ArgumentGroup, dest: str, spec: Flag, default: object) -> None:
    """Add one flag. What is not given on the command line stays out of the namespace."""
    text = spec.help.replace("%", "%%")
    if spec.kind is not bool:
        text += f" (default: {_shown(default)})"
    if spec.deprecated:
        text += f" [deprecated: {', '.join(spec.deprecated)}]"
    names = (*spec.names, *spec.deprecated)
    if spec.kind is bool:
        parser.add_argument(*names, dest=dest, action="store_true", default=argparse.SUPPRESS, help=text)
        return
    parser.add_argument(
        *names,
        dest=dest,
        default=argparse.SUPPRESS,
        type=human_readable_int if spec.human else spec.kind,
        nargs="+" if spec.many else None,
        choices=spec.choices or None,
        metavar=None if spec.choices else spec.kind.__name__.upper(),
        help=text,
    )


def _shown(default: object) -> str:
    return "derived" if default is None else str(default)


def unknown_flag_message(name: str, known: Sequence[str]) -> str:
    """Why `name` is refused: weft lacks this flag of SGLang, or nobody knows it."""
    advice = _LACKING.get(name)
    if advice is not None:
        return f"weft does not have {name}: {advice}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    hint = f"; did you mean {close[0]}?" if close else "; --help lists the flags"
    return f"unknown flag {name}{hint} (flags cannot be abbreviated)"


# Flags of SGLang that weft does not have, by what to do about them.
_ADVICE: tuple[tuple[str, str], ...] = (
    ("use --moe-a2a-backend deepep", "--enable-deepep-moe"),
    ("use --ep-size N", "--enable-ep-moe"),
    (
        "weft derives where rows are sharded from the layouts of a layer; remove it",
        "--enable-sp --enable-layernorm-sp --enable-sp-layernorm --enable-attn-tp-input-scattered"
        " --disable-attn-tp-gather",
    ),
    (
        "each device has one set of kernels; remove it",
        "--attention-backend --decode-attention-backend --prefill-attention-backend --sampling-backend"
        " --moe-runner-backend --flashinfer-mla-disable-ragged"
        " --flashinfer-allreduce-fusion-backend --enable-torch-compile --torch-compile-max-bs --cuda-graph-tc-compiler"
        " --piecewise-cuda-graph-compiler --disable-custom-all-reduce --enable-mscclpp --enable-torch-symm-mem"
        " --enable-symm-mem --enable-nccl-nvls --pre-warm-nccl --enable-p2p-check --enable-profile-cuda-graph"
        " --enable-cudagraph-gc --debug-cuda-graph",
    ),
    ("use --disable-decode-cuda-graph to run without graphs", "--cuda-graph-config --cuda-graph-backend-decode"),
    (
        "weft has no prefill graphs; remove it",
        "--cuda-graph-backend-prefill --enable-breakable-cuda-graph --enforce-piecewise-cuda-graph"
        " --cuda-graph-max-bs-prefill --piecewise-cuda-graph-max-tokens --cuda-graph-bs-prefill"
        " --piecewise-cuda-graph-tokens",
    ),
    ("weights and KV cache have the type of --dtype; use an unquantised checkpoint", "--quantization --kv-cache-dtype"),
    (
        "this version runs on one node; use --tp-size for its ranks",
        "--nnodes --node-rank --dist-init-addr --nccl-init-addr --nccl-port --dist-timeout --base-gpu-id --gpu-id-step",
    ),
    (
        "weft has tensor, attention-data and expert parallelism: --tp-size, --dp-size, --ep-size",
        "--pp-size --pipeline-parallel-size --pp --pp-max-micro-batch-size --pp-async-batch-depth --dcp-size"
        " --decode-context-parallel-size --attn-cp-size --attention-context-parallel-size --moe-dp-size"
        " --moe-data-parallel-size --enable-prefill-cp --cp-strategy",
    ),
    (
        "a step holds --chunked-prefill-size prompt tokens of a DP rank, or one --context-length without chunks",
        "--max-prefill-tokens --prefill-max-requests --enable-dynamic-chunking",
    ),
    (
        "requests run first come, first served, and a request is admitted when all its tokens fit; remove it",
        "--schedule-policy --schedule-conservativeness --enable-priority-scheduling --num-continuous-decode-steps"
        " --scheduler-recv-interval --max-queued-requests --load-balance-method --num-reserved-decode-tokens",
    ),
    ("this version has no prefix cache; remove it", "--radix-eviction-policy --disable-chunked-prefix-cache"),
    (
        "this version has no HTTP server; use weft.Engine or python -m weft.generate",
        "--host --port --api-key --served-model-name --log-level --log-level-http --log-requests --log-requests-level"
        " --log-requests-format --enable-metrics --decode-log-interval --enable-cache-report --sampling-defaults"
        " --tokenizer-worker-num",
    ),
    ("the core watches every wait; remove it", "--watchdog-timeout"),
    (
        "pass stream=True to Engine.generate; its text is cumulative",
        "--stream-interval --stream-output --incremental-streaming-output",
    ),
    (
        "this version has no speculative decoding; remove it",
        "--speculative-algorithm --speculative-draft-model-path --speculative-draft-model --speculative-num-steps"
        " --speculative-eagle-topk --speculative-num-draft-tokens --speculative-moe-a2a-backend"
        " --speculative-skip-dp-mlp-sync",
    ),
    (
        "this version does not split prefill and decode over servers; remove it",
        "--disaggregation-mode --disaggregation-transfer-backend --disaggregation-bootstrap-port --enable-pdmux",
    ),
    ("use --enable-two-batch-overlap", "--enable-single-batch-overlap"),
    (
        "experts stay where the checkpoint's order puts them, in the model's type; remove it",
        "--deepep-dispatcher-output-dtype --ep-num-redundant-experts --ep-dispatch-algorithm --enable-eplb"
        " --deepep-config --disable-shared-experts-fusion --enforce-shared-experts-fusion",
    ),
    ("this version has no grammars", "--grammar-backend"),
    ("remove it", "--enable-dp-attention-local-control-broadcast --enable-return-hidden-states --enable-mis"),
)
_LACKING = {name: advice for advice, names in _ADVICE for name in names.split()}
