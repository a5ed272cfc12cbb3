"""Engine over the compiled core: real models, small and random, against transformers."""

import json
import shutil
import threading
import time

import pytest

from weft import Engine, WeftError
from weft.engine import CompiledCore

pytest.importorskip("torch")
pytest.importorskip("transformers")
from parity import check_parity, make_prompts
from tiny_models import FAMILIES, VOCAB_SIZE, make_tiny_model

LENGTHS = (1, 2, 7, 31, 64, 3, 101)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint of each family, made when it is first asked for."""
    made = {}

    def get(family, **changes):
        key = (family, json.dumps(changes, sort_keys=True))
        if key not in made:
            made[key] = make_tiny_model(family, tmp_path_factory.mktemp("model"), **changes)
        return made[key]

    return get


def start(model, **flags):
    defaults = {"skip_tokenizer_init": True, "max_running_requests": 8, "max_total_tokens": 2048}
    return Engine(model_path=model.path, **(defaults | flags))


DP = {"enable_dp_attention": True}
DEEPEP = {"moe_a2a_backend": "deepep"}
TBO = {"enable_two_batch_overlap": True}
MIXED = {"enable_mixed_chunk": True}


def check_paths(engine, flags):
    """The counters of every rank say that the flags' paths ran."""
    ranks = engine.stats()["ranks"]
    assert len(ranks) == flags.get("tp", 1)
    for rank in ranks:
        assert rank["steps"]["DECODE"] > 0
        assert (rank["tbo_steps"] > 0) == ("enable_two_batch_overlap" in flags)
        assert (rank["graph_replays"] > 0) == ("disable_cuda_graph" not in flags)
        dispatched = {name for name, steps in rank["dispatch_steps"].items() if steps}
        assert dispatched == ({"normal", "low_latency"} if "moe_a2a_backend" in flags else {"none"})
    if "enable_mixed_chunk" in flags:
        assert any(rank["steps"]["MIXED"] for rank in ranks)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"tp": 2},
        {"tp": 2, "chunked_prefill_size": 16, "enable_mixed_chunk": True, "page_size": 16},
        {"disable_cuda_graph": True, "disable_overlap_schedule": True},
    ],
    ids=str,
)
def test_every_family_says_what_transformers_says(tiny, family, flags):
    model = tiny(family)
    with start(model, **flags) as engine:
        check_parity(engine, model, make_prompts(LENGTHS, VOCAB_SIZE))
        check_paths(engine, flags)


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe"])
@pytest.mark.parametrize(
    "flags",
    [
        {"tp": 2, "ep": 2},
        {"tp": 2, "dp": 2, **DP},
        {"tp": 4, "dp": 2, **DP, **DEEPEP},
        {"tp": 4, "dp": 2, **DP, **DEEPEP, "enable_two_batch_overlap": True, "chunked_prefill_size": 64},
        {"tp": 2, "dp": 2, **DP, **DEEPEP, "moe_dense_tp_size": 1, "enable_dp_lm_head": True},
    ],
    ids=str,
)
def test_every_layout_says_what_transformers_says(tiny, family, flags):
    model = tiny(family)
    with start(model, **flags) as engine:
        check_parity(engine, model, make_prompts(LENGTHS, VOCAB_SIZE))
        check_paths(engine, flags)


