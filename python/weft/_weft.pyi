"""The compiled core, as Python sees it. Token ids and counters cross; tensors never do."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

class WeftError(RuntimeError): ...

class RuntimeConfig:
    """Everything the core needs, resolved by ServerArgs. Sizes are per DP rank unless said."""

    def __init__(
        self,
        *,
        model_path: str,
        load_format: str = "auto",  # auto, safetensors, dummy
        dtype: str = "auto",  # auto (the checkpoint's), float32, bfloat16, float16
        device: str = "cpu",
        tp_size: int = 1,
        dp_size: int = 1,
        enable_dp_attention: bool = False,
        ep_size: int = 1,
        moe_a2a_backend: str = "none",  # none, deepep
        deepep_mode: str = "auto",  # auto, normal, low_latency
        moe_dense_tp_size: int | None = None,
        enable_dp_lm_head: bool = False,
        enable_two_batch_overlap: bool = False,
        enable_layernorm_sp: bool = False,
        tbo_token_distribution_threshold: float = 0.48,
        tbo_policy: str = "any",  # any, sglang
        tbo_gate: str = "auto",  # auto, always
        tbo_cost_table: TboCostTable | None = None,
        graph_batch_sizes: Sequence[int] = (),  # empty: no graphs
        graph_padding: bool = True,
        max_tokens_per_step: int = 0,
        max_running_requests: int = 0,
        context_length: int = 0,
        page_size: int = 1,
        max_total_tokens: int = 0,
        max_top_logprobs: int = 20,
        dispatch_chunk_rows: int = 1024,
        timeout_s: float = 60.0,
        num_threads: int = 0,  # cores over all ranks; 0: those this process may use
        poison: bool = False,
        seed: int = 0,
    ) -> None: ...

class Admission:
    """A new request. `rid` is any unused non-negative number."""

    def __init__(
        self,
        *,
        rid: int,
        dp_rank: int,
        input_ids: Sequence[int],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int = 0,
        stop_token_ids: Sequence[int] = (),  # the model's eos ids included, unless ignore_eos
        logprob_start: int = -1,  # first prompt position whose log-probability is wanted; -1: none of the prompt
        return_logprob: bool = False,  # of output tokens
        top_logprobs_num: int = 0,
    ) -> None: ...

class StepBatch:
    """What changes in one step. Lists are deltas; decode rows are all running requests of a rank."""

    def __init__(
        self,
        *,
        admissions: Sequence[Admission] = (),
        prefill: Sequence[tuple[int, int]] = (),  # (rid, tokens of this chunk), in order
        decode: Sequence[bool] = (),  # one a DP rank: decode its running requests in this step
        release: Sequence[int] = (),  # rids to drop (aborted, stopped by text)
    ) -> None: ...

class StepResult:
    rids: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]  # one a rid
    finished: npt.NDArray[np.uint8]  # 0 running, 1 stop token, 2 length, 3 failed: no finite probabilities, token -1
    # (rid, logprob, [(id, logprob), ...]) for requests that asked, in order of rids
    output_logprobs: list[tuple[int, float, list[tuple[int, float]]]]
    # (rid, first position, logprobs, top lists): logprob i is of prompt token first + i given what precedes it
    input_logprobs: list[tuple[int, int, list[float], list[list[tuple[int, float]]]]]

class Runtime:
    """N rank threads over one model. Errors of any rank come out of `submit` or `wait`, naming rank and op."""

    def __init__(self, config: RuntimeConfig) -> None: ...
    def memory_ledger(self) -> list[tuple[int, str, int]]: ...  # (rank, name, bytes)
    def submit(self, batch: StepBatch) -> int: ...  # a ticket; at most two may be waited for; 0: nothing to run
    def wait(self, ticket: int) -> StepResult: ...
    def stats(self) -> dict[str, Any]: ...
    def trace_next_step(self) -> None: ...  # record when each stage of the next step runs
    def timeline(self) -> list[tuple[int, str, str, float, float, int]]: ...
    # of the last traced step: (rank, stream, name, start_us, end_us, micro-batch), by start
    def close(self) -> None: ...  # from any thread; a wait in progress then fails
    @property
    def vocab_size(self) -> int: ...
    @property
    def num_pages(self) -> int: ...  # of one DP rank

def memory_ledger(config: RuntimeConfig) -> list[tuple[int, str, int]]:
    """What Runtime(config) will allocate: (rank, name, bytes). Reads config.json, but no weight."""

def sparse_layers(model_path: str) -> list[bool]:
    """Of each layer: has it experts? Reads config.json."""

# The planning core: pure functions, no device. weft.plan, weft.overlap, weft.graph and weft.comm document them.

class ForwardMode(IntEnum):
    EXTEND = 1
    DECODE = 2
    MIXED = 3
    IDLE = 4
    TARGET_VERIFY = 5
    PREBUILT = 7

def is_prefill(forward_mode: ForwardMode) -> bool:
    """Whether the mode is EXTEND or MIXED: what moves a step to EXTEND's schedule."""

