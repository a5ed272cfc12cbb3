"""Flags, aliases, defaults, derived values, and the combinations that are refused."""

import re

import pytest

from conftest import write_config
from weft.combinations import COMBINATIONS, DERIVED_COMBINATIONS, RANGES
from weft.core_config import memory_ledger
from weft.engine_config import resolve
from weft.errors import WeftError
from weft.flags import human_readable_int
from weft.server_args import ServerArgs, flag_table


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
    assert args.origins["load_balance_method"] == "derived"
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
        ("--enable-deepep-moe", "moe_a2a_backend", "deepep"),
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
        ("--enable-ep-moe", "weft does not have --enable-ep-moe: use --ep-size with the value of --tp-size"),
        ("--attention-backend triton", "weft does not have --attention-backend: each device has one set of kernels"),
        ("--pp 2", "weft does not have --pp"),
        ("--enable-attn-tp-input-scattered", "weft does not have --enable-attn-tp-input-scattered"),
        ("--max-running 5", "unknown flag --max-running; did you mean --max-running-requests?"),
        ("--zzz", "unknown flag --zzz; --help lists the flags"),
        ("stray", "'stray' is not a flag"),
        ("--dtype int3", "--dtype int3: use auto or half"),
        ("--tp two", "invalid int value"),
        ("--moe-a2a-backend mooncake", "weft does not have --moe-a2a-backend mooncake"),
        ("--device npu", "weft does not have --device npu"),
        ("--quantization awq", "weft does not have --quantization awq"),
        ("--schedule-policy bogus", "--schedule-policy bogus: use fcfs or lpm"),
    ],
)
def test_what_weft_lacks_is_refused_by_name(text, message):
    with pytest.raises(WeftError, match=re.escape(message)):
        parse("--model-path m " + text)


def test_all_that_weft_lacks_is_named_at_once():
    with pytest.raises(WeftError) as caught:
        parse(
            "--model-path m --attention-backend fa3 --pp-size -1 --load-format=gguf --quantization fp8 --nnodes 2"
            " --tp 4 --dist-init-addr h:1 --enable-metrics"
        )
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "weft does not have --attention-backend",
        "weft does not have --pp-size",
        "weft does not have --load-format gguf",
        "--quantization fp8 is planned, and not in this version",
        "--nnodes 2 is planned, and not in this version",
        "--dist-init-addr h",
        "--enable-metrics is planned, and not in this version",
    ]


def test_arguments_with_values_that_weft_lacks_run_nothing():
    args, refused = ServerArgs.parse_known(["--model-path", "demo", "--quantization", "awq", "--tp-size", "2"])
    assert args.tp_size == 2
    assert refused == args.lacking() != []
    with pytest.raises(WeftError, match="weft does not have --quantization awq"):
        resolve(args)


PLANNED = [
    ("--host 0.0.0.0", "the HTTP server; use weft.Engine"),
    ("--speculative-algorithm EAGLE", "speculative decoding; leave the flag out"),
    ("--quantization=fp8", "use an unquantised checkpoint"),
    ("--base-gpu-id 1", "choose one by CUDA_VISIBLE_DEVICES"),
    ("--schedule-policy lpm", "the prefix cache"),
    ("--disaggregation-mode decode", "run both in one Engine"),
]


@pytest.mark.parametrize(("text", "message"), PLANNED)
def test_what_is_planned_parses_and_says_so_before_it_runs(text, message):
    args = parse("--model-path demo " + text)
    (line,) = args.planned()
    assert line.startswith(text.replace("=", " ") + " is planned, and not in this version: ")
    assert message in line
    with pytest.raises(WeftError, match=re.escape(line)):
        resolve(args)


def test_defaults_of_planned_flags_are_no_obstacle():
    planned = [(name, spec) for name, spec, default in flag_table() if spec.planned and default is not None]
    given = {name: default for name, spec, default in flag_table() if (name, spec) in planned}
    assert ServerArgs.from_kwargs(model_path="m", **given).planned() == []


