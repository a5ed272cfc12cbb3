"""SGLang's rules, as input and output vectors in tests_py/cases (or $WEFT_CASES_DIR), against weft.

A case that needs what weft lacks is skipped by a rule, and where weft differs on purpose a rule says what it gives
instead; both are counted and printed. Nothing is skipped by its number.
"""

import json
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from weft import comm, graph, overlap, plan
from weft.combinations import COMBINATIONS, DERIVED_COMBINATIONS, RANGES
from weft.errors import WeftError
from weft.forward_mode import ForwardMode, is_prefill
from weft.refused_flags import ADVICE_OF_FLAG
from weft.server_args import ServerArgs, flag_table

CASES_DIR = Path(os.environ.get("WEFT_CASES_DIR", Path(__file__).parent / "cases"))
EXTEND_MODES = ("EXTEND", "MIXED")

Case = dict[str, Any]
Check = Callable[[Case, "Tally"], None]
Skip = Callable[[Case], str | None]  # why weft cannot be compared on a case; None: it can


class Tally:
    """How many cases of a file were compared, in how many weft's own rule decided, and how many were skipped."""

    def __init__(self):
        self.checked = 0
        self.own_rules: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.fields: Counter[str] = Counter()  # of cases that agree but for values that weft derives by its own rule

    def __str__(self) -> str:
        counts = [(self.own_rules, "of them by weft's own rule"), (self.skipped, "skipped"), (self.fields, "values")]
        lines = [f"  {n} {what}: {why}" for of, what in counts for why, n in sorted(of.items())]
        total = (
            f"{self.checked} checked, {sum(self.own_rules.values())} differing, {sum(self.skipped.values())} skipped"
        )
        return "\n".join([total, *lines])


TALLIES: dict[str, Tally] = defaultdict(Tally)


@cache
def load_json(file: str) -> dict[str, Any]:
    return json.loads((CASES_DIR / file).read_text())


def load(file: str, section: str) -> list[Case]:
    found = load_json(file).get(section, [])
    if isinstance(found, dict):  # cases by version
        return [case | {"version": version} for version, cases in found.items() for case in cases]
    return found


@pytest.fixture(scope="module", autouse=True)
def _counts(request: pytest.FixtureRequest):
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        for file, tally in TALLIES.items():
            print(f"\n{file}: {tally}", end="")


def never(_: Case) -> str | None:
    return None


# Splits


def expected_children(case: Case, tally: Tally) -> list[Case] | None:
    """What weft must give: the case's children, put right where SGLang's own are inconsistent."""
    if case.get("upstream_inconsistent"):
        tally.own_rules["MIXED two-chunk children are those of EXTEND"] += 1
        return case["children_as_extend"]
    if not case.get("zero_length_row"):
        return case["children"]
    if 0 in case["extend_lens"]:
        tally.own_rules["a batch with an empty sequence is not split"] += 1
        return None
    tally.own_rules["a sequence at the edge of the cut goes to one child"] += 1
    first, second = case["children"]
    assert first["extend_seq_lens"][-1] == 0, "the empty row is the first child's last"
    begin, end = first["seq_range"]
    first = first | {
        "seq_range": [begin, end - 1],
        "seq_lens": first["seq_lens"][:-1],
        "extend_seq_lens": first["extend_seq_lens"][:-1],
        "extend_prefix_lens": first["extend_prefix_lens"][:-1],
        "extend_start_loc": first["extend_start_loc"][:-1],
    }
    if first.get("mix_decode_bs"):
        first["mix_decode_bs"] = max(0, end - 1 - max(begin, len(case["extend_lens"]) - case["mix_decode_bs"]))
    return [first, second]


def skip_split(case: Case) -> str | None:
    return None if case["mode"] in ForwardMode.__members__ or "error" in case else f"no mode {case['mode']}"


