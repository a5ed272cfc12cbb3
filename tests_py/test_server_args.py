"""Flags, aliases, defaults, derived values, and the combinations that are refused."""

import json
import re
import shlex
from pathlib import Path

import pytest

from conftest import write_config
from weft.engine_config import resolve
from weft.errors import WeftError
from weft.flags import human_readable_int
from weft.server_args import _COMBINATIONS, _DERIVED_COMBINATIONS, ServerArgs


def parse(text):
    return ServerArgs.from_cli(text.split())


def test_defaults_are_those_of_sglang():
    args = parse("--model-path m")
    assert (args.tp_size, args.dp_size, args.ep_size, args.page_size) == (1, 1, 1, 1)
    assert (args.moe_a2a_backend, args.deepep_mode, args.moe_dense_tp_size) == ("none", "auto", None)
    assert (args.load_format, args.dtype, args.tokenizer_path) == ("auto", "auto", "m")
    assert (args.tbo_token_distribution_threshold, args.chunked_prefill_size) == (0.48, 4096)
    assert 0 <= args.random_seed < 1 << 30
    assert args.cuda_graph_max_bs_decode == 160


def test_every_value_knows_where_it_comes_from():
    args = parse("--model-path m --tp 4 --dp 2 --enable-dp-attention --moe-a2a-backend deepep")
    assert args.origins["tp_size"] == "user"
    assert args.origins["page_size"] == "derived"
    assert args.origins["ep_size"] == "derived"
    assert args.origins["dtype"] == "default"
    assert args.ep_size == 4


def test_a_default_that_the_user_wrote_is_the_users():
    assert parse("--model-path m --tp-size 1").origins["tp_size"] == "user"
    assert parse("--model-path m").origins["tp_size"] == "default"


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("--model m", "model_path", "m"),
        ("--tp 2", "tp_size", 2),
        ("--tensor-parallel-size 2", "tp_size", 2),
        ("--tp 4 --dp 2 --enable-dp-attention", "dp_size", 2),
        ("--tp 4 --ep 2", "ep_size", 2),
        ("--tp 4 --expert-parallel-size 2", "ep_size", 2),
        ("--cuda-graph-max-bs 8", "cuda_graph_max_bs_decode", 8),
        ("--cuda-graph-bs 1 2 4", "cuda_graph_bs_decode", (1, 2, 4)),
        ("--cuda-graph-bs 1 2 4", "cuda_graph_max_bs_decode", 4),
        ("--disable-cuda-graph", "disable_decode_cuda_graph", True),
        ("--disable-piecewise-cuda-graph", "disable_prefill_cuda_graph", True),
        ("--max-total-tokens 1k", "max_total_tokens", 1000),
        ("--context-length 4Ki", "context_length", 4096),
        ("--disable-radix-cache", "disable_radix_cache", True),
        ("--trust-remote-code", "trust_remote_code", True),
        ("--tp=2", "tp_size", 2),
    ],
)
def test_names_and_aliases(text, field, value):
    model = "" if "--model" in text else "--model-path m "
    assert getattr(parse(model + text), field) == value


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("1.5k", 1500), ("2M", 2_000_000), ("3Ki", 3072), ("1Gi", 1 << 30), ("-5", -5)]
)
def test_human_readable_integers(text, value):
    assert human_readable_int(text) == value


@pytest.mark.parametrize("text", ["1.5", "1.5Ki", "2K", "4m", "x", "", "1 k"])
def test_malformed_integers_are_refused(text):
    with pytest.raises(WeftError, match=r"--context-length"):
        ServerArgs.from_cli(["--model-path", "m", "--context-length", text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--enable-dp-att", "unknown flag --enable-dp-att; did you mean --enable-dp-attention?"),
        ("--enable-deepep-moe", "weft does not have --enable-deepep-moe: use --moe-a2a-backend deepep"),
        ("--attention-backend triton", "weft does not have --attention-backend"),
        ("--speculative-algorithm EAGLE", "no speculative decoding"),
        ("--quantization=fp8", "weft does not have --quantization"),
        ("--pp 2", "weft does not have --pp"),
        ("--host 0.0.0.0", "no HTTP server"),
        ("--enable-layernorm-sp", "remove it"),
        ("--zzz", "unknown flag --zzz; --help lists the flags"),
        ("stray", "'stray' is not a flag"),
        ("--dtype int3", "--dtype: invalid choice"),
        ("--tp two", "invalid int value"),
        ("--moe-a2a-backend mooncake", "invalid choice"),
    ],
)
def test_what_weft_lacks_is_refused_by_name(text, message):
    with pytest.raises(WeftError, match=re.escape(message)):
        parse("--model-path m " + text)