def test_planned_values_derive_as_in_sglang():
    args = parse("--model-path m --disaggregation-mode prefill")
    assert (args.load_balance_method, args.disable_decode_cuda_graph) == ("follow_bootstrap_room", True)
    assert parse("--model-path m --disaggregation-mode decode").disable_radix_cache
    args = parse("--model-path m --speculative-algorithm NEXTN")
    assert (args.speculative_algorithm, args.max_running_requests) == ("EAGLE", 48)
    assert len(args.planned()) == 1


def test_a_gpu_changes_the_defaults(monkeypatch):
    args = ServerArgs.from_cli(["--model-path", "m", "--random-seed", "1"], gpu_memory_mib=143771)
    assert (args.device, args.chunked_prefill_size, args.cuda_graph_max_bs_decode) == ("cuda", 8192, 256)
    assert (args.page_size, args.planned()) == (64, [])
    monkeypatch.setattr("weft.gpu.memory_mib", lambda: 143771)
    assert parse("--model-path m --random-seed 1") == args
    assert (parse("--model-path m --device cpu").device, parse("--model-path m --device cpu").page_size) == ("cpu", 1)


def test_pages_of_a_gpu_divide_its_chunks():
    for chunk, page in ((256, 64), (96, 32), (7, 1), (-1, 64)):
        args = ServerArgs.from_cli(["--model-path", "m", "--chunked-prefill-size", str(chunk)], gpu_memory_mib=46068)
        assert args.page_size == page


def test_several_gpus_and_dispatch_between_them_are_planned():
    args = ServerArgs.from_cli(["--model-path", "m", "--tp", "4", "--moe-a2a-backend", "deepep"], gpu_memory_mib=46068)
    assert args.cuda_graph_max_bs_decode == 160
    assert args.planned() == [
        "--device cuda with --tp-size 4 is planned, and not in this version: it needs ranks on several GPUs;"
        " use --tp-size 1, or --device cpu",
        "--device cuda with --moe-a2a-backend deepep is planned, and not in this version: it needs expert dispatch"
        " between GPUs; use --moe-a2a-backend none, or --device cpu",
    ]


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr("weft.gpu.why_unusable", lambda: "this machine has no NVIDIA GPU")
    with pytest.raises(WeftError, match=r"^--device cuda: this machine has no NVIDIA GPU; use --device cpu$"):
        resolve(parse("--model-path demo --device cuda"))


