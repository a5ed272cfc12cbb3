"""Mixed chunked prefill changes no answer, and overlaps: steps of MIXED ranks, and of ranks in unlike modes."""

import pytest

from weft import Engine, _weft

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch

from parity import LOGPROB_BOUND, make_prompts
from parity_models import MODELS, ModelStore

LENGTHS = (1, 90, 2, 61, 5, 111, 13, 40)
SEEDS = range(20)
GREEDY = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
DP2 = {"tp": 2, "dp": 2, "enable_dp_attention": True}
DEMO = {"tp": 4, "dp": 2, "enable_dp_attention": True, "moe_a2a_backend": "deepep", "enable_two_batch_overlap": True}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.set_num_threads(1)
    return ModelStore(tmp_path_factory.mktemp("models"))


def start(model, **flags):
    sizes = {"skip_tokenizer_init": True, "max_running_requests": 8, "max_total_tokens": 1024, "context_length": 128}
    return Engine(model_path=model.path, **(sizes | flags))


def vocab(name):
    return MODELS[name].changes["vocab_size"]


# ---- the same answers ----


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("v3", {"chunked_prefill_size": 16}),
        ("qwen3", {"tp": 2, "chunked_prefill_size": 32, "page_size": 16}),
        ("v2_lora", {**DP2, "chunked_prefill_size": 64}),
        ("qwen3_moe", {**DP2, "chunked_prefill_size": 14, "disable_cuda_graph": True}),
        ("v3", {**DEMO, "chunked_prefill_size": 64}),
        ("three_heads", {**DEMO, "dp": 4, "chunked_prefill_size": 128, "disable_overlap_schedule": True}),
    ],
    ids=str,
)
def test_mixed_chunk_changes_no_greedy_answer(models, name, flags):
    """Eight long and short prompts, twenty seeds."""
    model = models.get(name)
    with start(model, **flags) as plain, start(model, **flags, enable_mixed_chunk=True) as mixed:
        for seed in SEEDS:
            prompts = make_prompts(LENGTHS, vocab(name), seed)
            expected = plain.generate(input_ids=prompts, sampling_params=GREEDY)
            got = mixed.generate(input_ids=prompts, sampling_params=GREEDY)
            assert [it["output_ids"] for it in got] == [it["output_ids"] for it in expected], f"seed {seed}"
        ranks = mixed.stats()["ranks"]
        assert max(rank["steps"]["MIXED"] for rank in ranks) >= len(SEEDS)
        overlapped = max(rank["tbo_steps_by_mode"]["MIXED"] for rank in ranks)
        assert (overlapped >= len(SEEDS)) == ("enable_two_batch_overlap" in flags)
        assert all(rank["steps"]["MIXED"] == 0 for rank in plain.stats()["ranks"])


# ---- overlap, step by step ----

PROMPTS = {0: 7, 1: 12, 2: 5, 3: 9}  # tokens of each request; the first two are DP rank 0's
# What a step runs: prompt tokens by request, and whether each DP rank decodes; then the modes that this is, and
# whether the step overlaps under policy any and under policy sglang.
STEPS = [
    ({0: 7}, (False, False), ("EXTEND", "IDLE"), True, True),
    ({2: 5}, (True, False), ("DECODE", "EXTEND"), True, False),
    ({1: 6}, (True, True), ("MIXED", "DECODE"), True, False),
    ({1: 6, 3: 4}, (True, True), ("MIXED", "MIXED"), True, True),
    ({3: 5}, (False, True), ("IDLE", "MIXED"), True, True),
    ({}, (True, False), ("DECODE", "IDLE"), True, True),
    ({}, (True, True), ("DECODE", "DECODE"), True, True),
]


