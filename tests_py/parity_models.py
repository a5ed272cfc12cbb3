"""The models of the parity tests: tiny and random, with sizes that divide badly. Needs torch and transformers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tiny_models import TinyModel, make_tiny_model

# At tp 4: 3 heads a rank, experts of 9 columns a rank. Widths and a vocabulary that are no multiples of a vector.
_ODD = {
    "hidden_size": 60,
    "num_attention_heads": 12,
    "vocab_size": 157,
    "moe_intermediate_size": 36,
    "initializer_range": 0.15,
}
_MLA = _ODD | {"num_key_value_heads": 12}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 1.0,
}


@dataclass(frozen=True)
class ModelSpec:
    """A tiny model, and what the rules of ServerArgs need to know of it."""

    family: str
    heads: int = 12
    kv_heads: int = 12
    experts: int = 8
    mla: bool = True
    dense_layers: bool = True  # some layer has a plain FFN
    hub: bool = False  # config.json as on the hub: rope_theta and rope_scaling, torch_dtype
    changes: Mapping[str, object] = field(default_factory=dict)


MODELS = {
    "v3": ModelSpec("deepseek_v3", changes=_MLA | {"rope_parameters": _YARN}),
    "v2": ModelSpec("deepseek_v2", changes=_MLA | {"attention_bias": True}),
    "v2_lora": ModelSpec(
        "deepseek_v2",
        hub=True,
        changes=_MLA
        | {"q_lora_rank": 24, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}
        | {"routed_scaling_factor": 1.5, "rope_parameters": _YARN},
    ),
    # Two KV heads: at tp 4 two ranks hold the same one. Tied embeddings.
    "qwen3": ModelSpec(
        "qwen3",
        kv_heads=2,
        experts=0,
        mla=False,
        hub=True,
        changes=_ODD | {"num_key_value_heads": 2, "attention_bias": True, "rope_parameters": {"rope_theta": 1e6}},
    ),
    "qwen3_moe": ModelSpec(
        "qwen3_moe",
        kv_heads=4,
        mla=False,
        hub=True,
        changes=_ODD | {"num_key_value_heads": 4, "norm_topk_prob": True, "mlp_only_layers": [1]},
    ),
    # Three heads, which only attention on one rank can run; all layers are sparse.
    "three_heads": ModelSpec(
        "qwen3_moe",
        heads=3,
        kv_heads=3,
        mla=False,
        dense_layers=False,
        changes=_ODD | {"num_attention_heads": 3, "num_key_value_heads": 3, "attention_bias": True},
    ),
}


class ModelStore:
    """Checkpoints by name and dtype, each made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[tuple[str, torch.dtype], TinyModel] = {}

    def get(self, name: str, dtype: torch.dtype = torch.float32) -> TinyModel:
        if (name, dtype) not in self._made:
            self._made[name, dtype] = self._make(name, dtype)
        return self._made[name, dtype]

    def _make(self, name: str, dtype: torch.dtype) -> TinyModel:
        spec = MODELS[name]
        directory = self._directory / f"{name}-{dtype}"
        model = make_tiny_model(spec.family, directory, dtype=dtype, **spec.changes)
        if spec.hub:
            write_hub_config(Path(model.path))
        model.model.float()  # the reference computes in f32 whatever the weights were rounded to
        return model


def write_hub_config(path: Path) -> None:
    """Rewrite config.json from the names of transformers 5 to those of the hub."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type", "default")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
