"""Models for the tests that need no weights."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

VOCAB_SIZE = 260
EOS = 256


def write_byte_tokenizer(directory):
    """A tokenizer whose tokens are the 256 bytes, and four special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|end|>", "chat_template": template}), encoding="utf-8"
    )


def write_config(directory, **changes):
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "max_position_embeddings": 256,
        "vocab_size": VOCAB_SIZE,
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "n_routed_experts": 8,
        "dtype": "float32",
        "eos_token_id": EOS,
    }
    (directory / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


@pytest.fixture(autouse=True)
def no_gpu(request, monkeypatch):
    """Defaults are those of a machine without a GPU, but for the tests that are marked `gpu`."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("weft.gpu.memory_mib", lambda: None)


@pytest.fixture
def fake_model(tmp_path):
    """A directory with config.json and a byte tokenizer, and no weights."""
    write_config(tmp_path)
    write_byte_tokenizer(tmp_path)
    return str(tmp_path)
