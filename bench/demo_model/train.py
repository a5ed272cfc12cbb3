"""Trains the demo model on one GPU and writes it in Hugging Face format.

    python bench/demo_model/train.py --out DIR            tokenizer, training, export to DIR/model
    python bench/demo_model/train.py --out DIR            again: resumes from DIR/checkpoint.pt

Seeds are fixed and the batch of a step depends on nothing but the step, so a resumed run sees the same data.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from batches import NO_SKILL, SKILLS, Batch, BatchMaker, BatchShape, train_batches
from model import DemoModel, ModelConfig, Output
from muon import Muon
from tasks import Skill, Split
from tokenizer import BOS_ID, END_ID, PAD_ID, save
from tokenizer import train as train_tokenizer
from torch import Tensor

LOOKUP_WEIGHT = 2.0  # few labels, so more weight
ADAM_PARAMS = ("embed", "head", "router", "input_norm", "q_norm", "kv_norm", "post_norm", "final_norm")
SEGMENT_SHARES = (0.4, 0.2, 0.4)  # short, medium, long: the mix for which experts are balanced


def schedule(step: int, steps: int, warmup: int = 100, decay: float = 0.5) -> float:
    """Linear warm-up, constant, linear decay to 0 over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (steps * decay))


class Trainer:
    def __init__(self, args: argparse.Namespace, device: torch.device, shape: BatchShape) -> None:
        torch.manual_seed(args.seed)
        self.args, self.device, self.shape = args, device, shape
        self.segments = shape.segments()
        self.model = DemoModel(ModelConfig()).to(device)
        if device.type == "cuda":
            self.model.compute_dtype = torch.bfloat16
        named = dict(self.model.named_parameters())
        adam = [named[name] for name in ADAM_PARAMS]
        self.adam = torch.optim.AdamW(adam, lr=args.adam_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
        self.muon = Muon([p for name, p in named.items() if name not in ADAM_PARAMS], weight_decay=0.1)
        self.loss = torch.compile(self.model.loss) if args.compile else self.model.loss
        self.shares = torch.tensor(SEGMENT_SHARES, device=device).view(1, -1, 1)
        self.step_index = 0

    def forward(self, batch: Batch) -> Output:
        def to_device(array: npt.NDArray[np.generic]) -> Tensor:
            host = torch.from_numpy(array)
            return (host.pin_memory() if self.device.type == "cuda" else host).to(self.device, non_blocking=True)

        skill = batch.answer_skill[batch.label_answer]
        weight = np.where(skill == SKILLS.index(Skill.LOOKUP), LOOKUP_WEIGHT, 1.0) * (skill != NO_SKILL)
        output: Output = self.loss(
            to_device(batch.tokens).long(),
            to_device(batch.label_pos).long(),
            to_device(batch.label_token).long(),
            to_device(weight.astype(np.float32)),
            self.segments,
            PAD_ID,
        )
        return output

    def step(self, batch: Batch) -> Output:
        scale = schedule(self.step_index, self.args.steps)
        output = self.forward(batch)
        output.loss.backward()
        self.muon.step(self.args.lr * scale)
        for group in self.adam.param_groups:
            group["lr"] = self.args.adam_lr * scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.model.normalise_router()
        for p in self.muon.params:
            p.grad = None
        load = (output.load * self.shares).sum(1)
        self.model.router_bias += self.args.bias_rate * scale * (load.mean(-1, keepdim=True) - load).sign()
        self.step_index += 1
        return output

    def state(self) -> dict[str, object]:
        momentum = [b.bfloat16() for b in self.muon.buffers]
        return {
            "step": self.step_index,
            "model": self.model.state_dict(),
            "adam": self.adam.state_dict(),
            "muon": momentum,
        }

    def save(self, path: Path) -> None:
        torch.save(self.state(), path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        for buffer, saved in zip(self.muon.buffers, state["muon"], strict=True):
            buffer.copy_(saved)
        self.step_index = state["step"]

    def exact_match(self, batches: list[Batch]) -> dict[str, tuple[int, int]]:
        """Answers all of whose tokens are predicted right, and answers, of each skill. Equals greedy decoding."""
        right, total = np.zeros(NO_SKILL + 1, int), np.zeros(NO_SKILL + 1, int)
        for batch in batches:
            correct = self.forward(batch).correct.cpu().numpy()
            exact = np.ones(len(batch.answer_skill), bool)
            np.logical_and.at(exact, batch.label_answer, correct)
            total += np.bincount(batch.answer_skill, minlength=NO_SKILL + 1)
            right += np.bincount(batch.answer_skill, weights=exact, minlength=NO_SKILL + 1).astype(int)
        return {skill.value: (int(right[i]), int(total[i])) for i, skill in enumerate(SKILLS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--stop-at", type=int, help="save a checkpoint and stop at this step (to test resuming)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--bias-rate", type=float, default=1e-3)
    parser.add_argument("--log-every", type=int, default=500)
    parser.add_argument("--checkpoint-every", type=int, default=2500)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--tiny", action="store_true", help="batches for a smoke test on a CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    args = parser.parse_args()
    began = time.perf_counter()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.backends.cuda.matmul.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = BatchShape()
    if args.tiny:
        shape = BatchShape(short_rows=16, medium_rows=1, long_rows=1, long_length=512, long_pairs=(8, 40))
    out: Path = args.out
    model_dir, checkpoint = out / "model", out / "checkpoint.pt"
    if not (model_dir / "tokenizer.json").exists():
        save(train_tokenizer(), model_dir)
    trainer = Trainer(args, device, shape)
    if checkpoint.exists():
        trainer.load(checkpoint)
    print(f"{asdict(shape)} {vars(args)}", flush=True)
    num_params = sum(p.numel() for p in trainer.model.parameters())
    print(f"parameters {num_params}, from step {trainer.step_index}", flush=True)
    stop = min(args.steps, args.stop_at or args.steps)
    steps = range(trainer.step_index, stop)
    last, last_step = time.perf_counter(), trainer.step_index
    for batch in train_batches(model_dir / "tokenizer.json", shape, args.seed, steps, args.workers):
        output = trainer.step(batch)
        step = trainer.step_index
        if step % args.log_every == 0 or step == stop or step == 10:
            exact = trainer.exact_match([batch])  # of a batch just learned from once: nearly the same as unseen
            rate = (step - last_step) * shape.segments()[-1].end / (time.perf_counter() - last)
            load = output.load.mean(1) * output.load.shape[-1]
            shares = " ".join(f"{name} {100 * r / max(1, n):.1f}" for name, (r, n) in exact.items())
            print(
                f"step {step} loss {output.loss.item():.4f} | {shares} | load {load.min():.2f}..{load.max():.2f} "
                f"| {rate / 1e6:.2f} Mtok/s {time.perf_counter() - began:.0f} s",
                flush=True,
            )
            if not math.isfinite(output.loss.item()):
                raise RuntimeError("the loss is not finite; lower --lr")
            last, last_step = time.perf_counter(), step
        if step % args.checkpoint_every == 0 or step == stop:
            trainer.save(checkpoint)
    trainer.model.export(model_dir, pad_id=PAD_ID, bos_id=BOS_ID, end_id=END_ID)
    maker = BatchMaker(model_dir / "tokenizer.json", shape, Split.VALID, seed=1)
    exact = trainer.exact_match([maker.make(i) for i in range(1 if args.tiny else 8)])
    for name, (right, total) in exact.items():
        print(f"validation {name}: {right} of {total} ({100 * right / max(1, total):.2f} %)", flush=True)
    print(f"total {time.perf_counter() - began:.0f} s, {model_dir}", flush=True)


if __name__ == "__main__":
    main()
