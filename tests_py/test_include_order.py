"""Calls go down: csrc/ folders include only what is below them (design.md)."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("include_order", ROOT / "tools" / "include_order.py")
include_order = importlib.util.module_from_spec(spec)
spec.loader.exec_module(include_order)


def test_no_folder_includes_what_is_above_it() -> None:
    assert include_order.violations(ROOT / "csrc") == []
    assert include_order.kernel_violations(ROOT / "kernels") == []


def test_an_include_that_goes_up_is_found(tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "bad.cpp").write_text('#include "exec/forward.h"\n')
    assert include_order.violations(tmp_path) == ["plan/bad.cpp: includes exec/, which is above plan/"]


def test_a_kernel_that_sees_the_runtime_is_found(tmp_path: Path) -> None:
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "bad.cu").write_text('#include "ops/rms_norm.h"\n#include "runtime/runtime.h"\n')
    assert include_order.kernel_violations(tmp_path) == [
        "norm/bad.cu: includes runtime/, but kernels see kernels, ops, device, base alone"
    ]