def check_split(case: Case, tally: Tally):
    if case["mode"] not in ForwardMode.__members__:
        return  # SGLang has no rule, and weft not even the mode
    mode = ForwardMode[case["mode"]]
    lens, width, threshold = case["extend_lens"], case["token_num_per_seq"], case["threshold"]
    rows = case["num_tokens"]
    if not 0 <= threshold <= 0.5:
        if "error" not in case:
            tally.own_rules["a threshold out of range is refused in any mode"] += 1
        with pytest.raises(WeftError, match="threshold"):
            overlap.compute_split_seq_index(mode, rows, lens, width, threshold=threshold)
        return
    if "error" in case:
        with pytest.raises(WeftError):
            overlap.compute_split_seq_index(mode, rows, lens, width, threshold=threshold)
        return
    index = overlap.compute_split_seq_index(mode, rows, lens, width, threshold=threshold)
    assert index == case["split_seq_index"]
    token_index = overlap.compute_split_token_index(index, mode, lens, width, threshold=threshold)
    if "error_token" in case:
        tally.own_rules["PREBUILT has token index 0"] += 1
        assert token_index == 0
    else:
        assert token_index == case["split_token_index"]
    extends = mode.name in EXTEND_MODES
    if extends:
        assert overlap.is_two_chunk(lens, threshold=threshold) == case["two_chunk"]
    if case["children"] is None:
        return

    halves = overlap.split(
        mode,
        num_tokens=rows,
        extend_lens=lens,
        prefix_lens=case["prefix_lens"] if extends else None,
        seq_lens=None if extends else case["prefix_lens"],
        token_num_per_seq=width,
        threshold=threshold,
        attn_tp_size=case["attn_tp_size"],
        mix_decode_bs=case["mix_decode_bs"] or 0,
        num_token_non_padded=case.get("num_token_non_padded"),
    )
    children = expected_children(case, tally)
    if children is None:
        assert halves is None
        return
    assert halves is not None
    assert (halves.seq_index, halves.token_index) == (index, token_index)
    assert halves.two_chunk == (case["two_chunk"] and not case.get("zero_length_row", False))
    for child, want in zip(halves.children, children, strict=True):
        check_child(child, want, case, tally)


def check_child(child: overlap.SplitChild, want: Case, case: Case, tally: Tally):
    assert list(child.seq_range) == want["seq_range"]
    assert list(child.token_range) == want["token_range"]
    assert child.num_tokens == want["num_tokens"]
    assert child.num_token_non_padded == want["num_token_non_padded"]
    assert child.padded_len == want["padded_len"]
    assert child.seq_lens == want["seq_lens"]
    assert child.extend_lens == want.get("extend_seq_lens", [])
    assert child.prefix_lens == want.get("extend_prefix_lens", [])
    assert child.mix_decode_bs == (want.get("mix_decode_bs") or 0)
    starts = want.get("extend_start_loc", [])
    if starts and starts[0] != 0:
        tally.own_rules["starts are those of the child, SGLang keeps the parent's in a plain split"] += 1
        assert starts[0] == child.token_range[0]
        starts = [start - starts[0] for start in starts]
    assert child.extend_start_loc == starts
    if "custom_mask_range" in want:
        begin, end = child.seq_range
        # Per-sequence arrays of the draft tree are cut as sequences are: [first, count], [0] if there are none.
        assert ([begin, end - begin] if end > begin else [0]) == want["retrieve_rows"]
        assert sum(child.seq_lens) == want["spec_seq_lens_sum"]
        if end > begin:
            assert list(child.mask_range) == want["custom_mask_range"]
        else:
            tally.own_rules["an empty child has no part of the tree mask, SGLang gives it all"] += 1
            assert child.mask_range[0] == child.mask_range[1]


def check_graph_replay(case: Case, tally: Tally):
    rows, width = case["num_tokens"], case.get("token_num_per_seq") or 1
    real = case.get("num_token_non_padded", rows)
    if "error" in case:
        tally.own_rules["a literal IDLE replays as decode, SGLang divides by zero"] += 1
        assert overlap.replay_split(2 * rows or 2, 0) == (0, 0)
        return
    mode = ForwardMode.DECODE if case["mode"] == "IDLE" else ForwardMode[case["mode"]]
    index = overlap.compute_split_seq_index(mode, rows, None, width)
    assert index == case["split_seq_index"]
    token_index = overlap.compute_split_token_index(index, mode, None, width)
    assert token_index == case["split_token_index"]
    halves = overlap.split(mode, num_tokens=rows, token_num_per_seq=width, num_token_non_padded=real)
    assert halves is not None
    assert [child.num_token_non_padded for child in halves.children] == case["children_num_token_non_padded"]
    if token_index * 2 == rows > 0:
        assert list(overlap.replay_split(rows, real)) == case["children_num_token_non_padded"]
    elif rows % 2 == 1:  # no bucket: what is captured under overlap has two equal halves
        with pytest.raises(WeftError, match="no two equal halves"):
            overlap.replay_split(rows, real)


