"""The shipped demo model: what is in the package, and that its answers are right in transformers."""

from __future__ import annotations

import importlib
import json
import math
import random
import struct
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import jinja2.sandbox
import pytest
import tokenizers

from weft.bench import demo_tasks
from weft.bench.demo_tasks import Skill, Split, generate, is_correct

MODEL = Path(str(files("weft").joinpath("demo_model")))
BENCH = Path(__file__).resolve().parents[1] / "bench" / "demo_model"
MIB = 1 << 20


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads((MODEL / "config.json").read_text())


@pytest.fixture(scope="module")
def tensors() -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of every tensor, from the header of model.safetensors."""
    with (MODEL / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: (t["dtype"], t["shape"]) for name, t in header.items() if name != "__metadata__"}


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of bench/demo_model. One thread: on a busy machine two of them mostly wait for each other."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(BENCH))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    torch.set_num_threads(num_threads)


def render(messages: list[dict[str, str]]) -> str:
    settings = json.loads((MODEL / "tokenizer_config.json").read_text())
    template = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(settings["chat_template"])
    return template.render(messages=messages, bos_token=settings["bos_token"], add_generation_prompt=True)


def ask(prompt: str) -> str:
    return render([{"role": "user", "content": prompt}])


def test_package_is_complete_and_small() -> None:
    names = {path.name for path in MODEL.iterdir() if path.is_file()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum((MODEL / name).stat().st_size for name in names) <= 15 * MIB


def test_weights(tensors: dict[str, tuple[str, list[int]]], config: dict) -> None:
    assert sum(math.prod(shape) for _, shape in tensors.values()) <= 7_500_000
    for name, (dtype, _) in tensors.items():
        assert dtype == ("F32" if name.endswith("e_score_correction_bias") else "BF16"), name
    experts = {name.split(".experts.")[1].split(".")[0] for name in tensors if ".experts." in name}
    assert len(experts) == config["n_routed_experts"]
    assert tensors["model.layers.1.mlp.experts.7.down_proj.weight"][1] == [256, 64]
    assert tensors["lm_head.weight"][1] == [config["vocab_size"], config["hidden_size"]]


def test_config_is_deepseek_v3_with_the_widths_that_kernels_know(config: dict) -> None:
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    assert (config["kv_lora_rank"], config["qk_rope_head_dim"]) == (512, 64)
    assert (config["qk_nope_head_dim"], config["v_head_dim"]) == (128, 128)
    for name in ("hidden_size", "intermediate_size", "moe_intermediate_size", "q_lora_rank", "vocab_size"):
        assert config[name] % 64 == 0, name
    assert config["num_attention_heads"] >= 4
    assert config["first_k_dense_replace"] == 1 < config["num_hidden_layers"]
    assert config["n_shared_experts"] == 1
    assert config["n_routed_experts"] >= 8
    assert config["n_routed_experts"] % config["n_group"] == 0
    assert config["n_routed_experts"] // config["n_group"] >= 2  # a group's score is the sum of its best two
    assert config["topk_group"] * (config["n_routed_experts"] // config["n_group"]) >= config["num_experts_per_tok"]
    # Four ranks, with and without expert parallelism.
    for name in ("num_attention_heads", "n_routed_experts", "moe_intermediate_size", "intermediate_size"):
        assert config[name] % 4 == 0, name
    assert config["scoring_func"] == "sigmoid"
    assert config["norm_topk_prob"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]


def test_special_tokens(tokenizer: tokenizers.Tokenizer, config: dict) -> None:
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.token_to_id("<|end|>") == config["eos_token_id"]
    assert tokenizer.token_to_id("<|bos|>") == config["bos_token_id"]
    assert tokenizer.token_to_id("<|pad|>") == config["pad_token_id"]
    assert tokenizer.encode("hello").ids[0] != config["bos_token_id"]  # the template adds it


def test_digits_and_capitals_are_tokens_of_their_own(tokenizer: tokenizers.Tokenizer) -> None:
    assert tokenizer.encode('"A1BB9"').tokens == ['"', "A", "1", "B", "B", "9", '"']
    assert tokenizer.encode("QXZ=482\n").tokens == ["Q", "X", "Z", "=", "4", "8", "2", "Ċ"]
    assert tokenizer.encode(" 120").tokens == ["Ġ", "1", "2", "0"]


@pytest.mark.parametrize("text", ["", "naïve Σ 漢字 🙂\t\n  x", "First 12 * 3 = 36.\n#### 36", "A  B"])
def test_any_text_survives_the_tokenizer(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_chat_template() -> None:
    assert ask("Hi") == "<|bos|><|user|>Hi<|assistant|>"
    chat = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V"},
    ]
    assert render(chat) == "<|bos|><|system|>S<|user|>U<|assistant|>A<|end|><|user|>V<|assistant|>"


def test_tasks_fit_the_context(tokenizer: tokenizers.Tokenizer, config: dict) -> None:
    for skill in Skill:
        for e in generate(Split.TEST, skill, 100):
            assert len(tokenizer.encode(e.answer_text).ids) < demo_tasks.MAX_ANSWER_TOKENS
    longest = demo_tasks.sample_lookup(Split.TEST, demo_tasks.MAX_PAIRS, random.Random(0))
    num_tokens = len(tokenizer.encode(ask(longest.prompt)).ids)
    assert 1500 < num_tokens + demo_tasks.MAX_ANSWER_TOKENS <= config["max_position_embeddings"]


def test_transformers_answers_right(bench) -> None:
    evaluator = bench("evaluate").Evaluator(MODEL, "cpu")
    nums = {Skill.WORD_PROBLEM: 6, Skill.COPY: 2, Skill.REVERSE: 2, Skill.SORT: 2}
    examples = [e for skill, num in nums.items() for e in generate(Split.TEST, skill, num, seed=7)]
    examples.append(demo_tasks.sample_lookup(Split.TEST, demo_tasks.MAX_PAIRS, random.Random(7)))
    assert evaluator.render(examples[0]) == ask(examples[0].prompt)
    assert evaluator.outputs(examples[:2]) == [e.answer_text for e in examples[:2]]  # token by token
    outputs = evaluator.answer(examples)
    wrong = [(e.prompt[-80:], text) for e, text in zip(examples, outputs, strict=True) if not is_correct(e, text)]
    assert not wrong


def test_training_module_computes_what_transformers_does(bench, tmp_path: Path) -> None:
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    model_py = bench("model")
    torch.manual_seed(0)
    model = model_py.DemoModel(model_py.ModelConfig(num_layers=3))
    with torch.no_grad():
        for name, param in model.named_parameters():
            # Outputs large enough to be seen, norms unlike one, and what bf16 can hold.
            param.mul_(5 if name in ("o", "dense_down", "expert_down") else 1)
            param.add_(torch.randn_like(param) * 0.1 if "norm" in name else 0)
            param.copy_(param.bfloat16().float())
        model.router_bias.normal_(std=0.1)
    model.export(tmp_path, pad_id=0, bos_id=2, end_id=1)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    segments = (model_py.Segment(0, 3, 17), model_py.Segment(51, 1, 40))
    tokens = torch.randint(6, 768, (91,))
    with torch.no_grad():
        logits = model.logits(model(tokens, segments)[0])
        for s in segments:
            expected = reference(tokens[s.start : s.end].view(s.rows, s.length)).logits.flatten(0, 1)
            torch.testing.assert_close(logits[s.start : s.end], expected, atol=1e-4, rtol=0)
