"""How much memory this process may still take."""

from pathlib import Path

_UNLIMITED = 1 << 60


def free_memory_bytes() -> int:
    """The least of what the machine has available and what the control groups of this process still allow."""
    return min(_available(), _control_group_v2(), _control_group_v1())


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _UNLIMITED


def _control_group_v2() -> int:
    root = Path("/sys/fs/cgroup")
    own = next((line[3:] for line in _lines(Path("/proc/self/cgroup")) if line.startswith("0::")), "/")
    group = root / own.lstrip("/")
    free = _UNLIMITED
    # A parent's limit binds its children, so every level counts.
    for level in (group, *group.parents):
        if level != root and root not in level.parents:
            break
        limit, used = _number(level / "memory.max"), _number(level / "memory.current")
        if limit is not None and used is not None:
            cache = _stat(level / "memory.stat", "inactive_file")  # given back under pressure
            free = min(free, max(0, limit - used + cache))
    return free


def _control_group_v1() -> int:
    group = Path("/sys/fs/cgroup/memory")
    limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return _UNLIMITED
    return max(0, limit - used + _stat(group / "memory.stat", "total_inactive_file"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file; None if there is no file or no number ("max")."""
    text = " ".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _stat(path: Path, key: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[:1] == [key]), 0)
