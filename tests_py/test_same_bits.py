"""What may change no bit of any number: repeats, graphs, padding, threads, overlap, the rest of the batch, poison.

All in f32, but for one layout in bf16.
"""

import functools

import pytest

from weft import Engine
from weft.engine import CompiledCore

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from parity import make_prompts
from parity_models import MODELS, ModelStore

LENGTHS = (1, 2, 3, 7, 59, 31, 13, 41)
DP = {"enable_dp_attention": True}
DEEPEP = {"moe_a2a_backend": "deepep"}
MIXED = {"enable_mixed_chunk": True}
TBO = {"enable_two_batch_overlap": True}
SP = {"enable_layernorm_sp": True}

LAYOUTS = [
    ("v3", {"chunked_prefill_size": 16}),
    ("qwen3", {"tp": 4, "chunked_prefill_size": 16, "page_size": 16, **MIXED}),
    ("v2", {"tp": 2, "ep": 2, "moe_dense_tp_size": 1, "chunked_prefill_size": 32}),
    ("v2_lora", {"tp": 4, "dp": 2, **DP, "chunked_prefill_size": 32, **MIXED}),
    ("qwen3_moe", {"tp": 4, "dp": 4, **DP, **TBO, "chunked_prefill_size": 64, **MIXED}),
    ("v3", {"tp": 4, "dp": 2, **DP, **DEEPEP, **TBO, "chunked_prefill_size": 32, **MIXED}),
    ("v3", {"tp": 4, "dp": 2, **DP, **DEEPEP, "deepep_mode": "low_latency", **TBO, "chunked_prefill_size": 32}),
    ("qwen3_moe", {"tp": 2, **DEEPEP, "deepep_mode": "normal", "chunked_prefill_size": 32}),
    ("v2", {"tp": 4, "dp": 2, **DP, **TBO, **SP, "chunked_prefill_size": 14, **MIXED}),
    ("three_heads", {"tp": 4, "dp": 4, **DP, **DEEPEP, "moe_dense_tp_size": 1, "enable_dp_lm_head": True, **MIXED}),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return ModelStore(tmp_path_factory.mktemp("models"))


def start(model, flags, **more):
    """An engine; `more` are fields of RuntimeConfig that no flag sets."""
    sizes = {"skip_tokenizer_init": True, "max_running_requests": 16, "max_total_tokens": 512, "context_length": 128}
    return Engine(model_path=model.path, core_factory=functools.partial(CompiledCore, **more), **(sizes | flags))


def numbers(engine, prompts):
    """Every number of every answer. Floats are compared by ==, and no NaN equals another."""
    outputs = engine.generate(
        input_ids=prompts,
        sampling_params={"temperature": 0, "max_new_tokens": 8, "ignore_eos": True},
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=3,
    )
    keys = ("input_token_logprobs", "output_token_logprobs", "input_top_logprobs", "output_top_logprobs")
    return [[it["output_ids"], *(it["meta_info"][key] for key in keys)] for it in outputs]


def total(engine, name):
    return sum(rank[name] for rank in engine.stats()["ranks"])


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def layout(request, models):
    """A model, flags, prompts, and the numbers that an engine gives."""
    name, flags = request.param
    model, prompts = models.get(name), make_prompts(LENGTHS, MODELS[name].changes["vocab_size"], seed=5)
    with start(model, flags) as engine:
        expected = numbers(engine, prompts)
        assert numbers(engine, prompts) == expected, "repeated"
        assert (total(engine, "graph_replays") > 0) == (flags.get("deepep_mode") != "normal")
    return model, flags, prompts, expected


def test_another_engine(layout):
    model, flags, prompts, expected = layout
    with start(model, flags | {"disable_overlap_schedule": True}) as engine:
        assert numbers(engine, prompts) == expected


def test_eager(layout):
    model, flags, prompts, expected = layout
    with start(model, flags | {"disable_cuda_graph": True}) as engine:
        assert numbers(engine, prompts) == expected
        assert total(engine, "graph_replays") == 0


def test_graphs_of_the_exact_size_and_of_a_larger_one(layout):
    model, flags, prompts, expected = layout
    if flags.get("deepep_mode") == "normal":
        pytest.skip("normal dispatch has no graphs")
    padded = {}
    for what, change in (("exact", {"disable_cuda_graph_padding": True}), ("large", {"cuda_graph_bs": [16]})):
        # All requests of a DP rank fit, so that a graph of 16 rows serves each of its batches.
        sizes = {"max_running_requests": 16 * flags.get("dp", 1), "max_total_tokens": 2048}
        with start(model, flags | sizes | change) as engine:
            assert numbers(engine, prompts) == expected, what
            assert total(engine, "graph_replays") > 0 or what == "exact"  # no batch need have a graph's size
            padded[what] = total(engine, "padded_tokens")
    assert padded["large"] > padded["exact"]


@pytest.mark.parametrize("cores", [1, 3, 8])
def test_any_number_of_cores(layout, cores):
    model, flags, prompts, expected = layout
    with start(model, flags, num_threads=cores) as engine:
        assert numbers(engine, prompts) == expected


@pytest.mark.parametrize("graphs", [True, False])
def test_poison(layout, graphs):
    """NaN in padding, workspaces and unused KV pages before every step."""
    model, flags, prompts, expected = layout
    with start(model, flags | {"disable_cuda_graph": not graphs}, poison=True) as engine:
        assert numbers(engine, prompts) == expected
        assert numbers(engine, prompts) == expected, "in pages that others have used"


def test_poison_with_padding_and_expert_chunks(layout):
    model, flags, prompts, expected = layout
    change = {} if flags.get("deepep_mode") == "normal" else {"cuda_graph_bs": [4]}
    with start(model, flags | change, poison=True, dispatch_chunk_rows=2) as engine:
        assert numbers(engine, prompts) == expected
        assert (total(engine, "multi_chunk_steps") > 0) == ("moe_a2a_backend" in flags)


def test_two_batch_overlap(layout):
    """Off where the layout has it, and on where it can."""
    model, flags, prompts, expected = layout
    if "enable_two_batch_overlap" in flags:
        flags = {name: value for name, value in flags.items() if name not in TBO}
    elif "enable_dp_attention" in flags or "moe_a2a_backend" in flags:
        flags = flags | TBO
    else:
        pytest.skip("there is no communication to overlap with")
    with start(model, flags) as engine:
        assert numbers(engine, prompts) == expected
        assert (total(engine, "tbo_steps") > 0) == ("enable_two_batch_overlap" in flags)


def test_layernorm_sp(layout):
    """Off where the layout has it, and on where it can."""
    model, flags, prompts, expected = layout
    if "enable_layernorm_sp" in flags:
        flags = {name: value for name, value in flags.items() if name not in SP}
    elif flags.get("tp", 1) > flags.get("dp", 1):
        flags = flags | SP
    else:
        pytest.skip("an attention group is one rank")
    with start(model, flags) as engine:
        assert numbers(engine, prompts) == expected
        assert (total(engine, "layernorm_sp_steps") > 0) == ("enable_layernorm_sp" in flags)


def test_alone_and_in_other_company(layout):
    """A request's numbers do not depend on the requests beside it. Without chunks, as those do depend on them."""
    model, flags, prompts, _ = layout
    flags = {name: value for name, value in flags.items() if name not in MIXED} | {"chunked_prefill_size": -1}
    with start(model, flags) as engine:
        together = numbers(engine, prompts)
        assert numbers(engine, prompts[::-1])[::-1] == together
        assert [numbers(engine, [prompt])[0] for prompt in prompts] == together


def test_bf16(models):
    name, flags = LAYOUTS[5]
    model, prompts = models.get(name, torch.bfloat16), make_prompts(LENGTHS, MODELS[name].changes["vocab_size"])
    with start(model, flags) as engine:
        expected = numbers(engine, prompts)
    for change, more in (({"disable_cuda_graph": True}, {}), (SP, {}), ({"cuda_graph_bs": [4]}, {"poison": True})):
        with start(model, flags | change, **more) as engine:
            assert numbers(engine, prompts) == expected
