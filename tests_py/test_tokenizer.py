"""Texts, chat templates, and text that grows token by token."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import EOS, write_byte_tokenizer
from weft.errors import WeftError
from weft.tokenizer import Detokenizer, Tokenizer, find_stop, unfinished_stop


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_byte_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory):
    return Tokenizer(directory)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30), data=st.data())
def test_text_grows_by_whole_characters_and_ends_as_the_text(tokenizer, text, data):
    ids = tokenizer.encode(text)
    detokenizer, shown = Detokenizer(tokenizer), ""
    while ids:
        count = data.draw(st.integers(1, 3))
        shown += detokenizer.push(ids[:count])
        ids = ids[count:]
        assert text.startswith(shown)
    assert shown + detokenizer.finish() == text


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 259), max_size=25))
def test_any_ids_end_as_one_decoding_of_all(tokenizer, ids):
    detokenizer, shown = Detokenizer(tokenizer), ""
    for token in ids:
        shown += detokenizer.push([token])
    shown += detokenizer.finish()
    assert shown.replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")


def test_half_a_character_waits(tokenizer):
    ids = tokenizer.encode("é€😀")
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push([token]) for token in ids] == ["", "é", "", "", "€", "", "", "", "😀"]


def test_special_tokens_are_shown_only_if_asked(tokenizer):
    ids = [*tokenizer.encode("a"), EOS]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|end|>"


def test_the_chat_template_writes_its_own_special_tokens(tokenizer):
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    assert ids == [257, *tokenizer.encode("hi"), 258]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=False) == ids[:-1]


def write_template(directory, template):
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return Tokenizer(directory)


@pytest.fixture
def own_directory(tmp_path):
    write_byte_tokenizer(tmp_path)
    return tmp_path


def test_templates_have_what_the_hub_gives_them(own_directory):
    tokenizer = write_template(
        own_directory,
        "{% for m in messages %}\n  {% if loop.first %}\n{{ m | tojson }}\n{% endif %}\n{% break %}{% endfor %}"
        "{{ strftime_now('%Y')[:2] }}",
    )
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "é<"}])
    assert tokenizer.decode(ids) == '{"role": "user", "content": "é<"}\n20'


def test_a_template_refuses_messages_with_a_message(own_directory):
    tokenizer = write_template(own_directory, "{{ raise_exception('no system role') }}")
    with pytest.raises(WeftError, match="no system role"):
        tokenizer.apply_chat_template([])


@pytest.mark.parametrize(
    "template",
    ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}", "{% for x in range(10**9) %}{% endfor %}", "{{"],
)
def test_templates_run_in_a_sandbox(own_directory, template):
    tokenizer = write_template(own_directory, template)
    with pytest.raises(WeftError, match="chat template"):
        tokenizer.apply_chat_template([])


def test_named_templates_and_the_template_file(own_directory):
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    assert write_template(own_directory, named).apply_chat_template([]) == write_template(
        own_directory, "d"
    ).apply_chat_template([])
    (own_directory / "chat_template.jinja").write_text("file")
    tokenizer = Tokenizer(own_directory)
    assert tokenizer.decode(tokenizer.apply_chat_template([])) == "file"


def test_what_is_missing_is_named(tmp_path, own_directory):
    with pytest.raises(WeftError, match="--skip-tokenizer-init"):
        Tokenizer(tmp_path / "nowhere")
    (own_directory / "tokenizer_config.json").unlink()
    with pytest.raises(WeftError, match="no chat template"):
        Tokenizer(own_directory).apply_chat_template([])
    (own_directory / "tokenizer.json").write_text("{")
    with pytest.raises(WeftError, match=r"tokenizer\.json"):
        Tokenizer(own_directory)


def test_stop_strings_are_found_where_they_begin_first():
    assert find_stop("abcd", ["cd", "bc"]) == "bc"
    assert find_stop("abcd", ["ab", "abc"]) == "ab"
    assert find_stop("abcd", ["x"]) is None
    assert find_stop("abab", ["ab"], start=1) == "ab"


def test_the_beginning_of_a_stop_string_may_wait():
    assert unfinished_stop("hello <", ["</s>"]) == 1
    assert unfinished_stop("hello </s", ["</s>", "s!"]) == 3
    assert unfinished_stop("hello", ["</s>"]) == 0
    assert unfinished_stop("aab", ["abc", "aabd"]) == 3