class Script:
    """A core of two DP ranks, driven by hand; what it says of each request, and what each step counted."""

    def __init__(self, model, vocab_size, **flags):
        self.core = _weft.Runtime(
            _weft.RuntimeConfig(
                model_path=model.path,
                max_tokens_per_step=64,
                max_running_requests=4,
                max_total_tokens=512,
                context_length=128,
                **({"tp_size": 4, "dp_size": 2, "enable_dp_attention": True} | flags),
            )
        )
        self.prompts = dict(zip(PROMPTS, make_prompts(PROMPTS.values(), vocab_size), strict=True))
        self.admitted = set()
        self.tokens = {rid: [] for rid in PROMPTS}
        self.logprobs = {rid: [] for rid in PROMPTS}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.core.close()

    def step(self, prefill, decode):
        """Run a step; return what the counters of each rank grew by."""
        before = self.core.stats()["ranks"]
        admissions = [
            _weft.Admission(
                rid=rid,
                dp_rank=rid // 2,
                input_ids=self.prompts[rid],
                max_new_tokens=20,
                temperature=0.0,
                logprob_start=1,
                return_logprob=True,
            )
            for rid in prefill
            if rid not in self.admitted
        ]
        self.admitted |= prefill.keys()
        batch = _weft.StepBatch(admissions=admissions, prefill=list(prefill.items()), decode=decode)
        result = self.core.wait(self.core.submit(batch))
        for rid, _first, values, _tops in result.input_logprobs:
            self.logprobs[rid] += values
        for rid, token in zip(result.rids.tolist(), result.tokens.tolist(), strict=True):
            self.tokens[rid].append(token)
        for rid, value, _top in result.output_logprobs:
            self.logprobs[rid].append(value)
        return [grown(old, new) for old, new in zip(before, self.core.stats()["ranks"], strict=True)]


def grown(old, new):
    """The difference of two trees of counters."""
    return {key: grown(old[key], new[key]) for key in new} if isinstance(new, dict) else new - old


LAYOUTS = {
    "gathered": {},
    "experts": {"ep_size": 4},
    "deepep": {"moe_a2a_backend": "deepep", "ep_size": 4},
    "normal": {"moe_a2a_backend": "deepep", "ep_size": 4, "deepep_mode": "normal", "moe_dense_tp_size": 1},
    "low_latency": {"moe_a2a_backend": "deepep", "ep_size": 4, "deepep_mode": "low_latency", "enable_dp_lm_head": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["v3", "qwen3_moe"])
def test_mixed_steps_and_ranks_in_unlike_modes_overlap(models, name, layout):
    """The counters say so for each step; the numbers are those without overlap, to the last bit."""
    said = {}
    for policy in ("off", "any", "sglang"):
        overlap = {} if policy == "off" else {"enable_two_batch_overlap": True, "tbo_policy": policy}
        with Script(models.get(name), vocab(name), **LAYOUTS[layout], **overlap) as script:
            for prefill, decode, modes, if_any, if_sglang in STEPS:
                # SGLang does not overlap a prefill under low-latency dispatch.
                if_sglang = if_sglang and (layout != "low_latency" or not {"EXTEND", "MIXED"} & set(modes))
                overlaps = {"off": False, "any": if_any, "sglang": if_sglang}[policy]
                check_step(script.step(prefill, decode), modes, overlaps, f"{policy}: {modes}")
            said[policy] = (script.tokens, script.logprobs)
    assert said["any"] == said["off"]
    assert said["sglang"] == said["off"]
    check_numbers(models.get(name), script)


def check_step(counters, modes, overlaps, what):
    unlike = len(set(modes) - {"IDLE"}) > 1
    for number, rank in enumerate(counters):
        mode = modes[number // 2]
        assert {key for key, count in rank["steps"].items() if count} == {mode}, what
        assert rank["tbo_steps"] == rank["tbo_steps_by_mode"][mode] == overlaps, what
        assert rank["tbo_unlike_mode_steps"] == (overlaps and unlike), what


def check_numbers(model, script):
    for rid, prompt in script.prompts.items():
        ids = prompt + script.tokens[rid]
        wanted = model.logprobs(ids)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        error = (torch.tensor(script.logprobs[rid]) - wanted).abs().max()
        assert error <= LOGPROB_BOUND, f"request {rid}: {error}"
