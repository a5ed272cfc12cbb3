"""What the scripts of this folder share: the programs of bench/cpp, and the names of machine and commit."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HBM_BYTES_PER_S = 4.2e12  # of an H200, measured: what the floors are taken from
ROOT = Path(__file__).resolve().parent.parent
# Of CUDA kernels, where ./dev puts them: without these, native kernels alone are measured.
HEADERS = {
    "cublas": "WEFT_CUBLAS_INCLUDE_DIR",
    "flashinfer": "WEFT_FLASHINFER_DIR",
    "deepgemm": "WEFT_DEEPGEMM_DIR",
}


def build(target: str) -> Path:
    """Compile a program of bench/cpp; does nothing if it is up to date."""
    cmake = [sys.executable, "-m", "cmake"]
    if subprocess.run([*cmake, "--version"], capture_output=True, check=False).returncode != 0:
        cmake = ["cmake"]
    folder = ROOT / "build" / "bench"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DWEFT_BUILD_BENCH=ON"]
    for name, option in HEADERS.items():
        if (headers := ROOT / "build" / "headers" / name).exists():
            options.append(f"-D{option}={headers}")
    for command in (
        [*cmake, "-S", str(ROOT), "-B", str(folder), *options],
        [*cmake, "--build", str(folder), "--target", target, "-j", str(os.cpu_count())],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}{done.stderr}\nbench: could not build {target}")
    return folder / target


class Program:
    """A running program of bench/cpp that answers each line of its input with a line of JSON."""

    def __init__(self, path: Path, *args: str, env: Mapping[str, str] | None = None) -> None:
        self._name = path.name
        self._process = subprocess.Popen(
            [str(path), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def ask(self, request: str) -> dict[str, Any]:
        """Ends this program if the other one has ended."""
        to, answers = self._process.stdin, self._process.stdout
        if to is None or answers is None:
            sys.exit(f"{self._name} has no pipes")
        line = ""
        try:
            print(request, file=to, flush=True)
            line = answers.readline()
        except BrokenPipeError:
            pass
        if not line:
            sys.exit(f"{self._name} stopped at '{request}'")
        answer: dict[str, Any] = json.loads(line)
        return answer


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
