"""Sampling parameters: defaults, ranges, and what weft lacks."""

import re

import pytest

from weft.errors import WeftError
from weft.sampling_params import SamplingParams


def test_defaults_are_those_of_sglang():
    params = SamplingParams.from_dict({"temperature": None})
    assert params == SamplingParams()
    assert (params.max_new_tokens, params.temperature, params.top_p, params.top_k, params.min_p) == (128, 1, 1, -1, 0)
    assert params.skip_special_tokens
    assert not params.ignore_eos


def test_temperature_0_is_greedy():
    assert SamplingParams(temperature=0).greedy
    assert SamplingParams(temperature=1e-7).greedy
    assert SamplingParams(top_k=1).greedy
    assert not SamplingParams(temperature=0.1).greedy


def test_one_stop_string_is_a_list_of_one():
    assert SamplingParams(stop="x").stop_strings == ("x",)
    assert SamplingParams(stop=["x", "yz"]).stop_strings == ("x", "yz")
    assert SamplingParams().stop_strings == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"temperature": float("inf")}, "got inf"),
        ({"top_p": 0}, "top_p must be in (0, 1], got 0"),
        ({"top_p": 1.1}, "top_p must be from 0 to 1, got 1.1"),
        ({"top_k": 0}, "top_k must be -1 (all) or at least 1, got 0"),
        ({"top_k": 2.5}, "top_k=2.5 must be an integer"),
        ({"min_p": 2}, "min_p must be from 0 to 1"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0"),
        ({"max_new_tokens": True}, "must be an integer"),
        ({"stop": ""}, "none of them empty"),
        ({"stop": [1]}, "must be a string or a list"),
        ({"stop_token_ids": [-1]}, "must be token ids"),
        ({"ignore_eos": 1}, "must be True or False"),
        ({"sampling_seed": -1}, "sampling_seed must be from 0"),
        ({"frequency_penalty": 0.5}, "weft does not have the sampling parameter frequency_penalty (given 0.5)"),
        ({"n": 2}, "weft does not have the sampling parameter n"),
        ({"regex": "a*"}, "weft does not have the sampling parameter regex"),
        ({"min_new_tokens": 3}, "min_new_tokens"),
        ({"tempature": 1}, "unknown sampling parameter 'tempature'"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(WeftError, match=re.escape(message)):
        SamplingParams.from_dict(values)


def test_what_weft_lacks_may_hold_its_default():
    neutral = {"n": 1, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "json_schema": None, "logit_bias": {}}
    assert SamplingParams.from_dict(neutral) == SamplingParams()
