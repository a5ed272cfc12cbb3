"""Loads weft's task generator from the source tree: this folder must work where weft is not built."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python" / "weft" / "bench"))

import demo_tasks
from demo_tasks import Example, LookupChat, Skill, Split

__all__ = ["Example", "LookupChat", "Skill", "Split", "demo_tasks"]