class SplitChild:
    """A part of a batch. Ranges are half-open, in the parent; a sequence that is cut is in each child with a part."""

    @property
    def seq_range(self) -> tuple[int, int]: ...
    @property
    def token_range(self) -> tuple[int, int]: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_token_non_padded(self) -> int: ...  # real rows; they come first
    @property
    def padded_len(self) -> int: ...  # num_tokens rounded up to attn_tp_size
    @property
    def extend_lens(self) -> list[int]: ...
    @property
    def prefix_lens(self) -> list[int]: ...
    @property
    def extend_start_loc(self) -> list[int]: ...  # first row of each sequence in the child
    @property
    def seq_lens(self) -> list[int]: ...
    @property
    def mix_decode_bs(self) -> int: ...
    @property
    def mask_range(self) -> tuple[int, int]: ...  # TARGET_VERIFY: in the flat tree mask

class Split:
    @property
    def seq_index(self) -> int: ...
    @property
    def token_index(self) -> int: ...
    @property
    def two_chunk(self) -> bool: ...  # some sequence is cut between children
    @property
    def children(self) -> list[SplitChild]: ...  # num_micro_batches; any may be empty

class LayerLayout:
    """Layouts are SCATTERED, TP_ATTN_FULL or FULL; operations have SGLang's names."""

    @property
    def sparse(self) -> bool: ...
    @property
    def input(self) -> str: ...
    @property
    def attn(self) -> str: ...
    @property
    def mlp(self) -> str: ...
    @property
    def middle_residual(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def prepare_attn(self) -> str: ...
    @property
    def prepare_mlp(self) -> str: ...
    @property
    def postprocess(self) -> str: ...

class DpPadding:
    @property
    def mode(self) -> str: ...  # MAX_LEN, SUM_LEN
    @property
    def aligned(self) -> list[int]: ...  # counts rounded up to attn_tp_size
    @property
    def padded(self) -> list[int]: ...
    @property
    def start(self) -> list[int]: ...  # first row of each rank in the gathered buffer
    @property
    def buffer_len(self) -> int: ...

class ParallelConfig:
    """The flags of the same names. Raises WeftError for sizes that do not fit together."""

    def __init__(
        self,
        *,
        tp_size: int = 1,
        dp_size: int = 1,
        enable_dp_attention: bool = False,
        ep_size: int = 1,
        moe_a2a_backend: str = "none",  # none, deepep
        deepep_mode: str = "auto",  # auto, normal, low_latency
        moe_dense_tp_size: int | None = None,
        enable_dp_lm_head: bool = False,
        enable_two_batch_overlap: bool = False,
        enable_layernorm_sp: bool = False,
    ) -> None: ...
    @property
    def tp_size(self) -> int: ...
    @property
    def attn_tp_size(self) -> int: ...
    @property
    def attn_dp_size(self) -> int: ...
    def attn_tp_rank(self, rank: int) -> int: ...
    def attn_dp_rank(self, rank: int) -> int: ...
    @property
    def require_mlp_tp_gather(self) -> bool: ...
    @property
    def require_attn_tp_gather(self) -> bool: ...
    @property
    def require_gathered_buffer(self) -> bool: ...
    @property
    def require_mlp_sync(self) -> bool: ...

class TboCostTable:
    """Microseconds by the rows of the busiest DP rank; csrc/plan/tbo_gate.h states the model."""

    def __init__(
        self,
        *,
        tokens: Sequence[int],  # ascending, from 1
        compute_us: Sequence[float],
        dispatch_us: Sequence[float],
        combine_us: Sequence[float],
    ) -> None: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def compute_us(self) -> list[float]: ...
    @property
    def dispatch_us(self) -> list[float]: ...
    @property
    def combine_us(self) -> list[float]: ...
    def whole_us(self, rows: int) -> float: ...
    def split_us(self, first_rows: int, second_rows: int) -> float: ...

class PlanConfig:
    def __init__(
        self,
        parallel: ParallelConfig,
        *,
        tbo_policy: str = "any",  # any, sglang
        tbo_gate: str = "auto",  # auto: a step is overlapped if the cost table says that it pays; always
        tbo_cost_table: TboCostTable | None = None,
        graph_buckets: Sequence[int] = (),  # rows of one DP rank, ascending; empty: no graphs
        graph_padding: bool = True,  # False: only exact sizes replay
        tokens_per_req: int = 1,  # rows of a request in a graph; speculative decoding: draft tokens
        normal_chunk_rows: int = 1024,  # rows of one rank in one expert chunk of normal dispatch
        low_latency_rows: int = 128,  # the same for low-latency dispatch
        logit_chunk_rows: int = 1024,  # logit rows of one DP rank in one pass of the LM head
    ) -> None: ...
    @property
    def parallel(self) -> ParallelConfig: ...
    def hash(self) -> int: ...

class RankState:
    """What one DP rank says of its batch. IDLE and PREBUILT have no rows."""

    def __init__(
        self,
        forward_mode: ForwardMode = ...,  # IDLE
        num_tokens: int = 0,
        *,
        num_seqs: int | None = None,  # None: rows / tokens_per_req; one for EXTEND and MIXED
        tokens_per_req: int = 1,  # DECODE: 1; TARGET_VERIFY: draft tokens of a request
        num_logit_rows: int = 0,
        split_tokens: tuple[int, int] | None = None,  # tokens of each micro-batch; None: cannot be split
        can_graph: bool = True,
        step_id: int = 0,
        config_hash: int = 0,
        trace_hash: int = 0,
    ) -> None: ...
    @property
    def forward_mode(self) -> ForwardMode: ...
    @property
    def num_tokens(self) -> int: ...

class MicroBatchPlan:
    """One micro-batch, for all DP ranks."""

    @property
    def num_tokens(self) -> list[int]: ...  # real rows
    @property
    def rows(self) -> list[int]: ...  # rows with padding
    @property
    def padding(self) -> str: ...  # NONE, MAX_LEN, SUM_LEN
    @property
    def start(self) -> list[int]: ...  # first row of each DP rank in the gathered buffer
    @property
    def gathered_rows(self) -> int: ...
    @property
    def expert_chunks(self) -> int: ...

class StepPlan:
    """All that ranks must agree on about one step; csrc/plan/step_plan.h states the rules."""

    @property
    def step_id(self) -> int: ...
    @property
    def run(self) -> bool: ...
    @property
    def is_extend_in_batch(self) -> bool: ...
    @property
    def modes(self) -> list[ForwardMode]: ...
    @property
    def schedule(self) -> ForwardMode: ...  # EXTEND or DECODE
    @property
    def dispatch(self) -> str: ...  # none, normal, low_latency
    @property
    def layernorm_sp(self) -> bool: ...  # rows are scattered over attention TP between parts
    @property
    def tbo(self) -> bool: ...
    @property
    def no_tbo_reason(self) -> str: ...
    @property
    def micro_batches(self) -> list[MicroBatchPlan]: ...
    @property
    def graph_bucket(self) -> list[int]: ...  # of each DP rank; 0: eager
    @property
    def graph_miss(self) -> list[str]: ...
    @property
    def logit_rows(self) -> list[int]: ...
    @property
    def logit_chunks(self) -> int: ...
    def hash(self) -> int: ...

class ModelShape:
    """What of a model its collectives depend on."""

    def __init__(
        self,
        *,
        sparse_pattern: Sequence[bool],  # one entry a layer; True: MoE
        hidden: int,
        vocab: int,
        dtype: str = "bf16",  # f32, bf16, f16
        latent_width: int = 0,  # MLA with q_lora_rank: q_lora_rank + kv_lora_rank + qk_rope_head_dim
        has_shared_experts: bool = False,
    ) -> None: ...

class CollectiveRecord:
    """One collective of a step; csrc/plan/trace.h says what `count` is of each op."""

    @property
    def op(self) -> str: ...
    @property
    def group(self) -> str: ...  # tp, attn_tp
    @property
    def dtype(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def layer(self) -> int: ...  # -1: before or after the layers
    def __eq__(self, other: object) -> bool: ...

def step_trace(plan: StepPlan, config: PlanConfig, model: ModelShape, rank: int) -> list[CollectiveRecord]: ...
def shared_trace_hash(trace: Sequence[CollectiveRecord]) -> int: ...
def compute_split_seq_index(
    forward_mode: ForwardMode,
    num_tokens: int,
    extend_lens: Sequence[int],
    token_num_per_seq: int,
    threshold: float,
) -> int: ...
def compute_split_token_index(
    split_seq_index: int,
    forward_mode: ForwardMode,
    extend_lens: Sequence[int],
    token_num_per_seq: int,
    threshold: float,
) -> int: ...
def is_two_chunk(extend_lens: Sequence[int], threshold: float) -> bool: ...
def split(
    forward_mode: ForwardMode,
    num_tokens: int,
    extend_lens: Sequence[int],
    prefix_lens: Sequence[int],
    seq_lens: Sequence[int],
    token_num_per_seq: int,
    threshold: float,
    attn_tp_size: int,
    mix_decode_bs: int,
    num_token_non_padded: int | None,
    num_micro_batches: int,
) -> Split | str: ...  # or why not
def replay_split(bucket: int, num_tokens: int) -> tuple[int, int]: ...
def layer_layouts(
    sparse_pattern: Sequence[bool], parallel: ParallelConfig, layernorm_sp: bool = False
) -> list[LayerLayout]: ...
def sequence_parallel_rows(num_tokens: int, tp_size: int) -> list[tuple[int, int, int]]: ...  # begin, end, real
def stages(
    layouts: Sequence[LayerLayout], schedule: ForwardMode, dispatch: str, has_shared_experts: bool
) -> tuple[list[list[tuple[int, str]]], int]: ...
def stage_order(num_stages: int, delta_stages: int, num_micro_batches: int) -> list[tuple[int, int]]: ...
def dp_padding(
    global_num_tokens: Sequence[int], attn_tp_size: int, attn_dp_size: int, is_extend_in_batch: bool
) -> DpPadding: ...
def capture_batch_sizes(max_bs: int, speculative: bool, disable_padding: bool) -> list[int]: ...
def cpu_capture_batch_sizes(max_bs: int) -> list[int]: ...
def filter_capture_sizes(
    sizes: Sequence[int],
    pool_size: int,
    two_batch_overlap: bool,
    gathered_buffer: bool,
    attn_tp_size: int,
    tokens_per_req: int,
) -> list[int]: ...
def bucket_of(buckets: Sequence[int], size: int) -> int | None: ...
def make_step_plan(rank_states: Sequence[RankState], config: PlanConfig) -> StepPlan: ...

class SimulatedTotals:
    """What a simulated run came to."""

    @property
    def steps(self) -> int: ...
    @property
    def rank_steps(self) -> int: ...
    @property
    def meetings(self) -> int: ...  # collectives that found their peers
    @property
    def requests(self) -> int: ...
    @property
    def discarded_rows(self) -> int: ...  # of requests that were found over while the next step ran

class SimulatedStep:
    """A step of a simulated run; times are those of a logical clock, by rank."""

    @property
    def plan(self) -> StepPlan: ...
    @property
    def start_us(self) -> list[int]: ...
    @property
    def end_us(self) -> list[int]: ...

class SimulatedReport:
    """A simulated run."""

    @property
    def totals(self) -> SimulatedTotals: ...
    @property
    def steps(self) -> list[SimulatedStep]: ...
    @property
    def spans(self) -> list[tuple[int, str, str, float, float, int]]: ...  # rank, stream, name, start, end, micro-batch

def simulate(
    config: RuntimeConfig,
    *,
    num_steps: int = 64,
    max_prompt: int = 64,
    max_new_tokens: int = 24,
    seed: int = 0,
    stop_chance: float = 0.05,
    mixed: bool = True,
    overlap: bool = True,
    with_spans: bool = False,
) -> SimulatedReport: ...

class GpuInfo(TypedDict):
    name: str
    compute_capability: str
    multiprocessors: int
    total_bytes: int
    free_bytes: int

class CudaStatus(TypedDict):
    built: bool
    emulated: bool
    why_no_gpu: str

class CudaInfo(CudaStatus):
    gpus: list[GpuInfo]

def cuda_status() -> CudaStatus: ...
def cuda_info() -> CudaInfo: ...
def gpu_total_bytes(ordinal: int = 0) -> int: ...
def gpu_free_bytes(ordinal: int = 0) -> int: ...
def cpu_kernels() -> list[tuple[str, str, str]]: ...
def cuda_kernels() -> list[tuple[str, str, str]]: ...
