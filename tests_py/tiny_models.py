"""Tiny random checkpoints of every family, and what transformers says of them. Needs torch and transformers."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

VOCAB_SIZE = 160

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}
_MLA = {
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
_GQA = {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96}


def _deepseek_v3(changes):
    config = _COMMON | _MLA | {"q_lora_rank": 24, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}
    return transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(**(config | changes))


def _deepseek_v2(changes):
    config = _COMMON | _MLA | {"q_lora_rank": None, "topk_method": "greedy", "norm_topk_prob": False}
    return transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config(**(config | changes))


def _qwen3(changes):
    config = _COMMON | _GQA | {"tie_word_embeddings": True}
    return transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**(config | changes))


def _qwen3_moe(changes):
    config = _COMMON | _GQA | {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2}
    return transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(**(config | changes))


FAMILIES = {
    "deepseek_v3": _deepseek_v3,
    "deepseek_v2": _deepseek_v2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
}


@dataclass(frozen=True)
class TinyModel:
    """A checkpoint on disk, and the same model in transformers."""

    path: str
    family: str
    model: torch.nn.Module

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """log p(next token) after each prefix of `ids`: f32 [len(ids), vocab]. Do not change it."""
        logits = self.model(torch.tensor([ids])).logits[0]
        return torch.log_softmax(logits.float(), dim=-1)


def make_tiny_model(family: str, directory: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **changes):
    """Make a random model, save it, and return both. `changes` are fields of its config.

    Everything that starts as a constant is random too, so that a bias or a norm left out shows.
    """
    kind, config = FAMILIES[family](changes)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("norm.weight"):
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
            elif name.endswith(("bias", "e_score_correction_bias")):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.to(dtype)
    if dtype != torch.float32:  # as checkpoints have it
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.data = buffer.data.float()
    path = directory / f"{family}-{seed}"
    model.save_pretrained(path, safe_serialization=True)
    return TinyModel(str(path), family, model)
