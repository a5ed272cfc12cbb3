"""The flags of weft: SGLang's names, aliases, defaults and derived values, and which combinations work.

Everything that flags alone decide is decided here; what also needs the model's config.json is in engine_config.py.
Where SGLang changes a value silently, weft refuses if the user gave that value, else notes where the value came from.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from weft.errors import WeftError
from weft.flags import Flag, Parser, add_flag, flag, flag_of, unknown_flag_message
from weft.plan import ParallelConfig

Origin = Literal["user", "default", "model", "derived"]

DEFAULT_CHUNKED_PREFILL_SIZE = 4096  # SGLang's where it knows no GPU memory
DEFAULT_GRAPH_MAX_BS = 160  # the same
DEMO_MODEL = "demo"


@dataclass(frozen=True)
class ServerArgs:
    """How to run a model. Fields are SGLang's; None means "not given" until it is derived.

    Raises:
        WeftError: a value, or a combination of values, is refused. The message names the flags, the values and the
            fix. Nothing has been read or started then.
    """

    model_path: str = flag(
        "", "--model-path", "--model", help="directory of a Hugging Face checkpoint, or 'demo' for the model in weft"
    )
    tokenizer_path: str | None = flag(None, "--tokenizer-path", help="directory of tokenizer.json, if not the model's")
    skip_tokenizer_init: bool = flag(False, "--skip-tokenizer-init", help="token ids in and out, no text", kind=bool)
    load_format: str = flag(
        "auto",
        "--load-format",
        help="safetensors (auto is the same), or dummy: random weights, only config.json is read",
        choices=("auto", "safetensors", "dummy"),
    )
    trust_remote_code: bool = flag(
        False, "--trust-remote-code", help="accepted; weft never runs code of a checkpoint", kind=bool
    )
    context_length: int | None = flag(
        None, "--context-length", help="tokens of one sequence; the model's by default", kind=int, human=True
    )
    dtype: str = flag(
        "auto",
        "--dtype",
        help="of weights, activations and KV cache; auto is the checkpoint's",
        choices=("auto", "half", "float16", "bfloat16", "float", "float32"),
    )
    device: str | None = flag(None, "--device", help="cpu: ranks are threads of this machine")
    random_seed: int | None = flag(None, "--random-seed", help="of sampling without a sampling_seed", kind=int)

    tp_size: int = flag(1, "--tp-size", "--tensor-parallel-size", "--tp", help="ranks of the model", kind=int)
    dp_size: int = flag(1, "--dp-size", "--data-parallel-size", "--dp", help="DP attention groups", kind=int)
    ep_size: int = flag(1, "--ep-size", "--expert-parallel-size", "--ep", help="groups of experts", kind=int)
    enable_dp_attention: bool = flag(
        False, "--enable-dp-attention", help="attention is data parallel over --dp-size groups of ranks", kind=bool
    )
    enable_dp_lm_head: bool = flag(
        False, "--enable-dp-lm-head", help="the LM head stays inside a DP attention group", kind=bool
    )
    moe_a2a_backend: str = flag(
        "none",
        "--moe-a2a-backend",
        help="deepep sends rows to the ranks of their experts; none gathers all rows",
        choices=("none", "deepep"),
    )
    deepep_mode: str = flag(
        "auto",
        "--deepep-mode",
        help="dispatch; auto is normal while any rank prefills, else low_latency",
        choices=("auto", "normal", "low_latency"),
    )
    moe_dense_tp_size: int | None = flag(
        None, "--moe-dense-tp-size", help="width of dense FFNs: 1 or --tp-size (None is --tp-size)", kind=int
    )

    enable_two_batch_overlap: bool = flag(
        False, "--enable-two-batch-overlap", help="two micro-batches; one computes while one communicates", kind=bool
    )
    tbo_token_distribution_threshold: float = flag(
        0.48,
        "--tbo-token-distribution-threshold",
        help="a prefill whose halves are less equal is cut inside a request; 0 never does",
        kind=float,
    )
    tbo_policy: str = flag(
        "any",
        "--tbo-policy",
        help="any: ranks in unlike modes overlap too; sglang: only if their modes agree (weft's own flag)",
        choices=("any", "sglang"),
    )
    tbo_gate: str = flag(
        "auto",
        "--tbo-gate",
        help="auto: a step is overlapped if --tbo-cost-table says that it pays, without a table whenever it can be;"
        " always: whenever it can be (weft's own flag)",
        choices=("auto", "always"),
    )
    tbo_cost_table: str | None = flag(
        None,
        "--tbo-cost-table",
        help="JSON file {tokens, compute_us, dispatch_us, combine_us}: microseconds by the rows of the busiest DP rank"
        " (weft's own flag)",
    )

    enable_mixed_chunk: bool = flag(
        False, "--enable-mixed-chunk", help="decode rows join a chunk of prefill in one step", kind=bool
    )
    chunked_prefill_size: int | None = flag(
        None,
        "--chunked-prefill-size",
        help="prompt tokens of a step, divided by --dp-size under DP attention; -1: no chunks",
        kind=int,
    )
    page_size: int | None = flag(None, "--page-size", help="tokens of a KV page (1 by default)", kind=int)
    max_running_requests: int | None = flag(
        None, "--max-running-requests", help="over all DP ranks; 128 a DP rank by default", kind=int
    )
    max_total_tokens: int | None = flag(
        None, "--max-total-tokens", help="tokens of the KV cache of a DP rank", kind=int, human=True
    )
    mem_fraction_static: float | None = flag(
        None,
        "--mem-fraction-static",
        help="share of the free memory that the KV caches of all ranks may take (0.25 on the CPU)",
        kind=float,
    )

    cuda_graph_max_bs_decode: int | None = flag(
        None,
        "--cuda-graph-max-bs-decode",
        help="largest decode batch of a DP rank that a graph replays",
        kind=int,
        deprecated=("--cuda-graph-max-bs",),
    )
    cuda_graph_bs_decode: tuple[int, ...] | None = flag(
        None,
        "--cuda-graph-bs-decode",
        help="the batch sizes that graphs are captured for",
        kind=int,
        many=True,
        deprecated=("--cuda-graph-bs",),
    )
    disable_decode_cuda_graph: bool = flag(
        False,
        "--disable-decode-cuda-graph",
        help="no graphs, on any device",
        kind=bool,
        deprecated=("--disable-cuda-graph",),
    )
    disable_cuda_graph_padding: bool = flag(
        False, "--disable-cuda-graph-padding", help="a graph replays only batches of its exact size", kind=bool
    )
    disable_prefill_cuda_graph: bool = flag(
        False,
        "--disable-prefill-cuda-graph",
        help="accepted; weft has no prefill graphs",
        kind=bool,
        deprecated=("--disable-piecewise-cuda-graph",),
    )
    disable_overlap_schedule: bool = flag(
        False, "--disable-overlap-schedule", help="plan a step only after the one before it has ended", kind=bool
    )
    disable_radix_cache: bool = flag(
        False, "--disable-radix-cache", help="accepted; this version has no prefix cache", kind=bool
    )

    origins: Mapping[str, Origin] = field(init=False, repr=False, compare=False, hash=False)
    given: InitVar[frozenset[str] | None] = None  # fields that the user set; None: those unlike their default

    def __post_init__(self, given: frozenset[str] | None) -> None:
        if given is None:
            given = frozenset(name for name, item in _FLAG_FIELDS.items() if getattr(self, name) != item.default)
        for name in _FLAG_FIELDS:
            self._check_type(name)
        _refuse(self, _RANGES, given)
        _refuse(self, _COMBINATIONS, given)
        derived = self._derive()
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        _refuse(self, _DERIVED_COMBINATIONS, given)
        origins: dict[str, Origin] = dict.fromkeys(_FLAG_FIELDS, "default")
        origins |= dict.fromkeys(derived, "derived")
        origins |= dict.fromkeys(given & _FLAG_FIELDS.keys(), "user")
        object.__setattr__(self, "origins", MappingProxyType(origins))

    # ---- how to make one ----

    @classmethod
    def from_cli(cls, argv: Sequence[str], prog: str = "weft") -> "ServerArgs":
        """Parse a command line of flags only. `--help` prints them and exits."""
        parser = Parser(prog=prog, description="weft's server arguments.")
        cls.add_cli_args(parser)
        return cls.from_cli_args(parser.parse(argv))

    @classmethod
    def add_cli_args(cls, parser: Parser) -> None:
        """Add all flags, as one group. `from_cli_args` reads them back."""
        group = parser.add_argument_group("server arguments", "SGLang's names, aliases and defaults.")
        for name, item in _FLAG_FIELDS.items():
            add_flag(group, name, _FLAGS[name], item.default)

    @classmethod
    def from_cli_args(cls, namespace: object) -> "ServerArgs":
        """Of a namespace that `Parser.parse` returned; names that are no flags of weft are left alone."""
        values = {name: value for name, value in vars(namespace).items() if name in _FLAG_FIELDS}
        return cls._of(values)

    @classmethod
    def from_kwargs(cls, **kwargs: object) -> "ServerArgs":
        """Of keyword arguments: the fields, or any alias of theirs (`tp=2`, `disable_cuda_graph=True`)."""
        values: dict[str, object] = {}
        for key, value in kwargs.items():
            name = _KEYWORDS.get(key)
            if name is None:
                raise WeftError(unknown_flag_message(_as_flag(key), [_as_flag(known) for known in _KEYWORDS]))
            if name in values:
                raise WeftError(f"{key}={value!r}: {name} was given twice, under two of its names; give it once")
            values[name] = value
        return cls._of({name: value for name, value in values.items() if value is not None})

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> "ServerArgs":
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists}, given=frozenset(values))

    # ---- what follows from the flags ----

    @property
    def attn_dp_size(self) -> int:
        return self.dp_size if self.enable_dp_attention else 1

    @property
    def attn_tp_size(self) -> int:
        return self.tp_size // self.attn_dp_size

    @property
    def parallel(self) -> ParallelConfig:
        """How ranks share the model, as the planner takes it."""
        return ParallelConfig(
            tp_size=self.tp_size,
            dp_size=self.dp_size,
            enable_dp_attention=self.enable_dp_attention,
            ep_size=self.ep_size,
            moe_a2a_backend=self.moe_a2a_backend,
            deepep_mode=self.deepep_mode,
            moe_dense_tp_size=self.moe_dense_tp_size,
            enable_dp_lm_head=self.enable_dp_lm_head,
            enable_two_batch_overlap=self.enable_two_batch_overlap,
        )

    def _derive(self) -> dict[str, object]:
        """Values that the flags imply."""
        derived: dict[str, object] = {}
        if self.tokenizer_path is None:
            derived["tokenizer_path"] = self.model_path
        if self.device is None:
            derived["device"] = "cpu"
        if self.random_seed is None:
            derived["random_seed"] = secrets.randbelow(1 << 30)
        if self.page_size is None:
            derived["page_size"] = 1
        chunk = DEFAULT_CHUNKED_PREFILL_SIZE if self.chunked_prefill_size is None else self.chunked_prefill_size
        derived["chunked_prefill_size"] = chunk // self.attn_dp_size if chunk > 0 else chunk
        if self.moe_a2a_backend != "none":
            derived["ep_size"] = self.tp_size
        if self.moe_a2a_backend == "deepep" and self.deepep_mode == "normal":
            derived["disable_decode_cuda_graph"] = True
        if self.cuda_graph_max_bs_decode is None:
            sizes = self.cuda_graph_bs_decode
            derived["cuda_graph_max_bs_decode"] = max(sizes) if sizes else DEFAULT_GRAPH_MAX_BS
        return derived

    def _check_type(self, name: str) -> None:
        spec, value = _FLAGS[name], getattr(self, name)
        if value is None and _FLAG_FIELDS[name].default is None:
            return
        items = value if spec.many and isinstance(value, tuple) else (value,)
        kinds = (int, float) if spec.kind is float else (spec.kind,)
        for item in items:
            if not isinstance(item, kinds) or (isinstance(item, bool) and spec.kind is not bool):
                raise WeftError(f"{spec.name}={value!r} must be of type {spec.kind.__name__}")
        if spec.choices and value not in spec.choices:
            raise WeftError(f"{spec.name}={value} is not one of {', '.join(spec.choices)}")


_FLAG_FIELDS = {item.name: item for item in fields(ServerArgs) if flag_of(item) is not None}
_FLAGS: dict[str, Flag] = {name: spec for name, item in _FLAG_FIELDS.items() if (spec := flag_of(item)) is not None}
_KEYWORDS = {
    alias.removeprefix("--").replace("-", "_"): name
    for name, spec in _FLAGS.items()
    for alias in (*spec.names, *spec.deprecated)
}


def _as_flag(keyword: str) -> str:
    return "--" + keyword.replace("_", "-")


@dataclass(frozen=True)
class Refused:
    """A combination that weft refuses: which fields, when, why, and what to do."""

    names: tuple[str, ...]
    when: Callable[[ServerArgs], bool]
    why: str
    fix: str
    if_given: str = ""  # only if the user set this field: SGLang would change it silently


def _refuse(args: ServerArgs, table: Sequence[Refused], given: frozenset[str]) -> None:
    for entry in table:
        if (not entry.if_given or entry.if_given in given) and entry.when(args):
            shown = " with ".join(_shown(args, name) for name in entry.names)
            raise WeftError(f"{shown}: {entry.why}; {entry.fix}")


def _shown(args: ServerArgs, name: str) -> str:
    value, spec = getattr(args, name), _FLAGS[name]
    if spec.kind is bool:
        return spec.name if value else f"no {spec.name}"
    if isinstance(value, tuple):
        return f"{spec.name} {' '.join(map(str, value))}"
    return f"{spec.name} {value!r}" if value in ("", None) else f"{spec.name} {value}"


def _below(name: str, least: float, fix: str) -> Refused:
    def when(args: ServerArgs) -> bool:
        value = getattr(args, name)
        return value is not None and value < least

    return Refused((name,), when, f"must be at least {least}", fix)


_RANGES: tuple[Refused, ...] = (
    Refused(("model_path",), lambda a: not a.model_path, "no model is named", "give a directory, or 'demo'"),
    Refused(
        ("device",),
        lambda a: a.device is not None and a.device != "cpu",
        "this version of weft runs on the CPU only",
        "use --device cpu",
    ),
    _below("tp_size", 1, "give the number of ranks"),
    _below("dp_size", 1, "give the number of DP attention groups"),
    _below("ep_size", 1, "give the number of expert groups"),
    _below("page_size", 1, "give the tokens of a page"),
    _below("context_length", 1, "give the tokens of the longest sequence"),
    _below("max_running_requests", 1, "give the number of requests that run at once"),
    _below("max_total_tokens", 1, "give the tokens of a DP rank's KV cache"),
    _below("cuda_graph_max_bs_decode", 1, "use --disable-decode-cuda-graph to run without graphs"),
    _below("random_seed", 0, "give a seed from 0"),
    Refused(
        ("mem_fraction_static",),
        lambda a: a.mem_fraction_static is not None and not 0 < a.mem_fraction_static < 1,
        "a share of the memory lies between 0 and 1",
        "give for example 0.25",
    ),
    Refused(
        ("chunked_prefill_size",),
        lambda a: a.chunked_prefill_size is not None and (a.chunked_prefill_size == 0 or a.chunked_prefill_size < -1),
        "a chunk has at least one token",
        "use -1 to run prompts whole",
    ),
    Refused(
        ("tbo_token_distribution_threshold",),
        lambda a: not 0 <= a.tbo_token_distribution_threshold <= 0.5,
        "a share of the smaller half lies between 0 and 0.5",
        "give for example 0.48, or 0 never to cut a request",
    ),
    Refused(
        ("cuda_graph_bs_decode",),
        lambda a: a.cuda_graph_bs_decode is not None
        and (not a.cuda_graph_bs_decode or min(a.cuda_graph_bs_decode) < 1),
        "a graph is captured for one request or more",
        "give sizes from 1",
    ),
)

# Which combinations work: all but these. In the order of checking; the first that applies is reported.
_COMBINATIONS: tuple[Refused, ...] = (
    Refused(
        ("dp_size", "enable_dp_attention"),
        lambda a: a.dp_size > 1 and not a.enable_dp_attention,
        "weft's data parallelism is DP attention",
        "add --enable-dp-attention, or run one engine for each replica",
    ),
    Refused(
        ("enable_dp_attention", "dp_size"),
        lambda a: a.enable_dp_attention and a.dp_size == 1,
        "one DP rank has nobody to share attention with",
        "give --dp-size 2 or more, or remove --enable-dp-attention",
    ),
    Refused(
        ("enable_dp_lm_head", "enable_dp_attention"),
        lambda a: a.enable_dp_lm_head and not a.enable_dp_attention,
        "the LM head is split by DP attention groups",
        "add --enable-dp-attention and --dp-size, or remove --enable-dp-lm-head",
    ),
    Refused(
        ("tp_size", "dp_size"),
        lambda a: a.enable_dp_attention and a.tp_size % a.dp_size != 0,
        "each DP rank has tp_size / dp_size ranks",
        "choose a --tp-size that --dp-size divides",
    ),
    Refused(
        ("moe_a2a_backend", "ep_size"),
        lambda a: a.moe_a2a_backend != "none" and a.ep_size != a.tp_size,
        "dispatch spreads the experts over all ranks, so ep_size is tp_size",
        "remove --ep-size, or set it to --tp-size",
        if_given="ep_size",
    ),
    Refused(
        ("tp_size", "ep_size"),
        lambda a: a.moe_a2a_backend == "none" and a.tp_size % a.ep_size != 0,
        "each expert group has tp_size / ep_size ranks",
        "choose an --ep-size that divides --tp-size",
    ),
    Refused(
        ("deepep_mode", "moe_a2a_backend"),
        lambda a: a.deepep_mode != "auto" and a.moe_a2a_backend != "deepep",
        "the mode is one of the DeepEP dispatch",
        "add --moe-a2a-backend deepep, or remove --deepep-mode",
    ),
    Refused(
        ("moe_dense_tp_size", "tp_size"),
        lambda a: a.moe_dense_tp_size not in (None, 1, a.tp_size),
        "dense FFNs are run whole by each rank or cut over all of them",
        "use 1, the value of --tp-size, or nothing",
    ),
    Refused(
        ("enable_two_batch_overlap", "moe_a2a_backend", "enable_dp_attention"),
        lambda a: a.enable_two_batch_overlap and a.moe_a2a_backend == "none" and not a.enable_dp_attention,
        "there is no communication to overlap with",
        "add --moe-a2a-backend deepep, or DP attention, or remove --enable-two-batch-overlap",
    ),
    Refused(
        ("tbo_token_distribution_threshold", "enable_two_batch_overlap"),
        lambda a: not a.enable_two_batch_overlap,
        "the threshold is one of the two-batch overlap",
        "add --enable-two-batch-overlap, or remove the threshold",
        if_given="tbo_token_distribution_threshold",
    ),
    Refused(
        ("tbo_policy", "enable_two_batch_overlap"),
        lambda a: not a.enable_two_batch_overlap,
        "the policy is one of the two-batch overlap",
        "add --enable-two-batch-overlap, or remove the policy",
        if_given="tbo_policy",
    ),
    Refused(
        ("tbo_gate", "enable_two_batch_overlap"),
        lambda a: not a.enable_two_batch_overlap,
        "the gate is one of the two-batch overlap",
        "add --enable-two-batch-overlap, or remove the gate",
        if_given="tbo_gate",
    ),
    Refused(
        ("tbo_cost_table", "enable_two_batch_overlap"),
        lambda a: not a.enable_two_batch_overlap,
        "the table is one of the two-batch overlap",
        "add --enable-two-batch-overlap, or remove the table",
        if_given="tbo_cost_table",
    ),
    Refused(
        ("tbo_gate", "tbo_cost_table"),
        lambda a: a.tbo_gate == "always" and a.tbo_cost_table is not None,
        "a gate that is always open looks at no table",
        "remove one of the two",
    ),
    Refused(
        ("enable_mixed_chunk", "chunked_prefill_size"),
        lambda a: a.enable_mixed_chunk and a.chunked_prefill_size is not None and a.chunked_prefill_size < 0,
        "without chunks no decode row can join one, so mixed chunk would never act",
        "give --chunked-prefill-size, or remove --enable-mixed-chunk",
    ),
    Refused(
        ("max_running_requests", "dp_size"),
        lambda a: a.max_running_requests is not None and a.max_running_requests < a.attn_dp_size,
        "each DP rank runs max_running_requests // dp_size requests, which is none",
        "raise --max-running-requests to --dp-size or more",
    ),
    Refused(
        ("disable_decode_cuda_graph", "cuda_graph_bs_decode"),
        lambda a: a.disable_decode_cuda_graph and a.cuda_graph_bs_decode is not None,
        "sizes are given for graphs that are off",
        "remove one of the two",
    ),
    Refused(
        ("disable_decode_cuda_graph", "cuda_graph_max_bs_decode"),
        lambda a: a.disable_decode_cuda_graph and a.cuda_graph_max_bs_decode is not None,
        "a size is given for graphs that are off",
        "remove one of the two",
    ),
    Refused(
        ("disable_decode_cuda_graph", "disable_cuda_graph_padding"),
        lambda a: a.disable_decode_cuda_graph and a.disable_cuda_graph_padding,
        "graphs that are off pad nothing",
        "remove one of the two",
    ),
    Refused(
        ("deepep_mode", "cuda_graph_bs_decode"),
        lambda a: a.deepep_mode == "normal" and a.cuda_graph_bs_decode is not None,
        "normal dispatch cannot be captured, so there are no graphs",
        "remove the sizes, or use --deepep-mode auto",
    ),
    Refused(
        ("deepep_mode", "cuda_graph_max_bs_decode"),
        lambda a: a.deepep_mode == "normal" and a.cuda_graph_max_bs_decode is not None,
        "normal dispatch cannot be captured, so there are no graphs",
        "remove the size, or use --deepep-mode auto",
    ),
    Refused(
        ("deepep_mode", "disable_cuda_graph_padding"),
        lambda a: a.deepep_mode == "normal" and a.disable_cuda_graph_padding,
        "normal dispatch cannot be captured, so there are no graphs to pad",
        "remove --disable-cuda-graph-padding, or use --deepep-mode auto",
    ),
    Refused(
        ("cuda_graph_bs_decode", "cuda_graph_max_bs_decode"),
        lambda a: a.cuda_graph_bs_decode is not None
        and a.cuda_graph_max_bs_decode is not None
        and max(a.cuda_graph_bs_decode) != a.cuda_graph_max_bs_decode,
        "the largest size of the list is the maximum",
        "give only the list, or only the maximum",
    ),
    Refused(
        ("skip_tokenizer_init", "tokenizer_path"),
        lambda a: a.skip_tokenizer_init and a.tokenizer_path is not None,
        "a tokenizer is named and skipped",
        "remove one of the two",
    ),
    Refused(
        ("chunked_prefill_size", "dp_size"),
        lambda a: a.chunked_prefill_size is not None and 0 < a.chunked_prefill_size < a.attn_dp_size,
        "each DP rank takes chunked_prefill_size // dp_size tokens, which is none",
        "raise --chunked-prefill-size, or use -1 to run prompts whole",
    ),
)

# Checked once values are derived: the chunk is then that of one DP rank.
_DERIVED_COMBINATIONS: tuple[Refused, ...] = (
    Refused(
        ("chunked_prefill_size", "page_size"),
        lambda a: a.chunked_prefill_size is not None
        and a.page_size is not None
        and a.chunked_prefill_size > 0
        and a.chunked_prefill_size % a.page_size != 0,
        "the chunk of a DP rank is whole pages",
        "make --chunked-prefill-size a multiple of --page-size (times --dp-size under DP attention)",
    ),
)
