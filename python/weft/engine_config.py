"""All that an Engine runs with: flags, the model's facts, and the sizes that follow. Made before a weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from weft import gpu, graph
from weft.core_config import memory_ledger
from weft.errors import WeftError
from weft.memory import free_memory_bytes
from weft.model_info import ModelInfo, read_model_info
from weft.plan import TboCostTable, load_tbo_cost_table
from weft.scheduler.policy import SchedulerConfig
from weft.server_args import Origin, ServerArgs

DEFAULT_RUNNING_PER_DP_RANK = 128
DEFAULT_KV_MEMORY_FRACTION = 0.25  # on the CPU
# On a GPU, of weights, buffers and KV cache together. The rest is for the graphs.
DEFAULT_GPU_MEMORY_FRACTION = 0.9


@dataclass(frozen=True)
class EngineConfig:
    """Sizes are those of one DP rank."""

    args: ServerArgs
    model: ModelInfo
    context_length: int
    max_running_requests: int
    max_total_tokens: int
    origins: Mapping[str, Origin]
    tbo_cost_table: TboCostTable | None = None

    @property
    def on_gpu(self) -> bool:
        return self.args.device == "cuda"

    @property
    def page_size(self) -> int:
        return self.args.page_size or 1

    @property
    def random_seed(self) -> int:
        return self.args.random_seed or 0

    @property
    def prefill_tokens_per_step(self) -> int:
        """A chunk; without chunks one prompt of the full context, or several that are together as long."""
        chunk = self.args.chunked_prefill_size or 0
        return chunk if chunk > 0 else _ceil(self.context_length, self.page_size)

    @property
    def scheduler(self) -> SchedulerConfig:
        return SchedulerConfig(
            dp_size=self.args.attn_dp_size,
            max_running_requests=self.max_running_requests,
            prefill_tokens_per_step=self.prefill_tokens_per_step,
            chunked=(self.args.chunked_prefill_size or 0) > 0,
            mixed=self.args.enable_mixed_chunk,
            page_size=self.page_size,
            num_pages=self.max_total_tokens // self.page_size,
        )

    def resolved(self) -> dict[str, tuple[object, Origin]]:
        """Values that the flags alone do not decide: {field: (value, origin)}."""
        args = self.args
        values: dict[str, object] = {
            "context_length": self.context_length,
            "dtype": self.model.dtype if args.dtype == "auto" else args.dtype,
            "max_running_requests": self.max_running_requests * args.attn_dp_size,
            "max_total_tokens": self.max_total_tokens,
            "mem_fraction_static": args.mem_fraction_static,
            "moe_dense_tp_size": args.moe_dense_tp_size or args.tp_size,
            "max_prefill_tokens": args.max_prefill_tokens,
            "cuda_graph_bs_decode": tuple(self.graph_batch_sizes()),
        }
        origins = dict(self.origins)
        if args.mem_fraction_static is None and args.max_total_tokens is None:
            values["mem_fraction_static"] = DEFAULT_GPU_MEMORY_FRACTION if self.on_gpu else DEFAULT_KV_MEMORY_FRACTION
        if args.moe_dense_tp_size is None:
            origins["moe_dense_tp_size"] = "derived"
        if (args.chunked_prefill_size or 0) < 0:
            values["max_prefill_tokens"], origins["max_prefill_tokens"] = self.prefill_tokens_per_step, "model"
        if values["cuda_graph_bs_decode"] != args.cuda_graph_bs_decode:
            origins["cuda_graph_bs_decode"] = "derived"
        return {name: (value, origins[name]) for name, value in values.items()}

    def graph_batch_sizes(self) -> list[int]:
        """Decode batch sizes of a DP rank that have a graph, ascending; none if graphs are off."""
        args = self.args
        if args.disable_decode_cuda_graph:
            return []
        sizes = args.cuda_graph_bs_decode or self._capture_batch_sizes(args.cuda_graph_max_bs_decode or 1)
        try:
            return graph.filter_capture_sizes(
                list(sizes),
                pool_size=self.max_running_requests,
                two_batch_overlap=args.enable_two_batch_overlap,
                gathered_buffer=args.parallel.require_gathered_buffer,
                attn_tp_size=args.attn_tp_size,
            )
        except WeftError as error:
            raise WeftError(f"--cuda-graph-max-bs-decode {args.cuda_graph_max_bs_decode}: {error}") from error

    def _capture_batch_sizes(self, max_bs: int) -> list[int]:
        if self.on_gpu:
            return graph.capture_batch_sizes(max_bs, disable_padding=self.args.disable_cuda_graph_padding)
        return graph.cpu_capture_batch_sizes(max_bs)


def resolve(args: ServerArgs) -> EngineConfig:
    """Check the flags against the model and derive the sizes.

    Raises:
        WeftError: a flag is planned only, there is no such device, the model cannot run under these flags, or the
            memory does not hold one page.
    """
    obstacles = [*args.lacking(), *args.planned()]
    if obstacles:
        raise WeftError("\n".join(obstacles))
    if args.device == "cuda" and (why := gpu.why_unusable()):
        raise WeftError(f"--device cuda: {why}; use --device cpu")
    model = read_model_info(args.model_path)
    _check_model(args, model)
    origins = dict(args.origins)
    context_length = args.context_length
    if context_length is None:
        context_length, origins["context_length"] = model.context_length, "model"
    if args.dtype == "auto":
        origins["dtype"] = "model"
    if args.max_running_requests is None:
        running, origins["max_running_requests"] = DEFAULT_RUNNING_PER_DP_RANK, "derived"
        if args.device == "cuda":
            running = max(running, args.cuda_graph_max_bs_decode or 0)
    else:
        running = args.max_running_requests // args.attn_dp_size
    if args.max_total_tokens is None:
        origins["max_total_tokens"] = "derived"
    config = EngineConfig(
        args=args,
        model=model,
        context_length=context_length,
        max_running_requests=running,
        max_total_tokens=args.page_size or 1,
        origins=origins,
        tbo_cost_table=None if args.tbo_cost_table is None else load_tbo_cost_table(args.tbo_cost_table),
    )
    config.graph_batch_sizes()  # refuses sizes of which none is left
    return replace(config, max_total_tokens=_kv_tokens(config))


def _kv_tokens(config: EngineConfig) -> int:
    """Tokens of a DP rank's KV cache, in whole pages.

    `--max-total-tokens`, else what all running requests can need; in any case (unless only the former is given) no
    more than `--mem-fraction-static` of the free memory allows.
    """
    args, page = config.args, config.page_size
    tokens = args.max_total_tokens
    if tokens is None:
        tokens = config.max_running_requests * _ceil(config.context_length, page)
    if args.max_total_tokens is None or args.mem_fraction_static is not None:
        tokens = min(tokens, _affordable_on_gpu(config) if config.on_gpu else _affordable_on_cpu(config))
    if tokens < page:
        raise WeftError(f"--max-total-tokens {tokens} with --page-size {page}: less than one page; raise it")
    return tokens // page * page


def _affordable_on_cpu(config: EngineConfig) -> int:
    """Tokens for which the KV caches of all ranks stay in their share of the free memory."""
    args, page = config.args, config.page_size
    fraction = args.mem_fraction_static or DEFAULT_KV_MEMORY_FRACTION
    free = free_memory_bytes()
    bytes_per_token = config.model.kv_bytes_per_token(args.attn_tp_size, args.dtype) * args.tp_size
    affordable = int(free * fraction) // max(1, bytes_per_token)
    if affordable < page:
        raise WeftError(
            f"--mem-fraction-static {fraction}: the KV caches get that share of {free >> 20} MiB of free memory,"
            f" which is less than a page of {page} tokens on {args.tp_size} ranks; raise it, or free some memory"
        )
    return affordable


def _affordable_on_gpu(config: EngineConfig) -> int:
    """Tokens for which weights, buffers and KV cache together stay in their share of the free memory."""
    args, page = config.args, config.page_size
    fraction = args.mem_fraction_static or DEFAULT_GPU_MEMORY_FRACTION
    free = gpu.free_bytes()
    others = sum(size for _, name, size in memory_ledger(config) if not name.startswith("kv/"))
    bytes_per_token = config.model.kv_bytes_per_token(args.attn_tp_size, args.dtype)
    affordable = (int(free * fraction) - others) // max(1, bytes_per_token)
    if affordable < page:
        raise WeftError(
            f"--mem-fraction-static {fraction}: weights and buffers take {others >> 20} MiB, and that share of"
            f" {free >> 20} MiB of free GPU memory leaves less than a page of {page} tokens; raise it, lower"
            " --chunked-prefill-size, or free some memory"
        )
    return affordable


def _check_model(args: ServerArgs, model: ModelInfo) -> None:
    """Refuse what the flags alone could not show."""
    heads, kv_heads, width = model.num_attention_heads, model.num_key_value_heads, args.attn_tp_size
    given = f"--tp-size {args.tp_size}" + (f" with --dp-size {args.dp_size}" if args.enable_dp_attention else "")
    divisible = f"choose --tp-size{' / --dp-size' if args.enable_dp_attention else ''} so that it divides"
    if heads % width:
        raise WeftError(
            f"{given}: attention runs on {width} ranks but the model has {heads} heads; {divisible} {heads}"
        )
    if not model.kv_lora_rank and kv_heads % width and width % kv_heads:
        raise WeftError(
            f"{given}: attention runs on {width} ranks but the model has {kv_heads} KV heads; {divisible} {kv_heads}"
        )
    if not model.num_experts and args.moe_a2a_backend != "none":
        raise WeftError(
            f"--moe-a2a-backend {args.moe_a2a_backend} with {model.architecture}: the model has no experts to dispatch"
            " to; remove the flag"
        )
    if not model.num_experts and args.ep_size > 1:
        raise WeftError(
            f"--ep-size {args.ep_size} with {model.architecture}: the model has no experts; remove the flag"
        )
    if model.num_experts % args.ep_size:
        raise WeftError(
            f"--ep-size {args.ep_size} with {model.num_experts} experts: each group has the same number of them; choose"
            f" an expert-parallel size that divides {model.num_experts}"
        )
    if args.context_length is not None and args.context_length > model.context_length:
        raise WeftError(
            f"--context-length {args.context_length}: {model.architecture} was made for {model.context_length} tokens;"
            " lower it, or change max_position_embeddings in config.json if you know better"
        )


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
