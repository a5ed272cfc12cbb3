"""The flags of weft: SGLang's names, aliases, defaults and derived values.

Everything that flags alone decide is decided here, with combinations.py; what also needs the model's config.json is in
engine_config.py. Where SGLang changes a value silently, weft refuses if the user gave that value, else notes where the
value came from. Flags that are planned are fields like any other: `planned()` names those that stand in the way.
"""

import argparse
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from weft import gpu, gpu_defaults
from weft.combinations import COMBINATIONS, DERIVED_COMBINATIONS, PLANNED, RANGES, Refused, first_refused
from weft.errors import WeftError
from weft.flags import Flag, Parser, add_flag, flag, flag_of, unknown_flag_message
from weft.plan import ParallelConfig

Origin = Literal["user", "default", "model", "derived"]

DEFAULT_MAX_PREFILL_TOKENS = 16384
DEFAULT_RUNNING_WITH_SPECULATION = 48
DEMO_MODEL = "demo"

_SERVER = "the HTTP server; use weft.Engine or python -m weft.generate, and leave the flag out"
_GPUS = "ranks on several GPUs; choose one by CUDA_VISIBLE_DEVICES, and leave the flag out"
_NODES = "ranks on several nodes; run all ranks in one process with --tp-size"
_FP8 = "quantised weights and caches; use an unquantised checkpoint, and leave the flag out"
_SPECULATION = "speculative decoding; leave the flag out"
_PREFIX_CACHE = "the prefix cache; leave the flag out"
_PD = "separate servers for prefill and decode; run both in one Engine"


