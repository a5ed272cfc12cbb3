"""Scores the demo model with transformers: greedy, f32, the test split.

    python bench/demo_model/evaluate.py                      the shipped model on the CPU
    python bench/demo_model/evaluate.py --model DIR --device cuda

An answer counts as given if each of its tokens, and the end, is the argmax after the ones before: that is what greedy
decoding means, and one forward shows it. Where it is not so, the answer is decoded token by token and judged by its
final result; `--decode` does that for all.

Prints exact match of each skill, and the load of each expert over all tokens of the test set (prompts and answers) as
a multiple of the mean. `--json` writes both, with every output.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tasks import Example, Skill, Split, demo_tasks
from torch import Tensor, nn

SHIPPED = Path(__file__).resolve().parents[2] / "python" / "weft" / "demo_model"


@dataclass(frozen=True)
class SkillScore:
    skill: Skill
    correct: int
    total: int
    loads: list[list[float]]  # [sparse layer][expert], multiples of the mean
    seconds: float


class LoadCounter:
    """Counts the experts that the routers choose for tokens that are not padding."""

    def __init__(self, model: nn.Module) -> None:
        self.mask = torch.zeros(0, dtype=torch.bool)  # [batch, tokens of this forward]
        routers = [m for name, m in model.named_modules() if name.endswith("mlp.gate")]
        self.counts = [torch.zeros(r.weight.shape[0], dtype=torch.int64) for r in routers]
        for i, router in enumerate(routers):
            router.register_forward_hook(lambda _module, _inputs, output, i=i: self._count(i, output[2]))

    def _count(self, layer: int, experts: Tensor) -> None:
        chosen = experts[self.mask.flatten()].flatten()
        self.counts[layer] += torch.bincount(chosen, minlength=len(self.counts[layer])).cpu()

    def take(self) -> list[Tensor]:
        taken = self.counts
        self.counts = [torch.zeros_like(c) for c in taken]
        return taken


class Evaluator:
    def __init__(self, model_dir: Path, device: str) -> None:
        self.device = device
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir, padding_side="left")
        model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        self.model = model.to(device).eval()
        self.counter = LoadCounter(self.model)

    def render(self, example: Example) -> str:
        messages = [{"role": "user", "content": example.prompt}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)

    @torch.no_grad()
    def outputs(self, examples: list[Example]) -> list[str]:
        """Greedy answers, one batch. Prompts are padded on the left."""
        prompts = [self.render(e) for e in examples]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(self.device)
        mask, end = batch["attention_mask"], self.tokenizer.eos_token_id
        ids, cache = batch["input_ids"], None
        running = torch.ones(len(examples), dtype=torch.bool, device=self.device)
        answers = torch.full((len(examples), 0), end, device=self.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.counter.mask = mask.bool()
        while bool(running.any()) and answers.shape[1] < demo_tasks.MAX_ANSWER_TOKENS:
            out = self.model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1)
            cache = out.past_key_values
            ids = torch.where(running, out.logits[:, -1].argmax(-1), end).unsqueeze(-1)
            answers = torch.cat((answers, ids), -1)
            running &= ids[:, 0] != end
            mask = torch.cat((mask, torch.ones_like(ids)), -1)
            positions = positions[:, -1:] + 1
            self.counter.mask = running.unsqueeze(-1)
        return [str(t) for t in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    @torch.no_grad()
    def confirmed(self, examples: list[Example]) -> list[bool]:
        """Whether greedy decoding gives `answer_text`, one batch."""
        encode = self.tokenizer
        prompts = [encode(self.render(e), add_special_tokens=False)["input_ids"] for e in examples]
        answers = [encode(e.answer_text, add_special_tokens=False)["input_ids"] for e in examples]
        rows = [torch.tensor(p + a) for p, a in zip(prompts, answers, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        self.counter.mask = mask
        # Padding stands behind the rows, so a causal model needs no mask.
        best = self.model(ids, use_cache=False).logits.argmax(-1).cpu()
        end = self.tokenizer.eos_token_id
        return [
            best[i, len(p) - 1 : len(p) + len(a)].tolist() == [*a, end]
            for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
        ]

    def answer(self, examples: list[Example], *, decode: bool = False, batch_tokens: int = 16384) -> list[str]:
        """Greedy answers in the order of `examples`; batches hold prompts of like length."""
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
        texts = [""] * len(examples)
        while order:
            longest = len(examples[order[-1]].prompt)  # in characters, never fewer than tokens
            alike = sum(len(examples[i].prompt) * 2 > longest for i in order)
            size = max(1, min(alike, 64, batch_tokens // (longest + demo_tasks.MAX_ANSWER_TOKENS)))
            chosen, order = order[-size:], order[:-size]
            batch = [examples[i] for i in chosen]
            given = [False] * size if decode else self.confirmed(batch)
            for i, ok in zip(chosen, given, strict=True):
                texts[i] = examples[i].answer_text if ok else ""
            others = [i for i, ok in zip(chosen, given, strict=True) if not ok]
            if others:
                for i, text in zip(others, self.outputs([examples[i] for i in others]), strict=True):
                    texts[i] = text
        return texts


def relative(counts: Tensor) -> list[float]:
    return [round(float(c), 3) for c in counts / counts.float().mean()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-word-problems", type=int, default=500)
    parser.add_argument("--num-others", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decode", action="store_true", help="decode every answer token by token")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.device} f32, {args.model}")
    evaluator = Evaluator(args.model, args.device)
    scores: list[SkillScore] = []
    items: list[dict[str, str | bool]] = []
    overall: list[Tensor] = [torch.zeros_like(c) for c in evaluator.counter.counts]
    print(f"{'skill':14}{'correct':>8}{'total':>7}{'exact match':>13}{'seconds':>9}  least and most loaded expert")
    for skill in Skill:
        num = args.num_word_problems if skill is Skill.WORD_PROBLEM else args.num_others
        examples = demo_tasks.generate(Split.TEST, skill, num, args.seed)
        began = time.perf_counter()
        texts = evaluator.answer(examples, decode=args.decode)
        right = [demo_tasks.is_correct(e, t) for e, t in zip(examples, texts, strict=True)]
        counts = evaluator.counter.take()
        overall = [a + b for a, b in zip(overall, counts, strict=True)]
        loads = [relative(c) for c in counts]
        scores.append(SkillScore(skill, sum(right), len(right), loads, time.perf_counter() - began))
        items += [
            {"skill": skill.value, "prompt": e.prompt, "expected": e.answer_text, "output": t, "correct": ok}
            for e, t, ok in zip(examples, texts, right, strict=True)
        ]
        low, high = min(min(row) for row in loads), max(max(row) for row in loads)
        print(
            f"{skill.value:14}{sum(right):8}{len(right):7}{100 * sum(right) / max(1, len(right)):12.2f}%"
            f"{scores[-1].seconds:9.1f}  {low:.2f} {high:.2f}",
            flush=True,
        )
    print("load of each expert over the test set, as a multiple of the layer's mean")
    for i, row in enumerate(overall):
        print(f"layer {i + 1}: " + " ".join(f"{value:.2f}" for value in relative(row)))
    for item in [item for item in items if not item["correct"]][:12]:
        print(f"wrong: {str(item['prompt'])[-160:]!r} -> {item['output']!r}, expected {item['expected']!r}")
    if args.json:
        table = [{"skill": s.skill.value, "correct": s.correct, "total": s.total, "loads": s.loads} for s in scores]
        result = {"scores": table, "loads": [relative(row) for row in overall], "items": items}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