def test_mixed_chunk_changes_no_greedy_output(tiny):
    """Eight long and short prompts, twenty times."""
    model, params = tiny("deepseek_v3"), {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
    flags = {"tp": 2, "dp": 2, **DP, "chunked_prefill_size": 32}
    with start(model, **flags) as plain, start(model, **flags, **MIXED) as mixed:
        for seed in range(20):
            prompts = make_prompts((1, 90, 2, 61, 5, 120, 13, 40), VOCAB_SIZE, seed)
            expected, got = (engine.generate(input_ids=prompts, sampling_params=params) for engine in (plain, mixed))
            assert [it["output_ids"] for it in got] == [it["output_ids"] for it in expected], f"seed {seed}"
        assert all(rank["steps"]["MIXED"] > 0 for rank in mixed.stats()["ranks"])
        assert all(rank["steps"]["MIXED"] == 0 for rank in plain.stats()["ranks"])


def test_mixed_steps_and_ranks_in_unlike_modes_overlap(tiny):
    model = tiny("deepseek_v3")
    flags = {"tp": 4, "dp": 2, **DP, **DEEPEP, **TBO, **MIXED, "chunked_prefill_size": 32}
    with start(model, **flags) as engine:
        check_parity(engine, model, make_prompts((60, 4, 50, 3, 90, 5), VOCAB_SIZE), max_new_tokens=12)
        ranks = engine.stats()["ranks"]
    assert all(rank["tbo_steps_by_mode"]["MIXED"] > 0 for rank in ranks)
    assert all(rank["tbo_unlike_mode_steps"] > 0 for rank in ranks)


def bits(engine, prompts):
    """All numbers of all answers, for comparing to the last bit."""
    outputs = engine.generate(
        input_ids=prompts,
        sampling_params={"temperature": 0, "max_new_tokens": 10, "ignore_eos": True},
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=3,
    )
    keys = ("input_token_logprobs", "output_token_logprobs", "input_top_logprobs", "output_top_logprobs")
    return [[it["output_ids"], *(it["meta_info"][key] for key in keys)] for it in outputs]


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_moe"])
def test_repeats_graphs_padding_and_poison_change_no_bit(tiny, family):
    model, prompts = tiny(family), make_prompts(LENGTHS, VOCAB_SIZE)
    flags = {"tp": 2, "dp": 2, **DP, **DEEPEP, **MIXED, "chunked_prefill_size": 32}
    with start(model, **flags) as engine:
        expected = bits(engine, prompts)
        assert bits(engine, prompts) == expected, "repeated"
        assert engine.stats()["ranks"][0]["graph_replays"] > 0
    for change in (
        {"disable_cuda_graph": True},
        {"cuda_graph_bs": [8]},
        {"disable_cuda_graph_padding": True},
        {"disable_overlap_schedule": True},
        {"core_factory": lambda config: CompiledCore(config, poison=True)},
    ):
        with start(model, **flags, **change) as engine:
            assert bits(engine, prompts) == expected, str(change)
            assert (engine.stats()["ranks"][0]["graph_replays"] == 0) == ("disable_cuda_graph" in change)


def test_outputs_do_not_depend_on_the_batch(tiny):
    prompts = make_prompts(LENGTHS, VOCAB_SIZE)
    params = {"temperature": 1.0, "max_new_tokens": 12, "sampling_seed": 7, "top_k": 50, "top_p": 0.9}
    with start(tiny("deepseek_v3"), enable_mixed_chunk=True, chunked_prefill_size=32) as engine:
        together = engine.generate(input_ids=prompts, sampling_params=params)
        alone = [engine.generate(input_ids=prompt, sampling_params=params) for prompt in prompts]
        assert engine.stats()["ranks"][0]["steps"]["MIXED"] > 0
    assert [output["output_ids"] for output in together] == [output["output_ids"] for output in alone]


def test_streams_end_as_the_whole_answer(tiny):
    params = {"temperature": 0, "max_new_tokens": 20}
    with start(tiny("qwen3_moe")) as engine:
        outputs = list(engine.generate(input_ids=[5, 6, 7], sampling_params=params, stream=True))
        whole = engine.generate(input_ids=[5, 6, 7], sampling_params=params)
    assert outputs[-1]["output_ids"] == whole["output_ids"]
    assert outputs[-1]["meta_info"]["finish_reason"] == whole["meta_info"]["finish_reason"]


def test_stop_tokens_end_answers_of_the_core(tiny):
    with start(tiny("deepseek_v2")) as engine:
        whole = engine.generate(input_ids=[9, 8], sampling_params={"temperature": 0, "max_new_tokens": 20})[
            "output_ids"
        ]
        stop = whole[5]
        output = engine.generate(
            input_ids=[9, 8], sampling_params={"temperature": 0, "max_new_tokens": 20, "stop_token_ids": [stop]}
        )
    assert output["output_ids"] == whole[: whole.index(stop) + 1]
    assert output["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}


def test_aborted_requests_leave_room_for_others(tiny):
    params = {"temperature": 0, "max_new_tokens": 100, "ignore_eos": True}
    with start(tiny("qwen3_moe"), max_total_tokens=128, max_running_requests=2) as engine:
        for _ in range(5):
            stream = engine.generate(input_ids=[1, 2, 3], sampling_params=params, stream=True)
            next(stream)
            stream.close()
        assert len(engine.generate(input_ids=[1, 2, 3], sampling_params=params)["output_ids"]) == 100


def test_threads_share_an_engine(tiny):
    prompts = make_prompts(range(1, 25), VOCAB_SIZE)
    params = {"temperature": 0, "max_new_tokens": 6}
    answers = {}
    with start(tiny("deepseek_v3"), tp=2, dp=2, **DP, **DEEPEP) as engine:

        def ask(first):
            for i in range(first, len(prompts), 4):
                answers[i] = engine.generate(input_ids=prompts[i], sampling_params=params)["output_ids"]

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = engine.generate(input_ids=prompts, sampling_params=params)
    assert [answers[i] for i in range(len(prompts))] == [output["output_ids"] for output in together]


def test_dummy_weights_need_only_the_config(tiny, tmp_path):
    model = tiny("deepseek_v3")
    shutil.copy(f"{model.path}/config.json", tmp_path)
    with Engine(
        model_path=str(tmp_path), load_format="dummy", skip_tokenizer_init=True, max_total_tokens=512
    ) as engine:
        assert len(engine.generate(input_ids=[4], sampling_params={"max_new_tokens": 4})["output_ids"]) <= 4


def test_a_model_that_is_not_whole_is_refused(tiny, tmp_path):
    model = tiny("qwen3")
    shutil.copy(f"{model.path}/config.json", tmp_path)
    with pytest.raises(WeftError, match="safetensors"):
        Engine(model_path=str(tmp_path), skip_tokenizer_init=True)


def test_engines_close_within_two_seconds_while_requests_run(tiny):
    engine = start(tiny("deepseek_v3"), tp=2)
    stream = engine.generate(input_ids=[1, 2], sampling_params={"max_new_tokens": 200, "ignore_eos": True}, stream=True)
    next(stream)
    begin = time.monotonic()
    engine.close()
    assert time.monotonic() - begin < 2
    with pytest.raises(WeftError, match="closed"):
        for _ in stream:
            pass


def test_a_prompt_without_finite_probabilities_fails_alone(tiny, tmp_path):
    """A NaN in one row of the embedding reaches only the prompt that names it, in the same steps as the others."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny("deepseek_v3").path, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.embed_tokens.weight"][5] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    flags = {"tp": 2, "dp": 2} | DP | DEEPEP | TBO | MIXED
    params = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}
    prompts = [[7, 8, 9], [7, 5, 9], [1, 2], [3] * 11]
    with Engine(
        model_path=str(tmp_path / "model"), skip_tokenizer_init=True, max_running_requests=8, **flags
    ) as engine:
        alone = [engine.generate(input_ids=prompt, sampling_params=params)["output_ids"] for prompt in prompts[2:]]
        outputs = engine.generate(input_ids=prompts, sampling_params=params)
    reason = outputs[1]["meta_info"]["finish_reason"]
    assert reason["type"] == "abort"
    assert reason["status_code"] == 500
    assert "not finite" in reason["message"]
    assert outputs[1]["output_ids"] == []
    assert [output["output_ids"] for output in outputs[2:]] == alone
    assert [len(output["output_ids"]) for output in outputs] == [6, 0, 6, 6]