REFUSED = [
    ("--tp 2 --dp 2", "--dp-size 2 with no --enable-dp-attention"),
    ("--tp 2 --enable-dp-attention", "--enable-dp-attention with --dp-size 1"),
    ("--tp 2 --enable-dp-lm-head", "--enable-dp-lm-head with no --enable-dp-attention"),
    ("--tp 3 --dp 2 --enable-dp-attention", "--tp-size 3 with --dp-size 2"),
    ("--tp 4 --ep 2 --moe-a2a-backend deepep", "--moe-a2a-backend deepep with --ep-size 2"),
    ("--tp 4 --ep 3", "--tp-size 4 with --ep-size 3"),
    ("--tp 4 --ep 8", "--tp-size 4 with --ep-size 8"),
    ("--deepep-mode normal", "--deepep-mode normal with --moe-a2a-backend none"),
    ("--tp 4 --moe-dense-tp-size 2", "--moe-dense-tp-size 2 with --tp-size 4"),
    ("--tp 2 --enable-two-batch-overlap", "--enable-two-batch-overlap with --moe-a2a-backend none"),
    ("--tbo-token-distribution-threshold 0.4", "threshold 0.4 with no --enable-two-batch-overlap"),
    ("--tbo-policy sglang", "--tbo-policy sglang with no --enable-two-batch-overlap"),
    ("--tbo-gate always", "--tbo-gate always with no --enable-two-batch-overlap"),
    ("--tbo-cost-table f.json", "--tbo-cost-table f.json with no --enable-two-batch-overlap"),
    (
        "--tp 2 --moe-a2a-backend deepep --enable-two-batch-overlap --tbo-gate always --tbo-cost-table f.json",
        "--tbo-gate always with --tbo-cost-table f.json",
    ),
    ("--enable-mixed-chunk --chunked-prefill-size -1", "--enable-mixed-chunk with --chunked-prefill-size -1"),
    ("--tp 2 --dp 2 --enable-dp-attention --max-running-requests 1", "--max-running-requests 1 with --dp-size 2"),
    ("--disable-cuda-graph --cuda-graph-bs 1", "--disable-decode-cuda-graph with --cuda-graph-bs-decode 1"),
    ("--disable-cuda-graph --cuda-graph-max-bs 1", "--disable-decode-cuda-graph with --cuda-graph-max-bs-decode 1"),
    ("--disable-cuda-graph --disable-cuda-graph-padding", "with --disable-cuda-graph-padding"),
    ("--moe-a2a-backend deepep --deepep-mode normal --cuda-graph-bs 1", "normal with --cuda-graph-bs-decode 1"),
    ("--moe-a2a-backend deepep --deepep-mode normal --cuda-graph-max-bs 1", "--cuda-graph-max-bs-decode 1"),
    ("--moe-a2a-backend deepep --deepep-mode normal --disable-cuda-graph-padding", "--disable-cuda-graph-padding"),
    ("--cuda-graph-bs 1 4 --cuda-graph-max-bs 8", "--cuda-graph-bs-decode 1 4 with --cuda-graph-max-bs-decode 8"),
    ("--skip-tokenizer-init --tokenizer-path t", "--skip-tokenizer-init with --tokenizer-path t"),
    ("--tp 4 --dp 4 --enable-dp-attention --chunked-prefill-size 3", "--chunked-prefill-size 3 with --dp-size 4"),
    ("--chunked-prefill-size 40 --page-size 16", "--chunked-prefill-size 40 with --page-size 16"),
    (
        "--tp 2 --dp 2 --enable-dp-attention --chunked-prefill-size 16 --page-size 16",
        "--chunked-prefill-size 8 with --page-size 16",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_combinations_are_refused_with_both_values_and_a_fix(text, message):
    with pytest.raises(WeftError, match=re.escape(message)) as caught:
        parse("--model-path m " + text)
    assert ";" in str(caught.value), "no fix is given"


def test_each_entry_of_the_table_is_tested():
    assert len({message for _, message in REFUSED}) >= len(_COMBINATIONS) + len(_DERIVED_COMBINATIONS)


@pytest.mark.parametrize(
    "text",
    [
        "--tp 0",
        "--page-size 0",
        "--chunked-prefill-size 0",
        "--chunked-prefill-size -2",
        "--mem-fraction-static 1.5",
        "--tbo-token-distribution-threshold 0.51 --tp 2 --moe-a2a-backend deepep --enable-two-batch-overlap",
        "--max-total-tokens -5",
        "--device cuda",
        "--cuda-graph-bs 0 1",
        "--random-seed -1",
    ],
)
def test_values_out_of_range_are_refused(text):
    with pytest.raises(WeftError, match=text.split()[0]):
        parse("--model-path m " + text)


def test_a_model_must_be_named():
    with pytest.raises(WeftError, match="no model is named"):
        parse("--tp 2")


def test_dp_attention_divides_the_chunk():
    args = parse("--model-path m --tp 4 --dp 4 --enable-dp-attention --chunked-prefill-size 255")
    assert args.chunked_prefill_size == 63
    args = parse("--model-path m --tp 4 --dp 4 --enable-dp-attention --chunked-prefill-size -1")
    assert args.chunked_prefill_size == -1


def test_normal_dispatch_has_no_graphs():
    args = parse("--model-path m --tp 2 --moe-a2a-backend deepep --deepep-mode normal")
    assert args.disable_decode_cuda_graph
    assert args.origins["disable_decode_cuda_graph"] == "derived"


@pytest.mark.parametrize(
    ("text", "mlp", "attn"),
    [
        ("--tp 2", False, False),
        ("--tp 2 --moe-a2a-backend deepep", False, True),
        ("--tp 2 --dp 2 --enable-dp-attention", True, False),
        ("--tp 2 --dp 2 --enable-dp-attention --moe-a2a-backend deepep", True, False),
        ("--tp 4 --dp 2 --enable-dp-attention --moe-a2a-backend deepep", True, True),
        (
            "--tp 2 --dp 2 --enable-dp-attention --moe-a2a-backend deepep --moe-dense-tp-size 1 --enable-dp-lm-head",
            False,
            False,
        ),
        (
            "--tp 4 --dp 2 --enable-dp-attention --moe-a2a-backend deepep --moe-dense-tp-size 1 --enable-dp-lm-head",
            False,
            True,
        ),
        ("--tp 4 --moe-dense-tp-size 1", False, True),
    ],
)
def test_gather_predicates(text, mlp, attn):
    parallel = parse("--model-path m " + text).parallel
    assert (parallel.require_mlp_tp_gather, parallel.require_attn_tp_gather) == (mlp, attn)
    assert parallel.require_gathered_buffer == (mlp or attn)


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        ServerArgs.from_cli(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in ("--tp-size", "--enable-two-batch-overlap", "--cuda-graph-bs", "--tbo-policy", "deprecated"):
        assert name in text


def test_keywords_take_the_same_names():
    args = ServerArgs.from_kwargs(model="m", tp=2, cuda_graph_bs=[1, 2], disable_overlap_schedule=True, dtype=None)
    assert (args.model_path, args.tp_size, args.cuda_graph_bs_decode) == ("m", 2, (1, 2))
    assert args.origins["dtype"] == "default"
    with pytest.raises(WeftError, match="twice"):
        ServerArgs.from_kwargs(model_path="m", tp=2, tp_size=2)
    with pytest.raises(WeftError, match="does not have --attention-backend"):
        ServerArgs.from_kwargs(model_path="m", attention_backend="triton")
    with pytest.raises(WeftError, match="must be of type int"):
        ServerArgs.from_kwargs(model_path="m", tp_size="2")
    with pytest.raises(WeftError, match="is not one of"):
        ServerArgs.from_kwargs(model_path="m", dtype="int3")


def test_fields_unlike_their_default_count_as_given():
    assert ServerArgs(model_path="m", tp_size=2).origins["tp_size"] == "user"
    with pytest.raises(WeftError, match="dispatch spreads"):
        ServerArgs(model_path="m", tp_size=4, ep_size=2, moe_a2a_backend="deepep")


# ---- against a model ----


def resolved(fake_model, text=""):
    return resolve(parse(f"--model-path {fake_model} {text}"))


def test_sizes_follow_from_the_model(fake_model):
    config = resolved(fake_model)
    assert config.context_length == 256
    assert config.origins["context_length"] == "model"
    assert config.max_running_requests == 128
    assert config.max_total_tokens == 128 * 256
    assert config.model.eos_token_ids == (256,)


def test_running_requests_are_divided_over_dp_ranks(fake_model):
    config = resolved(fake_model, "--tp 2 --dp 2 --enable-dp-attention --max-running-requests 5 --page-size 16")
    assert config.max_running_requests == 2
    assert config.scheduler.num_pages == 2 * 256 // 16
    assert config.scheduler.prefill_tokens_per_step == 2048


def test_without_chunks_a_step_takes_a_whole_context(fake_model):
    config = resolved(fake_model, "--chunked-prefill-size -1 --context-length 100 --page-size 16")
    assert config.scheduler.prefill_tokens_per_step == 112
    assert not config.scheduler.chunked


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("--cuda-graph-max-bs 20", [*range(1, 17), 18, 20]),
        ("--cuda-graph-bs 1 3 8 100", [1, 3, 8, 100]),
        ("--max-running-requests 4", [1, 2, 3, 4]),
        ("--tp 2 --dp 2 --enable-dp-attention --enable-two-batch-overlap --max-running-requests 12", [2, 4, 6]),
        ("--disable-cuda-graph", []),
        ("--tp 2 --moe-a2a-backend deepep --deepep-mode normal", []),
    ],
)
def test_graph_sizes_are_those_that_a_rank_can_run(fake_model, text, sizes):
    assert resolved(fake_model, text).graph_batch_sizes() == sizes


def test_max_total_tokens_are_whole_pages(fake_model):
    assert resolved(fake_model, "--max-total-tokens 100 --page-size 16").max_total_tokens == 96
    with pytest.raises(WeftError, match="less than one page"):
        resolved(fake_model, "--max-total-tokens 10 --page-size 16")


def test_the_memory_bounds_the_cache(fake_model, monkeypatch):
    monkeypatch.setattr("weft.engine_config.free_memory_bytes", lambda: 1 << 20)
    per_token = 2 * (32 + 16) * 4
    assert resolved(fake_model).max_total_tokens == (1 << 18) // per_token
    assert resolved(fake_model, "--mem-fraction-static 0.5").max_total_tokens == (1 << 19) // per_token
    assert resolved(fake_model, "--tp 2").max_total_tokens == (1 << 18) // (2 * per_token)
    monkeypatch.setattr("weft.engine_config.free_memory_bytes", lambda: 100)
    with pytest.raises(WeftError, match="less than a page"):
        resolved(fake_model)


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("--tp 3", {}, "3 ranks but the model has 4 heads"),
        ("--tp 4", {"kv_lora_rank": None, "num_key_value_heads": 3}, "3 KV heads"),
        ("--tp 4 --ep 4", {"n_routed_experts": 6}, "6 experts"),
        ("--tp 2 --moe-a2a-backend deepep", {"n_routed_experts": None}, "no experts"),
        ("--tp 2 --ep 2", {"n_routed_experts": None}, "no experts"),
        ("--context-length 512", {}, "made for 256 tokens"),
        ("", {"architectures": []}, "architectures"),
        ("", {"vocab_size": "many"}, "vocab_size='many'"),
        ("", {"eos_token_id": "end"}, "eos_token_id"),
    ],
)
def test_what_the_model_does_not_allow_is_refused(tmp_path, text, changes, message):
    write_config(tmp_path, **changes)
    with pytest.raises(WeftError, match=message):
        resolved(str(tmp_path), text)


