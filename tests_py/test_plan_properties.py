"""Whatever the batches are: every token is in one child and one row, padding is bounded, and what cannot be planned is
refused by one WeftError that names the value and what to do."""

import contextlib
import itertools
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from weft import comm, graph, overlap, plan
from weft.errors import WeftError
from weft.forward_mode import ForwardMode, is_prefill

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
# Mostly sizes that fit somewhere, now and then anything.
WILD64 = st.integers(-2, 40) | st.sampled_from([2**31 - 1, 2**31, 2**40]) | INT64
WILD32 = st.integers(-2, 40) | INT32
PREFILL = (ForwardMode.EXTEND, ForwardMode.MIXED)
FIXED_WIDTH = (ForwardMode.DECODE, ForwardMode.TARGET_VERIFY)
MODES = st.sampled_from(list(ForwardMode))


@contextlib.contextmanager
def refused_helpfully():
    """A refusal names a value and says what is right; nothing else may be raised."""
    try:
        yield
    except WeftError as error:
        message = str(error)
        assert re.search(r"\d|'| needs ", message), message
        assert re.search(r"must|give|needs|choose|takes|raise|make|add|remove|set|start|leave", message), message


# ---- splitter ----


@st.composite
def prefill_batches(draw, max_seqs=24):
    """Keyword arguments of `overlap.split` for an EXTEND or MIXED batch that can be split."""
    mode = draw(st.sampled_from(PREFILL))
    longest = 1 << draw(st.integers(0, 12))
    lens = draw(st.lists(st.integers(1, longest), max_size=max_seqs))
    decodes = draw(st.integers(0, 8)) if mode is ForwardMode.MIXED else 0
    lens += [1] * decodes
    prefixes = draw(st.lists(st.integers(0, 5000), min_size=len(lens), max_size=len(lens)))
    batch = {"extend_lens": lens, "prefix_lens": prefixes, "mix_decode_bs": decodes}
    return mode, batch | draw(split_options(sum(lens)))


@st.composite
def fixed_width_batches(draw):
    mode = draw(st.sampled_from(FIXED_WIDTH))
    width = draw(st.integers(1, 8)) if mode is ForwardMode.TARGET_VERIFY else 1
    lens = draw(st.lists(st.integers(0, 5000), max_size=40))
    batch = {"seq_lens": lens, "token_num_per_seq": width}
    return mode, batch | draw(split_options(len(lens) * width))


def split_options(num_tokens):
    return st.fixed_dictionaries(
        {
            "threshold": st.sampled_from([0, 0.3, 0.48, 0.5]) | st.floats(0, 0.5),
            "attn_tp_size": st.integers(1, 9),
            "num_micro_batches": st.just(2) | st.integers(2, 16),
            "num_token_non_padded": st.none() | st.integers(0, num_tokens),
        }
    )


def check_children(parts, batch, num_tokens):
    """What holds of the children of every mode: they partition tokens and real rows, in order."""
    assert len(parts.children) == batch["num_micro_batches"]
    real = num_tokens if batch["num_token_non_padded"] is None else batch["num_token_non_padded"]
    token = 0
    for child in parts.children:
        begin, end = child.token_range
        assert begin == token, "every token is in exactly one child"
        assert child.num_tokens == end - begin >= 0
        assert child.num_token_non_padded == max(0, min(end, real) - begin)
        assert child.num_tokens <= child.padded_len < child.num_tokens + batch["attn_tp_size"]
        assert child.padded_len % batch["attn_tp_size"] == 0
        token = end
    assert token == num_tokens
    second = parts.children[1]
    assert (parts.seq_index, parts.token_index) == (second.seq_range[0], second.token_range[0])


@MANY
@given(prefill_batches())
def test_a_prefill_batch_is_cut_without_loss(mode_and_batch):
    mode, batch = mode_and_batch
    lens, n = batch["extend_lens"], batch["num_micro_batches"]
    parts = overlap.split(mode, **batch)
    assert parts is not None
    check_children(parts, batch, sum(lens))
    done = [0] * len(lens)
    for child in parts.children:
        assert child.seq_lens == [a + b for a, b in zip(child.prefix_lens, child.extend_lens, strict=True)]
        assert child.extend_start_loc == [sum(child.extend_lens[:i]) for i in range(len(child.extend_lens))]
        for seq, prefix, new in zip(range(*child.seq_range), child.prefix_lens, child.extend_lens, strict=True):
            assert new > 0, "no row without tokens"
            assert prefix == batch["prefix_lens"][seq] + done[seq], "runs after what stands before it"
            done[seq] += new
        assert sum(child.extend_lens) == child.num_tokens
    assert done == lens
    assert sum(child.mix_decode_bs for child in parts.children) == batch["mix_decode_bs"]
    if parts.two_chunk:
        assert batch["threshold"] > 0
        assert all(abs(child.num_tokens * n - sum(lens)) <= n for child in parts.children), "shares are even"
    elif len(lens) >= n:
        assert all(child.num_tokens > 0 for child in parts.children)