REFUSED = [
    ("--tp 2 --dp 2", "--dp-size 2 with no --enable-dp-attention"),
    ("--tp 2 --enable-dp-attention", "--enable-dp-attention with --dp-size 1"),
    ("--tp 2 --enable-dp-lm-head", "--enable-dp-lm-head with no --enable-dp-attention"),
    ("--enable-layernorm-sp", "--enable-layernorm-sp with --tp-size 1"),
    ("--enable-sp --tp 2 --dp 2 --enable-dp-attention", "--enable-layernorm-sp with --dp-size 2 with --tp-size 2"),
    ("--tp 3 --dp 2 --enable-dp-attention", "--tp-size 3 with --dp-size 2"),
    ("--tp 3 --nnodes 2", "--tp-size 3 with --nnodes 2"),
    ("--tp 2 --node-rank 1", "--node-rank 1 with --nnodes 1"),
    ("--tp 2 --nnodes 2", "--nnodes 2 with no --dist-init-addr"),
    ("--tp 4 --ep 2 --moe-a2a-backend deepep", "--moe-a2a-backend deepep with --ep-size 2"),
    ("--tp 4 --ep 3", "--tp-size 4 with --ep-size 3"),
    ("--tp 4 --ep 8", "--tp-size 4 with --ep-size 8"),
    ("--deepep-mode normal", "--deepep-mode normal with --moe-a2a-backend none"),
    ("--deepep-dispatcher-output-dtype fp8", "--deepep-dispatcher-output-dtype fp8 with --moe-a2a-backend none"),
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
    (
        "--tp 2 --moe-a2a-backend deepep --enable-two-batch-overlap --enable-single-batch-overlap",
        "--enable-single-batch-overlap with --enable-two-batch-overlap",
    ),
    ("--enable-mixed-chunk --chunked-prefill-size -1", "--enable-mixed-chunk with --chunked-prefill-size -1"),
    ("--enable-mixed-chunk --speculative-algorithm EAGLE", "--enable-mixed-chunk with --speculative-algorithm EAGLE"),
    ("--tp 2 --dp 2 --enable-dp-attention --max-running-requests 1", "--max-running-requests 1 with --dp-size 2"),
    ("--disable-cuda-graph --cuda-graph-bs 1", "--disable-decode-cuda-graph with --cuda-graph-bs-decode 1"),
    ("--disable-cuda-graph --cuda-graph-max-bs 1", "--disable-decode-cuda-graph with --cuda-graph-max-bs-decode 1"),
    ("--disable-cuda-graph --disable-cuda-graph-padding", "with --disable-cuda-graph-padding"),
    ("--disable-cuda-graph --cuda-graph-backend-decode full", "with --cuda-graph-backend-decode full"),
    ("--cuda-graph-backend-decode disabled --cuda-graph-bs 1", "disabled with --cuda-graph-bs-decode 1"),
    ("--cuda-graph-backend-decode disabled --cuda-graph-max-bs 1", "disabled with --cuda-graph-max-bs-decode 1"),
    ("--cuda-graph-backend-decode disabled --disable-cuda-graph-padding", "with --disable-cuda-graph-padding"),
    ("--moe-a2a-backend deepep --deepep-mode normal --cuda-graph-bs 1", "normal with --cuda-graph-bs-decode 1"),
    ("--moe-a2a-backend deepep --deepep-mode normal --cuda-graph-max-bs 1", "--cuda-graph-max-bs-decode 1"),
    ("--moe-a2a-backend deepep --deepep-mode normal --disable-cuda-graph-padding", "--disable-cuda-graph-padding"),
    ("--moe-a2a-backend deepep --deepep-mode normal --cuda-graph-backend-decode full", "decode full"),
    ("--disaggregation-mode prefill --cuda-graph-bs 1", "--disaggregation-mode prefill with --cuda-graph-bs-decode 1"),
    ("--disaggregation-mode prefill --cuda-graph-max-bs 1", "--cuda-graph-max-bs-decode 1"),
    ("--disaggregation-mode prefill --disable-cuda-graph-padding", "with --disable-cuda-graph-padding"),
    ("--disaggregation-mode prefill --cuda-graph-backend-decode full", "decode full"),
    ("--cuda-graph-bs 1 4 --cuda-graph-max-bs 8", "--cuda-graph-bs-decode 1 4 with --cuda-graph-max-bs-decode 8"),
    ("--skip-tokenizer-init --tokenizer-path t", "--skip-tokenizer-init with --tokenizer-path t"),
    ("--tp 4 --dp 4 --enable-dp-attention --chunked-prefill-size 3", "--chunked-prefill-size 3 with --dp-size 4"),
    ("--max-prefill-tokens 9 --chunked-prefill-size -1", "--max-prefill-tokens 9 with --chunked-prefill-size -1"),
    ("--max-prefill-tokens 9 --chunked-prefill-size 10", "--max-prefill-tokens 9 with --chunked-prefill-size 10"),
    ("--speculative-num-steps 3", "--speculative-num-steps 3 with no --speculative-algorithm"),
    ("--speculative-eagle-topk 1", "--speculative-eagle-topk 1 with no --speculative-algorithm"),
    ("--speculative-num-draft-tokens 4", "--speculative-num-draft-tokens 4 with no --speculative-algorithm"),
    ("--speculative-draft-model-path d", "--speculative-draft-model-path d with no --speculative-algorithm"),
    ("--load-balance-method follow_bootstrap_room", "follow_bootstrap_room with --disaggregation-mode null"),
    (
        "--load-balance-method total_tokens --disaggregation-mode prefill",
        "--load-balance-method total_tokens with --disaggregation-mode prefill",
    ),
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


NAMES = {name: spec.name for name, spec, _ in flag_table()}


def entry_of(error):
    """The entry of the tables that refused."""
    shown, _, reason = str(error).partition(": ")
    return next(
        it
        for it in (*RANGES, *COMBINATIONS, *DERIVED_COMBINATIONS)
        if reason == f"{it.why}; {it.fix}" and all(re.search(rf"{NAMES[name]}(?![\w-])", shown) for name in it.names)
    )


def test_each_combination_of_the_table_is_tested():
    fired = set()
    for text, _ in REFUSED:
        with pytest.raises(WeftError) as caught:
            parse("--model-path m " + text)
        entry = entry_of(caught.value)
        fired.add((entry.names, entry.why))
    assert {(it.names, it.why) for it in (*COMBINATIONS, *DERIVED_COMBINATIONS)} - fired == set()


@pytest.mark.parametrize(
    "text",
    [
        "--tp 0",
        "--tp 100000000000000000000",
        "--page-size 0",
        "--chunked-prefill-size 0",
        "--chunked-prefill-size -2",
        "--mem-fraction-static 1.5",
        "--mem-fraction-static nan",
        "--tbo-token-distribution-threshold 0.51 --tp 2 --moe-a2a-backend deepep --enable-two-batch-overlap",
        "--max-total-tokens -5",
        "--cuda-graph-bs 0 1",
        "--random-seed -1",
        "--watchdog-timeout inf",
        "--nnodes 0",
        "--port 0",
        "--served-model-name a:b",
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
    assert ServerArgs.from_kwargs(model="m", enable_deepep_moe=True).moe_a2a_backend == "deepep"
    args = ServerArgs.from_kwargs(model="m", tp=2, cuda_graph_bs=[1, 2], disable_overlap_schedule=True, dtype=None)
    assert (args.model_path, args.tp_size, args.cuda_graph_bs_decode) == ("m", 2, (1, 2))
    assert args.origins["dtype"] == "default"
    assert args.origins["load_balance_method"] == "derived"
    with pytest.raises(WeftError, match="twice"):
        ServerArgs.from_kwargs(model_path="m", tp=2, tp_size=2)
    with pytest.raises(WeftError, match="does not have --attention-backend"):
        ServerArgs.from_kwargs(model_path="m", attention_backend="triton")
    with pytest.raises(WeftError, match="must be of type int"):
        ServerArgs.from_kwargs(model_path="m", tp_size="2")
    with pytest.raises(WeftError, match="--dtype int3: use"):
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
        ("--tp 3", {}, "--tp-size 3: attention runs on 3 ranks but the model has 4 heads"),
        ("--tp 2 --moe-a2a-backend deepep --cuda-graph-bs 1 3", {}, "--cuda-graph-max-bs-decode 3: no graph size"),
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


@pytest.mark.parametrize(("architecture", "head_dim"), [("Qwen3ForCausalLM", 128), ("Qwen3MoeForCausalLM", 16)])
def test_without_head_dim_the_cache_is_as_large_as_the_cores(tmp_path, architecture, head_dim):
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
    write_config(
        tmp_path,
        architectures=[architecture],
        kv_lora_rank=None,
        n_routed_experts=None,
        intermediate_size=64,
        rms_norm_eps=1e-6,
        rope_theta=1e4,
        **(moe if "Moe" in architecture else {}),
    )
    config = resolved(str(tmp_path), "--max-total-tokens 64 --skip-tokenizer-init")
    cache = sum(size for _, name, size in memory_ledger(config) if name.startswith("kv"))
    assert config.model.head_dim == head_dim
    assert cache >= 64 * config.model.kv_bytes_per_token(1, "auto")
    assert cache < 68 * config.model.kv_bytes_per_token(1, "auto")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(WeftError, match="no such directory"):
        resolve(parse("--model-path /nowhere"))
    with pytest.raises(WeftError, match=r"config\.json"):
        resolve(parse(f"--model-path {tmp_path}"))