# Stage orders

SHARED_EXPERTS = {"DeepseekV2DecoderLayer": True, "Qwen3MoeDecoderLayer": False, "MiMoV2DecoderLayer": False}


def skip_strategy(case: Case) -> str | None:
    return None if case["layer_class"] in SHARED_EXPERTS else f"no layer {case['layer_class']}"


def check_strategy(case: Case, tally: Tally):
    layouts = comm.layer_layouts(
        "S" * case.get("num_layers", 2),
        tp_size=4,
        attn_dp_size=4,
        moe_a2a_backend="deepep",
        moe_dense_tp_size=None,
        two_batch_overlap=True,
    )
    # SGLang runs TARGET_VERIFY by the decode strategy, and has none for MIXED; weft runs MIXED as EXTEND.
    extend = case["mode"] in EXTEND_MODES
    stages, delta = overlap.stages(
        layouts,
        schedule=ForwardMode.EXTEND if extend else ForwardMode.DECODE,
        dispatch="normal" if extend else "low_latency",
        has_shared_experts=SHARED_EXPERTS[case["layer_class"]],
    )
    if "error" in case:
        tally.own_rules["SGLang has no strategy, weft overlaps"] += 1
        assert len(stages) > 1
        return
    # weft's boundaries have a second half, which waits; its names have no "attn." or "mlp.".
    mine = [[[layer, op] for layer, op in stage if not op.endswith("_wait")] for stage in stages]
    theirs = [[[layer, op.split(".")[-1]] for layer, op in stage] for stage in case["stages"]]
    assert mine == theirs
    assert (len(stages), delta) == (case["num_stages"], case["delta_stages"])
    assert [list(step) for step in overlap.stage_order(len(stages), delta)] == case["order"]


def check_stage_order(case: Case, _: Tally):
    order = overlap.stage_order(case["num_stages"], case["delta"])
    assert [list(step) for step in order] == case["order"]


# Padding and ranks


def skip_padding(case: Case) -> str | None:
    if case["cp_align_size"] != 1:
        return "no context parallelism"
    if case["can_run_dp_breakable"]:
        return "no prefill graphs"
    return "no hybrid state-space models" if case["max_len_with_idle"] else None


def check_padding(case: Case, _: Tally):
    padding = plan.dp_padding(
        case["global_num_tokens"],
        attn_tp_size=case["attn_tp_size"],
        attn_dp_size=case["attn_dp_size"],
        is_extend_in_batch=case["is_extend_in_batch"],
    )
    assert padding.aligned == case["aligned"]
    assert padding.mode == case["mode"]
    assert padding.padded == case["padded"]
    assert padding.buffer_len == case["global_dp_buffer_len"]
    assert padding.start == case["local_start_pos"]
    assert padding.buffer_len - sum(case["global_num_tokens"]) == case["wasted_rows"]


def skip_topology(case: Case) -> str | None:
    return None if case["attn_cp_size"] == 1 else "no context parallelism"


def check_topology(case: Case, tally: Tally):
    if case["dp_size"] > 1 and not case["enable_dp_attention"]:
        tally.own_rules["weft's data parallelism is DP attention; it refuses replicas"] += 1
        with pytest.raises(WeftError, match="--enable-dp-attention"):
            plan.ParallelConfig(tp_size=case["tp_size"], dp_size=case["dp_size"])
        return
    parallel = plan.ParallelConfig(
        tp_size=case["tp_size"], dp_size=case["dp_size"], enable_dp_attention=case["enable_dp_attention"]
    )
    assert parallel.attn_tp_size == case["attn_tp_size"]
    assert parallel.attn_dp_size == case["attn_dp_size"]
    ranks = [[parallel.attn_tp_rank(r), parallel.attn_dp_rank(r)] for r in range(case["tp_size"])]
    assert ranks == case["rank_attn_tp_and_attn_dp"]


# Graph buckets


def skip_capture_list(case: Case) -> str | None:
    return "no prefill graphs" if case["fn"] == "prefill" else None


