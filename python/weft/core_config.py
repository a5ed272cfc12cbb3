"""An EngineConfig as the compiled core takes it, and the memory that follows from it."""

from typing import TYPE_CHECKING

from weft import _weft

if TYPE_CHECKING:
    from weft.engine_config import EngineConfig

MAX_TOP_LOGPROBS = 20
_DTYPES = {"half": "float16", "float": "float32"}


def memory_ledger(config: "EngineConfig") -> list[tuple[int, str, int]]:
    """What each rank would allocate: (rank, name, bytes). Nothing is allocated, and no weight is read."""
    return _weft.memory_ledger(runtime_config(config))


def runtime_config(
    config: "EngineConfig", poison: bool = False, dispatch_chunk_rows: int = 1024, num_threads: int = 0
) -> _weft.RuntimeConfig:
    """All that the core needs to know. The parameters are those of CompiledCore."""
    args, sizes = config.args, config.scheduler
    return _weft.RuntimeConfig(
        model_path=str(config.model.path),
        load_format=args.load_format,
        dtype=_DTYPES.get(args.dtype, args.dtype),
        device=args.device or "cpu",
        tp_size=args.tp_size,
        dp_size=args.dp_size,
        enable_dp_attention=args.enable_dp_attention,
        ep_size=args.ep_size,
        moe_a2a_backend=args.moe_a2a_backend,
        deepep_mode=args.deepep_mode,
        moe_dense_tp_size=args.moe_dense_tp_size,
        enable_dp_lm_head=args.enable_dp_lm_head,
        enable_two_batch_overlap=args.enable_two_batch_overlap,
        enable_layernorm_sp=args.enable_layernorm_sp,
        tbo_token_distribution_threshold=args.tbo_token_distribution_threshold,
        tbo_policy=args.tbo_policy,
        tbo_gate=args.tbo_gate,
        tbo_cost_table=config.tbo_cost_table,
        graph_batch_sizes=config.graph_batch_sizes(),
        graph_padding=not args.disable_cuda_graph_padding,
        max_tokens_per_step=sizes.max_tokens_per_step,
        max_running_requests=sizes.max_running_requests,
        context_length=config.context_length,
        page_size=sizes.page_size,
        max_total_tokens=config.max_total_tokens,
        max_top_logprobs=MAX_TOP_LOGPROBS,
        dispatch_chunk_rows=dispatch_chunk_rows,
        timeout_s=args.watchdog_timeout,
        num_threads=num_threads,
        poison=poison,
        seed=config.random_seed,
    )
