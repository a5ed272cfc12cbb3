"""The planner's public parts, as Python sees them: types, defaults and errors. The rules are tested in C++."""

import pytest

from weft import comm, graph, overlap, plan
from weft.errors import WeftError
from weft.forward_mode import ForwardMode


def two_dp_ranks(**config: object) -> plan.PlanConfig:
    return plan.PlanConfig(plan.ParallelConfig(tp_size=2, dp_size=2, enable_dp_attention=True), **config)


def test_a_step_of_one_decoding_and_one_idle_rank_replays_one_bucket():
    config = two_dp_ranks(graph_buckets=[4, 8])
    step = plan.make_step_plan([plan.RankState(ForwardMode.DECODE, 3, num_logit_rows=3), plan.RankState()], config)
    assert step.run
    assert step.modes == [ForwardMode.DECODE, ForwardMode.IDLE]
    assert step.graph_bucket == [4, 4]
    assert step.graph_miss == ["none", "none"]
    assert step.micro_batches[0].padding == "MAX_LEN"
    assert step.micro_batches[0].rows == [4, 4]
    assert step.logit_rows == [4, 4]


def test_every_rank_makes_the_same_plan_from_the_same_states():
    states = [plan.RankState(ForwardMode.EXTEND, 7, num_seqs=1), plan.RankState(ForwardMode.DECODE, 2)]
    config = two_dp_ranks()
    assert plan.make_step_plan(states, config).hash() == plan.make_step_plan(list(states), config).hash()
    assert config.hash() != two_dp_ranks(graph_buckets=[4]).hash()


def test_a_rank_of_another_step_is_named():
    states = [plan.RankState(step_id=3), plan.RankState(step_id=4)]
    with pytest.raises(WeftError, match="DP rank 1 is at step 4"):
        plan.make_step_plan(states, two_dp_ranks())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tp_size": 2, "dp_size": 2}, "--enable-dp-attention"),
        ({"moe_a2a_backend": "mooncake"}, "choose none or deepep"),
        ({"deepep_mode": "fast"}, "choose auto, normal or low_latency"),
        ({"tp_size": 4, "moe_dense_tp_size": 2}, "moe_dense_tp_size=2"),
    ],
)
def test_impossible_flags_are_refused_with_the_fix(flags: dict[str, object], message: str):
    with pytest.raises(WeftError, match=message):
        plan.ParallelConfig(**flags)


def test_an_unknown_policy_is_refused():
    with pytest.raises(WeftError, match="choose any or sglang"):
        plan.PlanConfig(plan.ParallelConfig(), tbo_policy="always")


def test_split_takes_the_number_of_rows_from_the_lengths():
    halves = overlap.split(ForwardMode.DECODE, seq_lens=[5, 6, 7])
    assert halves is not None
    assert [child.seq_lens for child in halves.children] == [[5], [6, 7]]
    halves = overlap.split(ForwardMode.MIXED, extend_lens=[77, 1], prefix_lens=[512, 3873], mix_decode_bs=1)
    assert halves is not None
    assert halves.two_chunk
    assert [child.token_range for child in halves.children] == [(0, 39), (39, 78)]
    assert [child.mix_decode_bs for child in halves.children] == [0, 1]
    assert overlap.split(ForwardMode.IDLE) is not None
    assert overlap.split(ForwardMode.EXTEND, extend_lens=[3, 0]) is None


def test_no_split_has_a_reason_and_many_parts_have_names():
    assert overlap.split_or_reason(ForwardMode.EXTEND, extend_lens=[3, 0]) == "sequence 1 has no tokens"
    parts = overlap.split(ForwardMode.EXTEND, extend_lens=[9], num_micro_batches=3, num_token_non_padded=4)
    assert parts is not None
    assert [child.extend_start_loc for child in parts.children] == [[0], [0], [0]]
    assert [child.prefix_lens for child in parts.children] == [[0], [3], [6]]
    assert [child.num_token_non_padded for child in parts.children] == [3, 1, 0]
    assert overlap.stage_order(1, 1, 3) == [("a", 0), ("b", 0), ("c", 0)]
    with pytest.raises(WeftError, match=r"num_micro_batches=1 must be 2\.\.16"):
        overlap.split(ForwardMode.DECODE, num_tokens=2, num_micro_batches=1)
    with pytest.raises(WeftError, match="num_token_non_padded=-1 must be at least 0"):
        overlap.split(ForwardMode.DECODE, num_tokens=2, num_token_non_padded=-1)