@dataclass(frozen=True)
class ServerArgs:
    """How to run a model. Fields are SGLang's; None means "not given" until it is derived.

    gpu_memory_mib: derive defaults as for GPUs of that memory; None: as for this machine's, unless device is "cpu".

    Raises:
        WeftError: a value, or a combination of values, is refused. The message names the flags, the values and the
            fix. Nothing has been read or started then.
    """

    # Model
    model_path: str = flag(
        "", "--model-path", "--model", help="directory of a Hugging Face checkpoint, or 'demo' for the model in weft"
    )
    tokenizer_path: str | None = flag(None, "--tokenizer-path", help="directory of tokenizer.json, if not the model's")
    skip_tokenizer_init: bool = flag(False, "--skip-tokenizer-init", help="token ids in and out, no text", kind=bool)
    load_format: str = flag(
        "auto",
        "--load-format",
        help="weights are safetensors (auto is the same), or random (dummy: only config.json is read)",
        choices=("auto", "safetensors", "dummy"),
        lacks="pt npcache sharded_state gguf bitsandbytes mistral layered flash_rl remote remote_instance"
        " fastsafetensors private runai_streamer",
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
    quantization: str | None = flag(
        None,
        "--quantization",
        unset="none",
        help="how weights are quantised; none are by default",
        choices=("fp8",),
        lacks="awq mxfp8 gptq marlin gptq_marlin awq_marlin bitsandbytes gguf modelopt modelopt_fp8 modelopt_fp4"
        " nvfp4_online modelopt_mixed petit_nvfp4 w8a8_int8 w8a8_fp8 moe_wna16 w4afp8 mxfp4 auto-round auto-round-int8"
        " compressed-tensors modelslim mxfp_w4a8 quark quark_int4fp8_moe quark_mxfp4 mlx_q4 mlx_q8 unquant humming qoq",
        planned=_FP8,
    )
    kv_cache_dtype: str = flag(
        "auto",
        "--kv-cache-dtype",
        help="of the KV cache; auto is that of --dtype",
        choices=("auto", "bf16", "bfloat16", "fp8_e4m3", "fp8_e5m2"),
        lacks="mxfp8 nvfp4 fp4_mx_block16 fp4_e2m1",
        planned=_FP8,
    )
    device: str | None = flag(
        None,
        "--device",
        help="cuda: the first GPU that CUDA shows; cpu: ranks are threads of this machine; by default cuda where weft"
        " was built for it and there is a GPU",
        unset="detected",
        choices=("cpu", "cuda"),
        lacks="xpu hpu npu musa mps tpu",
    )
    base_gpu_id: int = flag(0, "--base-gpu-id", help="the first GPU", kind=int, planned=_GPUS)
    gpu_id_step: int = flag(1, "--gpu-id-step", help="from one GPU to the next", kind=int, planned=_GPUS)
    random_seed: int | None = flag(None, "--random-seed", help="of sampling without a sampling_seed", kind=int)
    watchdog_timeout: float = flag(
        300.0, "--watchdog-timeout", help="seconds that a rank waits for another before all stop", kind=float
    )

    # Parallelism
    tp_size: int = flag(1, "--tp-size", "--tensor-parallel-size", "--tp", help="ranks of the model", kind=int)
    dp_size: int = flag(1, "--dp-size", "--data-parallel-size", "--dp", help="DP attention groups", kind=int)
    ep_size: int = flag(1, "--ep-size", "--expert-parallel-size", "--ep", help="groups of experts", kind=int)
    enable_dp_attention: bool = flag(
        False, "--enable-dp-attention", help="attention is data parallel over --dp-size groups of ranks", kind=bool
    )
    enable_dp_lm_head: bool = flag(
        False, "--enable-dp-lm-head", help="the LM head stays inside a DP attention group", kind=bool
    )
    load_balance_method: str = flag(
        "auto",
        "--load-balance-method",
        help="a request goes to the DP rank with the fewest tokens still to compute (auto is the same)",
        choices=("auto", "total_tokens", "follow_bootstrap_room"),
        lacks="round_robin total_requests",
        planned=_PD,
        planned_values=("follow_bootstrap_room",),
    )
    moe_a2a_backend: str = flag(
        "none",
        "--moe-a2a-backend",
        help="deepep sends rows to the ranks of their experts; none gathers all rows",
        choices=("none", "deepep"),
        lacks="mooncake nixl mori ascend_fuseep flashinfer megamoe ascend_tp pplx deepep_v2 nccl_ep",
        shorthands=(("--enable-deepep-moe", "deepep"),),
    )
    deepep_mode: str = flag(
        "auto",
        "--deepep-mode",
        help="dispatch; auto is normal while any rank prefills, else low_latency",
        choices=("auto", "normal", "low_latency"),
    )
    deepep_dispatcher_output_dtype: str = flag(
        "auto",
        "--deepep-dispatcher-output-dtype",
        help="of dispatched rows; auto is that of activations",
        choices=("auto", "bf16", "fp8"),
        lacks="int8 nvfp4",
        planned=_FP8,
    )
    moe_dense_tp_size: int | None = flag(
        None, "--moe-dense-tp-size", help="width of dense FFNs: 1 or --tp-size (None is --tp-size)", kind=int
    )
    enable_layernorm_sp: bool = flag(
        False,
        "--enable-layernorm-sp",
        "--enable-sp",
        "--enable-sp-layernorm",
        help="in steps that prefill, the ranks of an attention group share residual adds and norms by rows",
        kind=bool,
    )
    nnodes: int = flag(1, "--nnodes", help="nodes of the run", kind=int, planned=_NODES)
    node_rank: int = flag(0, "--node-rank", help="number of this node", kind=int, planned=_NODES)
    dist_init_addr: str | None = flag(
        None, "--dist-init-addr", "--nccl-init-addr", unset="none", help="HOST:PORT where nodes meet", planned=_NODES
    )
    nccl_port: int | None = flag(
        None, "--nccl-port", unset="none", help="where GPUs of one node meet", kind=int, planned=_NODES
    )
    dist_timeout: int | None = flag(
        None, "--dist-timeout", unset="none", help="seconds that nodes wait for each other", kind=int, planned=_NODES
    )

    # Overlap
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
        help="any: ranks in unlike modes overlap too; sglang: only if their modes agree and no prefill is low_latency"
        " (weft's own flag)",
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
        unset="none",
        help="JSON file {tokens, compute_us, dispatch_us, combine_us}: microseconds by the rows of the busiest DP rank"
        " (weft's own flag)",
    )
    enable_single_batch_overlap: bool = flag(
        False,
        "--enable-single-batch-overlap",
        help="computation and communication of one batch overlap",
        kind=bool,
        planned="overlap inside one batch; use --enable-two-batch-overlap",
    )
    disable_overlap_schedule: bool = flag(
        False, "--disable-overlap-schedule", help="plan a step only after the one before it has ended", kind=bool
    )

    # Scheduling and memory
    enable_mixed_chunk: bool = flag(
        False, "--enable-mixed-chunk", help="decode rows join a chunk of prefill in one step", kind=bool
    )
    chunked_prefill_size: int | None = flag(
        None,
        "--chunked-prefill-size",
        help="prompt tokens of a step, divided by --dp-size under DP attention; -1: no chunks",
        kind=int,
    )
    max_prefill_tokens: int = flag(
        DEFAULT_MAX_PREFILL_TOKENS,
        "--max-prefill-tokens",
        help="prompt tokens of a step of a DP rank, at least a chunk; raised to the chunk by default",
        kind=int,
        human=True,
    )
    page_size: int | None = flag(
        None, "--page-size", help="tokens of a KV page (1 by default; on a GPU 64, or what divides the chunk)", kind=int
    )
    max_running_requests: int | None = flag(
        None,
        "--max-running-requests",
        help="over all DP ranks; by default 128 a DP rank, on a GPU at least the largest batch of a graph",
        kind=int,
    )
    max_queued_requests: int | None = flag(
        None,
        "--max-queued-requests",
        unset="none",
        help="requests that wait before more are refused",
        kind=int,
        planned=_SERVER,
    )
    max_total_tokens: int | None = flag(
        None, "--max-total-tokens", help="tokens of the KV cache of a DP rank", kind=int, human=True
    )
    mem_fraction_static: float | None = flag(
        None,
        "--mem-fraction-static",
        help="on the CPU the share of the free memory that the KV caches of all ranks may take (0.25); on a GPU the"
        " share of its free memory for weights, buffers and KV cache together (0.9)",
        kind=float,
    )
    schedule_policy: str = flag(
        "fcfs",
        "--schedule-policy",
        help="which request runs next: the first that came, or that with the longest known prefix (lpm)",
        choices=("fcfs", "lpm"),
        lacks="random dfs-weight lof priority routing-key",
        planned=_PREFIX_CACHE,
    )
    disable_radix_cache: bool = flag(
        False, "--disable-radix-cache", help="accepted; this version has no prefix cache", kind=bool
    )
    radix_eviction_policy: str = flag(
        "lru",
        "--radix-eviction-policy",
        help="which prefix leaves the cache first",
        choices=("lru", "lfu"),
        lacks="slru priority",
        planned=_PREFIX_CACHE,
    )

    # Graphs
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
    cuda_graph_backend_decode: str | None = flag(
        None,
        "--cuda-graph-backend-decode",
        help="full: a graph holds a whole step; disabled is --disable-decode-cuda-graph",
        choices=("full", "disabled"),
        lacks="breakable tc_piecewise",
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

    # Speculative decoding
    speculative_algorithm: str | None = flag(
        None,
        "--speculative-algorithm",
        unset="none",
        help="draft tokens by the checkpoint's own draft layers (NEXTN is the same)",
        choices=("EAGLE", "NEXTN"),
        lacks="EAGLE3 STANDALONE NGRAM",
        planned=_SPECULATION,
    )
    speculative_draft_model_path: str | None = flag(
        None,
        "--speculative-draft-model-path",
        "--speculative-draft-model",
        unset="none",
        help="directory of the draft layers, if not the model's",
        planned=_SPECULATION,
    )
    speculative_num_steps: int | None = flag(
        None, "--speculative-num-steps", unset="none", help="steps of the draft layers", kind=int, planned=_SPECULATION
    )
    speculative_eagle_topk: int | None = flag(
        None,
        "--speculative-eagle-topk",
        unset="none",
        help="branches of the draft tree",
        kind=int,
        planned=_SPECULATION,
    )
    speculative_num_draft_tokens: int | None = flag(
        None, "--speculative-num-draft-tokens", unset="none", help="tokens to verify", kind=int, planned=_SPECULATION
    )

    # Prefill and decode servers
    disaggregation_mode: str = flag(
        "null",
        "--disaggregation-mode",
        help="what this server does: all (null), prefill only, or decode only",
        choices=("null", "prefill", "decode"),
        planned=_PD,
    )
    disaggregation_transfer_backend: str = flag(
        "mooncake",
        "--disaggregation-transfer-backend",
        help="how KV pages travel",
        choices=("mooncake", "nixl"),
        lacks="ascend fake mori mooncake_tcp",
        planned=_PD,
    )
    disaggregation_bootstrap_port: int = flag(
        8998, "--disaggregation-bootstrap-port", help="where a decode server finds it", kind=int, planned=_PD
    )
    num_reserved_decode_tokens: int = flag(
        512, "--num-reserved-decode-tokens", help="tokens kept free for decoding", kind=int, planned=_PD
    )

    # HTTP server
    host: str = flag("127.0.0.1", "--host", help="where the server listens", planned=_SERVER)
    port: int = flag(30000, "--port", help="where the server listens", kind=int, planned=_SERVER)
    api_key: str | None = flag(None, "--api-key", unset="none", help="what clients must send", planned=_SERVER)
    served_model_name: str | None = flag(None, "--served-model-name", help="the model's name", planned=_SERVER)
    sampling_defaults: str = flag(
        "model",
        "--sampling-defaults",
        help="of requests: those of generation_config.json, or OpenAI's",
        choices=("model", "openai"),
        planned=_SERVER,
    )
    stream_interval: int = flag(
        1, "--stream-interval", help="tokens between two parts of a stream", kind=int, planned=_SERVER
    )
    incremental_streaming_output: bool = flag(
        False,
        "--incremental-streaming-output",
        help="a part of a stream holds what is new, not all until then",
        kind=bool,
        deprecated=("--stream-output",),
        planned=_SERVER,
    )
    enable_cache_report: bool = flag(
        False, "--enable-cache-report", help="count cached tokens in answers", kind=bool, planned=_SERVER
    )
    enable_metrics: bool = flag(False, "--enable-metrics", help="metrics for Prometheus", kind=bool, planned=_SERVER)
    decode_log_interval: int = flag(
        40, "--decode-log-interval", help="decode steps between two lines of the log", kind=int, planned=_SERVER
    )
    log_level: str = flag("info", "--log-level", help="of all loggers", planned=_SERVER)
    log_level_http: str | None = flag(
        None, "--log-level-http", unset="none", help="of the HTTP server", planned=_SERVER
    )
    log_requests: bool = flag(False, "--log-requests", help="log every request", kind=bool, planned=_SERVER)
    log_requests_level: int = flag(2, "--log-requests-level", help="how much: 0 to 3", kind=int, planned=_SERVER)
    log_requests_format: str = flag(
        "text", "--log-requests-format", help="of such lines", choices=("text", "json"), planned=_SERVER
    )

    origins: Mapping[str, Origin] = field(init=False, repr=False, compare=False, hash=False)
    user_values: Mapping[str, object] = field(init=False, repr=False, compare=False, hash=False)  # as given
    gpu_memory_mib: InitVar[int | None] = None
    given: InitVar[frozenset[str] | None] = None  # fields that the user set; None: those unlike their default
    with_lacking: InitVar[bool] = False  # let values pass that SGLang has and weft has not; who does so refuses them

    def __post_init__(self, gpu_memory_mib: int | None, given: frozenset[str] | None, with_lacking: bool) -> None:
        if given is None:
            given = frozenset(name for name, item in _FLAG_FIELDS.items() if getattr(self, name) != item.default)
        for name in _FLAG_FIELDS:
            self._check_type(name, with_lacking)
        self._refuse(RANGES, given)
        self._refuse(COMBINATIONS, given)
        if gpu_memory_mib is None and self.device != "cpu":
            gpu_memory_mib = gpu.memory_mib()
        derived = self._derive(gpu_memory_mib, given)
        origins: dict[str, Origin] = dict.fromkeys(_FLAG_FIELDS, "default")
        origins |= dict.fromkeys(given, "user")
        origins |= {name: "derived" for name, value in derived.items() if value != getattr(self, name)}
        object.__setattr__(self, "user_values", MappingProxyType({name: getattr(self, name) for name in given}))
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "origins", MappingProxyType(origins))
        self._refuse(DERIVED_COMBINATIONS, given)

    # ---- how to make one ----

    @classmethod
    def from_cli(cls, argv: Sequence[str], prog: str = "weft", gpu_memory_mib: int | None = None) -> "ServerArgs":
        """Parse a command line of flags only. `--help` prints them and exits.

        Raises:
            WeftError: as the class; or flags are unknown, or weft does not have them. All of those are named.
        """
        args, refused = cls.parse_known(argv, prog, gpu_memory_mib)
        args.refuse_if(refused)
        return args

    @classmethod
    def parse_known(
        cls, argv: Sequence[str], prog: str = "weft", gpu_memory_mib: int | None = None
    ) -> tuple["ServerArgs", list[str]]:
        """The arguments without the flags that SGLang has and weft has not, and why each of those is refused.

        Values that weft does not have are refused too, but stand in the arguments, with which nothing runs.
        """
        parser = Parser(prog=prog, description="weft's server arguments.")
        cls.add_cli_args(parser)
        return cls._known(parser.parse(argv), gpu_memory_mib)

    @classmethod
    def add_cli_args(cls, parser: Parser) -> None:
        """Add all flags, as two groups. `from_cli_args` reads them back."""
        works = parser.add_argument_group("server arguments", "SGLang's names, aliases and defaults.")
        planned = parser.add_argument_group(
            "planned server arguments", "Parsed and checked; values other than the default are refused when it runs."
        )
        for name, item in _FLAG_FIELDS.items():
            add_flag(works if _FLAGS[name].works else planned, name, _FLAGS[name], item.default)

    @classmethod
    def from_cli_args(cls, namespace: argparse.Namespace) -> "ServerArgs":
        """Of a namespace that `Parser.parse` returned; names that are no flags of weft are left alone."""
        args, refused = cls._known(namespace, None)
        args.refuse_if(refused)
        return args

    @classmethod
    def _known(cls, namespace: argparse.Namespace, gpu_memory_mib: int | None) -> tuple["ServerArgs", list[str]]:
        values = {name: value for name, value in vars(namespace).items() if name in _FLAG_FIELDS}
        return cls._of(values, list(getattr(namespace, "refused", ())), gpu_memory_mib)

    @classmethod
    def from_kwargs(cls, **kwargs: object) -> "ServerArgs":
        """Of keyword arguments: the fields, or any alias of theirs (`tp=2`, `disable_cuda_graph=True`)."""
        values: dict[str, object] = {}
        for key, value in kwargs.items():
            if key in _SHORTHANDS:
                if value in (None, False):
                    continue
                key, value = _SHORTHANDS[key]
            name = _KEYWORDS.get(key)
            if name is None:
                raise WeftError(unknown_flag_message(_as_flag(key), [_as_flag(known) for known in _KEYWORDS]))
            if name in values:
                raise WeftError(f"{key}={value!r}: {name} was given twice, under two of its names; give it once")
            values[name] = value
        args, refused = cls._of({name: value for name, value in values.items() if value is not None}, [], None)
        args.refuse_if(refused)
        return args

    @classmethod
    def _of(
        cls, values: Mapping[str, Any], refused: list[str], gpu_memory_mib: int | None
    ) -> tuple["ServerArgs", list[str]]:
        refused += _lacking(values)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        try:
            args = cls(**{**values, **lists}, gpu_memory_mib=gpu_memory_mib, given=frozenset(values), with_lacking=True)
        except WeftError as error:
            raise WeftError("\n".join([*refused, str(error)])) from None
        return args, refused

    # ---- what follows from the flags ----

    def lacking(self) -> list[str]:
        """A line for each value that weft does not have; only `parse_known` makes arguments that have any."""
        return _lacking({name: getattr(self, name) for name in _FLAGS})

    def planned(self) -> list[str]:
        """Why nothing runs with these arguments yet: a line for each flag that is planned; none if they work."""
        needs = [
            (spec.show(value), spec.planned)
            for name, spec in _FLAGS.items()
            if name in self.user_values
            and getattr(self, name) not in spec.lacks
            and spec.is_planned(value := getattr(self, name), _FLAG_FIELDS[name].default)
        ]
        needs += [(self._show(entry.names), f"{entry.why}; {entry.fix}") for entry in PLANNED if entry.when(self)]
        return [f"{what} is planned, and not in this version: it needs {need}" for what, need in needs]

    def refuse_if(self, refused: Sequence[str]) -> None:
        """Raise WeftError if there are reasons; it also names what is planned."""
        if refused:
            raise WeftError("\n".join([*refused, *self.planned()]))

    @property
    def attn_dp_size(self) -> int:
        return self.dp_size if self.enable_dp_attention else 1

    @property
    def attn_tp_size(self) -> int:
        return self.tp_size // self.attn_dp_size

    @property
    def place(self) -> str:
        """Where it runs, for messages."""
        return "the GPU" if self.device == "cuda" else f"{self.tp_size} rank{'s' if self.tp_size > 1 else ''}"

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
            enable_layernorm_sp=self.enable_layernorm_sp,
        )

    def _derive(self, gpu_memory_mib: int | None, given: frozenset[str]) -> dict[str, object]:
        """Values that the flags imply. Those of flags that the user set are refused before, or are a share."""
        derived: dict[str, object] = {}
        if self.tokenizer_path is None:
            derived["tokenizer_path"] = self.model_path
        if self.served_model_name is None:
            derived["served_model_name"] = self.model_path
        if self.device is None:
            derived["device"] = "cpu" if gpu_memory_mib is None else "cuda"
        if self.random_seed is None:
            derived["random_seed"] = secrets.randbelow(1 << 30)
        chunk = self.chunked_prefill_size
        if chunk is None:
            chunk = gpu_defaults.chunked_prefill_size(gpu_memory_mib)
        chunk = chunk // self.attn_dp_size if chunk > 0 else chunk
        derived["chunked_prefill_size"] = chunk
        device = self.device or derived["device"]
        if self.page_size is None:
            # A chunk is whole pages.
            derived["page_size"] = math.gcd(gpu_defaults.PAGE_SIZE, max(0, chunk)) if device == "cuda" else 1
        if "max_prefill_tokens" not in given:
            derived["max_prefill_tokens"] = max(self.max_prefill_tokens, chunk)
        if self.moe_a2a_backend != "none":
            derived["ep_size"] = self.tp_size
        if self.speculative_algorithm is not None:
            if self.speculative_algorithm == "NEXTN":
                derived["speculative_algorithm"] = "EAGLE"
            if self.max_running_requests is None:
                derived["max_running_requests"] = DEFAULT_RUNNING_WITH_SPECULATION
        prefills = self.disaggregation_mode == "prefill"
        if self.disaggregation_mode == "decode":
            derived["disable_radix_cache"] = True
        if self.load_balance_method == "auto":
            derived["load_balance_method"] = "follow_bootstrap_room" if prefills else "total_tokens"
        if self.deepep_mode == "normal" or prefills or self.cuda_graph_backend_decode == "disabled":
            derived["disable_decode_cuda_graph"] = True
        no_graphs = self.disable_decode_cuda_graph or "disable_decode_cuda_graph" in derived
        derived["cuda_graph_backend_decode"] = "disabled" if no_graphs else "full"
        if self.cuda_graph_max_bs_decode is None:
            sizes = self.cuda_graph_bs_decode
            default = gpu_defaults.graph_max_bs(gpu_memory_mib, self.tp_size)
            derived["cuda_graph_max_bs_decode"] = max(sizes) if sizes else default
        return derived

    def _refuse(self, table: Sequence[Refused], given: frozenset[str]) -> None:
        entry = first_refused(table, self, given)
        if entry is not None:
            raise WeftError(f"{self._show(entry.names)}: {entry.why}; {entry.fix}")

    def _show(self, names: Sequence[str]) -> str:
        return " with ".join(_FLAGS[name].show(getattr(self, name)) for name in names)

    def _check_type(self, name: str, with_lacking: bool) -> None:
        spec, value = _FLAGS[name], getattr(self, name)
        if value is None and _FLAG_FIELDS[name].default is None:
            return
        items = value if spec.many and isinstance(value, tuple) else (value,)
        kinds = (int, float) if spec.kind is float else (spec.kind,)
        for item in items:
            if not isinstance(item, kinds) or (isinstance(item, bool) and spec.kind is not bool):
                raise WeftError(f"{spec.name}={value!r} must be of type {spec.kind.__name__}; give such a value")
        if spec.choices and value not in spec.choices and not (with_lacking and value in spec.lacks):
            raise WeftError(spec.why_lacking(value) or f"{spec.show(value)}: use {' or '.join(spec.choices)}")


def _as_flag(keyword: str) -> str:
    return "--" + keyword.replace("_", "-")


def _as_keyword(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


_FLAG_FIELDS = {item.name: item for item in fields(ServerArgs) if flag_of(item) is not None}
_FLAGS: dict[str, Flag] = {name: spec for name, item in _FLAG_FIELDS.items() if (spec := flag_of(item)) is not None}
_KEYWORDS = {_as_keyword(alias): name for name, spec in _FLAGS.items() for alias in (*spec.names, *spec.deprecated)}
_SHORTHANDS = {_as_keyword(alias): (name, value) for name, spec in _FLAGS.items() for alias, value in spec.shorthands}


def _lacking(values: Mapping[str, object]) -> list[str]:
    found = (_FLAGS[name].why_lacking(value) for name, value in values.items() if isinstance(value, str))
    return [why for why in found if why is not None]


def flag_table() -> list[tuple[str, Flag, object]]:
    """All flags in order: the field, its flag, its default."""
    return [(name, spec, _FLAG_FIELDS[name].default) for name, spec in _FLAGS.items()]
