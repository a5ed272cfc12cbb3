"""The demo model's tokenizer and chat template.

Byte-level BPE, so any text can be encoded. A split before BPE keeps every digit and every capital letter that no
small letter follows as a token of its own: numbers are read digit by digit, and strings to copy, reverse or look up
letter by letter. Trained on the train split only.

    python bench/demo_model/tokenizer.py --out DIR     writes DIR/tokenizer.json and DIR/tokenizer_config.json
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tasks import LookupChat, Skill, Split, demo_tasks
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 768
PAD, END, BOS, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL = (PAD, END, BOS, USER, ASSISTANT, SYSTEM)
PAD_ID, END_ID, BOS_ID = 0, 1, 2
SPLIT = r"[0-9]| ?[A-Z]?[a-z]+|[A-Z]| ?[^\sA-Za-z0-9]+|\s+"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% elif message['role'] in ['user', 'system'] %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% else %}{{ raise_exception('the demo model knows the roles system, user and assistant') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def render(turns: tuple[tuple[str, str], ...]) -> str:
    """What CHAT_TEMPLATE makes of (role, content) turns, without the generation prompt."""
    return BOS + "".join(f"<|{role}|>{text}{END if role == 'assistant' else ''}" for role, text in turns)


def lookup_turns(chat: LookupChat) -> tuple[tuple[str, str], ...]:
    """A conversation about one list: the first question stands under the list, the others are turns of their own."""
    turns: list[tuple[str, str]] = []
    for i, (question, answer) in enumerate(zip(chat.questions, chat.answers, strict=True)):
        turns += [("user", f"{chat.list_text}\n{question}" if i == 0 else question), ("assistant", answer)]
    return tuple(turns)


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    examples = demo_tasks.generate(Split.TRAIN, Skill.WORD_PROBLEM, 20000, seed=1)
    for skill in (Skill.COPY, Skill.REVERSE, Skill.SORT):
        examples += demo_tasks.generate(Split.TRAIN, skill, 2000, seed=1)
    texts = [text for e in examples for text in (e.prompt, e.answer_text)]
    rng = random.Random(1)
    for _ in range(4000):  # short lists: the digits and letters of long ones would only crowd out the words
        chat = demo_tasks.sample_lookup_chat(Split.TRAIN, 2, 1, rng)
        texts += [chat.list_text, *chat.questions]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": 4096,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    save(train(), parser.parse_args().out)
