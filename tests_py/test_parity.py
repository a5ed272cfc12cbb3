"""Does every combination of flags give transformers' numbers? Log-probabilities of every prompt and output token."""

import dataclasses
import functools
import itertools
import random
from pathlib import Path

import pytest

from weft import Engine, ServerArgs, WeftError
from weft.engine import CompiledCore

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from parity import LOGPROB_BOUND, check_parity, logprob_errors, make_prompts
from parity_cases import (
    AXES,
    Case,
    accepted_layouts,
    accepted_schedules,
    combine,
    model_refuses,
    pairs_of,
    pairwise_cases,
    refused_for,
)
from parity_models import MODELS, ModelStore, write_hub_config
from parity_variants import DENSE_ONLY, VARIANTS, changes_of
from tiny_models import make_tiny_model

# Short ones first, so that they decode while long ones come in, and last, so that several decode together.
LENGTHS = (1, 2, 3, 7, 97, 71, 67, 83, 2, 1, 5, 1)
NEW_TOKENS = 6
SIZES = {"skip_tokenizer_init": True, "max_running_requests": 16, "max_total_tokens": 1024, "context_length": 128}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return ModelStore(tmp_path_factory.mktemp("models"))


def start(model, **flags):
    return Engine(model_path=model.path, **(SIZES | flags))


def vocab(name):
    return MODELS[name].changes["vocab_size"]


# ---- which combinations run ----


def test_the_cases_hold_every_pair_of_values():
    held = set().union(*map(pairs_of, pairwise_cases()))
    layouts = set().union(*map(pairs_of, accepted_layouts()))
    schedules = set().union(*map(pairs_of, accepted_schedules()))
    # A pair runs iff it does within a layout, within a schedule, or each half does in its own.
    in_schedule = {"mixed", "page_chunk", "graphs", "overlap_schedule"}
    for first, second in itertools.combinations(AXES, 2):
        for pair in itertools.product(*([(name, value) for value in AXES[name]] for name in (first, second))):
            sides = {name in in_schedule for name, _ in pair}
            runs = pair in (schedules if sides == {True} else layouts) if len(sides) == 1 else True
            assert (pair in held) == runs, pair


def flag_cases():
    """Every layout that the axes can say, and every schedule with each number of DP ranks."""
    axes = AXES | {"model": ["v3"]}
    quiet = {name: values[:1] for name, values in axes.items()}
    layouts = {"tp", "dp", "dp_attention", "ep", "dispatch", "dense_tp", "dp_lm_head", "layernorm_sp", "tbo"}
    schedules = {"tp", "dp", "dp_attention", "mixed", "page_chunk", "graphs", "overlap_schedule"}
    for free in (layouts, schedules):
        yield from (Case(*v) for v in itertools.product(*({**quiet, **{n: axes[n] for n in free}}[n] for n in AXES)))


def test_flags_are_accepted_or_refused_by_name():
    for case in flag_cases():
        rules = refused_for(case)
        if not rules:
            ServerArgs.from_kwargs(model_path="m", **case.flags())
            continue
        with pytest.raises(WeftError) as refusal:
            ServerArgs.from_kwargs(model_path="m", **case.flags())
        message = str(refusal.value)
        assert any(all(name in message for name in names) for names in rules), (case, message)


