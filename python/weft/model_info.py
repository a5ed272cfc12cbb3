"""What Python needs to know of a model: a few facts of config.json and generation_config.json.

The core reads the same files for itself and refuses what it lacks; nothing here decides what a model computes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from weft.errors import WeftError
from weft.server_args import DEMO_MODEL

# DeepSeek; Qwen on the hub; Qwen as transformers 5 writes it.
_EXPERT_COUNTS = ("n_routed_experts", "num_experts", "num_local_experts")
# Of a config.json without head_dim; the others divide the hidden size by the heads.
_DEFAULT_HEAD_DIM = {"Qwen3ForCausalLM": 128}


@dataclass(frozen=True)
class ModelInfo:
    """Facts of a model. 0 stands for "has none"."""

    path: Path
    architecture: str
    context_length: int
    vocab_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    kv_lora_rank: int  # MLA
    qk_rope_head_dim: int  # MLA
    num_experts: int
    dtype: str  # of the checkpoint: float32, float16, bfloat16
    eos_token_ids: tuple[int, ...]

    def kv_bytes_per_token(self, attn_tp_size: int, dtype: str) -> int:
        """Bytes that one token takes in the KV cache of one rank."""
        item = 4 if (self.dtype if dtype == "auto" else dtype) in ("float32", "float") else 2
        if self.kv_lora_rank:
            return self.num_layers * (self.kv_lora_rank + self.qk_rope_head_dim) * item
        heads = max(1, self.num_key_value_heads // attn_tp_size)
        return self.num_layers * 2 * heads * self.head_dim * item


def model_directory(model_path: str) -> Path:
    """The directory that `--model-path` (or `--tokenizer-path`) names."""
    path = Path(str(files("weft").joinpath("demo_model"))) if model_path == DEMO_MODEL else Path(model_path)
    if not path.is_dir():
        raise WeftError(
            f"--model-path {model_path}: no such directory; download the checkpoint first and name its directory,"
            " or use 'demo'"
        )
    return path


def read_model_info(model_path: str) -> ModelInfo:
    """Read config.json and, if there is one, generation_config.json.

    Raises:
        WeftError: the directory or config.json is missing or malformed, or a needed key is absent.
    """
    directory = model_directory(model_path)
    config = _read_json(directory / "config.json")
    heads = _int(config, "num_attention_heads")
    hidden = _int(config, "hidden_size")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise WeftError(f"{directory / 'config.json'}: 'architectures' must name the model's class")
    return ModelInfo(
        path=directory,
        architecture=architectures[0],
        context_length=_int(config, "max_position_embeddings"),
        vocab_size=_int(config, "vocab_size"),
        num_layers=_int(config, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=_int(config, "num_key_value_heads", heads),
        head_dim=_int(config, "head_dim", _DEFAULT_HEAD_DIM.get(architectures[0], hidden // max(1, heads))),
        kv_lora_rank=_int(config, "kv_lora_rank", 0),
        qk_rope_head_dim=_int(config, "qk_rope_head_dim", 0),
        num_experts=max(_int(config, key, 0) for key in _EXPERT_COUNTS),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch."),
        eos_token_ids=_eos_token_ids(directory, config),
    )


def _eos_token_ids(directory: Path, config: Mapping[str, object]) -> tuple[int, ...]:
    sources = [config]
    generation = directory / "generation_config.json"
    if generation.is_file():
        sources.append(_read_json(generation))
    ids: dict[int, None] = {}
    for source in sources:
        value = source.get("eos_token_id")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                ids[item] = None
            elif item is not None:
                raise WeftError(f"{directory}: eos_token_id={value!r} must be a token id or a list of them")
    return tuple(ids)


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeftError(f"{path}: {error.strerror}; a checkpoint's directory holds config.json") from error
    except (ValueError, RecursionError) as error:
        raise WeftError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeftError(f"{path} must hold one JSON object")
    return value


def _int(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise WeftError(f"config.json: {key}={value!r} must be a number from 0")
    return value
