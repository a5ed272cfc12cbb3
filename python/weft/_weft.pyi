"""The compiled core, as Python sees it. Token ids and counters cross; tensors never do."""

from collections.abc import Sequence
from typing import Any

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
        tbo_token_distribution_threshold: float = 0.48,
        tbo_policy: str = "any",  # any, sglang
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
    finished: npt.NDArray[np.uint8]  # 0 running, 1 stop token, 2 length
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