BAD = [
    ({"dp": 2, "tp": 2, "enable_dp_attention": True, "chunked_prefill_size": 1}, "chunked-prefill-size 1 .*dp-size 2"),
    ({"page_size": 16, "chunked_prefill_size": 24}, "chunked-prefill-size 24 with --page-size 16"),
    ({"dp": 2, "tp": 2, "enable_dp_attention": True, "page_size": 16, "chunked_prefill_size": 16}, "page-size 16"),
    ({"tp": 4, "moe_dense_tp_size": 2}, "moe-dense-tp-size 2 with --tp-size 4"),
    ({"deepep_mode": "normal"}, "deepep-mode normal with --moe-a2a-backend none"),
    ({"moe_a2a_backend": "deepep", "deepep_mode": "normal", "cuda_graph_bs": [1, 2]}, "deepep-mode normal"),
    ({"disable_cuda_graph": True, "cuda_graph_bs": [1, 2]}, "disable-decode-cuda-graph"),
    ({"tbo_policy": "sglang"}, "tbo-policy sglang with no --enable-two-batch-overlap"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=str)
def test_what_could_never_act_is_refused(flags, message):
    with pytest.raises(WeftError, match=message):
        ServerArgs.from_kwargs(model_path="m", **flags)


REFUSED_BY_MODEL = [
    Case("three_heads", 2, 1, False, None, "none", None, False, False, "off", False, (1, 16), True, True),
    Case("three_heads", 4, 2, True, None, "none", None, False, False, "off", False, (1, 16), True, True),
    Case("qwen3", 2, 1, False, None, "auto", None, False, False, "off", False, (1, 16), True, True),
    Case("qwen3", 2, 1, False, 2, "none", None, False, False, "off", False, (1, 16), True, True),
]


@pytest.mark.parametrize("case", REFUSED_BY_MODEL, ids=str)
def test_flags_that_the_model_cannot_run_are_refused(models, case):
    with pytest.raises(WeftError, match=model_refuses(case)):
        start(models.get(case.model), **case.flags())


# ---- the numbers ----


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_the_models_shows(models, name):
    """A weight that the engine left out would be seen: without it log-probabilities move by 100 times the bound."""
    model = models.get(name)
    (prompt,) = make_prompts([61], vocab(name))
    whole = model.logprobs(prompt)
    for weight, values in [*model.model.named_parameters(), *model.model.named_buffers()]:
        if weight.endswith("inv_freq"):
            continue
        with torch.no_grad():
            kept = values.clone()
            values.fill_(1.0 if weight.endswith("norm.weight") else 0.0)
            moved = (model.logprobs(prompt) - whole).abs().max()
            values.copy_(kept)
        assert moved > 100 * LOGPROB_BOUND, weight


@pytest.mark.parametrize("case", pairwise_cases(), ids=str)
def test_every_pair_of_flags_says_what_transformers_says(models, case):
    model = models.get(case.model)
    with start(model, **case.flags()) as engine:
        check_parity(engine, model, make_prompts(LENGTHS, vocab(case.model)), NEW_TOKENS)
        check_paths(case, engine.stats()["ranks"], LENGTHS)


def check_paths(case, ranks, lengths):
    """What each flag promises, in the counters of each rank."""
    assert len(ranks) == case.tp
    for rank in ranks:
        assert rank["real_tokens"] > 0
        assert (rank["dispatched_rows"] > 0) == (case.dispatch != "none")
        check_modes(case, rank)
        check_dispatch(case, rank)
        check_graphs(case, rank)
        check_overlap(case, rank)
        assert (rank["layernorm_sp_steps"] > 0) == case.layernorm_sp
    check_chunks(case, ranks, lengths)
    check_collectives(case, ranks)


def check_modes(case, rank):
    assert rank["steps"]["DECODE"] > 0
    assert (rank["steps"]["MIXED"] > 0) == case.mixed
    assert case.mixed or rank["steps"]["EXTEND"] > 0


def check_dispatch(case, rank):
    modes = {mode for mode, steps in rank["dispatch_steps"].items() if steps}
    assert modes == ({"normal", "low_latency"} if case.dispatch == "auto" else {case.dispatch})
    assert (rank["collectives"]["dispatch"]["calls"] > 0) == (case.dispatch != "none")


def check_graphs(case, rank):
    misses = {reason for reason, steps in rank["graph_misses"].items() if steps}
    if not case.graphs or case.dispatch == "normal":
        assert (rank["graph_replays"], rank["graph_captures"], misses) == (0, 0, {"disabled"})
    else:
        assert 0 < rank["graph_captures"] <= rank["graph_replays"]
        assert misses == {"extend"}


def check_overlap(case, rank):
    tbo = rank["tbo_steps_by_mode"]
    assert rank["tbo_steps"] == sum(tbo.values())
    if case.tbo == "off":
        assert rank["tbo_steps"] == 0
        return
    one_token = case.page_chunk[1] == 1  # which cannot be cut, and the last prompt outlasts all others
    # Policy sglang needs every running rank in the same mode: by then the others may have nothing left to decode.
    assert tbo["DECODE"] > 0 or (one_token and (case.mixed or case.tbo == "sglang"))
    if case.tbo == "sglang":
        assert rank["tbo_unlike_mode_steps"] == 0
    elif case.mixed:
        assert tbo["MIXED"] > 0
    elif not one_token:
        assert tbo["EXTEND"] > 0


def check_chunks(case, ranks, lengths):
    """No step took more prompt tokens than a chunk; with dispatch, long steps took the experts in chunks."""
    groups = ranks[:: case.attn_tp]
    steps = sum(rank["steps"]["EXTEND"] + rank["steps"]["MIXED"] for rank in groups)
    chunk = case.page_chunk[1]
    assert steps >= (sum(lengths) / chunk if chunk > 0 else len(groups))


def check_collectives(case, ranks):
    """Dispatch comes with combine; all else is silent where each rank has all that its rows need."""
    calls = {name: sum(rank["collectives"][name]["calls"] for rank in ranks) for name in ranks[0]["collectives"]}
    assert calls.pop("dispatch") == calls.pop("combine")
    spec = MODELS[case.model]
    ffn_alone = case.dispatch != "none" or not spec.experts
    dense_alone = case.dense_tp == 1 or not spec.dense_layers
    alone = case.attn_tp == 1 and ffn_alone and dense_alone and case.dp_lm_head
    assert (sum(calls.values()) == 0) == (case.tp == 1 or alone), calls


# ---- any accepted flags, with any sizes and prompts ----


@pytest.mark.parametrize("seed", range(40))
def test_random_flags_and_sizes_say_what_transformers_says(models, seed):
    rng = random.Random(seed)
    case = combine(rng.choice(accepted_layouts()), rng.choice(accepted_schedules()))
    flags = case.flags() | {
        "max_running_requests": rng.choice([4, 8, 32]),
        "max_total_tokens": rng.choice([128, 256, 1024]),
    }
    if case.tbo != "off":
        flags["tbo_token_distribution_threshold"] = rng.choice([0.0, 0.2, 0.48, 0.5])
    if case.graphs and case.dispatch != "normal":
        flags |= rng.choice([{}, {"disable_cuda_graph_padding": True}, {"cuda_graph_bs": [4, 8]}])
    lengths = [rng.choice([1, 2, rng.randrange(3, 30), rng.randrange(3, 100)]) for _ in range(rng.randrange(1, 24))]
    core = functools.partial(
        CompiledCore,
        poison=rng.random() < 0.5,
        dispatch_chunk_rows=rng.choice([1, 3, 8, 1024]),
        num_threads=rng.choice([0, 1, 5]),
    )
    model = models.get(case.model)
    with start(model, core_factory=core, **flags) as engine:
        check_parity(engine, model, make_prompts(lengths, vocab(case.model), seed), rng.choice([1, 2, 6, 13]))


# ---- other configurations of the families ----


@pytest.mark.parametrize("hub", [False, True], ids=["transformers", "hub"])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_models_say_what_transformers_says(tmp_path, name, hub):
    family, changes = changes_of(name)
    model = make_tiny_model(family, tmp_path, seed=1, **changes)
    if hub:
        write_hub_config(Path(model.path))
    dispatch = {} if name in DENSE_ONLY else {"moe_a2a_backend": "deepep", "enable_two_batch_overlap": True}
    for flags in (
        {"tp": 2, "chunked_prefill_size": 16, "enable_mixed_chunk": True},
        {"tp": 4, "dp": 2, "enable_dp_attention": True, **dispatch},
    ):
        with start(model, **flags) as engine:
            check_parity(engine, model, make_prompts((1, 97, 31), changes["vocab_size"]), NEW_TOKENS)


# ---- few requests, and other dtypes ----

QUIET = Case("v3", 1, 1, False, None, "none", None, False, False, "off", False, (16, 48), True, True)


def layout(model, tp, dp=1, **changes):
    return dataclasses.replace(QUIET, model=model, tp=tp, dp=dp, dp_attention=dp > 1, **changes)


LONELY = [
    layout("v3", 4, 4, dispatch="auto", tbo="any", mixed=True),
    layout("v3", 4, 4, dispatch="auto", dense_tp=1, dp_lm_head=True),
    layout("v2", 4, 4, tbo="sglang", page_chunk=(1, 7)),
    layout("v3", 4, 2, dispatch="auto", tbo="any", layernorm_sp=True, page_chunk=(1, 7)),
    layout("v2", 4, 2, layernorm_sp=True, mixed=True, page_chunk=(1, 16)),
    layout("v2_lora", 4, 2, dispatch="normal", tbo="any", page_chunk=(1, -1)),
    layout("qwen3_moe", 4, 2, dispatch="low_latency", tbo="sglang", mixed=True, page_chunk=(64, 64)),
    layout("qwen3_moe", 4, 4, ep=2, graphs=False, mixed=True, page_chunk=(1, 1)),
    layout("three_heads", 2, 2, dispatch="auto", tbo="any", overlap_schedule=False),
    layout("qwen3", 4, 4, dense_tp=1, dp_lm_head=True),
]


@pytest.mark.parametrize("case", LONELY, ids=str)
@pytest.mark.parametrize("length", [1, 2, 53])
def test_one_request_runs_while_all_other_ranks_idle(models, case, length):
    model = models.get(case.model)
    with start(model, **case.flags()) as engine:
        (output,) = check_parity(engine, model, make_prompts([length], vocab(case.model), seed=length), NEW_TOKENS)
        ranks = engine.stats()["ranks"]
    busy = range(output["meta_info"]["dp_rank"] * case.attn_tp, (output["meta_info"]["dp_rank"] + 1) * case.attn_tp)
    for number, rank in enumerate(ranks):
        ran = {mode for mode, steps in rank["steps"].items() if steps}
        assert ran == ({"EXTEND", "DECODE"} if number in busy else {"IDLE"})
        assert (rank["real_tokens"] > 0) == (number in busy)
        check_dispatch(case, rank)
        check_graphs(case, rank)
    assert any(rank["dispatched_rows"] for rank in ranks) == (case.dispatch != "none")


@pytest.mark.parametrize("case", LONELY, ids=str)
def test_fewer_requests_than_ranks_come_and_go(models, case):
    """Three requests, then one: ranks that idle wake, and sleep again."""
    model = models.get(case.model)
    with start(model, **case.flags()) as engine:
        for seed, lengths in enumerate([(5, 1, 2), (1,), (29, 2), (3,)]):
            check_parity(engine, model, make_prompts(lengths, vocab(case.model), seed=seed), NEW_TOKENS)


# Weights, activations and KV cache in bf16, against the same rounded weights in f32: the mean error of a token's
# log-probability, in nats.
BF16_BOUND = 0.1

BF16 = [
    layout("v3", 1),
    layout("v3", 4, 2, dispatch="auto", tbo="any", mixed=True, page_chunk=(1, 16)),
    layout("v2", 2, dispatch="low_latency", dense_tp=1),
    layout("v2_lora", 2, 2, ep=2, dp_lm_head=True, page_chunk=(1, 7)),
    layout("v2_lora", 4, 2, layernorm_sp=True, mixed=True, page_chunk=(1, 7)),
    layout("qwen3", 4, layernorm_sp=True, page_chunk=(1, 16)),
    layout("qwen3", 4, page_chunk=(1, -1)),
    layout("qwen3_moe", 4, 4, dispatch="normal", tbo="sglang"),
    layout("three_heads", 1, mixed=True, page_chunk=(1, 16)),
]


@pytest.mark.parametrize("case", BF16, ids=str)
def test_bf16_stays_close(models, case):
    model = models.get(case.model, torch.bfloat16)
    with start(model, **case.flags()) as engine:
        errors = logprob_errors(engine, model, make_prompts(LENGTHS, vocab(case.model)), NEW_TOKENS)
        check_paths(case, engine.stats()["ranks"], LENGTHS)
    assert errors.mean() < BF16_BOUND
    assert errors.mean() > LOGPROB_BOUND  # it was bf16
