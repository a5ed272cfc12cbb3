"""Which values and combinations of flags weft refuses, and which are planned; all others work.

Each entry says which flags, when, why and what to do. Where SGLang takes such a combination, `sglang` says what becomes
of it there. The first entry that applies is reported.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.server_args import ServerArgs

MAX_RANKS = 1024


@dataclass(frozen=True)
class Refused:
    """Values of flags that weft refuses."""

    names: tuple[str, ...]  # of the fields; their flags and values begin the message
    when: Callable[["ServerArgs"], bool]
    why: str
    fix: str
    if_given: str = ""  # only if the user set this field: otherwise it takes what the others imply
    sglang: str = ""  # what SGLang does instead; empty: it refuses too


def first_refused(table: Sequence[Refused], args: "ServerArgs", given: frozenset[str]) -> Refused | None:
    return next((it for it in table if (not it.if_given or it.if_given in given) and it.when(args)), None)


def _between(name: str, least: float, most: float, fix: str, sglang: str = "takes it, and fails later") -> Refused:
    def when(args: "ServerArgs") -> bool:
        value = getattr(args, name)
        return value is not None and not least <= value <= most

    bounds = f"must be at least {least}" if math.isinf(most) else f"must lie between {least} and {most}"
    return Refused((name,), when, bounds, fix, sglang=sglang)


_HUGE = 1 << 40

# Of one flag. Checked first.
RANGES: tuple[Refused, ...] = (
    Refused(("model_path",), lambda a: not a.model_path, "no model is named", "give a directory, or 'demo'"),
    _between("tp_size", 1, MAX_RANKS, "give the number of ranks"),
    _between("dp_size", 1, MAX_RANKS, "give the number of DP attention groups"),
    _between("ep_size", 1, MAX_RANKS, "give the number of expert groups"),
    _between("nnodes", 1, MAX_RANKS, "give the number of nodes", sglang=""),
    _between("node_rank", 0, MAX_RANKS, "give a number from 0 to --nnodes less one"),
    _between("page_size", 1, 1 << 20, "give the tokens of a page"),
    _between("context_length", 1, _HUGE, "give the tokens of the longest sequence"),
    _between("max_running_requests", 1, 1 << 20, "give the number of requests that run at once"),
    _between("max_queued_requests", 1, 1 << 20, "give the number of requests that may wait"),
    _between("max_total_tokens", 1, _HUGE, "give the tokens of a DP rank's KV cache"),
    _between("max_prefill_tokens", 1, _HUGE, "give the prompt tokens of a step"),
    _between("cuda_graph_max_bs_decode", 1, 1 << 20, "use --disable-decode-cuda-graph to run without graphs"),
    _between("random_seed", 0, (1 << 63) - 1, "give a seed from 0"),
    _between("base_gpu_id", 0, MAX_RANKS, "give the first GPU to use", sglang=""),
    _between("gpu_id_step", 1, MAX_RANKS, "give 1 to use neighbouring GPUs", sglang=""),
    _between("watchdog_timeout", 0.001, 1e6, "give the seconds that a rank may wait for another"),
    _between("port", 1, 65535, "give a TCP port"),
    _between("nccl_port", 1, 65535, "give a TCP port"),
    _between("dist_timeout", 1, 1 << 20, "give the seconds that nodes may wait for each other"),
    _between("disaggregation_bootstrap_port", 1, 65535, "give a TCP port"),
    _between("num_reserved_decode_tokens", 0, _HUGE, "give the tokens that are kept free"),
    _between("log_requests_level", 0, 3, "give a level from 0 to 3", sglang=""),
    _between("stream_interval", 1, 1 << 20, "give the tokens between two parts of a stream"),
    _between("decode_log_interval", 1, _HUGE, "give the decode steps between two lines"),
    _between("speculative_num_steps", 1, 64, "give the steps of the draft model"),
    _between("speculative_eagle_topk", 1, 64, "give the branches of the draft tree"),
    _between("speculative_num_draft_tokens", 1, 256, "give the tokens to verify"),
    Refused(
        ("mem_fraction_static",),
        lambda a: a.mem_fraction_static is not None and not 0 < a.mem_fraction_static < 1,
        "a share of the memory lies between 0 and 1",
        "give for example 0.25",
        sglang="takes it, and fails when memory is taken",
    ),
    Refused(
        ("chunked_prefill_size",),
        lambda a: a.chunked_prefill_size not in (None, -1) and not 0 < (a.chunked_prefill_size or 0) <= 1 << 30,
        "a chunk has at least one token",
        "use -1 to run prompts whole",
        sglang="runs prompts whole",
    ),
    Refused(
        ("tbo_token_distribution_threshold",),
        lambda a: not 0 <= a.tbo_token_distribution_threshold <= 0.5,
        "a share of the smaller half lies between 0 and 0.5",
        "give for example 0.48, or 0 never to cut a request",
        sglang="fails at the first long prompt",
    ),
    Refused(
        ("cuda_graph_bs_decode",),
        lambda a: a.cuda_graph_bs_decode is not None
        and not (a.cuda_graph_bs_decode and 1 <= min(a.cuda_graph_bs_decode) <= max(a.cuda_graph_bs_decode) <= 1 << 20),
        "a graph is captured for one request or more",
        "give sizes from 1 to 1048576",
        sglang="takes it, and fails when graphs are captured",
    ),
    Refused(
        ("served_model_name",),
        lambda a: ":" in (a.served_model_name or "") and a.served_model_name != a.model_path,
        "a colon separates a model from its adapter",
        "choose a name without ':'",
    ),
)


# What leaves no graphs, and which flags are then refused.
_NO_GRAPHS: tuple[tuple[str, object, str, str], ...] = (
    ("disable_decode_cuda_graph", True, "graphs are off, so the flag would do nothing", "remove one of the two"),
    ("cuda_graph_backend_decode", "disabled", "graphs are off, so the flag would do nothing", "remove one of the two"),
    ("deepep_mode", "normal", "normal dispatch cannot be captured, so there are no graphs", "use --deepep-mode auto"),
    ("disaggregation_mode", "prefill", "a prefill server decodes nothing, so there are no graphs", "remove the latter"),
)
_OF_GRAPHS: tuple[tuple[str, Callable[["ServerArgs"], bool]], ...] = (
    ("cuda_graph_bs_decode", lambda a: a.cuda_graph_bs_decode is not None),
    ("cuda_graph_max_bs_decode", lambda a: a.cuda_graph_max_bs_decode is not None),
    ("disable_cuda_graph_padding", lambda a: a.disable_cuda_graph_padding),
    ("cuda_graph_backend_decode", lambda a: a.cuda_graph_backend_decode == "full"),
)


def _without_graphs(
    cause: str, value: object, why: str, fix: str, name: str, is_on: Callable[["ServerArgs"], bool]
) -> Refused:
    return Refused(
        (cause, name), lambda a: getattr(a, cause) == value and is_on(a), why, fix, sglang="ignores the latter"
    )


def _needs_tbo(name: str, what: str) -> Refused:
    return Refused(
        (name, "enable_two_batch_overlap"),
        lambda a: not a.enable_two_batch_overlap,
        f"the {what} is one of the two-batch overlap",
        f"add --enable-two-batch-overlap, or remove the {what}",
        if_given=name,
        sglang="ignores it",
    )


def _needs_speculation(name: str) -> Refused:
    return Refused(
        (name, "speculative_algorithm"),
        lambda a: getattr(a, name) is not None and a.speculative_algorithm is None,
        "it is one of speculative decoding",
        "add --speculative-algorithm, or remove it",
        sglang="ignores it",
    )


# Of several flags.
COMBINATIONS: tuple[Refused, ...] = (
    Refused(
        ("dp_size", "enable_dp_attention"),
        lambda a: a.dp_size > 1 and not a.enable_dp_attention,
        "weft's data parallelism is DP attention",
        "add --enable-dp-attention, or run one engine for each replica",
        sglang="runs that many replicas",
    ),
    Refused(
        ("enable_dp_attention", "dp_size"),
        lambda a: a.enable_dp_attention and a.dp_size == 1,
        "one DP rank has nobody to share attention with",
        "give --dp-size 2 or more, or remove --enable-dp-attention",
        sglang="switches DP attention off",
    ),
    Refused(
        ("enable_dp_lm_head", "enable_dp_attention"),
        lambda a: a.enable_dp_lm_head and not a.enable_dp_attention,
        "the LM head is split by DP attention groups",
        "add --enable-dp-attention and --dp-size, or remove --enable-dp-lm-head",
        sglang="refuses it, but with --dp-size 1 switches it off",
    ),
    Refused(
        ("tp_size", "dp_size"),
        lambda a: a.enable_dp_attention and a.tp_size % a.dp_size != 0,
        "each DP rank has tp_size / dp_size ranks",
        "choose a --tp-size that --dp-size divides",
    ),
    Refused(
        ("tp_size", "nnodes"),
        lambda a: a.tp_size % a.nnodes != 0,
        "each node has tp_size / nnodes ranks",
        "choose a --tp-size that --nnodes divides",
    ),
    Refused(
        ("node_rank", "nnodes"),
        lambda a: a.node_rank >= a.nnodes,
        "nodes are numbered from 0",
        "give --node-rank from 0 to --nnodes less one",
        sglang="takes it, and waits for the other nodes",
    ),
    Refused(
        ("nnodes", "dist_init_addr"),
        lambda a: a.nnodes > 1 and a.dist_init_addr is None,
        "nodes find each other at the address of the first",
        "add --dist-init-addr HOST:PORT",
        sglang="takes it, and fails when nodes meet",
    ),
    Refused(
        ("moe_a2a_backend", "ep_size"),
        lambda a: a.moe_a2a_backend != "none" and a.ep_size != a.tp_size,
        "dispatch spreads the experts over all ranks, so ep_size is tp_size",
        "remove --ep-size, or set it to --tp-size",
        if_given="ep_size",
        sglang="sets --ep-size to --tp-size",
    ),
    Refused(
        ("tp_size", "ep_size"),
        lambda a: a.moe_a2a_backend == "none" and a.tp_size % a.ep_size != 0,
        "each expert group has tp_size / ep_size ranks",
        "choose an --ep-size that divides --tp-size",
        sglang="takes it, and fails when groups are made",
    ),
    Refused(
        ("deepep_mode", "moe_a2a_backend"),
        lambda a: a.deepep_mode != "auto" and a.moe_a2a_backend != "deepep",
        "the mode is one of the DeepEP dispatch",
        "add --moe-a2a-backend deepep, or remove --deepep-mode",
        sglang="ignores the mode",
    ),
    Refused(
        ("deepep_dispatcher_output_dtype", "moe_a2a_backend"),
        lambda a: a.deepep_dispatcher_output_dtype != "auto" and a.moe_a2a_backend != "deepep",
        "the type is that of dispatched rows",
        "add --moe-a2a-backend deepep, or remove --deepep-dispatcher-output-dtype",
        sglang="ignores the type",
    ),
    Refused(
        ("moe_dense_tp_size", "tp_size"),
        lambda a: a.moe_dense_tp_size not in (None, 1, a.tp_size),
        "dense FFNs are run whole by each rank or cut over all of them",
        "use 1, the value of --tp-size, or nothing",
    ),
    Refused(
        ("enable_layernorm_sp", "tp_size"),
        lambda a: a.enable_layernorm_sp and a.tp_size == 1,
        "one rank has nobody to share rows with",
        "give --tp-size 2 or more, or remove --enable-layernorm-sp",
    ),
    Refused(
        ("enable_layernorm_sp", "dp_size", "tp_size"),
        lambda a: a.enable_layernorm_sp and a.attn_tp_size == 1,
        "each DP attention group is one rank, so its rows are on one rank already",
        "lower --dp-size, raise --tp-size, or remove --enable-layernorm-sp",
    ),
    Refused(
        ("enable_two_batch_overlap", "moe_a2a_backend", "enable_dp_attention"),
        lambda a: a.enable_two_batch_overlap and a.moe_a2a_backend == "none" and not a.enable_dp_attention,
        "there is no communication to overlap with",
        "add --moe-a2a-backend deepep, or DP attention, or remove --enable-two-batch-overlap",
    ),
    _needs_tbo("tbo_token_distribution_threshold", "threshold"),
    _needs_tbo("tbo_policy", "policy"),
    _needs_tbo("tbo_gate", "gate"),
    _needs_tbo("tbo_cost_table", "table"),
    Refused(
        ("tbo_gate", "tbo_cost_table"),
        lambda a: a.tbo_gate == "always" and a.tbo_cost_table is not None,
        "a gate that is always open looks at no table",
        "remove one of the two",
        sglang="has neither",
    ),
    Refused(
        ("enable_single_batch_overlap", "enable_two_batch_overlap"),
        lambda a: a.enable_single_batch_overlap and a.enable_two_batch_overlap,
        "each is a way to hide the same communication",
        "remove one of the two",
        sglang="takes both",
    ),
    Refused(
        ("enable_mixed_chunk", "chunked_prefill_size"),
        lambda a: a.enable_mixed_chunk and a.chunked_prefill_size is not None and a.chunked_prefill_size < 0,
        "without chunks no decode row can join one, so mixed chunk would never act",
        "give --chunked-prefill-size, or remove --enable-mixed-chunk",
        sglang="never mixes",
    ),
    Refused(
        ("enable_mixed_chunk", "speculative_algorithm"),
        lambda a: a.enable_mixed_chunk and a.speculative_algorithm is not None,
        "rows to verify cannot join a chunk of prefill",
        "remove one of the two",
        sglang="switches mixed chunk off",
    ),
    Refused(
        ("max_running_requests", "dp_size"),
        lambda a: a.max_running_requests is not None and a.max_running_requests < a.attn_dp_size,
        "each DP rank runs max_running_requests // dp_size requests, which is none",
        "raise --max-running-requests to --dp-size or more",
        sglang="takes it, and fails later",
    ),
    *(
        _without_graphs(cause, value, why, fix, name, is_on)
        for cause, value, why, fix in _NO_GRAPHS
        for name, is_on in _OF_GRAPHS
        if cause != name
    ),
    Refused(
        ("cuda_graph_bs_decode", "cuda_graph_max_bs_decode"),
        lambda a: a.cuda_graph_bs_decode is not None
        and a.cuda_graph_max_bs_decode is not None
        and max(a.cuda_graph_bs_decode) != a.cuda_graph_max_bs_decode,
        "the largest size of the list is the maximum",
        "give only the list, or only the maximum",
        sglang="ignores the maximum",
    ),
    Refused(
        ("skip_tokenizer_init", "tokenizer_path"),
        lambda a: a.skip_tokenizer_init and a.tokenizer_path is not None,
        "a tokenizer is named and skipped",
        "remove one of the two",
        sglang="ignores the path",
    ),
    Refused(
        ("chunked_prefill_size", "dp_size"),
        lambda a: a.chunked_prefill_size is not None and 0 < a.chunked_prefill_size < a.attn_dp_size,
        "each DP rank takes chunked_prefill_size // dp_size tokens, which is none",
        "raise --chunked-prefill-size, or use -1 to run prompts whole",
        sglang="runs prompts whole",
    ),
    Refused(
        ("max_prefill_tokens", "chunked_prefill_size"),
        lambda a: a.chunked_prefill_size is not None and a.chunked_prefill_size < 0,
        "without chunks a step takes prompts of up to --context-length tokens in all",
        "remove --max-prefill-tokens, or give --chunked-prefill-size",
        if_given="max_prefill_tokens",
        sglang="takes prompts of up to --max-prefill-tokens in all, or one that is longer",
    ),
    _needs_speculation("speculative_draft_model_path"),
    _needs_speculation("speculative_num_steps"),
    _needs_speculation("speculative_eagle_topk"),
    _needs_speculation("speculative_num_draft_tokens"),
    Refused(
        ("load_balance_method", "disaggregation_mode"),
        lambda a: a.load_balance_method == "follow_bootstrap_room" and a.disaggregation_mode != "prefill",
        "only a prefill server has bootstrap rooms",
        "add --disaggregation-mode prefill, or use --load-balance-method auto",
        sglang="takes it, and refuses requests without a room",
    ),
    Refused(
        ("load_balance_method", "disaggregation_mode"),
        lambda a: a.load_balance_method == "total_tokens" and a.disaggregation_mode == "prefill",
        "a prefill server sends each request to the DP rank of its bootstrap room",
        "use --load-balance-method auto",
        if_given="load_balance_method",
        sglang="takes it",
    ),
)

# Checked once values are derived: the chunk is then that of one DP rank.
DERIVED_COMBINATIONS: tuple[Refused, ...] = (
    Refused(
        ("chunked_prefill_size", "page_size"),
        lambda a: a.chunked_prefill_size is not None
        and a.page_size is not None
        and a.chunked_prefill_size > 0
        and a.chunked_prefill_size % a.page_size != 0
        and a.disaggregation_mode != "decode",
        "the chunk of a DP rank is whole pages",
        "make --chunked-prefill-size a multiple of --page-size (times --dp-size under DP attention)",
    ),
    Refused(
        ("max_prefill_tokens", "chunked_prefill_size"),
        lambda a: a.max_prefill_tokens < (a.chunked_prefill_size or 0),
        "a step holds a whole chunk of each DP rank",
        "lower --chunked-prefill-size to that, or remove --max-prefill-tokens",
        if_given="max_prefill_tokens",
        sglang="takes the smaller of the two",
    ),
)

# What a device will take and does not yet; asked when something is to run.
PLANNED: tuple[Refused, ...] = (
    Refused(
        ("device", "tp_size"),
        lambda a: a.device == "cuda" and a.tp_size > 1,
        "ranks on several GPUs",
        "use --tp-size 1, or --device cpu",
    ),
    Refused(
        ("device", "moe_a2a_backend"),
        lambda a: a.device == "cuda" and a.moe_a2a_backend != "none",
        "expert dispatch between GPUs",
        "use --moe-a2a-backend none, or --device cpu",
    ),
)
