"""The tasks of the demo model: problems whose answers are right or wrong.

Pure Python, standard library only, the same items on every machine. Five skills:

- `WORD_PROBLEM`: one or two steps of arithmetic in plain English, answered with a worked line and `#### N`;
- `COPY`, `REVERSE`: a string of capital letters and digits;
- `SORT`: numbers of two or three digits, ascending;
- `LOOKUP`: the value of one key in a list of 8 to 200 pairs.

No item of one split occurs in another. Splits draw from different seeds, and an item belongs to the split that a
hash of its content names: the template with its numbers (word problems, whose people's names are disjoint too), the
string (copy and reverse share it), the set of numbers (sort), each key (lookup).

How to ask a model: one user message holding `Example.prompt`, rendered by the model's chat template with the
generation prompt, no other special token; decode greedily until end of sequence, at most `MAX_ANSWER_TOKENS`;
`is_correct(example, text)`. The demo model was trained on exactly this rendering.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

MAX_ANSWER_TOKENS = 64
"""No answer of the demo model's tokenizer is longer, end of sequence included."""


class Split(StrEnum):
    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Skill(StrEnum):
    WORD_PROBLEM = "word_problem"
    COPY = "copy"
    REVERSE = "reverse"
    SORT = "sort"
    LOOKUP = "lookup"


@dataclass(frozen=True)
class Example:
    """One question and its answer.

    `final_answer` is what counts: the number of a word problem, else the whole of `answer_text`.
    """

    prompt: str
    answer_text: str
    final_answer: str
    skill: Skill


@dataclass(frozen=True)
class LookupChat:
    """A list of pairs and several questions about it; training asks them as turns of one conversation."""

    list_text: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]


def generate(split: Split, skill: Skill, num: int, seed: int = 0) -> list[Example]:
    """Return `num` distinct examples; the same ones for the same arguments, and a prefix of those of a larger `num`.

    Raises:
        ValueError: num is negative.
    """
    if num < 0:
        raise ValueError(f"num={num} is negative; ask for 0 or more examples")
    rng = random.Random(f"weft-demo/{split.value}/{skill.value}/{seed}")  # noqa: S311 (no secret)
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < num:
        example = sample(split, skill, rng)
        if example.prompt not in seen:
            seen.add(example.prompt)
            examples.append(example)
    return examples


def sample(split: Split, skill: Skill, rng: random.Random) -> Example:
    """Draw one example of `split` from `rng`."""
    return _SAMPLERS[skill](split, rng)


def sample_lookup(split: Split, num_pairs: int, rng: random.Random) -> Example:
    """Draw one lookup with exactly `num_pairs` pairs.

    Raises:
        ValueError: num_pairs is outside 1..200.
    """
    chat = sample_lookup_chat(split, num_pairs, 1, rng)
    prompt = chat.list_text + "\n" + chat.questions[0]
    return Example(prompt, chat.answers[0], chat.answers[0], Skill.LOOKUP)


def sample_lookup_chat(split: Split, num_pairs: int, num_questions: int, rng: random.Random) -> LookupChat:
    """Draw a list of `num_pairs` pairs and `num_questions` questions about it (keys may repeat between questions).

    Raises:
        ValueError: num_pairs is outside 1..200 or num_questions is not positive.
    """
    if not 1 <= num_pairs <= MAX_PAIRS:
        raise ValueError(f"num_pairs={num_pairs} is outside 1..{MAX_PAIRS}")
    if num_questions < 1:
        raise ValueError(f"num_questions={num_questions} is not positive")
    pairs: dict[str, str] = {}
    while len(pairs) < num_pairs:
        key = "".join(rng.choices(_LETTERS, k=3))
        if key not in pairs and _split_of(f"key/{key}") is split:
            pairs[key] = str(rng.randint(100, 999))
    list_text = "\n".join([rng.choice(_LOOKUP_HEADS), *(f"{key}={value}" for key, value in pairs.items())])
    keys = list(pairs)
    asked = [rng.choice(keys) for _ in range(num_questions)]
    questions = tuple(rng.choice(_LOOKUP_QUESTIONS).format(key=key) for key in asked)
    return LookupChat(list_text, questions, tuple(pairs[key] for key in asked))


