"""Configurations beyond those of parity_models.py: each changes a few fields of one of them."""

from parity_models import MODELS

_YARN_ALONE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

# name: the model it changes, the changes.
VARIANTS = {
    "v3 without q_lora": ("v3", {"q_lora_rank": None}),
    "v3 with halves rotated": ("v3", {"rope_interleave": False}),
    "v3 in one group": ("v3", {"n_group": 1, "topk_group": 1}),
    "v3 of raw weights": ("v3", {"norm_topk_prob": False, "routed_scaling_factor": 1.0}),
    "v3 all sparse": ("v3", {"first_k_dense_replace": 0}),
    "v3 all dense": ("v3", {"first_k_dense_replace": 3}),
    "v3 with two shared experts": ("v3", {"n_shared_experts": 2}),
    "v3 with biases, tied": ("v3", {"attention_bias": True, "tie_word_embeddings": True}),
    "v3 of odd widths": (
        "v3",
        {"q_lora_rank": 7, "kv_lora_rank": 13, "qk_nope_head_dim": 5, "qk_rope_head_dim": 6, "v_head_dim": 9},
    ),
    "v3 of one layer": ("v3", {"num_hidden_layers": 1}),
    "v3 of many experts": ("v3", {"n_routed_experts": 24, "num_experts_per_tok": 6, "topk_group": 3}),
    "v3 of all experts": ("v3", {"num_experts_per_tok": 4, "n_group": 2, "topk_group": 1}),
    "v3 with plain yarn": ("v3", {"rope_parameters": _YARN_ALONE}),
    "v2 with linear rope": ("v2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "v2 with one expert a token": ("v2", {"num_experts_per_tok": 1, "routed_scaling_factor": 16.0}),
    "v2 in plain rope": ("v2_lora", {"rope_parameters": {"rope_theta": 1e5}, "rms_norm_eps": 1e-3}),
    "qwen3 untied, of one KV head": ("qwen3", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
    "qwen3 with llama3 rope": ("qwen3", {"rope_parameters": _LLAMA3}),
    "qwen3 with yarn": ("qwen3", {"rope_parameters": _YARN_ALONE}),
    "qwen3 of odd heads": ("qwen3", {"head_dim": 6, "rms_norm_eps": 1e-5}),
    "qwen3-moe of raw weights": ("qwen3_moe", {"norm_topk_prob": False, "mlp_only_layers": []}),
    "qwen3-moe of every other layer": ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": []}),
    "qwen3-moe tied, with biases": ("qwen3_moe", {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen3-moe of many experts": ("qwen3_moe", {"num_experts": 16, "num_experts_per_tok": 8}),
}
# Those without experts to dispatch to.
DENSE_ONLY = {name for name, (base, _) in VARIANTS.items() if base == "qwen3"} | {"v3 all dense"}


def changes_of(name: str) -> tuple[str, dict[str, object]]:
    """The family of a variant, and all fields that it sets."""
    base, changes = VARIANTS[name]
    return MODELS[base].family, {**MODELS[base].changes, **changes}