def check_capture_list(case: Case, _: Tally):
    if case["fn"] == "cpu":
        assert graph.cpu_capture_batch_sizes(case["max_bs"]) == case["bs"]
        return
    sizes = graph.capture_batch_sizes(
        case["max_bs"],
        speculative=case.get("speculative", False),
        disable_padding=case.get("disable_padding", False),
    )
    assert sizes == case["bs"]


def skip_capture_filter(case: Case) -> str | None:
    return None if case["attn_cp_size"] == 1 else "no context parallelism"


def check_capture_filter(case: Case, _: Tally):
    sizes = case["bs"] if "bs" in case else graph.capture_batch_sizes(case["max_bs"])

    def capture_sizes() -> list[int]:
        return graph.filter_capture_sizes(
            sizes,
            pool_size=case["pool_size"],
            two_batch_overlap=case["enable_two_batch_overlap"],
            gathered_buffer=case["require_gathered_buffer"],
            attn_tp_size=case["attn_tp_size"],
            tokens_per_req=case["tokens_per_req"],
        )

    if case["error"]:
        with pytest.raises(WeftError):
            capture_sizes()
    else:
        assert capture_sizes() == case["capture_bs"]


def check_bucket(case: Case, _: Tally):
    assert graph.bucket_of(graph.capture_batch_sizes(case["max_bs"]), case["raw"]) == case["padded"]


def check_gpu_defaults(case: Case, tally: Tally):
    args, _ = parse_on_gpu(f"--model-path m --tp-size {case['tp_size']}", case)
    assert args.chunked_prefill_size == case["chunked_prefill_size"]
    assert args.cuda_graph_max_bs_decode == case["decode_max_bs"]
    assert args.cuda_graph_backend_decode == case["decode_backend"]
    assert len(graph.capture_batch_sizes(args.cuda_graph_max_bs_decode)) == case["decode_num_bs"]
    rule, mine = OWN_DEFAULTS["mem_fraction_static"]
    assert args.mem_fraction_static in mine
    tally.fields[rule] += 1
    tally.fields["weft has no prefill graphs, and SGLang's are not compared"] += 1


# Layouts


def skip_layout(case: Case) -> str | None:
    if case["attn_cp_size"] != 1 or case["prefill_cp_input_scattered"]:
        return "no context parallelism"
    if case["fp4_allgather"]:
        return "no fp4"
    return None if case["moe_a2a_backend"] in ("none", "deepep") else f"no backend {case['moe_a2a_backend']}"


def check_layout(case: Case, _: Tally):
    layers = comm.layer_layouts(
        case["pattern"],
        tp_size=case["tp_size"],
        attn_dp_size=case["attn_dp_size"],
        moe_a2a_backend=case["moe_a2a_backend"],
        moe_dense_tp_size=case["moe_dense_tp_size"],
        two_batch_overlap=case["enable_two_batch_overlap"],
    )
    names = ("sparse", "input", "attn", "mlp", "middle_residual", "output")
    names += ("prepare_attn", "prepare_mlp", "postprocess")
    mine = [{name: getattr(layer, name) for name in names} for layer in layers]
    assert mine == [{name: want[name] for name in names} for want in case["layers"]]


def check_layernorm_sp_slice(case: Case, _: Tally):
    rows = comm.sequence_parallel_rows(case["num_tokens"], case["tp_size"])
    assert (rows.padded, rows.rows_per_rank) == (case["padded"], case["rows_per_rank"])
    assert [list(span) for span in rows.rank_ranges] == case["rank_ranges"]
    assert rows.real_rows == case["real_rows"]


# Agreement


def rank_state(batch: Case | None) -> plan.RankState:
    """What a rank with this batch publishes."""
    if batch is None:
        return plan.RankState()
    mode = ForwardMode[batch["mode"]]
    if mode in (ForwardMode.IDLE, ForwardMode.PREBUILT):
        return plan.RankState(mode)
    width = batch.get("draft_token_num", 1)
    if mode is ForwardMode.DECODE:
        lens, seqs = None, batch["bs"]
        rows = seqs
    else:
        lens, seqs = batch["extend_lens"], len(batch["extend_lens"])
        rows = sum(lens)
    halves = overlap.split(
        mode,
        num_tokens=rows,
        extend_lens=lens if mode.name in EXTEND_MODES else None,
        token_num_per_seq=width,
    )
    tokens = None if halves is None else (halves.children[0].num_tokens, halves.children[1].num_tokens)
    return plan.RankState(
        mode, rows, num_seqs=seqs, tokens_per_req=width, num_logit_rows=logit_rows(batch), split_tokens=tokens
    )