def is_correct(example: Example, output_text: str) -> bool:
    """Whether the model's text gives the final answer, exactly (spaces around it aside).

    Of a word problem the last `#### N` counts; of the other skills the whole text.
    """
    if example.skill is Skill.WORD_PROBLEM:
        found = _FINAL_NUMBER.findall(output_text)
        return bool(found) and found[-1] == example.final_answer
    return output_text.strip() == example.final_answer


_FINAL_NUMBER = re.compile(r"####[ ]*(-?[0-9]+)(?![0-9])")


def _split_of(content: str) -> Split:
    """Assign content to a split: one tenth each to validation and test. crc32 is the same on every platform."""
    bucket = zlib.crc32(content.encode()) % 10
    if bucket == 0:
        return Split.TEST
    return Split.VALID if bucket == 1 else Split.TRAIN


# ---------------------------------------------------------------------------------------------------------------------
# Strings, numbers, pairs

MIN_PAIRS, MAX_PAIRS = 8, 200

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SYMBOLS = _LETTERS + "0123456789"

_COPY_PROMPTS = (
    'Copy this text: "{s}"',
    'Repeat this text exactly: "{s}"',
    'Write "{s}" once more.',
    'Type "{s}" again.',
)
_REVERSE_PROMPTS = (
    'Reverse this text: "{s}"',
    'Write this text backwards: "{s}"',
    'Spell "{s}" from the last sign to the first.',
    'What is "{s}" backwards?',
)
_SORT_PROMPTS = (
    "Sort these numbers: {s}",
    "Put these numbers in order, smallest first: {s}",
    "Write these numbers from smallest to largest: {s}",
    "Order the numbers {s} from small to large.",
)
_LOOKUP_HEADS = (
    "Here is a list of codes.",
    "These are keys and their values.",
    "The table says:",
    "Remember these pairs.",
)
_LOOKUP_QUESTIONS = (
    "What is the value of {key}?",
    "Which number belongs to {key}?",
    "Find the value of {key}.",
    "Look up {key}.",
)


def _sample_string(split: Split, rng: random.Random) -> str:
    while True:
        string = "".join(rng.choices(_SYMBOLS, k=rng.randint(4, 24)))
        if _split_of(f"string/{string}") is split:
            return string


def _sample_copy(split: Split, rng: random.Random) -> Example:
    string = _sample_string(split, rng)
    return Example(rng.choice(_COPY_PROMPTS).format(s=string), string, string, Skill.COPY)


def _sample_reverse(split: Split, rng: random.Random) -> Example:
    string = _sample_string(split, rng)
    return Example(rng.choice(_REVERSE_PROMPTS).format(s=string), string[::-1], string[::-1], Skill.REVERSE)


def _sample_sort(split: Split, rng: random.Random) -> Example:
    while True:
        numbers = rng.sample(range(10, 1000 if rng.random() < 0.5 else 100), rng.randint(4, 12))
        answer = " ".join(map(str, sorted(numbers)))
        if _split_of(f"sort/{answer}") is split:
            break
    prompt = rng.choice(_SORT_PROMPTS).format(s=" ".join(map(str, numbers)))
    return Example(prompt, answer, answer, Skill.SORT)


def _sample_lookup(split: Split, rng: random.Random) -> Example:
    return sample_lookup(split, rng.randint(MIN_PAIRS, MAX_PAIRS), rng)


# ---------------------------------------------------------------------------------------------------------------------
# Word problems


@dataclass(frozen=True)
class _Step:
    """`left op right = result`, as the worked line shows it."""

    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        if self.op == "+":
            return self.left + self.right
        if self.op == "-":
            return self.left - self.right
        return self.left * self.right if self.op == "*" else self.left // self.right

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


