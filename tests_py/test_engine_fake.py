"""Engine over a core without a model: what is returned, streamed, stopped, refused, and told on failure."""

import itertools
import pathlib
import queue
import threading
import time

import pytest

from conftest import EOS, VOCAB_SIZE
from fake_core import FakeCore, expected_output, logprob_of
from weft import Engine, SamplingParams, WeftError
from weft.tokenizer import Tokenizer

GREEDY = {"temperature": 0, "max_new_tokens": 12}


class Started:
    """An engine and its fake core."""

    def __init__(self, model, **flags):
        self.cores = []
        self.engine = Engine(model_path=model, core_factory=self.make, **flags)
        self.core = self.cores[0]

    def make(self, config):
        self.cores.append(FakeCore.of_engine(config))
        return self.cores[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.engine.close()


@pytest.fixture
def started(fake_model):
    with Started(fake_model) as it:
        yield it


@pytest.fixture
def engine(started):
    return started.engine


@pytest.fixture
def tokenizer(fake_model):
    return Tokenizer(pathlib.Path(fake_model))


def expected(ids, count=12, stops=(EOS,)):
    return expected_output(ids, count, stops, VOCAB_SIZE)


def test_an_answer_has_sglangs_keys(engine, tokenizer):
    output = engine.generate("hello", GREEDY)
    ids = tokenizer.encode("hello")
    assert output["output_ids"] == expected(ids)
    assert output["text"] == tokenizer.decode(expected(ids))
    meta = output["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 12}
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (5, 12, 0)
    assert meta["e2e_latency"] > 0
    assert "output_token_logprobs" not in meta


def test_many_prompts_are_answered_in_order_whatever_the_batch(engine):
    prompts = [[i, i + 1, i + 2] for i in range(200)]
    outputs = engine.generate(input_ids=prompts, sampling_params=GREEDY)
    assert [output["output_ids"] for output in outputs] == [expected(prompt) for prompt in prompts]
    assert all("index" not in output for output in outputs)


@pytest.mark.parametrize("overlap_off", [False, True])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"enable_mixed_chunk": True, "chunked_prefill_size": 16},
        {"page_size": 16, "chunked_prefill_size": 32, "max_running_requests": 3},
        {"chunked_prefill_size": -1, "max_total_tokens": 256},
        {"tp": 4, "dp": 2, "enable_dp_attention": True, "enable_mixed_chunk": True, "chunked_prefill_size": 32},
    ],
)
def test_outputs_do_not_depend_on_how_steps_are_made(fake_model, flags, overlap_off):
    prompts = [list(range(i % 50, i % 50 + 1 + (i * 13) % 90)) for i in range(40)]
    stops = list(range(0, 60, 3))
    with Started(fake_model, disable_overlap_schedule=overlap_off, **flags) as it:
        outputs = it.engine.generate(
            input_ids=prompts, sampling_params={"temperature": 0, "max_new_tokens": 40, "stop_token_ids": stops}
        )
        if flags.get("enable_mixed_chunk"):
            assert it.core.mixed_steps > 0
    assert [output["output_ids"] for output in outputs] == [expected(prompt, 40, (EOS, *stops)) for prompt in prompts]