def logit_rows(batch: Case | None) -> int:
    """Rows of the LM head: one a request, or all from where log-probabilities are wanted."""
    if batch is None or batch["mode"] in ("IDLE", "PREBUILT"):
        return 0
    if batch["mode"] == "DECODE":
        return batch["bs"]
    starts = batch.get("logprob_start_lens", batch["extend_lens"])
    return sum(max(length - start, 1) for length, start in zip(batch["extend_lens"], starts, strict=True))


def split_index(batch: Case | None) -> int:
    """A rank's own index, as SGLang hands it to its batch."""
    if batch is None or batch["mode"] == "IDLE":
        return 0
    mode, width = ForwardMode[batch["mode"]], batch.get("draft_token_num", 1)
    rows = {"DECODE": batch.get("bs", 0), "PREBUILT": 0}.get(batch["mode"], sum(batch.get("extend_lens", ())))
    return overlap.compute_split_seq_index(mode, rows, batch.get("extend_lens"), width)


def both_halves(state: Case | None) -> bool:
    """Whether the batch has rows in both micro-batches, whatever the cut."""
    if state is None or state["mode"] in ("IDLE", "PREBUILT"):
        return False
    if state["mode"] == "DECODE":
        return state["bs"] > 1
    if state["mode"] == "TARGET_VERIFY":
        return len(state["extend_lens"]) > 1
    return sum(state["extend_lens"]) > 1


def check_agreement(case: Case, tally: Tally):
    config, ranks, agreed = case["config"], case["ranks"], case["expected"]["agreed"]
    dispatched = config["a2a"] == "deepep"
    attn_tp_size, dp_size = config["attn_tp_size"], len(ranks)
    tp_size = attn_tp_size * dp_size
    parallel = plan.ParallelConfig(
        tp_size=tp_size,
        dp_size=dp_size,
        enable_dp_attention=True,
        ep_size=tp_size if dispatched else 1,
        moe_a2a_backend=config["a2a"],
        deepep_mode=config["deepep_mode"],
        moe_dense_tp_size=None if config["require_mlp_tp_gather"] else 1,
        enable_dp_lm_head=not config["require_mlp_tp_gather"],
        enable_two_batch_overlap=config["tbo"],
    )
    if parallel.require_mlp_tp_gather != config["require_mlp_tp_gather"]:
        tally.own_rules["without dispatch rows are always gathered"] += 1
    buckets = [] if config["disable_cuda_graph"] else [2 * attn_tp_size, 64 * attn_tp_size]
    step = plan.make_step_plan(
        [rank_state(batch) for batch in ranks],
        plan.PlanConfig(parallel, tbo_policy="sglang", graph_buckets=buckets, low_latency_rows=4096),
    )
    assert step.run == agreed["need_idle_batch"]
    verify = any(batch and batch["mode"] == "TARGET_VERIFY" for batch in ranks)
    prefill = any(batch and batch["mode"] in EXTEND_MODES for batch in ranks)
    if verify:
        tally.own_rules["a verify batch is agreed on as SGLang's scheduler does: as one of decode"] += 1
        assert step.is_extend_in_batch == prefill
    else:
        assert step.is_extend_in_batch == agreed["is_extend_in_batch"]
    total = [sum(tokens) for tokens in zip(*(b.num_tokens for b in step.micro_batches), strict=True)]
    assert total == agreed["global_num_tokens"]
    assert [logit_rows(batch) for batch in ranks] == agreed["global_num_tokens_for_logprob"]
    if not any(step.graph_bucket):
        assert step.logit_rows == agreed["global_num_tokens_for_logprob"]
    for batch, want in zip(ranks, case["expected"]["per_rank"], strict=True):
        assert not step.run or want["kind"] != "none", "every rank takes part in a step that runs"
        if want.get("tbo_split_seq_index") is not None:
            assert want["tbo_split_seq_index"] == split_index(batch)

    # SGLang's vote is about modes and the flag alone; what weft adds to it has reasons of its own.
    vote = {"disabled", "extend"}
    if step.run and verify:
        assert bool(vote & set(step.graph_miss)) == (prefill or config["disable_cuda_graph"])
    elif step.run:
        assert agreed["can_cuda_graph"] == (not vote & set(step.graph_miss)), step.graph_miss
    elif not agreed["can_cuda_graph"]:
        tally.own_rules["a step without rows has no graph vote"] += 1

    want_tbo = agreed["can_run_tbo"]
    if want_tbo and not any(both_halves(batch) for batch in ranks):
        tally.own_rules["no rank with rows in both micro-batches: no eager overlap"] += 1
        want_tbo = any(step.graph_bucket)
    assert step.tbo == want_tbo, step.no_tbo_reason
    if agreed["global_forward_mode"]:
        common = ForwardMode[agreed["global_forward_mode"]]
        assert step.schedule == (ForwardMode.EXTEND if is_prefill(common) else ForwardMode.DECODE)