@MANY
@given(prefill_batches())
def test_mixed_is_split_as_extend(mode_and_batch):
    _, batch = mode_and_batch
    extend = overlap.split(ForwardMode.EXTEND, **(batch | {"mix_decode_bs": 0}))
    mixed = overlap.split(ForwardMode.MIXED, **batch)
    assert extend is not None
    assert mixed is not None
    for a, b in zip(extend.children, mixed.children, strict=True):
        assert (a.seq_range, a.token_range, a.extend_lens, a.prefix_lens) == (
            *(b.seq_range, b.token_range, b.extend_lens),
            b.prefix_lens,
        )


@MANY
@given(prefill_batches())
def test_two_way_indices_are_those_of_the_split(mode_and_batch):
    mode, batch = mode_and_batch
    parts = overlap.split(mode, **(batch | {"num_micro_batches": 2}))
    assert parts is not None
    lens, threshold = batch["extend_lens"], batch["threshold"]
    index = overlap.compute_split_seq_index(mode, None, lens, None, threshold=threshold)
    assert index == parts.seq_index
    assert overlap.compute_split_token_index(index, mode, lens, None, threshold=threshold) == parts.token_index


def sglang_cut(lens, threshold):
    """Sequence index, token index and whether the cut is at half the tokens, as SGLang's rules read."""
    total, best, best_diff = sum(lens), 0, None
    for i in range(1, len(lens)):
        diff = abs(sum(lens[:i]) - sum(lens[i:]))
        if best_diff is not None and diff > best_diff:
            break
        best, best_diff = i, diff
    half = next((i for i in range(len(lens)) if sum(lens[: i + 1]) > total // 2), 0)
    left = sum(lens[:best])
    two_chunk = (left < total * threshold or left > total * (1 - threshold)) and half + 1 <= total // 2
    return (half, total // 2, True) if two_chunk else (best, left, False)


@MANY
@given(st.lists(st.integers(0, 6) | st.integers(0, 9000), max_size=12), st.floats(0, 0.5) | st.just(0.48))
def test_two_way_cuts_are_sglangs_to_the_last_rounding(lens, threshold):
    index = overlap.compute_split_seq_index(ForwardMode.EXTEND, None, lens, None, threshold=threshold)
    token = overlap.compute_split_token_index(index, ForwardMode.EXTEND, lens, None, threshold=threshold)
    assert (index, token, overlap.is_two_chunk(lens, threshold=threshold)) == sglang_cut(lens, threshold)


@MANY
@given(fixed_width_batches())
def test_a_decode_or_verify_batch_is_cut_between_sequences(mode_and_batch):
    mode, batch = mode_and_batch
    lens, width, n = batch["seq_lens"], batch["token_num_per_seq"], batch["num_micro_batches"]
    parts = overlap.split(mode, **batch)
    assert parts is not None
    check_children(parts, batch, len(lens) * width)
    mask = 0
    for child in parts.children:
        first, end = child.seq_range
        assert child.token_range == (first * width, end * width)
        assert child.seq_lens == lens[first:end]
        assert abs((end - first) * n - len(lens)) <= n, "shares are even"
        if mode is ForwardMode.TARGET_VERIFY:
            assert child.mask_range[0] == mask
            mask += sum((length + width) * width for length in child.seq_lens)
            assert child.mask_range[1] == mask
    assert not parts.two_chunk


@MANY
@given(st.lists(st.integers(0, 3), max_size=8))
def test_an_empty_sequence_is_the_only_reason_not_to_split(lens):
    result = overlap.split_or_reason(ForwardMode.EXTEND, extend_lens=lens)
    if 0 in lens:
        assert result == f"sequence {lens.index(0)} has no tokens"
    else:
        assert isinstance(result, overlap.Split)


@MANY
@given(
    MODES,
    st.fixed_dictionaries(
        {},
        optional={
            "extend_lens": st.none() | st.lists(WILD64, max_size=4),
            "prefix_lens": st.none() | st.lists(WILD64, max_size=4),
            "seq_lens": st.none() | st.lists(WILD64, max_size=4),
            "num_tokens": st.none() | WILD64,
            "token_num_per_seq": st.none() | WILD64,
            "threshold": st.floats(0, 0.5) | st.floats(),
            "attn_tp_size": WILD32,
            "mix_decode_bs": WILD64,
            "num_token_non_padded": st.none() | WILD64,
            "num_micro_batches": WILD32,
        },
    ),
)
def test_any_arguments_are_split_or_refused(mode, arguments):
    # A sum of lengths beyond int64 is no batch.
    assume(abs(sum(arguments.get("extend_lens") or [])) < 2**63)
    width = arguments.get("token_num_per_seq") or 1
    assume(abs(len(arguments.get("seq_lens") or []) * width) < 2**63)
    with refused_helpfully():
        parts = overlap.split(mode, **arguments)
        if parts is not None:
            assert 0 <= arguments.get("threshold", 0.48) <= 0.5
            assert [child.token_range[0] for child in parts.children[1:]] == [
                child.token_range[1] for child in parts.children[:-1]
            ]
    with refused_helpfully():
        index = overlap.compute_split_seq_index(
            mode,
            arguments.get("num_tokens"),
            arguments.get("extend_lens"),
            arguments.get("token_num_per_seq"),
            threshold=arguments.get("threshold", 0.48),
        )
        assert index >= 0


@MANY
@given(WILD64, MODES, st.none() | st.lists(WILD64, max_size=3), st.none() | WILD64, st.floats())
def test_any_index_has_a_token_or_is_refused(index, mode, lens, width, threshold):
    with refused_helpfully():
        assert overlap.compute_split_token_index(index, mode, lens, width, threshold=threshold) >= 0


@MANY
@given(WILD64, WILD64)
def test_a_replayed_bucket_holds_its_rows_or_is_refused(bucket, num_tokens):
    with refused_helpfully():
        first, second = overlap.replay_split(bucket, num_tokens)
        assert first + second == num_tokens
        assert max(first, second) <= bucket // 2


@MANY
@given(st.integers(-2, 60), st.integers(-1, 8), st.integers(-1, 18))
def test_micro_batches_run_each_stage_in_turn(num_stages, delta, num_micro_batches):
    with refused_helpfully():
        order = overlap.stage_order(num_stages, delta, num_micro_batches)
        done = dict.fromkeys("abcdefghijklmnop"[:num_micro_batches], 0)
        for name, stage in order:
            assert done[name] == stage
            done[name] += 1
            ahead = done.get(chr(ord(name) - 1))
            assert ahead is None or ahead >= min(num_stages, done[name] + delta)
        assert set(done.values()) == {num_stages}


# ---- padding ----


@MANY
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=32), st.integers(1, 16), st.booleans())
def test_padding_is_bounded_and_slots_follow_each_other(counts, attn_tp_size, extends):
    padding = plan.dp_padding(counts, attn_tp_size=attn_tp_size, attn_dp_size=len(counts), is_extend_in_batch=extends)
    assert [0 <= a - c < attn_tp_size for a, c in zip(padding.aligned, counts, strict=True)] == [True] * len(counts)
    assert all(rows % attn_tp_size == 0 for rows in padding.aligned)
    assert padding.start == [sum(padding.padded[:d]) for d in range(len(counts))]
    assert padding.buffer_len == sum(padding.padded)
    if padding.mode == "MAX_LEN":
        assert set(padding.padded) == {max(padding.aligned)}
        assert padding.buffer_len <= 2 * sum(padding.aligned), "at most doubled"
        assert not extends or len(counts) == 1
    else:
        assert padding.padded == padding.aligned


@MANY
@given(st.lists(WILD64, max_size=6), WILD32, WILD32, st.booleans())
def test_any_counts_are_padded_or_refused(counts, attn_tp_size, attn_dp_size, extends):
    with refused_helpfully():
        padding = plan.dp_padding(
            counts, attn_tp_size=attn_tp_size, attn_dp_size=attn_dp_size, is_extend_in_batch=extends
        )
        assert all(rows >= count for rows, count in zip(padding.padded, counts, strict=True))


# ---- graph buckets ----


@MANY
@given(st.integers(1, 3000), st.booleans(), st.booleans(), st.data())
def test_capture_lists_ascend_and_each_batch_has_the_smallest_bucket(max_bs, speculative, exact, data):
    for sizes in (
        graph.capture_batch_sizes(max_bs, speculative=speculative, disable_padding=exact),
        graph.cpu_capture_batch_sizes(max_bs),
    ):
        assert sizes == sorted(set(sizes))
        assert (sizes[0], sizes[-1]) == (1, max_bs)
        batch = data.draw(st.integers(0, max_bs + 5))
        assert graph.bucket_of(sizes, batch) == min((size for size in sizes if size >= batch), default=None)


@MANY
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(1, 300), st.booleans(), st.booleans(),
    st.integers(1, 8), st.integers(1, 6),
)  # fmt: skip
def test_filtered_sizes_suit_the_ranks(sizes, pool, two_batch_overlap, gathered_buffer, attn_tp_size, width):
    multiple = (2 if two_batch_overlap else 1) * (attn_tp_size if gathered_buffer else 1)
    with refused_helpfully():
        kept = graph.filter_capture_sizes(
            sizes,
            pool_size=pool,
            two_batch_overlap=two_batch_overlap,
            gathered_buffer=gathered_buffer,
            attn_tp_size=attn_tp_size,
            tokens_per_req=width,
        )
        assert kept == sorted(set(kept))
        assert kept[-1] < pool + multiple
        for size in kept:
            assert size * (1 if two_batch_overlap else width) % multiple == 0
            # The planner takes them as rows.
            assert size * width % multiple == 0


