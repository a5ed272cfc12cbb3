"""DeepSeek-V3 for training: the arithmetic of transformers' DeepseekV3ForCausalLM, arranged for one GPU.

Layers share stacked parameters ([num_layers, ...]), so that the optimiser works on few tensors. All experts run for
every token as one wide MLP whose blocks are scaled by the routing weights (zero for experts not chosen); the shared
expert is its last block. At this size that is faster than gathering rows. `export` writes the layout of the hub.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

NUM_SKILLS = 5


@dataclass(frozen=True)
class ModelConfig:
    vocab_size: int = 768
    hidden: int = 256
    num_layers: int = 5  # the first is dense, the others are sparse
    num_heads: int = 4
    q_lora: int = 128
    kv_lora: int = 512
    nope: int = 128
    rope: int = 64
    v: int = 128
    dense_inter: int = 512
    expert_inter: int = 64
    num_experts: int = 8
    num_groups: int = 4
    topk_groups: int = 2
    topk: int = 2
    routed_scale: float = 2.5
    rope_theta: float = 10000.0
    max_position: int = 4096
    eps: float = 1e-6

    def hugging_face(self, *, pad_id: int, bos_id: int, end_id: int) -> dict[str, object]:
        """config.json. Rope is named twice: as the hub's loaders read it, and as transformers 5 does."""
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": bos_id,
            "dtype": "bfloat16",
            "eos_token_id": end_id,
            "first_k_dense_replace": 1,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.dense_inter,
            "kv_lora_rank": self.kv_lora,
            "max_position_embeddings": self.max_position,
            "model_type": "deepseek_v3",
            "moe_intermediate_size": self.expert_inter,
            "moe_layer_freq": 1,
            "n_group": self.num_groups,
            "n_routed_experts": self.num_experts,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "num_attention_heads": self.num_heads,
            "num_experts_per_tok": self.topk,
            "num_hidden_layers": self.num_layers,
            "num_key_value_heads": self.num_heads,
            "num_nextn_predict_layers": 0,
            "pad_token_id": pad_id,
            "q_lora_rank": self.q_lora,
            "qk_nope_head_dim": self.nope,
            "qk_rope_head_dim": self.rope,
            "rms_norm_eps": self.eps,
            "rope_interleave": True,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "routed_scaling_factor": self.routed_scale,
            "scoring_func": "sigmoid",
            "tie_word_embeddings": False,
            "topk_group": self.topk_groups,
            "topk_method": "noaux_tc",
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "v_head_dim": self.v,
            "vocab_size": self.vocab_size,
        }


@dataclass(frozen=True)
class Segment:
    """`rows` sequences of `length` tokens each, padded at their ends, from `start` in the flat token array."""

    start: int
    rows: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.rows * self.length