def test_a_verify_step_replays_graphs_of_its_width():
    config = two_dp_ranks(graph_buckets=[8, 16], tokens_per_req=4)
    verify = plan.RankState(ForwardMode.TARGET_VERIFY, 12, tokens_per_req=4)
    step = plan.make_step_plan([verify, plan.RankState()], config)
    assert (step.schedule, step.is_extend_in_batch, step.graph_bucket) == (ForwardMode.DECODE, False, [16, 16])
    decode = plan.RankState(ForwardMode.DECODE, 3)
    assert plan.make_step_plan([verify, decode], config).graph_miss == ["tokens_per_req"] * 2


def test_split_names_what_a_mode_needs():
    with pytest.raises(WeftError, match="EXTEND batch needs extend_lens"):
        overlap.compute_split_seq_index(ForwardMode.EXTEND, 4, None, None)
    with pytest.raises(WeftError, match="TARGET_VERIFY batch needs token_num_per_seq"):
        overlap.compute_split_seq_index(ForwardMode.TARGET_VERIFY, 4, None, None)
    with pytest.raises(WeftError, match="DECODE batch needs num_tokens"):
        overlap.compute_split_seq_index(ForwardMode.DECODE, None, None, 1)
    with pytest.raises(WeftError, match="DECODE batch needs num_tokens or seq_lens"):
        overlap.split(ForwardMode.DECODE)
    with pytest.raises(WeftError, match=r"at most 0\.5"):
        overlap.split(ForwardMode.EXTEND, extend_lens=[3, 4], threshold=0.6)


def test_a_trace_lists_the_collectives_of_a_rank():
    config = two_dp_ranks()
    states = [plan.RankState(ForwardMode.EXTEND, 5), plan.RankState(ForwardMode.DECODE, 3, num_logit_rows=3)]
    step = plan.make_step_plan(states, config)
    model = plan.ModelShape(sparse_pattern=[True], hidden=8, vocab=10)
    first, second = (plan.step_trace(step, config, model, rank) for rank in (0, 1))
    assert first == second
    assert plan.shared_trace_hash(first) == plan.shared_trace_hash(second)
    assert [(record.op, record.group, record.count, record.layer) for record in first[:2]] == [
        ("all_gather", "tp", 8 * 8, 0),
        ("reduce_scatter", "tp", 8 * 8, 0),
    ]
    assert str(first[0]) == "all_gather of 64 bf16 in tp, micro-batch 0, layer 0"
    assert first[0] != first[1]
    with pytest.raises(WeftError, match="rank 2 of 2"):
        plan.step_trace(step, config, model, 2)
    with pytest.raises(WeftError, match="the plan is of 2 DP ranks, the configuration of 1"):
        plan.step_trace(step, plan.PlanConfig(plan.ParallelConfig()), model, 0)
    with pytest.raises(WeftError, match="choose f32, bf16 or f16"):
        plan.ModelShape(sparse_pattern=[True], hidden=8, vocab=10, dtype="int8")


def test_stage_order_names_the_micro_batches():
    assert overlap.stage_order(2, 1) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_layouts_take_letters_or_flags():
    def layouts(pattern: str | list[bool]) -> list[str]:
        layers = comm.layer_layouts(
            pattern,
            tp_size=4,
            attn_dp_size=2,
            moe_a2a_backend="deepep",
            moe_dense_tp_size=None,
            two_batch_overlap=False,
        )
        return [layer.output for layer in layers]

    assert layouts("DSS") == layouts([False, True, True]) == ["TP_ATTN_FULL", "SCATTERED", "TP_ATTN_FULL"]
    with pytest.raises(WeftError, match="letters other than D"):
        layouts("DX")


def test_no_size_left_says_why():
    with pytest.raises(WeftError, match="a multiple of 2 rows"):
        graph.filter_capture_sizes([1], pool_size=1, two_batch_overlap=True, gathered_buffer=False, attn_tp_size=1)
    assert graph.bucket_of([1, 2, 4], 5) is None