def skip_agreement(case: Case) -> str | None:
    if case["config"].get("skip_all_gather"):
        return "ranks always agree"
    return "no elastic expert parallelism" if "active" in case["config"] else None


# Server arguments

REFERENCE = "8905cbd4"
# Flags that one version of SGLang has and another has not; weft takes them under every name.
ALIASES = {"--enable-deepep-moe", "--enable-sp", "--enable-sp-layernorm", "--enable-layernorm-sp"}
# SGLang's names of other versions, and of the parts of a graph's configuration.
FIELDS = {
    "cuda_graph_max_bs": "cuda_graph_max_bs_decode",
    "disable_cuda_graph": "disable_decode_cuda_graph",
    "disable_piecewise_cuda_graph": "disable_prefill_cuda_graph",
    "stream_output": "incremental_streaming_output",
}
# What weft decides by its own rules, unless the user gives it: {field: (rule, weft's values)}.
OF_THE_DRAFT = "the draft of a model follows from its checkpoint"
OWN_DEFAULTS = {
    "mem_fraction_static": ("memory follows from weft's ledger, not from an estimate", (None,)),
    "load_balance_method": ("a request goes to the DP rank with the fewest tokens to compute", ("total_tokens",)),
    "disable_prefill_cuda_graph": ("weft has no prefill graphs, so none are switched off", (False,)),
    "page_size": ("pages on a GPU are large, so that page tables are small", tuple(2**i for i in range(7))),
    "speculative_num_steps": (OF_THE_DRAFT, (None,)),
    "speculative_eagle_topk": (OF_THE_DRAFT, (None,)),
    "speculative_num_draft_tokens": (OF_THE_DRAFT, (None,)),
}
# Defaults that later versions changed.
OLD_DEFAULTS = {
    "b47fab6f": {"disable_radix_cache"},
    "f1ff736d": {"chunked_prefill_size", "cuda_graph_max_bs", "num_cuda_graph_bs"},
}
# What else changes in SGLang with a flag or a value that weft does not have.
GRAPH_FIELDS = {"cuda_graph_backend_decode", "cuda_graph_max_bs", "num_cuda_graph_bs", "disable_cuda_graph"}
FOLLOWS = {
    "--pp-size": {"disable_overlap_schedule"},
    "--pipeline-parallel-size": {"disable_overlap_schedule"},
    "--attention-backend": {"page_size", "enable_mixed_chunk"},
    "--decode-attention-backend": {"page_size"},
    "--prefill-attention-backend": {"page_size"},
    "--dllm-algorithm": {"enable_mixed_chunk"},
    "--enable-ep-moe": {"ep_size"},
    "--moe-a2a-backend": {"ep_size", "deepep_mode", "chunked_prefill_size"},
    "--speculative-algorithm": {"max_running_requests"} | GRAPH_FIELDS,
    "--cuda-graph-config": GRAPH_FIELDS,
    "--cuda-graph-backend-decode": GRAPH_FIELDS,
}


ALL_FLAGS = {name for _, flag, _ in flag_table() for name in (*flag.names, *flag.deprecated)} | set(ADVICE_OF_FLAG)