@dataclass(frozen=True)
class Output:
    loss: Tensor  # scalar
    correct: Tensor  # bool [num_labels]
    load: Tensor  # [num_sparse_layers, num_segments, num_experts]: share of the segment's (token, choice) pairs


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In f32, whatever x is."""
    x = x.float()
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def top_mask(scores: Tensor, k: int) -> Tensor:
    """1.0 where a score is among the k largest of its last axis (the first of equals wins), else 0.0."""
    n = scores.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool, device=scores.device).tril(-1)  # [i, j]: j stands before i
    mine, other = scores.unsqueeze(-1), scores.unsqueeze(-2)
    return (((other > mine) | ((other == mine) & later)).sum(-1) < k).to(scores.dtype)


class DemoModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        n, sparse, blocks = c.num_layers, c.num_layers - 1, c.num_experts + 1

        def matrix(*shape: int, std: float | None = None) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * (shape[-1] ** -0.5 if std is None else std))

        self.embed = matrix(c.vocab_size, c.hidden, std=0.1)
        self.head = matrix(c.vocab_size, c.hidden, std=0.02)
        self.q_a = matrix(n, c.q_lora, c.hidden)
        self.q_b = matrix(n, c.num_heads * (c.nope + c.rope), c.q_lora)
        self.kv_a = matrix(n, c.kv_lora + c.rope, c.hidden)
        self.kv_b = matrix(n, c.num_heads * (c.nope + c.v), c.kv_lora)
        self.o = matrix(n, c.hidden, c.num_heads * c.v, std=0.005)
        self.dense_gate_up = matrix(2, c.dense_inter, c.hidden)
        self.dense_down = matrix(1, c.hidden, c.dense_inter, std=0.005)
        # The last block is the shared expert.
        self.expert_gate_up = matrix(sparse, 2 * blocks, c.expert_inter, c.hidden)  # all gates, then all ups
        self.expert_down = matrix(sparse, blocks, c.hidden, c.expert_inter, std=0.01)
        self.router = matrix(sparse, c.num_experts, c.hidden)
        self.input_norm = nn.Parameter(torch.ones(n, c.hidden))
        self.q_norm = nn.Parameter(torch.ones(n, c.q_lora))
        self.kv_norm = nn.Parameter(torch.ones(n, c.kv_lora))
        self.post_norm = nn.Parameter(torch.ones(n, c.hidden))
        self.final_norm = nn.Parameter(torch.ones(c.hidden))
        self.router_bias: Tensor
        self.register_buffer("router_bias", torch.zeros(sparse, c.num_experts))
        self.compute_dtype = torch.float32

    @torch.no_grad()
    def normalise_router(self) -> None:
        """Give every row of the routers length 1.

        Long rows saturate the sigmoid. Scores near 0 or 1 tie, the bias then moves many tokens at once, and rounding
        decides which expert a token gets.
        """
        self.router.div_(self.router.norm(dim=-1, keepdim=True))

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x.to(self.compute_dtype), weight.to(self.compute_dtype))

    def rope_tables(self, segments: Sequence[Segment], device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin of every flat position: f32 [num_tokens, 1, rope / 2]."""
        pos = torch.cat([torch.arange(s.length, device=device).repeat(s.rows) for s in segments])
        exponent = torch.arange(0, self.config.rope, 2, device=device, dtype=torch.float32) / self.config.rope
        angle = pos.float()[:, None, None] / self.config.rope_theta**exponent
        return angle.cos(), angle.sin()

    def attention(
        self, x: Tensor, weights: Sequence[Tensor], segments: Sequence[Segment], cos: Tensor, sin: Tensor
    ) -> Tensor:
        c = self.config
        q_a, q_norm, q_b, kv_a, kv_norm, kv_b, o = weights
        num_tokens = x.shape[0]

        def rotate(t: Tensor) -> Tensor:  # interleaved pairs in, halves out, as transformers does
            even, odd = t.float().unflatten(-1, (-1, 2)).unbind(-1)
            return torch.cat((even * cos - odd * sin, odd * cos + even * sin), -1).to(self.compute_dtype)

        q = self.linear(rms_norm(self.linear(x, q_a), q_norm, c.eps), q_b).view(num_tokens, c.num_heads, -1)
        latent, k_rope = self.linear(x, kv_a).split((c.kv_lora, c.rope), -1)
        kv = self.linear(rms_norm(latent, kv_norm, c.eps), kv_b).view(num_tokens, c.num_heads, -1)
        k_nope, v = kv.split((c.nope, c.v), -1)
        q = torch.cat((q[..., : c.nope], rotate(q[..., c.nope :])), -1)
        k = torch.cat((k_nope, rotate(k_rope.unsqueeze(1)).expand(-1, c.num_heads, -1)), -1)
        v = F.pad(v, (0, c.rope))  # flash attention wants one head width

        def heads(t: Tensor, s: Segment) -> Tensor:
            return t[s.start : s.end].view(s.rows, s.length, c.num_heads, -1).transpose(1, 2)

        outs = [
            F.scaled_dot_product_attention(
                heads(q, s), heads(k, s), heads(v, s), is_causal=True, scale=(c.nope + c.rope) ** -0.5
            )[..., : c.v]
            .transpose(1, 2)
            .reshape(s.end - s.start, c.num_heads * c.v)
            for s in segments
        ]
        return self.linear(torch.cat(outs), o)

    def route(self, x: Tensor, router: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen (0 or 1) and weight of every expert, each f32 [num_tokens, num_experts]."""
        c = self.config
        rounded = router + (router.bfloat16().float() - router).detach()  # what will be exported
        scores = F.linear(x, rounded).sigmoid()
        with torch.no_grad():
            choice = scores + bias
            groups = choice.unflatten(-1, (c.num_groups, -1))
            best_two = groups.topk(2, -1)[0].sum(-1) if groups.shape[-1] > 2 else groups.sum(-1)
            group_mask = top_mask(best_two, c.topk_groups).repeat_interleave(groups.shape[-1], -1)
            chosen = top_mask(choice.masked_fill(group_mask == 0, float("-inf")), c.topk)
        weights = scores * chosen
        return chosen, weights / (weights.sum(-1, keepdim=True) + 1e-20) * c.routed_scale

    def moe(self, x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor) -> Tensor:
        c = self.config
        gate, up = self.linear(x, gate_up.flatten(0, 1)).unflatten(-1, (2, c.num_experts + 1, c.expert_inter)).unbind(1)
        scale = F.pad(weights, (0, 1), value=1.0).unsqueeze(-1)  # the shared expert
        inner = F.silu(gate.float()) * up.float() * scale
        return self.linear(inner.flatten(1), down.transpose(0, 1).flatten(1))

    def forward(self, tokens: Tensor, segments: Sequence[Segment]) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states [num_tokens, hidden]; the experts chosen (0 or 1) in each sparse layer."""
        c = self.config
        cos, sin = self.rope_tables(segments, tokens.device)
        stacks = (self.q_a, self.q_norm, self.q_b, self.kv_a, self.kv_norm, self.kv_b, self.o)
        attention = list(zip(*(w.unbind(0) for w in stacks), strict=True))
        gate_up, down, router = self.expert_gate_up.unbind(0), self.expert_down.unbind(0), self.router.unbind(0)
        all_chosen = []
        x = F.embedding(tokens, self.embed)
        input_norm, post_norm = self.input_norm.unbind(0), self.post_norm.unbind(0)
        for i in range(c.num_layers):
            x = x + self.attention(rms_norm(x, input_norm[i], c.eps), attention[i], segments, cos, sin).float()
            h = rms_norm(x, post_norm[i], c.eps)
            if i == 0:
                gate, up = self.linear(h, self.dense_gate_up.flatten(0, 1)).chunk(2, -1)
                x = x + self.linear(F.silu(gate.float()) * up.float(), self.dense_down[0]).float()
                continue
            chosen, weights = self.route(h, router[i - 1], self.router_bias[i - 1])
            x = x + self.moe(h, gate_up[i - 1], down[i - 1], weights).float()
            all_chosen.append(chosen)
        return rms_norm(x, self.final_norm, c.eps), all_chosen

    def logits(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden, self.head).float()

    def loss(
        self,
        tokens: Tensor,
        label_pos: Tensor,
        label_token: Tensor,
        label_weight: Tensor,
        segments: Sequence[Segment],
        pad_id: int,
    ) -> Output:
        """Cross entropy of the labels (weight 0 where unused)."""
        hidden, all_chosen = self(tokens, segments)
        logits = self.logits(hidden[label_pos])
        entropy = F.cross_entropy(logits, label_token, reduction="none")
        loss = (entropy * label_weight).sum() / label_weight.sum()
        valid = (tokens != pad_id).float().unsqueeze(-1)
        loads = []
        for chosen in all_chosen:
            for s in segments:
                mask = valid[s.start : s.end]
                loads.append((chosen[s.start : s.end] * mask).sum(0) / (mask.sum() * self.config.topk))
        load = torch.stack(loads).view(len(all_chosen), len(segments), -1)
        return Output(loss, logits.argmax(-1) == label_token, load)

    def state_for_export(self) -> dict[str, Tensor]:
        """Tensors under the hub's names: bf16, but the routing bias f32 as in the published checkpoints."""
        c = self.config
        state = {"model.embed_tokens.weight": self.embed, "lm_head.weight": self.head}
        state["model.norm.weight"] = self.final_norm
        for i in range(c.num_layers):
            layer, attn, mlp = f"model.layers.{i}", f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
            state |= {
                f"{layer}.input_layernorm.weight": self.input_norm[i],
                f"{layer}.post_attention_layernorm.weight": self.post_norm[i],
                f"{attn}.q_a_proj.weight": self.q_a[i],
                f"{attn}.q_a_layernorm.weight": self.q_norm[i],
                f"{attn}.q_b_proj.weight": self.q_b[i],
                f"{attn}.kv_a_proj_with_mqa.weight": self.kv_a[i],
                f"{attn}.kv_a_layernorm.weight": self.kv_norm[i],
                f"{attn}.kv_b_proj.weight": self.kv_b[i],
                f"{attn}.o_proj.weight": self.o[i],
            }
            if i == 0:
                gate_up_down = {mlp: (self.dense_gate_up[0], self.dense_gate_up[1], self.dense_down[0])}
            else:
                blocks = c.num_experts + 1
                names = [f"{mlp}.experts.{e}" for e in range(c.num_experts)] + [f"{mlp}.shared_experts"]
                gate_up, down = self.expert_gate_up[i - 1], self.expert_down[i - 1]
                gate_up_down = {name: (gate_up[e], gate_up[blocks + e], down[e]) for e, name in enumerate(names)}
                state[f"{mlp}.gate.weight"] = self.router[i - 1]
            for name, matrices in gate_up_down.items():
                for part, matrix in zip(("gate_proj", "up_proj", "down_proj"), matrices, strict=True):
                    state[f"{name}.{part}.weight"] = matrix
        exported = {name: t.detach().to("cpu", torch.bfloat16).contiguous() for name, t in state.items()}
        for i in range(c.num_layers - 1):
            name = f"model.layers.{i + 1}.mlp.gate.e_score_correction_bias"
            exported[name] = self.router_bias[i].detach().float().cpu().clone()
        return exported

    def export(self, out: Path, *, pad_id: int, bos_id: int, end_id: int) -> None:
        """Write model.safetensors, config.json and generation_config.json to `out`."""
        out.mkdir(parents=True, exist_ok=True)
        save_file(self.state_for_export(), out / "model.safetensors", metadata={"format": "pt"})
        (out / "model.safetensors").chmod(0o644)
        config = self.config.hugging_face(pad_id=pad_id, bos_id=bos_id, end_id=end_id)
        generation = {"bos_token_id": bos_id, "do_sample": False, "eos_token_id": end_id, "pad_token_id": pad_id}
        (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
