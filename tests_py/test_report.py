"""Tables, the picture of a step, and its trace."""

import json

from weft.report import ledger_table, overlap, picture, stats_table, table, write_trace

TIMELINE = [
    (0, "compute", "attn", 0.0, 10.0, 0),
    (0, "comm", "dispatch", 10.0, 20.0, 0),
    (0, "compute", "attn", 10.0, 18.0, 1),
    (1, "compute", "norm", 5.0, 6.0, -1),
]


def test_tables_align_numbers_to_the_right():
    assert table(["a", "n"], [["x", 1], ["long", 200]]) == "a       n\n---------\nx       1\nlong  200"


def test_stats_are_a_row_a_counter_and_leave_out_what_never_happened():
    ranks = [{"steps": {"EXTEND": 1200, "IDLE": 0}, "tbo_steps": 3}, {"steps": {"EXTEND": 2}, "tbo_steps": 0}]
    lines = stats_table({"ranks": ranks}).splitlines()
    assert [line.split() for line in lines[2:]] == [["steps.EXTEND", "1,200", "2"], ["tbo_steps", "3", "0"]]
    assert stats_table({}) == ""


def test_ranks_with_the_same_memory_share_a_column():
    mib = 1 << 20

    def sizes_of(rank):
        return (("weights/a", 1), ("weights/b", 1 + (rank == 2)), ("kv", 4))

    ledger = [(rank, name, mib * size) for rank in range(3) for name, size in sizes_of(rank)]
    assert [line.split() for line in ledger_table(ledger).splitlines()[2:]] == [
        ["weights", "2.0", "3.0"],
        ["kv", "4.0", "4.0"],
        ["all", "6.0", "7.0"],
    ]
    assert "ranks 0,1  rank 2" in ledger_table(ledger)


def test_a_picture_shows_which_micro_batch_each_stream_works_on():
    lines = picture(TIMELINE, width=20).splitlines()
    assert lines[0] == "rank 0 compute |AAAAAAAAAABBBBBBBB  |"
    assert lines[1] == "rank 0 comm    |          AAAAAAAAAA|"
    assert lines[2] == "rank 1 compute |     -              |"
    assert lines[3].endswith("20 us")
    assert picture([]) == ""


def test_overlap_is_where_one_communicates_while_the_other_computes():
    assert overlap(TIMELINE) == 8 / 20
    assert overlap(TIMELINE, rank=1) == 0
    assert overlap([]) == 0


def test_traces_are_trace_event_json(tmp_path):
    path = tmp_path / "trace.json"
    write_trace(TIMELINE, path)
    events = json.loads(path.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [(e["pid"], e["name"], e["ts"], e["dur"]) for e in spans] == [
        (0, "attn", 0.0, 10.0),
        (0, "dispatch", 10.0, 10.0),
        (0, "attn", 10.0, 8.0),
        (1, "norm", 5.0, 1.0),
    ]
    names = {(e["pid"], e.get("tid")): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert [names[e["pid"], e["tid"]] for e in spans] == ["compute", "comm", "compute", "compute"]