@dataclass(frozen=True)
class _Plan:
    """The arithmetic of a template: how its numbers are drawn, and the steps from them to the answer.

    `ops` applies left to right: (a op0 b) op1 c. With `reuse` the second step is a op1 (a op0 b) instead.
    """

    numbers: Callable[[random.Random], tuple[int, ...]]
    ops: str
    reuse: bool = False

    def steps(self, numbers: tuple[int, ...]) -> tuple[_Step, ...]:
        first = _Step(numbers[0], self.ops[0], numbers[1])
        if len(self.ops) == 1:
            return (first,)
        if self.reuse:
            return (first, _Step(numbers[0], self.ops[1], first.result))
        return (first, _Step(first.result, self.ops[1], numbers[2]))


def _add(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 499), r.randint(2, 499)


def _sub(r: random.Random) -> tuple[int, ...]:
    a = r.randint(4, 999)
    return a, r.randint(2, a - 2)


def _mul(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 99), r.randint(2, 12)


def _div(r: random.Random) -> tuple[int, ...]:
    b = r.randint(2, 12)
    return b * r.randint(2, 99), b


def _add_add(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 299), r.randint(2, 299), r.randint(2, 299)


def _add_sub(r: random.Random) -> tuple[int, ...]:
    a, b = r.randint(2, 299), r.randint(2, 299)
    return a, b, r.randint(2, a + b - 2)


def _sub_add(r: random.Random) -> tuple[int, ...]:
    a = r.randint(6, 499)
    return a, r.randint(2, a - 2), r.randint(2, 299)


def _sub_sub(r: random.Random) -> tuple[int, ...]:
    a = r.randint(8, 699)
    b = r.randint(2, a - 4)
    return a, b, r.randint(2, a - b - 1)


def _mul_add(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 49), r.randint(2, 12), r.randint(2, 199)


def _mul_sub(r: random.Random) -> tuple[int, ...]:
    a, b = r.randint(2, 49), r.randint(2, 12)
    return a, b, r.randint(2, a * b - 2)


def _add_mul(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 49), r.randint(2, 49), r.randint(2, 9)


def _sub_mul(r: random.Random) -> tuple[int, ...]:
    difference, b = r.randint(2, 59), r.randint(2, 39)
    return difference + b, b, r.randint(2, 9)


def _add_div(r: random.Random) -> tuple[int, ...]:
    c = r.randint(2, 9)
    total = c * r.randint(2, 59)
    a = r.randint(2, total - 2)
    return a, total - a, c


def _sub_div(r: random.Random) -> tuple[int, ...]:
    c = r.randint(2, 9)
    rest, b = c * r.randint(2, 59), r.randint(2, 99)
    return rest + b, b, c


def _div_add(r: random.Random) -> tuple[int, ...]:
    return (*_div(r), r.randint(2, 199))


def _div_sub(r: random.Random) -> tuple[int, ...]:
    b, quotient = r.randint(2, 12), r.randint(5, 99)
    return b * quotient, b, r.randint(2, quotient - 2)


def _mul_mul(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 12), r.randint(2, 9), r.randint(2, 9)


def _mul_div(r: random.Random) -> tuple[int, ...]:
    c, b, factor = r.randint(2, 9), r.randint(2, 9), r.randint(1, 12)
    return c * factor, b, c


def _compare(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 249), r.randint(2, 249)


def _compare_less(r: random.Random) -> tuple[int, ...]:
    a = r.randint(6, 299)
    return a, r.randint(2, a - 2)


def _times(r: random.Random) -> tuple[int, ...]:
    return r.randint(2, 59), r.randint(2, 9)


