"""Training batches: step i of a seed is always the same batch, whichever process makes it."""

from __future__ import annotations

import bisect
import multiprocessing
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from model import Segment
from tasks import Skill, Split, demo_tasks
from tokenizer import PAD_ID, lookup_turns, render
from tokenizers import Tokenizer

SKILLS = tuple(Skill)
NO_SKILL = len(SKILLS)  # of an unused label
_SHORT_SKILLS = (Skill.WORD_PROBLEM, Skill.COPY, Skill.REVERSE, Skill.SORT)
_SHORT_SHARES = (60, 8, 16, 16)
_SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer the question.", "Show your work.", "Be brief.")


@dataclass(frozen=True)
class BatchShape:
    """Rows of each kind in a batch. A batch is flat: the rows of all segments one after another."""

    short_rows: int = 384
    medium_rows: int = 16
    long_rows: int = 4
    short_length: int = 128
    medium_length: int = 512
    long_length: int = 1792
    medium_pairs: tuple[int, int] = (8, 40)
    long_pairs: tuple[int, int] = (41, 200)
    max_labels: int = 28672

    def segments(self) -> tuple[Segment, ...]:
        start, result = 0, []
        for rows, length in (
            (self.short_rows, self.short_length),
            (self.medium_rows, self.medium_length),
            (self.long_rows, self.long_length),
        ):
            result.append(Segment(start, rows, length))
            start += rows * length
        return tuple(result)


@dataclass(frozen=True)
class Batch:
    """Flat arrays. A label says which token follows the one at `label_pos`; `label_answer` numbers the answers."""

    tokens: npt.NDArray[np.int16]  # [num_tokens], PAD_ID behind the end of a row
    label_pos: npt.NDArray[np.int32]  # [max_labels]
    label_token: npt.NDArray[np.int16]  # [max_labels]
    label_answer: npt.NDArray[np.int16]  # [max_labels], ascending; unused labels: one past the last answer
    answer_skill: npt.NDArray[np.uint8]  # [num_answers + 1], index into SKILLS, last NO_SKILL


Turns = tuple[tuple[str, str], ...]


class BatchMaker:
    def __init__(self, tokenizer_file: Path, shape: BatchShape, split: Split, seed: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._shape, self._split, self._seed = shape, split, seed
        vocab = self._tokenizer.get_vocab()
        self._user, self._assistant, self._end = vocab["<|user|>"], vocab["<|assistant|>"], vocab["<|end|>"]

    def make(self, step: int) -> Batch:
        rng = random.Random(f"batch/{self._split.value}/{self._seed}/{step}")
        shape = self._shape
        segments = shape.segments()
        tokens = np.full(segments[-1].end, PAD_ID, np.int16)
        pos: list[int] = []
        target: list[int] = []
        answer: list[int] = []
        answer_skill: list[int] = []
        for segment, rows in zip(segments, self._rows(rng), strict=True):
            for r, (ids, skills) in enumerate(rows):
                start = segment.start + r * segment.length
                tokens[start : start + len(ids)] = ids
                inside, turn = False, 0
                for t, token in enumerate(ids[:-1]):
                    if token == self._assistant:
                        inside = True
                        answer_skill.append(SKILLS.index(skills[turn]))
                        turn += 1
                    if inside:
                        pos.append(start + t)
                        target.append(ids[t + 1])
                        answer.append(len(answer_skill) - 1)
                        inside = ids[t + 1] != self._end
        num, cap = len(pos), shape.max_labels
        answer_skill.append(NO_SKILL)
        if num > cap:
            raise ValueError(f"a batch has {num} labels, more than max_labels={cap}; raise max_labels")
        pad = cap - num
        return Batch(
            tokens,
            np.array(pos + [0] * pad, np.int32),
            np.array(target + [0] * pad, np.int16),
            np.array(answer + [len(answer_skill) - 1] * pad, np.int16),
            np.array(answer_skill, np.uint8),
        )

    def _encode(self, turns: list[Turns]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch([render(t) for t in turns])]

    def _rows(self, rng: random.Random) -> Iterator[list[tuple[list[int], list[Skill]]]]:
        shape = self._shape
        yield self._short_rows(rng)
        yield self._lookup_rows(rng, shape.medium_rows, shape.medium_length, shape.medium_pairs)
        yield self._lookup_rows(rng, shape.long_rows, shape.long_length, shape.long_pairs)

    def _short_rows(self, rng: random.Random) -> list[tuple[list[int], list[Skill]]]:
        """One problem a row and, where it fits, further ones as later turns; now and then a system message."""
        shape = self._shape
        num = shape.short_rows * 2 + 16
        skills = rng.choices(_SHORT_SKILLS, _SHORT_SHARES, k=num)
        examples = [demo_tasks.sample(self._split, skill, rng) for skill in skills]
        encoded = self._encode([(("user", e.prompt), ("assistant", e.answer_text)) for e in examples])
        system = [ids[1:] for ids in self._encode([(("system", text),) for text in _SYSTEM_PROMPTS])]
        rows: list[tuple[list[int], list[Skill]]] = []
        first = shape.short_rows
        spare = sorted(range(first, num), key=lambda i: (len(encoded[i]), i))
        lengths = [len(encoded[i]) - 1 for i in spare]
        for ids, skill in zip(encoded[:first], skills[:first], strict=True):
            row, row_skills = ids, [skill]
            prefix = rng.choice(system)
            if rng.random() < 0.1 and len(row) + len(prefix) <= shape.short_length:
                row = row[:1] + prefix + row[1:]
            while (best := bisect.bisect_right(lengths, shape.short_length - len(row)) - 1) >= 0:
                lengths.pop(best)
                index = spare.pop(best)
                row, row_skills = row + encoded[index][1:], [*row_skills, skills[index]]
            rows.append((row, row_skills))
        return rows

    def _lookup_rows(
        self, rng: random.Random, num: int, length: int, pairs: tuple[int, int]
    ) -> list[tuple[list[int], list[Skill]]]:
        """A list and as many questions about it as fit."""
        chats = [
            demo_tasks.sample_lookup_chat(self._split, rng.randint(*pairs), 40 if length < 1000 else 60, rng)
            for _ in range(num)
        ]
        rows: list[tuple[list[int], list[Skill]]] = []
        for ids in self._encode([lookup_turns(chat) for chat in chats]):
            ends = [t + 1 for t, token in enumerate(ids[:length]) if token == self._end]
            rows.append((ids[: ends[-1]], [Skill.LOOKUP] * len(ends)))
        return rows


_maker: BatchMaker | None = None


def _init_worker(tokenizer_file: Path, shape: BatchShape, seed: int) -> None:
    global _maker
    _maker = BatchMaker(tokenizer_file, shape, Split.TRAIN, seed)


def _make(step: int) -> Batch:
    if _maker is None:
        raise RuntimeError("the worker was not initialised")
    return _maker.make(step)


def train_batches(
    tokenizer_file: Path, shape: BatchShape, seed: int, steps: range, num_workers: int
) -> Iterator[Batch]:
    """Yield the batches of `steps` in order, made by `num_workers` processes."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_workers, _init_worker, (tokenizer_file, shape, seed)) as pool:
        yield from pool.imap(_make, steps, chunksize=4)
