"""bench/gpu_profile.py: one step out of a recording, and what each of its kernels adds."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

from gpu_profile import print_kernels, short_name, step_kernels

FIRST = "void weft::kernels::(anonymous namespace)::scatter_blocks_kernel(weft::kernels::Blocks)"


def step(start):
    return [(FIRST, start, start + 1.0), ("gemm", start + 2.0, start + 9.0)]


def test_a_step_is_from_its_first_kernel_to_the_next_step():
    kernels = [kernel for start in (0.0, 10.0, 20.0, 30.0) for kernel in step(start)]
    before = [("prefill", -9.0, -1.0)]
    assert step_kernels(list(reversed(before + kernels))) == step(20.0), "in order of start, whatever the order given"
    assert step_kernels(kernels[:-2]) == step(10.0)


def test_a_recording_without_a_whole_step_is_refused():
    with pytest.raises(SystemExit, match="2 kernels named scatter_blocks, of 5 in all"):
        step_kernels([*step(0.0), *step(10.0), ("gemm", 20.0, 21.0)])
    with pytest.raises(SystemExit, match="0 kernels named scatter_blocks, of 0 in all"):
        step_kernels([])


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (FIRST, "scatter_blocks_kernel"),
        ("nvjet_sm90_tst_24x64_64x16_4x2_h_bz_TNN", "nvjet_sm90_tst_24x64_64x16_4x2_h_bz_TNN"),
        (
            "void weft::kernels::norm<weft::bf16, 8, (weft::kernels::From)1>(Args<(int)3>)",
            "norm<weft::bf16, 8, (From)1>",
        ),
        ("Memset (Device)", "Memset"),
    ],
)
def test_names_are_short_but_tell_kernels_apart(name, short):
    assert short_name(name) == short


def table_of(text):
    """The first line, and by name the numbers of each row in order."""
    about, header, *rows = text.splitlines()
    assert header.split() == ["adds_us", "count", "adds_each", "runs_each"]
    return about, {name: tuple(map(float, numbers)) for *numbers, name in map(str.split, rows)}


def test_a_kernel_adds_what_is_behind_the_end_of_those_before_it(capsys):
    kernels = [
        ("first", 100.0, 110.0),
        ("overlaps", 105.0, 112.0),  # 2 of its 7
        ("within", 106.0, 111.0),  # nothing
        ("late", 120.0, 125.0),  # after 8 idle
        ("overlaps", 124.0, 131.0),  # 6 of its 7
    ]
    print_kernels(kernels, top=9)
    about, rows = table_of(capsys.readouterr().out)
    assert about == "5 kernels, 31.0 us, of which 8.0 idle"
    assert rows == {
        "first": (10.0, 1, 10.0, 10.0),
        "overlaps": (8.0, 2, 4.0, 7.0),
        "late": (5.0, 1, 5.0, 5.0),
        "within": (0.0, 1, 0.0, 5.0),
    }
    assert list(rows) == ["first", "overlaps", "late", "within"], "by what they add"
    assert sum(adds for adds, *_ in rows.values()) + 8.0 == 31.0


def test_only_the_largest_are_shown(capsys):
    print_kernels([("a", 0.0, 1.0), ("b", 1.0, 4.0), ("c", 4.0, 6.0)], top=2)
    about, rows = table_of(capsys.readouterr().out)
    assert about == "3 kernels, 6.0 us, of which 0.0 idle"
    assert list(rows) == ["b", "c"]
