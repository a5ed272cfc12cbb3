"""Checks the include order of csrc/: a folder includes only itself and what is below it.

kernels/ stands beside csrc/: it sees ops, device and base, and nobody includes it.
"""

import re
import sys
from pathlib import Path

ORDER = ("bindings", "runtime", "exec", "model", "comm", "plan", "ops", "device", "base")
KERNELS_SEE = ("kernels", "ops", "device", "base")
INCLUDE = re.compile(r'^\s*#include "([a-z0-9_]+)/[^"]+"', re.MULTILINE)


def violations(root: Path) -> list[str]:
    """Each include in `root` that goes up, as "file: folder"; unknown folders count too."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix not in {".h", ".cpp"}:
            continue
        relative = path.relative_to(root)
        if len(relative.parts) < 2:
            found.append(f"{relative}: no file stands at the top of csrc/")
            continue
        own = relative.parts[0]
        if own not in ORDER:
            found.append(f"{relative}: {own}/ has no place in the order {' > '.join(ORDER)}")
            continue
        for folder in INCLUDE.findall(path.read_text()):
            if folder not in ORDER or ORDER.index(folder) < ORDER.index(own):
                found.append(f"{relative}: includes {folder}/, which is above {own}/")
    return found


def kernel_violations(root: Path) -> list[str]:
    """Each include in `root` (kernels/) of what kernels must not see, as "file: folder"."""
    return [
        f"{path.relative_to(root)}: includes {folder}/, but kernels see {', '.join(KERNELS_SEE)} alone"
        for path in sorted(root.rglob("*.cu*"))
        for folder in INCLUDE.findall(path.read_text())
        if folder not in KERNELS_SEE
    ]


if __name__ == "__main__":
    tree = Path(__file__).resolve().parent.parent
    problems = violations(tree / "csrc") + kernel_violations(tree / "kernels")
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)