@MANY
@given(st.lists(WILD64, max_size=4), WILD64, st.booleans(), st.booleans(), WILD32, WILD64)
def test_any_sizes_are_filtered_or_refused(sizes, pool, two_batch_overlap, gathered_buffer, attn_tp_size, width):
    with refused_helpfully():
        graph.filter_capture_sizes(
            sizes,
            pool_size=pool,
            two_batch_overlap=two_batch_overlap,
            gathered_buffer=gathered_buffer,
            attn_tp_size=attn_tp_size,
            tokens_per_req=width,
        )
    for size in sizes[:1]:
        assume(size < 2**20)
        with refused_helpfully():
            graph.capture_batch_sizes(size)
        with refused_helpfully():
            graph.cpu_capture_batch_sizes(size)


# ---- the plan of a step ----


@st.composite
def parallels(draw):
    dp_size = 1 << draw(st.integers(0, 3))
    tp_size = dp_size << draw(st.integers(0, 2))
    dispatched = draw(st.booleans())
    return plan.ParallelConfig(
        tp_size=tp_size,
        dp_size=dp_size,
        enable_dp_attention=dp_size > 1,
        ep_size=tp_size if dispatched else 1,
        moe_a2a_backend="deepep" if dispatched else "none",
        deepep_mode=draw(st.sampled_from(["auto", "normal", "low_latency"])) if dispatched else "auto",
        moe_dense_tp_size=draw(st.sampled_from([None, 1])),
        enable_dp_lm_head=dp_size > 1 and draw(st.booleans()),
        enable_two_batch_overlap=draw(st.booleans()),
        enable_layernorm_sp=tp_size > dp_size and draw(st.booleans()),
    ), draw(st.integers(1, 3))


