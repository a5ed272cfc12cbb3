"""What the scripts that measure on a GPU share: the shapes of models, a check of results, floors and tables."""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import HBM_BYTES_PER_S, commit

import weft
from weft import gpu

BF16 = 2
CONTEXT = 4096
PEERS = ("vllm", "sglang", "at_least", "goal")  # vLLM 0.26.0, SGLang 0.5.17, and what weft is to reach
Prompts = list[list[int]]

_QWEN3 = {
    "vocab_size": 151936,
    "head_dim": 128,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}


@dataclass(frozen=True)
class Shape:
    """A model's config.json, and what was measured of it on one H200."""

    title: str
    config: dict[str, Any]
    # By batch, ms a decode step of PEERS.
    decode_ms: dict[int, tuple[float, float, float, float]] = field(default_factory=dict)

    @property
    def hidden(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def is_mla(self) -> bool:
        return "kv_lora_rank" in self.config

    @property
    def num_sparse_layers(self) -> int:
        return self.layers - int(self.config.get("first_k_dense_replace", 0)) if self.num_experts else 0

    @property
    def num_experts(self) -> int:
        return int(self.config.get("num_experts", self.config.get("n_routed_experts", 0)))

    def attention_params(self) -> int:
        """Of one layer."""
        c, heads = self.config, int(self.config["num_attention_heads"])
        if self.is_mla:
            rank, nope, rope, v = (c[k] for k in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
            return int(
                self.hidden * (heads * (nope + rope) + rank + rope)
                + rank * heads * (nope + v)
                + heads * v * self.hidden
            )
        return int(self.hidden * c["head_dim"] * 2 * (heads + c["num_key_value_heads"]))

    def expert_params(self) -> int:
        return 3 * self.hidden * int(self.config.get("moe_intermediate_size", 0))

    def params_read(self, rows: float) -> float:
        """Parameters that a step over `rows` tokens reads: every matrix, and the experts that some row chose."""
        c, experts = self.config, self.num_experts
        dense = self.layers - self.num_sparse_layers
        total = self.layers * self.attention_params() + dense * 3 * self.hidden * int(c["intermediate_size"])
        total += c["vocab_size"] * self.hidden  # the LM head
        if experts:
            touched = experts * (1 - (1 - c["num_experts_per_tok"] / experts) ** rows)
            total += self.num_sparse_layers * (touched + c.get("n_shared_experts", 0)) * self.expert_params()
            total += self.num_sparse_layers * experts * self.hidden
        return float(total)

    def params_of_token(self) -> float:
        """Parameters that one prompt token is multiplied with; the LM head sees only the last."""
        c = self.config
        dense = self.layers - self.num_sparse_layers
        active = c.get("num_experts_per_tok", 0) + c.get("n_shared_experts", 0)
        ffn = (
            dense * 3 * self.hidden * int(c["intermediate_size"])
            + self.num_sparse_layers * active * self.expert_params()
        )
        return float(self.layers * self.attention_params() + ffn)

    def attention_flops(self, length: int) -> float:
        """Of a whole prompt, causal: scores and values of every layer."""
        c, heads = self.config, int(self.config["num_attention_heads"])
        widths = c["qk_nope_head_dim"] + c["qk_rope_head_dim"] + c["v_head_dim"] if self.is_mla else 2 * c["head_dim"]
        return float(self.layers * heads * widths * length * length)

    def kv_bytes_per_token(self) -> int:
        c = self.config
        width = (
            c["kv_lora_rank"] + c["qk_rope_head_dim"] if self.is_mla else 2 * c["num_key_value_heads"] * c["head_dim"]
        )
        return int(self.layers * width * BF16)

    def decode_floor_ms(self, batch: int, kv: float) -> float:
        """Weights once and the keys and values of `kv` tokens a request, at the rate of the memory."""
        num_bytes = BF16 * self.params_read(batch) + batch * kv * self.kv_bytes_per_token()
        return num_bytes / HBM_BYTES_PER_S * 1e3


SHAPES = {
    "qwen3-0.6b": Shape(
        "Qwen3-0.6B",
        _QWEN3
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        {1: (1.718, 1.580, 0.9, 0.45), 16: (1.790, 1.619, 1.0, 0.55), 128: (3.495, 3.130, 2.4, 1.5)},
    ),
    "qwen3-8b": Shape(
        "Qwen3-8B",
        _QWEN3
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
        {1: (5.115, 5.089, 4.7, 4.1)},
    ),
    "qwen3-30b-a3b": Shape(
        "Qwen3-30B-A3B",
        _QWEN3
        | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        },
        {1: (4.097, 4.017, 3.0, 2.0), 16: (12.26, 12.57, 11.6, 10.5), 128: (18.79, 18.62, 17.5, 15.8)},
    ),
    "deepseek-v2-lite": Shape(
        "DeepSeek-V2-Lite",
        {
            "architectures": ["DeepseekV2ForCausalLM"],
            "vocab_size": 102400,
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "q_lora_rank": None,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "n_routed_experts": 64,
            "num_experts_per_tok": 6,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "scoring_func": "softmax",
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
            },
            "max_position_embeddings": 163840,
            "dtype": "bfloat16",
        },
    ),
}


