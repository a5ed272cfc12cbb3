"""docs/plan.md: each block of Python runs, in order, and prints what its lines that begin with #> say."""

import contextlib
import io
import re
from pathlib import Path

DOC = Path(__file__).parent.parent / "docs" / "plan.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs_and_prints_what_it_says():
    blocks = BLOCK.findall(DOC.read_text(encoding="utf-8"))
    assert len(blocks) > 10
    names: dict[str, object] = {}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, str(DOC), "exec"), names)  # noqa: S102  # our own page
        wanted = [line.removeprefix("#> ") for line in block.splitlines() if line.startswith("#>")]
        assert printed.getvalue().splitlines() == wanted, block