_ADD, _SUB, _MUL, _DIV = _Plan(_add, "+"), _Plan(_sub, "-"), _Plan(_mul, "*"), _Plan(_div, "/")
_ADD_ADD, _ADD_SUB, _SUB_ADD, _SUB_SUB = (
    _Plan(_add_add, "++"),
    _Plan(_add_sub, "+-"),
    _Plan(_sub_add, "-+"),
    _Plan(_sub_sub, "--"),
)
_MUL_ADD, _MUL_SUB, _MUL_MUL, _MUL_DIV = (
    _Plan(_mul_add, "*+"),
    _Plan(_mul_sub, "*-"),
    _Plan(_mul_mul, "**"),
    _Plan(_mul_div, "*/"),
)
_ADD_MUL, _SUB_MUL, _ADD_DIV, _SUB_DIV = (
    _Plan(_add_mul, "+*"),
    _Plan(_sub_mul, "-*"),
    _Plan(_add_div, "+/"),
    _Plan(_sub_div, "-/"),
)
_DIV_ADD, _DIV_SUB = _Plan(_div_add, "/+"), _Plan(_div_sub, "/-")
_MORE_TOTAL = _Plan(_compare, "++", reuse=True)
_LESS_TOTAL = _Plan(_compare_less, "-+", reuse=True)
_TIMES_TOTAL = _Plan(_times, "*+", reuse=True)