def need_gpu(name: str) -> None:
    if reason := gpu.why_unusable():
        sys.exit(f"{name}: {reason}")


def machine() -> dict[str, str]:
    """The card, its driver and the commit."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        card = "unknown card"
    return {"card": card, "commit": commit()}


def write_config(shape: Shape, directory: str, **changes: object) -> str:
    """config.json of the shape, for load_format=dummy; returns the directory."""
    Path(directory, "config.json").write_text(json.dumps(shape.config | changes), encoding="utf-8")
    return directory


def make_engine(directory: str, max_batch: int, **flags: object) -> weft.Engine:
    return weft.Engine(
        **{
            "model_path": directory,
            "skip_tokenizer_init": True,
            "load_format": "dummy",
            "device": "cuda",
            "context_length": CONTEXT,
            "max_running_requests": max_batch,
            "random_seed": 1,
            **flags,
        },
    )


def make_prompts(count: int, length: int, vocab: int, seed: int = 0) -> Prompts:
    rng = random.Random(seed)
    return [[rng.randrange(vocab) for _ in range(length)] for _ in range(count)]


def ask(engine: weft.Engine, prompts: Prompts, output: int | Sequence[int], temperature: float = 0.0) -> float:
    """Seconds until all answers are there; each has the tokens that it was asked for."""
    lengths = [output] * len(prompts) if isinstance(output, int) else list(output)
    params = [{"temperature": temperature, "max_new_tokens": n, "ignore_eos": True} for n in lengths]
    start = time.perf_counter()
    answers = engine.generate(input_ids=prompts, sampling_params=params)
    seconds = time.perf_counter() - start
    if [len(answer["output_ids"]) for answer in answers] != lengths:
        sys.exit("weft gave another number of tokens than asked for")
    return seconds


# Of a token's log-probability in bf16, the GPU's against the CPU's.
MAX_ERROR = 0.05
# A near tie of bf16 scores may choose another expert: of Qwen3-30B-A3B, one CPU rank and two differ by 0.09.
MAX_ERROR_WITH_EXPERTS = 0.15


def check(shape: Shape, directory: str) -> float:
    """Two layers and a small vocabulary, on the GPU and on the CPU: the largest difference of a log-probability.

    Three prompts at once, with graphs, then eager and in chunks of 64. Stops the program if it is too large.
    """
    write_config(shape, directory, num_hidden_layers=2, vocab_size=2048)
    prompts = [ids[:n] for ids, n in zip(make_prompts(3, 70, 2048), (70, 33, 1), strict=True)]
    params = {"temperature": 0.0, "max_new_tokens": 5, "ignore_eos": True}

    def logprobs(flags: dict[str, Any], output: list[list[int]] | None) -> tuple[list[list[int]], list[float]]:
        """Of `output` after each prompt, or of what the engine makes of it; the outputs and all log-probabilities."""
        with make_engine(directory, 4, context_length=128, max_total_tokens=1024, **flags) as engine:
            ids = prompts if output is None else [p + o for p, o in zip(prompts, output, strict=True)]
            answers = engine.generate(input_ids=ids, sampling_params=params, return_logprob=True, logprob_start_len=0)
            values = []
            for prompt, answer in zip(prompts, answers, strict=True):
                entries = [
                    *answer["meta_info"]["input_token_logprobs"][1:],
                    *answer["meta_info"]["output_token_logprobs"],
                ]
                values += [value for value, _, _ in entries[: len(prompt) - 1 + 5]]
            return [answer["output_ids"] for answer in answers], values

    worst = 0.0
    for flags in ({}, {"disable_cuda_graph": True, "chunked_prefill_size": 64}):
        output, got = logprobs(flags, None)
        _, want = logprobs({"device": "cpu"}, output)
        worst = max(worst, *(abs(a - b) for a, b in zip(got, want, strict=True)))
    if not worst <= (MAX_ERROR_WITH_EXPERTS if shape.num_experts else MAX_ERROR):
        sys.exit(f"{shape.title}: a log-probability is wrong by {worst}")
    return worst


def print_about(about: dict[str, str], rounds: int, errors: dict[str, float]) -> None:
    """The lines above a table."""
    checked = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"{about['card']}, commit {about['commit']}, medians of {rounds} rounds")
    print(f"largest error of a log-probability against the CPU, in bf16: {checked}\n" if errors else "", flush=True)


def check_all(names: Sequence[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        return {name: check(SHAPES[name], directory) for name in names}


class Table:
    """Prints rows as they come, under one header; with `json` it prints nothing, and keeps them."""

    def __init__(self, columns: Sequence[tuple[str, str]], json: bool = False) -> None:
        """columns: (key, format). A key that a row lacks is a blank."""
        self._columns, self._json = columns, json
        self._widths = [18 if form == "s" else max(8, len(key)) for key, form in columns]
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any], note: str = "") -> None:
        """note: what stands behind the row."""
        if not self.rows:
            self._print([key for key, _ in self._columns])
        self.rows.append(row)
        self._print([format(row[key], form) if key in row else "-" for key, form in self._columns], note)

    def _print(self, cells: Sequence[str], note: str = "") -> None:
        if not self._json:
            line = "  ".join(cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True))
            print(f"{line}  {note}".rstrip(), flush=True)