COSTS = st.lists(st.floats(0, 1e4), min_size=3, max_size=3)


@st.composite
def configs(draw):
    parallel, width = draw(parallels())
    buckets = graph.filter_capture_sizes(
        graph.capture_batch_sizes(64),
        pool_size=64,
        two_batch_overlap=True,
        gathered_buffer=True,
        attn_tp_size=parallel.attn_tp_size,
        tokens_per_req=width,
    )
    table = plan.TboCostTable(
        tokens=[1, 32, 500], compute_us=draw(COSTS), dispatch_us=draw(COSTS), combine_us=draw(COSTS)
    )
    config = plan.PlanConfig(
        parallel,
        tbo_policy=draw(st.sampled_from(["any", "sglang"])),
        tbo_cost_table=draw(st.sampled_from([table, None])),
        graph_buckets=[size * width for size in buckets] if draw(st.booleans()) else [],
        graph_padding=draw(st.booleans()),
        tokens_per_req=width,
        normal_chunk_rows=draw(st.integers(1, 200)),
        low_latency_rows=64 * 3,
        logit_chunk_rows=draw(st.integers(1, 200)),
    )
    return config, parallel, width


@st.composite
def rank_states(draw, width, step_id):
    mode = draw(MODES | st.sampled_from([ForwardMode.DECODE, ForwardMode.IDLE, ForwardMode.TARGET_VERIFY]))
    if mode in (ForwardMode.IDLE, ForwardMode.PREBUILT):
        return plan.RankState(mode, step_id=step_id)
    lens = draw(st.lists(st.integers(1, 200), min_size=1, max_size=8)) if is_prefill(mode) else None
    draft = 1 if mode is ForwardMode.DECODE else width
    rows = sum(lens) if lens else draw(st.integers(1, 80)) * draft
    parts = overlap.split(mode, extend_lens=lens, num_tokens=rows, token_num_per_seq=None if lens else draft)
    assert parts is not None
    first, second = (child.num_tokens for child in parts.children)
    return plan.RankState(
        mode,
        rows,
        num_seqs=len(lens) if lens else rows // draft,
        tokens_per_req=draft,
        num_logit_rows=draw(st.integers(0, rows)),
        split_tokens=draw(st.sampled_from([(first, second), (first, second), None])),
        can_graph=draw(st.sampled_from([True, True, True, False])),
        step_id=step_id,
    )