def test_a_stop_token_ends_the_answer_and_is_not_in_the_text(engine, tokenizer):
    ids = [3, 1, 4]
    whole = expected(ids, 30, ())
    stop = whole[7]
    cut = whole[: whole.index(stop) + 1]
    params = {"temperature": 0, "max_new_tokens": 30, "stop_token_ids": [stop]}
    output = engine.generate(input_ids=ids, sampling_params=params)
    assert output["output_ids"] == cut
    assert output["text"] == tokenizer.decode(cut[:-1])
    assert output["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    output = engine.generate(input_ids=ids, sampling_params={**params, "no_stop_trim": True})
    assert output["text"] == tokenizer.decode(cut)
    output = engine.generate(input_ids=ids, sampling_params={**params, "ignore_eos": True})
    assert output["output_ids"] == whole


def test_a_stop_token_in_the_last_place_counts_as_length(engine):
    whole = expected([9], 5, ())
    output = engine.generate(
        input_ids=[9], sampling_params={"temperature": 0, "max_new_tokens": 5, "stop_token_ids": [whole[4]]}
    )
    assert output["meta_info"]["finish_reason"]["type"] == "length"


def ascii_output(tokenizer, length=60):
    """A prompt whose answer has printable characters to stop at."""
    for first in range(200):
        ids = expected([first], length, ())
        text = tokenizer.decode(ids, skip_special_tokens=False)
        clean = [i for i in range(10, len(text) - 3) if text[i : i + 2].isascii() and text[i : i + 2].isprintable()]
        if clean and EOS not in ids and text.find(text[clean[0] : clean[0] + 2]) == clean[0]:
            return [first], text, text[clean[0] : clean[0] + 2]
    raise RuntimeError("no such prompt")


def test_a_stop_string_ends_the_answer_and_is_trimmed(engine, tokenizer):
    ids, text, stop = ascii_output(tokenizer)
    params = {"temperature": 0, "max_new_tokens": 60, "stop": ["never seen", stop]}
    output = engine.generate(input_ids=ids, sampling_params=params)
    assert output["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert output["text"] == text[: text.index(stop)]
    untrimmed = engine.generate(input_ids=ids, sampling_params={**params, "no_stop_trim": True})
    assert untrimmed["text"].endswith(stop)
    assert untrimmed["output_ids"] == output["output_ids"]


def test_streams_are_cumulative_and_never_take_back_text(engine, tokenizer):
    ids, _, stop = ascii_output(tokenizer)
    params = {"temperature": 0, "max_new_tokens": 60, "stop": [stop]}
    outputs = list(engine.generate(input_ids=ids, sampling_params=params, stream=True))
    final = engine.generate(input_ids=ids, sampling_params=params)
    assert outputs[-1]["text"] == final["text"]
    assert outputs[-1]["output_ids"] == final["output_ids"]
    assert len(outputs) == len(final["output_ids"])
    for before, after in itertools.pairwise(outputs):
        assert after["text"].startswith(before["text"])
        assert before["meta_info"]["finish_reason"] is None
        assert len(after["output_ids"]) == len(before["output_ids"]) + 1


def test_a_stream_of_several_prompts_names_each(engine):
    last = {}
    for output in engine.generate(input_ids=[[1], [2], [3]], sampling_params=GREEDY, stream=True):
        last[output["index"]] = output
    assert {i: output["output_ids"] for i, output in last.items()} == {i: expected([i + 1]) for i in range(3)}


def test_logprobs_are_sglangs_triples(fake_model):
    ids = list(range(20))
    with Started(fake_model, chunked_prefill_size=7) as it:
        output = it.engine.generate(
            input_ids=ids,
            sampling_params={"temperature": 0, "max_new_tokens": 3},
            return_logprob=True,
            logprob_start_len=0,
            top_logprobs_num=2,
            return_text_in_logprobs=True,
        )
        from_5 = it.engine.generate(input_ids=ids, sampling_params=GREEDY, return_logprob=True, logprob_start_len=5)
        only_output = it.engine.generate(input_ids=ids, sampling_params=GREEDY, return_logprob=True)
    tokenizer = it.engine.tokenizer
    meta, out = output["meta_info"], output["output_ids"]
    assert meta["input_token_logprobs"] == [(None, 0, tokenizer.decode([0]))] + [
        (logprob_of(ids[:i], ids[i]), ids[i], tokenizer.decode([ids[i]])) for i in range(1, 20)
    ]
    assert meta["output_token_logprobs"] == [
        (logprob_of(ids + out[:i], out[i]), out[i], tokenizer.decode([out[i]], False)) for i in range(3)
    ]
    assert meta["output_token_logprobs_length"] == 3
    assert meta["input_top_logprobs"][0] is None
    assert [len(top) for top in meta["input_top_logprobs"][1:]] == [2] * 19
    assert [len(top) for top in meta["output_top_logprobs"]] == [2] * 3
    assert [entry[1] for entry in from_5["meta_info"]["input_token_logprobs"]] == ids[5:]
    assert from_5["meta_info"]["input_token_logprobs"][0] == (None, 5, None)
    assert from_5["meta_info"]["input_token_logprobs"][1] == (logprob_of(ids[:6], 6), 6, None)
    assert only_output["meta_info"]["input_token_logprobs"] == []
    assert len(only_output["meta_info"]["output_token_logprobs"]) == 12
    assert "input_top_logprobs" not in only_output["meta_info"]


def test_streamed_logprobs_grow_with_the_tokens(engine):
    for output in engine.generate(input_ids=[5, 6], sampling_params=GREEDY, return_logprob=True, stream=True):
        assert len(output["meta_info"]["output_token_logprobs"]) == len(output["output_ids"])


def test_a_bad_prompt_in_a_list_stops_no_other(engine):
    outputs = engine.generate(input_ids=[[1, 2], [], [3], [VOCAB_SIZE], [0] * 300], sampling_params=GREEDY)
    assert [output["output_ids"] for output in outputs] == [expected([1, 2]), [], expected([3]), [], []]
    for i, message in ((1, "is empty"), (3, "integers from 0 to 259"), (4, "300 tokens")):
        reason = outputs[i]["meta_info"]["finish_reason"]
        assert (reason["type"], reason["status_code"], reason["err_type"]) == ("abort", 400, "BadRequestError")
        assert message in reason["message"]
        assert outputs[i]["text"] == ""
    outputs = engine.generate(
        input_ids=[[1], [1]], sampling_params=[{"top_p": 7}, GREEDY], return_logprob=[False, True]
    )
    assert outputs[0]["meta_info"]["finish_reason"]["type"] == "abort"
    assert outputs[1]["output_ids"] == expected([1])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "either prompt or input_ids"),
        ({"prompt": "a", "input_ids": [1]}, "either prompt or input_ids"),
        ({"input_ids": []}, "is empty"),
        ({"input_ids": [0] * 256}, "256 tokens; with one token of answer at most 256 fit"),
        ({"input_ids": [-1]}, "integers from 0"),
        ({"input_ids": [1], "sampling_params": {"temperature": -1}}, "temperature"),
        ({"input_ids": [1], "logprob_start_len": 2, "return_logprob": True}, "logprob_start_len=2"),
        ({"input_ids": [1], "top_logprobs_num": 21, "return_logprob": True}, "top_logprobs_num=21"),
        ({"input_ids": [[1], [2]], "sampling_params": [{}]}, "sampling_params has 1 items for 2 prompts"),
        ({"input_ids": [[1], [2]], "rid": "x"}, "2 prompts need a list"),
        ({"input_ids": [1], "return_logprob": "yes"}, "return_logprob of type str"),
        ({"prompt": [1, 2]}, "prompt must be a string"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(started, kwargs, message):
    with pytest.raises(WeftError, match=message):
        started.engine.generate(**kwargs)
    assert started.core.num_steps == 0


def test_answers_are_cut_to_the_context(engine):
    output = engine.generate(input_ids=[1] * 250, sampling_params={"temperature": 0, "max_new_tokens": 1000})
    assert output["meta_info"]["finish_reason"] == {"type": "length", "length": 6}


def test_no_new_tokens_gives_only_the_prompts_logprobs(engine):
    output = engine.generate(
        input_ids=[1, 2, 3], sampling_params={"max_new_tokens": 0}, return_logprob=True, logprob_start_len=0
    )
    assert output["output_ids"] == []
    assert output["text"] == ""
    assert len(output["meta_info"]["input_token_logprobs"]) == 3
    assert output["meta_info"]["output_token_logprobs"] == []


def test_seeds_are_the_requests_own(started):
    sampled = SamplingParams(max_new_tokens=8, sampling_seed=11)
    alone = started.engine.generate(input_ids=[4], sampling_params=sampled)
    together = started.engine.generate(input_ids=[[4], [4], [9]], sampling_params=[sampled, {}, sampled])
    assert together[0]["output_ids"] == alone["output_ids"]
    assert alone["output_ids"] == expected_output([4], 8, (EOS,), VOCAB_SIZE, 11)
    assert together[1]["output_ids"][:8] != alone["output_ids"], "without a seed each request has its own"


def test_the_random_seed_fixes_requests_without_one(fake_model):
    outputs = []
    for _ in range(2):
        with Started(fake_model, random_seed=5) as it:
            outputs.append([it.engine.generate(input_ids=[4])["output_ids"] for _ in range(2)])
    assert outputs[0] == outputs[1]
    assert outputs[0][0] != outputs[0][1]


def wait_until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


LONG = {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True}


def test_closing_a_stream_aborts_its_requests(started):
    started.core.permits = threading.Semaphore(5)
    stream = started.engine.generate(input_ids=[[1], [2]], sampling_params=LONG, stream=True)
    next(stream)
    stream.close()
    started.core.permits.release(1000)
    assert next(stream, None) is None
    assert started.engine.generate(input_ids=[3], sampling_params=GREEDY)["output_ids"] == expected([3])
    wait_until(lambda: not started.core.requests)
    assert started.core.num_steps < 200


def test_an_abandoned_stream_aborts_its_requests(started):
    started.core.permits = threading.Semaphore(5)
    stream = started.engine.generate(input_ids=[1], sampling_params=LONG, stream=True)
    next(stream)
    del stream
    started.core.permits.release(1000)
    wait_until(lambda: not started.core.requests)
    assert started.core.num_steps < 200


def test_a_request_is_aborted_by_name(started):
    started.core.permits = threading.Semaphore(0)
    outputs = queue.SimpleQueue()
    ask = lambda: outputs.put(started.engine.generate(input_ids=[1], sampling_params=LONG, rid="mine"))  # noqa: E731
    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: started.core.num_steps > 0)
    started.engine.abort_request("other")
    started.engine.abort_request("mine")
    started.core.permits.release(1000)
    output = outputs.get(timeout=5)
    thread.join()
    assert output["meta_info"]["id"] == "mine"
    assert output["meta_info"]["finish_reason"]["type"] == "abort"
    whole = expected([1], 200, ())
    assert output["output_ids"] == whole[: len(output["output_ids"])]


def test_threads_share_an_engine(engine):
    outputs = {}

    def ask(first):
        outputs[first] = [engine.generate(input_ids=[first, i], sampling_params=GREEDY) for i in range(5)]

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first, answers in outputs.items():
        assert [answer["output_ids"] for answer in answers] == [expected([first, i]) for i in range(5)]


@pytest.mark.parametrize("overlap_off", [False, True])
def test_when_the_core_fails_every_request_is_told(fake_model, overlap_off):
    with Started(fake_model, disable_overlap_schedule=overlap_off) as it:
        it.core.fail_at = 6
        failures = queue.SimpleQueue()

        def ask(first):
            try:
                it.engine.generate(input_ids=[[first], [first + 1]], sampling_params=LONG)
            except WeftError as error:
                failures.put(str(error))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
        for _ in threads:
            assert "rank 1, op combine: step 6 was told to fail" in failures.get_nowait()
        with pytest.raises(WeftError, match="make a new Engine"):
            it.engine.generate(input_ids=[1])
        begin = time.monotonic()
    assert time.monotonic() - begin < 2


def test_close_ends_what_runs_within_two_seconds(fake_model):
    with Started(fake_model) as it:
        it.core.permits = threading.Semaphore(0)  # a step that never ends
        stream = it.engine.generate(input_ids=[1], sampling_params=LONG, stream=True)
        wait_until(lambda: it.core.num_steps > 0)
        begin = time.monotonic()
        it.engine.close()
        assert time.monotonic() - begin < 2
        with pytest.raises(WeftError, match="the engine is closed"):
            next(stream)
        with pytest.raises(WeftError, match="the engine is closed"):
            it.engine.generate(input_ids=[1])


def test_an_engine_without_tokenizer_takes_and_gives_ids(fake_model):
    with Started(fake_model, skip_tokenizer_init=True) as it:
        output = it.engine.generate(input_ids=[1, 2], sampling_params=GREEDY)
        assert output["output_ids"] == expected([1, 2])
        assert "text" not in output
        with pytest.raises(WeftError, match="needs a tokenizer"):
            it.engine.generate("text")
        with pytest.raises(WeftError, match="stop strings need a tokenizer"):
            it.engine.generate(input_ids=[1], sampling_params={"stop": "x"})