def test_eos_ids_of_both_files_count(fake_model, tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 256]}')
    assert resolved(fake_model).model.eos_token_ids == (256, 7)


@pytest.mark.parametrize("key", ["n_routed_experts", "num_experts", "num_local_experts"])
def test_experts_are_counted_under_any_name(tmp_path, key):
    write_config(tmp_path, **{"n_routed_experts": None, key: 6})
    assert resolved(str(tmp_path)).model.num_experts == 6


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(WeftError, match="no such directory"):
        resolve(parse("--model-path /nowhere"))
    with pytest.raises(WeftError, match=r"config\.json"):
        resolve(parse(f"--model-path {tmp_path}"))


# ---- against SGLang's own answers ----

# What follows from a GPU and its memory, or is random.
OF_THE_GPU = {"mem_fraction_static", "device", "random_seed"}
R = json.loads((Path(__file__).parent / "cases" / "server_args_cases.json").read_text())["versions"]["8905cbd4"]


@pytest.mark.parametrize("case", R, ids=[case["args"][15:75] for case in R])
def test_what_both_take_resolves_as_in_sglang(case):
    try:
        args = ServerArgs.from_cli(shlex.split(case["args"]))
    except WeftError:  # weft lacks a flag, or refuses more
        return
    assert case["ok"], "SGLang refuses it"
    skipped = OF_THE_GPU | (set() if args.origins["chunked_prefill_size"] == "user" else {"chunked_prefill_size"})
    for name, value in case["resolved"].items():
        if name not in skipped and name in args.origins:
            assert getattr(args, name) == value, name


def test_most_of_sglangs_answers_are_compared():
    taken = 0
    for case in R:
        try:
            ServerArgs.from_cli(shlex.split(case["args"]))
            taken += 1
        except WeftError:
            pass
    assert taken >= 15