@st.composite
def steps(draw):
    config, parallel, width = draw(configs())
    step_id = draw(st.integers(0, 2**40))
    states = [draw(rank_states(width, step_id)) for _ in range(parallel.attn_dp_size)]
    return config, parallel, states


@MANY
@given(steps())
def test_every_token_has_one_row_and_rows_have_bounds(step):
    config, parallel, states = step
    made = plan.make_step_plan(states, config)
    assert made.hash() == plan.make_step_plan(states, config).hash()
    assert made.run == any(state.num_tokens for state in states)
    assert len(made.micro_batches) == (2 if made.tbo else 1)
    extends = any(is_prefill(state.forward_mode) for state in states)
    assert (made.schedule is ForwardMode.EXTEND) == extends == made.is_extend_in_batch
    align = parallel.attn_tp_size if parallel.require_gathered_buffer or made.layernorm_sp else 1
    for d, state in enumerate(states):
        assert sum(batch.num_tokens[d] for batch in made.micro_batches) == state.num_tokens
        bucket = made.graph_bucket[d]
        assert (bucket > 0) == (made.graph_miss[d] == "none")
        assert not (bucket and extends)
        rows = sum(batch.rows[d] for batch in made.micro_batches)
        if bucket:
            assert rows == made.logit_rows[d] == bucket >= state.num_tokens
        for batch in made.micro_batches:
            assert batch.num_tokens[d] <= batch.rows[d]
            assert batch.rows[d] % align == 0
            if batch.padding != "MAX_LEN" and not bucket:
                assert batch.rows[d] < batch.num_tokens[d] + max(align, parallel.attn_tp_size)
    for batch in made.micro_batches:
        assert batch.gathered_rows == (sum(batch.rows) if parallel.require_mlp_tp_gather else 0)
        if batch.padding == "MAX_LEN" and not any(made.graph_bucket):
            aligned = sum(-(-count // parallel.attn_tp_size) * parallel.attn_tp_size for count in batch.num_tokens)
            assert batch.gathered_rows <= 2 * aligned
    assert not made.tbo or not made.no_tbo_reason


@MANY
@given(steps(), st.lists(st.booleans(), min_size=1, max_size=4), st.booleans())
def test_ranks_meet_in_every_collective_of_a_step(step, pattern, shared):
    config, parallel, states = step
    made = plan.make_step_plan(states, config)
    model = plan.ModelShape(sparse_pattern=pattern, hidden=16, vocab=50, has_shared_experts=shared)
    traces = [plan.step_trace(made, config, model, rank) for rank in range(parallel.attn_tp_size * len(states))]
    of_all = [[str(record) for record in trace if record.group == "tp"] for trace in traces]
    assert all(trace == of_all[0] for trace in of_all)
    for rank, trace in enumerate(traces):
        first = parallel.attn_dp_rank(rank) * parallel.attn_tp_size
        assert trace == traces[first], "ranks of an attention group run alike"
        assert all(record.count > 0 for record in trace)


STATES = st.builds(
    plan.RankState,
    MODES,
    WILD64,
    num_seqs=st.none() | WILD64,
    tokens_per_req=WILD64,
    num_logit_rows=WILD64,
    split_tokens=st.none() | st.tuples(WILD64, WILD64),
    can_graph=st.booleans(),
    step_id=st.integers(0, 1),
    config_hash=st.integers(0, 1),
    trace_hash=st.integers(0, 1),
)


@MANY
@given(configs(), st.lists(STATES, max_size=3))
def test_any_states_are_planned_or_refused(config_and_more, states):
    config, parallel, _ = config_and_more
    states = (states * parallel.attn_dp_size)[: parallel.attn_dp_size] or states
    with refused_helpfully():
        made = plan.make_step_plan(states, config)
        assert [sum(batch.num_tokens[d] for batch in made.micro_batches) for d in range(len(states))] == [
            state.num_tokens for state in states
        ]


@MANY
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tbo_policy": st.sampled_from(["any", "sglang", "x"]),
            "tbo_gate": st.sampled_from(["auto", "always", "x"]),
            "graph_buckets": st.lists(WILD64, max_size=3),
            "tokens_per_req": WILD64,
            "normal_chunk_rows": WILD64,
            "low_latency_rows": WILD64,
            "logit_chunk_rows": WILD64,
        },
    ),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("tp_size", "dp_size", "ep_size"), WILD32)),
    st.booleans(),
)
def test_any_configuration_is_valid_or_refused(values, sizes, flag):
    with refused_helpfully():
        parallel = plan.ParallelConfig(**sizes, enable_dp_attention=flag, enable_two_batch_overlap=flag)
        config = plan.PlanConfig(parallel, **values)
        idle = plan.make_step_plan([plan.RankState()] * min(parallel.attn_dp_size, 64), config)
        assert not idle.run


