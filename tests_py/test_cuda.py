"""On a GPU: transformers' numbers in 16 bits and f32, the demo model's answers, memory; skipped without a GPU."""

import json

import pytest

from weft import Engine, ServerArgs, engine_config, gpu
from weft.bench import accuracy

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from parity import check_parity, logprob_errors, make_prompts
from parity_models import MODELS
from tiny_models import make_tiny_model

WHY = gpu.why_unusable()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY), reason=WHY)]


# ---- the numbers of transformers ----

LENGTHS = (1, 2, 3, 7, 97, 71, 67, 83, 2, 1, 5, 1)
NEW_TOKENS = 6
SIZES = {"skip_tokenizer_init": True, "max_running_requests": 16, "max_total_tokens": 2048, "context_length": 128}

_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 512}
_COMMON = {"hidden_size": 512, "vocab_size": 1024, "initializer_range": 0.05, "max_position_embeddings": 512}
_MLA = {
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
}
# Widths that the fast kernels take, as those of real models; the models of parity_models.py have none of them.
FRIENDLY = {
    "qwen3 of friendly widths": ("qwen3", _COMMON | _HEADS),
    "qwen3_moe of friendly widths": (
        "qwen3_moe",
        _COMMON | _HEADS | {"moe_intermediate_size": 128, "num_experts": 16, "num_experts_per_tok": 4},
    ),
    "v2 of friendly widths": ("deepseek_v2", _COMMON | _MLA),
    "v3 of friendly widths": ("deepseek_v3", _COMMON | _MLA | {"q_lora_rank": 256, "n_group": 4, "topk_group": 2}),
}
ALL = {name: (spec.family, spec.changes) for name, spec in MODELS.items()} | FRIENDLY
MODES = {
    "eager, prompts whole": {"disable_cuda_graph": True, "chunked_prefill_size": -1},
    "graphs, chunks of 16": {"chunked_prefill_size": 16},
    "graphs, mixed, pages of 1": {"chunked_prefill_size": 48, "enable_mixed_chunk": True, "page_size": 1},
    "eager, mixed, chunks of 7": {"chunked_prefill_size": 7, "enable_mixed_chunk": True, "disable_cuda_graph": True},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By name and dtype, each made when it is first asked for. The reference computes in f32 what weights are left."""
    made = {}
    torch.set_num_threads(1)

    def get(name, dtype):
        if (name, dtype) not in made:
            family, changes = ALL[name]
            made[name, dtype] = make_tiny_model(family, tmp_path_factory.mktemp("model"), dtype=dtype, **changes)
            made[name, dtype].model.float()
        return made[name, dtype]

    return get


def check_paths(stats, flags):
    (rank,) = stats["ranks"]
    assert (rank["graph_replays"] > 0) == ("disable_cuda_graph" not in flags)
    assert (rank["steps"]["MIXED"] > 0) == ("enable_mixed_chunk" in flags)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALL)
def test_bf16_is_as_close_as_transformers_is(models, name, mode):
    """Of a log-probability's error against f32 with the same weights, beside that of transformers' bf16.

    The mean is at most 1.2 times theirs and 2e-3, the worst 3 times and 2e-2.
    """
    ours, theirs = errors_of(models, name, torch.bfloat16, MODES[mode])
    assert ours.mean() <= 1.2 * theirs.mean() + 2e-3, f"mean {ours.mean():.4f}, transformers {theirs.mean():.4f}"
    assert ours.max() <= 3 * theirs.max() + 2e-2, f"worst {ours.max():.4f}, transformers {theirs.max():.4f}"


@pytest.mark.parametrize("mode", ["eager, prompts whole", "graphs, chunks of 16"])
@pytest.mark.parametrize("name", [*FRIENDLY, "v3"])
def test_f16_is_as_close_as_transformers_is(models, name, mode):
    """The same for f16, whose rounding is an eighth of bf16's.

    The median is at most 1.2 times theirs and 2e-4, the mean 1.2 times and 2e-3. The worst is no measure: few tokens
    meet a near tie of experts, and it is chance which.
    """
    ours, theirs = errors_of(models, name, torch.float16, MODES[mode])
    assert ours.median() <= 1.2 * theirs.median() + 2e-4, f"{ours.median():.5f}, transformers {theirs.median():.5f}"
    assert ours.mean() <= 1.2 * theirs.mean() + 2e-3, f"mean {ours.mean():.5f}, transformers {theirs.mean():.5f}"


def errors_of(models, name, dtype, flags):
    """How far log-probabilities are from those in f32, of an engine and of transformers: f32 [tokens] each."""
    tiny = models(name, dtype)
    prompts = make_prompts(LENGTHS, ALL[name][1]["vocab_size"])
    with Engine(model_path=tiny.path, device="cuda", **(SIZES | flags)) as engine:
        ours = logprob_errors(engine, tiny, prompts, NEW_TOKENS)
        check_paths(engine.stats(), flags)
    return ours, transformers_error(tiny, prompts, dtype)


@torch.inference_mode()
def transformers_error(tiny, prompts, dtype):
    """How far transformers in `dtype`, on the GPU if PyTorch has one, is from itself in f32: f32 [tokens]."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    errors = []
    wanted = [tiny.logprobs(prompt) for prompt in prompts]
    tiny.model.config._experts_implementation = "eager"  # the others want widths of whole vectors
    tiny.model.to(device, dtype)
    for prompt, want in zip(prompts, wanted, strict=True):
        logits = tiny.model(torch.tensor([prompt], device=device)).logits[0]
        got = torch.log_softmax(logits.float(), dim=-1).cpu()
        place, token = torch.arange(len(prompt) - 1), torch.tensor(prompt[1:], dtype=torch.long)
        errors.append((got[place, token] - want[place, token]).abs())
    tiny.model.to("cpu", torch.float32)
    return torch.cat(errors)


@pytest.mark.parametrize("name", ["v3", "qwen3_moe", "three_heads", "qwen3 of friendly widths"])
def test_f32_says_what_transformers_says(models, name):
    tiny = models(name, torch.float32)
    prompts = make_prompts(LENGTHS, ALL[name][1]["vocab_size"])
    flags = MODES["graphs, mixed, pages of 1"]
    with Engine(model_path=tiny.path, device="cuda", **(SIZES | flags)) as engine:
        check_parity(engine, tiny, prompts, NEW_TOKENS)
        check_paths(engine.stats(), flags)


# ---- the engine ----


def test_the_demo_model_answers_as_well_as_on_the_cpu(capsys):
    argv = "--num-examples 200 --device cuda --enable-mixed-chunk --chunked-prefill-size 256 --json --compare"
    accuracy.main([*argv.split(), "--device cpu"])
    it = json.loads(capsys.readouterr().out)
    assert it["compare"]["accuracy"] >= 0.95
    assert abs(it["accuracy"] - it["compare"]["accuracy"]) <= 0.01
    (rank,) = it["stats"]["ranks"]
    assert rank["steps"]["MIXED"] > 0
    assert rank["graph_replays"] > 0


def test_memory_is_what_was_promised_and_comes_back():
    before = gpu.free_bytes()
    flags = {"device": "cuda", "load_format": "dummy", "context_length": 1024, "mem_fraction_static": 0.05}
    with Engine(model_path="demo", max_running_requests=64, chunked_prefill_size=512, **flags) as engine:
        engine.generate(input_ids=[5] * 700, sampling_params={"max_new_tokens": 4})
        taken = before - gpu.free_bytes()
        assert engine.config.max_total_tokens == 64 * 1024
    assert 0 < taken < 0.05 * before + (1 << 30)
    others = 64 << 20 if gpu.memory_mib() else 0  # of a real GPU other programs may take some
    assert gpu.free_bytes() >= before - others


def test_the_kv_cache_takes_its_share_of_the_gpu():
    flags = {"model_path": "demo", "device": "cuda", "max_running_requests": 1 << 16}
    small, large = (
        engine_config.resolve(ServerArgs.from_kwargs(mem_fraction_static=share, **flags)).max_total_tokens
        for share in (0.1, 0.2)
    )
    per_token = engine_config.resolve(ServerArgs.from_kwargs(**flags)).model.kv_bytes_per_token(1, "auto")
    assert abs((large - small) * per_token / gpu.free_bytes() - 0.1) < 0.01


def test_the_gpu_is_the_default():
    if gpu.memory_mib() is None:
        pytest.skip("an emulated GPU is never the default")
    args = ServerArgs.from_kwargs(model_path="demo")
    assert (args.device, args.page_size) == ("cuda", 64)