# (plan, unit of the answer, text). {A} and {B} are people, {x} things, {c} containers and {c1} one of them, {p} is a
# place, {d} a day; {a}, {b}, {c_} are the plan's numbers. Numbers need not stand in the plan's order.
_TEMPLATES: tuple[tuple[_Plan, str, str], ...] = (
    # one step
    (_ADD, "{x}", "{A} has {a} {x} and buys {b} more. How many {x} does {A} have now?"),
    (_ADD, "{x}", "{A} has {a} {x} and {B} has {b} {x}. How many {x} do they have together?"),
    (_ADD, "{x}", "There are {b} {x} at {p}. {A} brings {a} more. How many {x} are there now?"),
    (_ADD, "{x}", "On {d} {A} counted {a} {x}. The next day {A} counted {b}. How many {x} is that in all?"),
    (_ADD, "dollars", "A ticket costs {a} dollars and a meal costs {b} dollars. How much must {A} pay for both?"),
    (_ADD, "{x}", "{B} has {b} more {x} than {A}. {A} has {a} {x}. How many {x} does {B} have?"),
    (_SUB, "{x}", "{A} had {a} {x} and gave {b} to {B}. How many {x} does {A} have left?"),
    (_SUB, "{x}", "There were {a} {x} at {p}. {A} took {b} of them away. How many {x} are left?"),
    (_SUB, "{x}", "{A} wants {a} {x} and already has {b}. How many more {x} does {A} need?"),
    (_SUB, "dollars", "{A} saved {a} dollars and spent {b} dollars on {d}. How much money is left?"),
    (_SUB, "{x}", "{A} has {a} {x}. {B} has {b} fewer {x} than {A}. How many {x} does {B} have?"),
    (_SUB, "pages", "A book has {a} pages. {A} has read {b} pages. How many pages are still to read?"),
    (_MUL, "{x}", "There are {a} {x} in each {c1}. How many {x} are in {b} {c}?"),
    (_MUL, "{x}", "{A} fills {b} {c} with {a} {x} each. How many {x} is that?"),
    (_MUL, "dollars", "{A} earns {a} dollars an hour and works {b} hours on {d}. How much does {A} earn?"),
    (_MUL, "dollars", "One of the {x} costs {b} dollars. How much do {a} {x} cost?"),
    (_MUL, "{x}", "{A} has {a} {x}. {B} has {b} times as many. How many {x} does {B} have?"),
    (_DIV, "{x}", "{A} puts {a} {x} into {b} {c}, the same number in each. How many {x} are in each {c1}?"),
    (_DIV, "{x}", "{b} friends share {a} {x} equally. How many {x} does each friend get?"),
    (_DIV, "{c}", "Each {c1} holds {b} {x}. How many {c} does {A} need for {a} {x}?"),
    (_DIV, "dollars", "{A} paid {a} dollars for {b} {x}. How much did each one cost?"),
    (_ADD, "{x}", "{A} has {a} {x}. Then {A} gets {b} more {x}. How many {x} does {A} have now?"),
    (_ADD, "{x}", "{A} picked {a} {x} and {B} picked {b} {x}. How many {x} did they pick in total?"),
    (_ADD, "", "What is {a} plus {b}?"),
    (_SUB, "{x}", "{A} has {a} {x} and loses {b} of them. How many {x} are left?"),
    (_SUB, "{x}", "{A} has {a} {x} and {B} has {b} {x}. How many more {x} does {A} have than {B}?"),
    (_SUB, "", "What is {a} minus {b}?"),
    (_MUL, "{x}", "A {c1} holds {a} {x}. How many {x} do {b} {c} hold?"),
    (_MUL, "", "What is {a} times {b}?"),
    (_DIV, "{x}", "{A} shares {a} {x} equally among {b} friends. How many {x} does each friend get?"),
    (_DIV, "", "What is {a} divided by {b}?"),
    # two steps
    (_ADD_SUB, "{x}", "{A} had {a} {x}. {A} got {b} more from {B} and then sold {c_}. How many {x} are left?"),
    (_SUB_SUB, "{x}", "There were {a} {x} at {p}. {A} took {b} and {B} took {c_}. How many {x} are left?"),
    (_MUL_ADD, "{x}", "{A} buys {b} {c} of {a} {x} each and gets {c_} more {x} from {B}. "
     "How many {x} does {A} have now?"),
    (_ADD_ADD, "{x}", "{A} found {a} {x} on {d}, {b} the next day and {c_} the day after. How many {x} in all?"),
    (_ADD_ADD, "{x}", "{p} has {a} {x}. {A} brings {b} {x} and {B} brings {c_}. How many {x} are there now?"),
    (_ADD_ADD, "dollars", "{A} spent {a} dollars on {x}, {b} dollars on food and {c_} dollars on a gift. "
     "How much is that in all?"),
    (_ADD_SUB, "{x}", "{A} had {a} {x}, bought {b} more and then gave {c_} to {B}. How many {x} does {A} have now?"),
    (_ADD_SUB, "{x}", "{A} has {a} {x} and {B} has {b}. Together they sell {c_} {x}. How many {x} remain?"),
    (_ADD_SUB, "people", "A bus had {a} people on it. {b} people got on and {c_} got off. "
     "How many people are on the bus now?"),
    (_SUB_ADD, "{x}", "{A} had {a} {x}. {A} lost {b} of them and later found {c_} others. "
     "How many {x} does {A} have now?"),
    (_SUB_ADD, "{x}", "At {p} there were {a} {x}. On {d} {b} were sold and {c_} new ones came in. "
     "How many {x} are there now?"),
    (_SUB_ADD, "dollars", "{A} had {a} dollars, paid {b} dollars for {x} and got {c_} dollars from {B}. "
     "How much money does {A} have now?"),
    (_SUB_SUB, "{x}", "{A} had {a} {x}, gave {b} to {B} and lost {c_}. How many {x} are left?"),
    (_SUB_SUB, "pages", "{A} must read {a} pages. {A} read {b} pages on {d} and {c_} pages the next day. "
     "How many pages are left?"),
    (_SUB_SUB, "dollars", "{A} took {a} dollars to {p} and spent {b} dollars on {x} and {c_} dollars on lunch. "
     "How much money is left?"),
    (_MUL_ADD, "{x}", "{A} has {b} {c} with {a} {x} each and {c_} more {x} on the table. "
     "How many {x} does {A} have in all?"),
    (_MUL_ADD, "dollars", "{A} buys {b} {x} for {a} dollars each and a bag for {c_} dollars. How much does {A} pay?"),
    (_MUL_ADD, "{x}", "Every day {A} makes {a} {x}. After {b} days {B} adds {c_} {x}. How many {x} are there?"),
    (_MUL_SUB, "{x}", "{A} packs {b} {c} with {a} {x} each. Then {c_} {x} are sold. How many {x} are left?"),
    (_MUL_SUB, "dollars", "{A} works {b} hours for {a} dollars an hour and spends {c_} dollars at {p}. "
     "How much money is left?"),
    (_MUL_SUB, "{x}", "{B} had {b} times as many {x} as {A}, who has {a}. Then {B} lost {c_}. "
     "How many {x} does {B} have now?"),
    (_MUL_MUL, "{x}", "{p} has {a} rooms. In each room are {b} {c} with {c_} {x} each. How many {x} are there in all?"),
    (_MUL_MUL, "dollars", "{A} works {b} hours a day for {a} dollars an hour. How much does {A} earn in {c_} days?"),
    (_MUL_DIV, "{x}", "{A} has {a} {c} with {b} {x} each and shares all the {x} equally among {c_} friends. "
     "How many {x} does each friend get?"),
    (_ADD_MUL, "{x}", "Each {c1} holds {a} big {x} and {b} small {x}. How many {x} are in {c_} {c}?"),
    (_ADD_MUL, "dollars", "A ticket costs {a} dollars and a drink costs {b} dollars. "
     "How much do {c_} friends pay for a ticket and a drink each?"),
    (_ADD_MUL, "{x}", "Every day {A} makes {a} {x} and {B} makes {b} {x}. How many {x} do they make in {c_} days?"),
    (_SUB_MUL, "{x}", "Each of {c_} {c} had {a} {x}. {A} took {b} {x} out of each. How many {x} are left in all?"),
    (_SUB_MUL, "dollars", "{A} earns {a} dollars a day and spends {b} dollars a day. "
     "How much does {A} save in {c_} days?"),
    (_ADD_DIV, "{x}", "{A} has {a} {x} and {B} has {b}. They share them equally among {c_} friends. "
     "How many {x} does each friend get?"),
    (_ADD_DIV, "{x}", "{A} puts {a} red {x} and {b} blue {x} into {c_} {c}, the same number in each. "
     "How many {x} are in each {c1}?"),
    (_SUB_DIV, "{x}", "{A} had {a} {x}, kept {b} and shared the rest equally among {c_} friends. "
     "How many {x} did each friend get?"),
    (_SUB_DIV, "days", "A book has {a} pages. {A} has read {b} pages and reads {c_} pages a day from now on. "
     "How many days will the rest take?"),
    (_SUB_DIV, "dollars", "{A} had {a} dollars and now has {b}. {A} bought {c_} {x} at {p}. "
     "How much did each one cost?"),
    (_DIV_ADD, "{x}", "{b} friends share {a} {x} equally. {A} is one of them and had {c_} {x} before. "
     "How many {x} does {A} have now?"),
    (_DIV_ADD, "{x}", "{A} puts {a} {x} into {b} {c} equally. Then {B} adds {c_} {x} to the first {c1}. "
     "How many {x} are in the first {c1}?"),
    (_DIV_SUB, "{x}", "{A} puts {a} {x} into {b} {c} equally and takes {c_} out of the last {c1}. "
     "How many {x} are in the last {c1}?"),
    (_DIV_SUB, "{x}", "{b} friends share {a} {x} equally. {A} is one of them and gives {c_} to {B}. "
     "How many {x} does {A} keep?"),
    (_MORE_TOTAL, "{x}", "{A} has {a} {x}. {B} has {b} more than {A}. How many {x} do they have together?"),
    (_MORE_TOTAL, "{x}", "On {d} {A} sold {a} {x}, and the next day {b} more than on {d}. "
     "How many {x} did {A} sell on both days?"),
    (_LESS_TOTAL, "{x}", "{A} has {a} {x}. {B} has {b} fewer than {A}. How many {x} do they have together?"),
    (_LESS_TOTAL, "{x}", "{A} made {a} {x} at {p} and {B} made {b} less. How many {x} did they make together?"),
    (_TIMES_TOTAL, "{x}", "{A} has {a} {x}. {B} has {b} times as many. How many {x} do they have together?"),
    (_TIMES_TOTAL, "dollars", "{A} paid {a} dollars for {x} and {b} times as much for a coat. "
     "How much did {A} pay in all?"),
)  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NAMES = _words(
    "Ada Adam Alan Albert Alice Alma Amir Amy Ana Andre Anna Anton Arthur Asha Ava Barbara Bella Ben Bianca Boris "
    "Bruno Carla Carlos Carmen Cecil Chen Chloe Clara Cora Dana Daniel David Dean Diana Dora Edgar Elena Eli Elsa "
    "Emil Emma Eric Erika Esther Eva Farid Felix Fiona Flora Frank Fred Gina Grace Greta Hana Hans Harry Hassan Heidi "
    "Helen Henry Hugo Ida Igor Ines Iris Isaac Ivan Jack Jacob James Jana Jane Jasmin Jean Joan Joel John Jonas Julia "
    "Kai Karen Karl Kate Kevin Kim Laila Lara Laura Lena Leo Lila Lina Linda Lisa Lucas Lucy Luis Luna Malik Mara "
    "Marco Maria Mario Mark Marta Martin Mary Max Maya Mia Mila Milan Mina Mona Nadia Nancy Nathan Nell Nick Nina "
    "Noah Nora Olga Oliver Omar Oscar Otto Pablo Paul Paula Pedro Peter Petra Priya Rachel Ravi Rita Robert Rosa Ruth "
    "Sam Samir Sara Simon Sofia Stella Tara Theo Tim Tina Tom Uma Vera Victor Walter Wanda Will Yara Yusuf Zara Zoe"
)
_THINGS = _words(
    "apples pears plums lemons oranges carrots eggs cakes cookies nuts stones shells coins stamps cards books pens "
    "pencils toys dolls balls marbles beads buttons ribbons flowers roses seeds leaves candles cups plates spoons "
    "hats socks shirts keys nails screws bricks tiles maps tickets photos posters stickers balloons kites fish"
)
_CONTAINERS = (
    ("boxes", "box"),
    ("bags", "bag"),
    ("baskets", "basket"),
    ("jars", "jar"),
    ("shelves", "shelf"),
    ("drawers", "drawer"),
    ("trays", "tray"),
    ("crates", "crate"),
    ("buckets", "bucket"),
    ("bowls", "bowl"),
)
_PLACES = (
    "the market",
    "the school",
    "the farm",
    "the shop",
    "the library",
    "the museum",
    "the fair",
    "the park",
    "the harbor",
    "the station",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_NAMES_OF = {
    Split.TRAIN: tuple(name for i, name in enumerate(_NAMES) if i % 10 not in (3, 7)),
    Split.VALID: tuple(name for i, name in enumerate(_NAMES) if i % 10 == 3),
    Split.TEST: tuple(name for i, name in enumerate(_NAMES) if i % 10 == 7),
}


def _sample_word_problem(split: Split, rng: random.Random) -> Example:
    index = rng.randrange(len(_TEMPLATES))
    plan, unit, text = _TEMPLATES[index]
    while True:
        numbers = plan.numbers(rng)
        if _split_of(f"word/{index}/{numbers}") is split:
            break
    first, second = rng.sample(_NAMES_OF[split], 2)
    thing = rng.choice(_THINGS)
    containers, container = rng.choice(_CONTAINERS)
    slots = {"A": first, "B": second, "x": thing, "c": containers, "c1": container}
    slots |= {"p": rng.choice(_PLACES), "d": rng.choice(_DAYS)}
    slots |= {name: str(number) for name, number in zip(("a", "b", "c_"), numbers, strict=False)}
    steps = plan.steps(numbers)
    work = f"{steps[0]}" if len(steps) == 1 else f"First {steps[0]}, then {steps[1]}"
    final = str(steps[-1].result)
    prompt = text.format(**slots)
    answer = f"{work} {unit.format(**slots)}".rstrip() + f".\n#### {final}"
    return Example(prompt[0].upper() + prompt[1:], answer, final, Skill.WORD_PROBLEM)


_SAMPLERS: dict[Skill, Callable[[Split, random.Random], Example]] = {
    Skill.WORD_PROBLEM: _sample_word_problem,
    Skill.COPY: _sample_copy,
    Skill.REVERSE: _sample_reverse,
    Skill.SORT: _sample_sort,
    Skill.LOOKUP: _sample_lookup,
}