def refusal_rule(error: WeftError) -> str | None:
    """By which rule weft refuses what SGLang takes, such as an entry of its table that says what SGLang does."""
    message = str(error).splitlines()[-1]
    for entry in (*RANGES, *COMBINATIONS, *DERIVED_COMBINATIONS):
        if message.endswith(f": {entry.why}; {entry.fix}") and entry.sglang:
            return f"{'/'.join(entry.names)}: {entry.why} (SGLang {entry.sglang})"
    name = re.match(r"unknown flag (--[\w-]+)", message)
    if name and any(known.startswith(name[1]) for known in ALL_FLAGS):
        return "a flag cannot be abbreviated, since a new flag may make it ambiguous"
    return None


def parse_on_gpu(text: str, case: Case) -> tuple[ServerArgs, list[str]]:
    """As on the case's GPU; its memory may be unknown."""
    memory = case.get("gpu_mem_mib", load_json("server_args_cases.json")["environment"]["default_gpu_mem_mib"])
    argv = shlex.split(text)
    return ServerArgs.parse_known(argv if memory else [*argv, "--device", "cuda"], gpu_memory_mib=memory or None)


def skip_server_args(case: Case) -> str | None:
    unresolved = re.search(r"--model(-path)?[ =](none|dummy)\b", case["args"])
    return "SGLang resolves nothing for this model path" if unresolved else None


def check_server_args(case: Case, tally: Tally):
    try:
        args, refused = parse_on_gpu(case["args"], case)
    except WeftError as error:
        rule = refusal_rule(error)
        if case["ok"] and rule is None:
            pytest.fail(f"SGLang takes it, weft says: {error}")
        if case["ok"]:
            tally.own_rules[rule] += 1
        return
    argv = shlex.split(case["args"])
    if refused:
        with pytest.raises(WeftError) as caught:
            ServerArgs.from_cli(argv)
        for why in refused:
            assert why in str(caught.value)
    if case["ok"]:
        compare_resolved(case, args, refused, tally)
    elif not refused and case["version"] != REFERENCE:
        tally.own_rules["weft follows the reference, which takes what this older version refused"] += 1
    elif not refused:
        assert ALIASES & set(argv), "SGLang refuses it"
        tally.own_rules["weft takes the flag's names of all versions"] += 1


def compare_resolved(case: Case, args: ServerArgs, refused: list[str], tally: Tally):
    """The fields that both have; a seed that nobody gave is random."""
    resolved = dict(case["resolved"])
    graphs = resolved.pop("cuda_graph_decode", None)
    if graphs is not None:
        resolved["cuda_graph_backend_decode"] = graphs["backend"]
        resolved |= {"cuda_graph_max_bs": graphs["max_bs"], "num_cuda_graph_bs": graphs["num_bs"]}
    sizes = args.cuda_graph_bs_decode or graph.capture_batch_sizes(
        args.cuda_graph_max_bs_decode,
        speculative=args.speculative_algorithm is not None,
        disable_padding=args.disable_cuda_graph_padding,
    )
    defaults = OLD_DEFAULTS.get(case["version"], set()) | {"random_seed"}
    follows: set[str] = set().union(*(FOLLOWS.get(re.search(r"--[\w-]+", why)[0], set()) for why in refused))
    for name, want in resolved.items():
        field = FIELDS.get(name, name)
        value = len(sizes) if name == "num_cuda_graph_bs" else getattr(args, field, None)
        has = field in args.origins or name == "num_cuda_graph_bs"
        if not has or name in follows or (name in defaults and field not in args.user_values):
            continue
        if field in OWN_DEFAULTS and field not in args.user_values and value != want:
            rule, mine = OWN_DEFAULTS[field]
            assert value in mine, f"{name}: {value}, but {rule}"
            tally.fields[rule] += 1
            continue
        assert value == want, f"{name}: {value} is not SGLang's {want}"
    if not refused:
        for name, want in case.get("predicates", {}).items():
            assert getattr(args.parallel, name) == want, name


@cache
def has_architecture(name: str) -> bool:
    """Whether weft has models of that class; the core says so of a config.json."""
    with TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps({"architectures": [name]}))
        with pytest.raises(WeftError) as caught:
            comm.model_layouts(directory, plan.ParallelConfig())
    return "architectures" not in str(caught.value)