@MANY
@given(*[st.lists(WILD64, max_size=3)] + [st.lists(st.floats(-1, 10) | st.floats(), max_size=3)] * 3, INT64, INT64)
def test_any_cost_table_answers_or_is_refused(tokens, compute, dispatch, combine, first, second):
    with refused_helpfully():
        table = plan.TboCostTable(tokens=tokens, compute_us=compute, dispatch_us=dispatch, combine_us=combine)
        assert table.whole_us(max(first, 0)) >= 0
        assert table.split_us(max(first, 0), max(second, 0)) >= 0


# ---- layouts ----


@MANY
@given(st.text("DSX", max_size=6), WILD32, WILD32, st.sampled_from(["none", "deepep", "x"]), st.none() | WILD32,
       st.booleans(), st.booleans())  # fmt: skip
def test_any_pattern_has_layouts_or_is_refused(pattern, tp_size, attn_dp_size, backend, dense, tbo, layernorm_sp):
    with refused_helpfully():
        layers = comm.layer_layouts(
            pattern,
            tp_size=tp_size,
            attn_dp_size=attn_dp_size,
            moe_a2a_backend=backend,
            moe_dense_tp_size=dense,
            two_batch_overlap=tbo,
            layernorm_sp=layernorm_sp,
        )
        assert len(layers) == len(pattern)
        for before, after in itertools.pairwise(layers):
            assert before.output == after.input
        if layers:
            ends = "SCATTERED" if layernorm_sp else "TP_ATTN_FULL"
            assert (layers[0].input, layers[-1].output) == (ends, ends)


@MANY
@given(WILD64, st.integers(-1, 300) | INT32)
def test_any_tokens_are_shared_by_the_ranks_or_refused(num_tokens, tp_size):
    with refused_helpfully():
        rows = comm.sequence_parallel_rows(num_tokens, tp_size)
        assert len(rows.rank_ranges) == len(rows.real_rows) == tp_size
        assert 0 <= rows.padded - num_tokens < tp_size
        assert rows.padded == rows.rows_per_rank * tp_size
        assert sum(rows.real_rows) == num_tokens
        for rank, (begin, end) in enumerate(rows.rank_ranges):
            assert (begin, end) == (rank * rows.rows_per_rank, (rank + 1) * rows.rows_per_rank)
            assert rows.real_rows[rank] == min(max(num_tokens - begin, 0), rows.rows_per_rank)


def test_the_check_of_messages_is_one():
    with pytest.raises(AssertionError), refused_helpfully():
        raise WeftError("it did not work")
