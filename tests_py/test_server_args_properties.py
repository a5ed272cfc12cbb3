"""Whatever the arguments are: they work, or one WeftError names the flags, the values and the fix."""

import math
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.combinations import COMBINATIONS, DERIVED_COMBINATIONS, RANGES
from weft.core_config import memory_ledger
from weft.engine_config import resolve
from weft.errors import WeftError
from weft.refused_flags import ADVICE_OF_FLAG
from weft.server_args import ServerArgs, flag_table

FLAGS = {name: spec for name, spec, _ in flag_table()}
MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ENTRIES = (*RANGES, *COMBINATIONS, *DERIVED_COMBINATIONS)

# Small sizes, so that many combinations fit together, and now and then anything.
SIZES = st.sampled_from([1, 2, 4, 8, 16]) | st.integers(-2, 40) | st.integers()
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def values_of(spec):
    if spec.kind is bool:
        return st.booleans()
    if spec.many:
        return st.lists(SIZES, max_size=4).map(tuple)
    if spec.choices:
        return st.sampled_from([*spec.choices, *spec.choices, *spec.lacks, "x"])
    if spec.kind is int:
        return SIZES
    if spec.kind is float:
        return st.sampled_from([0.1, 0.25, 0.48, 0.5]) | st.floats()
    return st.just("demo") | WORDS


@st.composite
def arguments(draw, names=tuple(FLAGS)):
    """Some fields, often those that belong together."""
    chosen = draw(st.sets(st.sampled_from(names), max_size=7))
    groups = [{"enable_dp_attention", "dp_size", "tp_size"}, {"moe_a2a_backend", "tp_size"}, {"chunked_prefill_size"}]
    for group in draw(st.lists(st.sampled_from(groups), max_size=2)):
        chosen |= group
    return {name: draw(values_of(FLAGS[name])) for name in sorted(chosen)}


def command_line(values):
    words = []
    for name, value in values.items():
        if FLAGS[name].kind is bool:
            words += [FLAGS[name].name] if value else []
        elif isinstance(value, tuple):
            words += [FLAGS[name].name, *map(str, value)]
        else:
            words.append(f"{FLAGS[name].name}={value}")
    return words


def check_message(error):
    """A reason is one line, which names a flag, and has a fix."""
    for line in str(error).splitlines():
        assert re.search(r"--[a-z]|is not a flag|was given twice", line), line
        assert ";" in line or "use " in line, line
        fired = [it.names for it in ENTRIES if line.endswith(f": {it.why}; {it.fix}")]
        assert not fired or any(all(FLAGS[name].name in line for name in names) for names in fired), line


def check_accepted(args):
    """What follows from arguments that are not refused fits together."""
    parallel = args.parallel
    assert (parallel.attn_tp_size, parallel.attn_dp_size) == (args.attn_tp_size, args.attn_dp_size)
    assert args.attn_tp_size * args.attn_dp_size == args.tp_size
    assert args.tp_size % args.ep_size == 0
    assert args.chunked_prefill_size == -1 or args.chunked_prefill_size % args.page_size == 0 or args.planned()
    assert args.origins.keys() == FLAGS.keys()
    for name, value in args.user_values.items():
        same = value == getattr(args, name)
        assert args.origins[name] == ("user" if same else "derived"), name
    for name, spec, default in flag_table():
        if args.origins[name] == "default":
            assert getattr(args, name) == default
        if spec.is_planned(getattr(args, name), default) and args.origins[name] == "user":
            assert any(spec.name in line for line in args.planned())


@MANY
@given(arguments())
def test_keywords_work_or_are_refused(values):
    try:
        args = ServerArgs.from_kwargs(**{"model_path": "demo", **values})
    except WeftError as error:
        check_message(error)
        return
    check_accepted(args)


@MANY
@given(arguments())
def test_command_lines_mean_what_keywords_mean(values):
    values = {"model_path": "demo", "random_seed": 1, **values}
    given_values = {name: value for name, value in values.items() if value is not False and value != ()}
    results = []
    for make in (lambda: ServerArgs.from_cli(command_line(values)), lambda: ServerArgs.from_kwargs(**given_values)):
        try:
            results.append(make())
        except WeftError as error:
            check_message(error)
            results.append(None)
    nan = any(isinstance(value, float) and math.isnan(value) for value in values.values())
    if results[0] is not None and results[1] is not None and not nan:
        assert results[0] == results[1]
        assert results[0].origins == results[1].origins
    elif () not in values.values():
        assert results[0] is None
        assert results[1] is None


@MANY
@given(
    st.dictionaries(
        st.sampled_from([*FLAGS, "tp", "model", "no_such_flag"]),
        st.none() | st.integers() | WORDS | st.lists(st.integers() | WORDS, max_size=2) | st.binary(max_size=2),
        max_size=4,
    )
)
def test_values_of_any_type_are_refused(values):
    try:
        ServerArgs.from_kwargs(**values)
    except WeftError as error:
        check_message(error)


@MANY
@given(
    st.lists(
        st.sampled_from([spec.name for spec in FLAGS.values()] + list(ADVICE_OF_FLAG))
        | st.sampled_from(
            ["1", "-1", "2", "auto", "=", "--", "-", "--=", "--tp-size=", "--tp-size=x", "--cuda-graph-bs="]
        )
        | WORDS,
        max_size=6,
    )
)
def test_any_words_are_arguments_or_refused(words):
    if {"-h", "--help"} & set(words):
        return
    try:
        ServerArgs.from_cli(words)
    except WeftError as error:
        check_message(error)


RUNTIME = tuple(name for name, spec in FLAGS.items() if spec.works and name not in ("model_path", "tbo_cost_table"))


@settings(MANY, max_examples=200)
@given(arguments(RUNTIME))
def test_what_is_accepted_resolves_or_is_refused_before_a_weight_is_read(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weft.engine_config.free_memory_bytes", lambda: 1 << 34)
        try:
            args = ServerArgs.from_kwargs(model_path="demo", **values)
            ledger = memory_ledger(resolve(args))
        except WeftError as error:
            check_message(error)
            return
    assert {rank for rank, _, _ in ledger} == set(range(args.tp_size))
    assert all(size >= 0 for _, _, size in ledger)