def why_no_layernorm_sp(case: Case) -> str | None:
    """Why weft refuses the case before it runs; None if it runs."""
    if not has_architecture(case["architecture"]):
        return "no such architecture"
    argv = ["--model-path", "m", "--enable-layernorm-sp"]
    for flag in ("tp_size", "ep_size", "pp_size", "attn_cp_size"):
        argv += [] if case[flag] == 1 else [f"--{flag.replace('_', '-')}", str(case[flag])]
    argv += ["--enable-dp-attention", "--dp-size", "2"] if case["attention_dp"] else []
    argv += ["--speculative-algorithm", case["speculative"]] if case["speculative"] else []
    try:
        args, refused = ServerArgs.parse_known(argv)
    except WeftError as error:
        return str(error)
    return "\n".join([*refused, *args.planned()]) or None


def check_layernorm_sp_validation(case: Case, tally: Tally):
    why = why_no_layernorm_sp(case)
    if case["ok"] == (why is None):
        return
    if why is None:
        assert case["error"] == "attention_dp"
        tally.own_rules["sequence-parallel layernorm works inside DP attention groups"] += 1
    elif case["attn_cp_size"] != 1 or case["pp_size"] != 1:
        assert "weft does not have --" in why
        tally.own_rules["weft refuses context and pipeline parallelism by name"] += 1
    else:
        assert why == "no such architecture"
        tally.own_rules["weft refuses the architecture by name"] += 1


# One test a file. `SECTIONS[file][section]` says how its cases are compared, and which are not.

SECTIONS: dict[str, dict[str, tuple[Check, Skip]]] = {
    "split_cases.json": {
        "cases": (check_split, skip_split),
        "graph_replay": (check_graph_replay, never),
    },
    "overlap_order_cases.json": {
        "strategies": (check_strategy, skip_strategy),
        "generic_order": (check_stage_order, never),
    },
    "padding_cases.json": {
        "cases": (check_padding, skip_padding),
        "topology": (check_topology, skip_topology),
    },
    "graph_bs_cases.json": {
        "generators": (check_capture_list, skip_capture_list),
        "defaults": (check_gpu_defaults, never),
        "capture_filter": (check_capture_filter, skip_capture_filter),
        "pad_to_bucket": (check_bucket, never),
    },
    "scatter_mode_cases.json": {
        "cases": (check_layout, skip_layout),
        "layernorm_sp_slices": (check_layernorm_sp_slice, never),
    },
    "dp_sync_cases.json": {"cases": (check_agreement, skip_agreement)},
    "server_args_cases.json": {
        "versions": (check_server_args, skip_server_args),
        "layernorm_sp_validation": (check_layernorm_sp_validation, never),
    },
}


def cases_of(file: str) -> pytest.MarkDecorator:
    """The cases of a file, each with the name of its section."""
    found = [(section, case) for section in SECTIONS[file] for case in load(file, section)]
    names = [f"{section}-{case.get('id', i)}" for i, (section, case) in enumerate(found)]
    return pytest.mark.parametrize(("section", "case"), found, ids=names)


def run(file: str, section: str, case: Case) -> None:
    """Compare weft with one case, or skip it by rule, and count it."""
    check, skip = SECTIONS[file][section]
    tally = TALLIES[file]
    reason = skip(case)
    if reason:
        tally.skipped[reason] += 1
        pytest.skip(reason)
    tally.checked += 1
    check(case, tally)


@cases_of("split_cases.json")
def test_split_cases(section: str, case: Case):
    run("split_cases.json", section, case)


@cases_of("overlap_order_cases.json")
def test_overlap_order_cases(section: str, case: Case):
    run("overlap_order_cases.json", section, case)


@cases_of("padding_cases.json")
def test_padding_cases(section: str, case: Case):
    run("padding_cases.json", section, case)


@cases_of("graph_bs_cases.json")
def test_graph_bs_cases(section: str, case: Case):
    run("graph_bs_cases.json", section, case)


@cases_of("scatter_mode_cases.json")
def test_scatter_mode_cases(section: str, case: Case):
    run("scatter_mode_cases.json", section, case)


@cases_of("dp_sync_cases.json")
def test_dp_sync_cases(section: str, case: Case):
    run("dp_sync_cases.json", section, case)


@cases_of("server_args_cases.json")
def test_server_args_cases(section: str, case: Case):
    run("server_args_cases.json", section, case)
