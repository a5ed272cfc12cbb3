"""The scheduler against a core that checks every step."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_core import FakeCore, expected_output
from weft.scheduler import Request, RequestState, Scheduler, SchedulerConfig

VOCAB = 64


def config_of(**changes):
    values = {
        "dp_size": 2,
        "max_running_requests": 4,
        "prefill_tokens_per_step": 16,
        "chunked": True,
        "mixed": True,
        "page_size": 1,
        "num_pages": 200,
    }
    return SchedulerConfig(**(values | changes))


def run(config, requests, overlap=True, aborts=(), arrivals=None):
    """Run all requests; return (outputs by request, the core). `aborts`: (step, index); `arrivals`: step of each."""
    core, scheduler = FakeCore(config, VOCAB), Scheduler(config)
    outputs = {request: [] for request in requests}
    arrivals = arrivals or [0] * len(requests)
    aborts = list(aborts)
    opened, turn = [], 0

    def take():
        step = opened.pop(0)
        result = core.wait(step[1])
        keep = scheduler.alive[result.rids]
        scheduler.commit(result.rids[keep])
        for rid, token, finished in zip(
            result.rids[keep].tolist(), result.tokens[keep].tolist(), result.finished[keep].tolist(), strict=True
        ):
            request = scheduler.request(rid)
            outputs[request].append(token)
            if finished:
                scheduler.finish(request, len(outputs[request]))
        scheduler.retire(step[0])

    while True:
        for request, arrival in zip(requests, arrivals, strict=True):
            if arrival == turn:
                scheduler.add(request)
        for when, index in aborts:
            if when == turn and arrivals[index] <= turn:
                scheduler.abort(requests[index], len(outputs[requests[index]]))
        step = scheduler.plan()
        ticket = core.submit(step) if step else 0
        if ticket and not overlap:
            opened.append((step.sequence, ticket))
            take()
        elif ticket:
            opened.append((step.sequence, ticket))
            if len(opened) == 2:
                take()
        else:
            while opened:
                take()
            if step:
                scheduler.retire(step.sequence)
            elif scheduler.idle and turn >= max(arrivals):
                return outputs, core, scheduler
        turn += 1
        assert turn < 5000, "the scheduler does not come to an end"


def requests_of(lengths, stop_token_ids=()):
    return [
        Request(
            input_ids=[(7 * i + j) % VOCAB for j in range(prompt)],
            max_new_tokens=new,
            stop_token_ids=tuple(stop_token_ids),
        )
        for i, (prompt, new) in enumerate(lengths)
    ]


def check_all(outputs, core, scheduler, aborted=()):
    for request, output in outputs.items():
        whole = expected_output(request.input_ids, request.max_new_tokens, request.stop_token_ids, VOCAB)
        if request in aborted:
            assert output == whole[: len(output)]
        else:
            assert output == whole
            assert sum(core.chunks[request]) == len(request.input_ids)
        assert request.state is RequestState.FINISHED
    config = core.config
    assert scheduler.free_pages == [config.num_pages] * config.dp_size
    assert scheduler.num_running == [0] * config.dp_size
    assert [rank.outstanding for rank in scheduler._ranks] == [0] * config.dp_size
    assert [sorted(rank.free_rids) for rank in scheduler._ranks] == [
        list(range(r * config.max_running_requests, (r + 1) * config.max_running_requests))
        for r in range(config.dp_size)
    ]


@st.composite
def workloads(draw):
    page = draw(st.sampled_from([1, 1, 4, 16]))
    chunked = draw(st.booleans())
    config = config_of(
        dp_size=draw(st.integers(1, 4)),
        max_running_requests=draw(st.integers(1, 6)),
        prefill_tokens_per_step=page * draw(st.integers(1, 6)) if chunked else 64,
        chunked=chunked,
        mixed=chunked and draw(st.booleans()),
        page_size=page,
        num_pages=-(-90 // page) * draw(st.integers(1, 3)),
    )
    lengths = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 25)), min_size=1, max_size=25))
    arrivals = [draw(st.integers(0, 30)) for _ in lengths]
    stops = draw(st.lists(st.integers(0, VOCAB - 1), max_size=6))
    aborts = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, len(lengths) - 1)), max_size=6))
    return config, lengths, arrivals, stops, aborts


@settings(max_examples=300, deadline=None)
@given(workloads(), st.booleans())
def test_every_request_gets_exactly_its_tokens_and_no_step_breaks_a_limit(workload, overlap):
    config, lengths, arrivals, stops, aborts = workload
    requests = requests_of(lengths, stops)
    outputs, core, scheduler = run(config, requests, overlap, aborts, arrivals)
    check_all(outputs, core, scheduler, aborted={requests[index] for _, index in aborts})


@settings(max_examples=60, deadline=None)
@given(workloads())
def test_overlap_changes_no_output(workload):
    config, lengths, arrivals, stops, _ = workload
    with_overlap, _, _ = run(config, requests_of(lengths, stops), True, (), arrivals)
    without, _, _ = run(config, requests_of(lengths, stops), False, (), arrivals)
    assert list(with_overlap.values()) == list(without.values())


def test_a_long_prompt_is_cut_into_chunks_and_goes_first():
    requests = requests_of([(40, 2), (3, 2)])
    outputs, core, scheduler = run(config_of(dp_size=1, mixed=False), requests)
    check_all(outputs, core, scheduler)
    assert core.chunks[requests[0]] == [16, 16, 8]
    assert core.chunks[requests[1]] == [3]


def test_decode_rows_count_against_the_chunk_of_a_mixed_step():
    requests = requests_of([(4, 20), (4, 20), (30, 2)])
    outputs, core, scheduler = run(config_of(dp_size=1), requests)
    check_all(outputs, core, scheduler)
    assert core.chunks[requests[2]] == [8, 14, 8]  # 16 less two prompts of 4, then 16 less two decode rows
    assert core.mixed_steps == 2


def test_mixed_steps_leave_room_for_a_page_of_prompt():
    """A page as large as the chunk would otherwise keep prompts out while anything decodes."""
    config = config_of(dp_size=1, page_size=16, prefill_tokens_per_step=16, num_pages=40)
    requests = requests_of([(5, 40), (40, 2)])
    outputs, core, scheduler = run(config, requests)
    check_all(outputs, core, scheduler)
    assert core.chunks[requests[1]] == [16, 16, 8]
    assert core.mixed_steps == 3


def test_without_mixed_chunk_prefill_goes_before_decode():
    config = config_of(dp_size=1, mixed=False)
    scheduler = Scheduler(config)
    first, second = requests_of([(4, 5), (4, 5)])
    scheduler.add(first)
    assert scheduler.plan().decode == [False]
    scheduler.add(second)
    step = scheduler.plan()
    assert step.prefill == [(second.rid, 4)]
    assert step.decode == [False]
    assert scheduler.plan().decode == [True]


def test_ranks_decode_while_others_prefill():
    requests = requests_of([(4, 10), (4, 10), (90, 1)])
    outputs, core, scheduler = run(config_of(mixed=False), requests, arrivals=[0, 0, 3])
    check_all(outputs, core, scheduler)
    assert core.unlike_modes > 0


def test_requests_go_to_the_rank_with_the_least_work():
    scheduler = Scheduler(config_of(prefill_tokens_per_step=64))
    requests = requests_of([(10, 50), (10, 5), (10, 5), (10, 5), (10, 30)])
    for request in requests:
        scheduler.add(request)
    scheduler.plan()
    assert [request.dp_rank for request in requests] == [0, 1, 1, 1, 1]


def test_a_request_waits_until_all_its_pages_are_free():
    config = config_of(dp_size=1, num_pages=30)
    requests = requests_of([(10, 10), (10, 10)])
    outputs, core, scheduler = run(config, requests)
    check_all(outputs, core, scheduler)
    assert core.num_steps == 20, "the second begins when the first has ended"


def test_slots_and_pages_stay_until_the_step_in_flight_has_ended():
    config = config_of(dp_size=1, max_running_requests=1, num_pages=8)
    scheduler, core = Scheduler(config), FakeCore(config, VOCAB)
    first, second = requests_of([(4, 4), (4, 4)])
    scheduler.add(first)
    scheduler.add(second)
    one = scheduler.plan()
    core.submit(one)
    two = scheduler.plan()
    core.submit(two)
    scheduler.abort(first, 0)
    three = scheduler.plan()
    assert three.release == [first.rid]
    assert not three.admissions
    scheduler.retire(two.sequence)
    assert not (scheduler.plan() or three).admissions
    scheduler.retire(three.sequence)
    assert scheduler.plan().admissions == [second]


def test_an_aborted_request_that_waits_is_skipped():
    scheduler = Scheduler(config_of(dp_size=1))
    first, second = requests_of([(4, 4), (4, 4)])
    scheduler.add(first)
    scheduler.add(second)
    scheduler.abort(first, 0)
    assert scheduler.plan().admissions == [second]
    assert first.rid == -1


@pytest.mark.parametrize(("tokens", "possible"), [(200, True), (201, False)])
def test_a_request_that_can_never_fit_is_named(tokens, possible):
    reason = Scheduler(config_of()).why_impossible(tokens)
    assert (reason is None) == possible
    assert possible or "201 KV pages but a DP rank has 200" in reason
