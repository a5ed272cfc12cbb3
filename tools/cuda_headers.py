"""Fetch the headers of CUDA kernels that weft compiles but does not contain: tools/cuda_headers.py FOLDER

Each comes out of a pinned wheel of the Python registry, without the packages that the wheel asks for; only headers
are kept. What is in FOLDER already is not fetched again. Prints the CMake options that name the headers.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Headers:
    """What is kept of one wheel."""

    folder: str  # in FOLDER
    option: str  # CMake's name for it
    wheel: str
    root: str  # of the wheel; paths below it are kept
    parts: tuple[str, ...]  # below root


HEADERS = (
    Headers("cublas", "WEFT_CUBLAS_INCLUDE_DIR", "nvidia-cublas==13.0.2.14", "nvidia/cu13/include", ("",)),
    Headers(
        "flashinfer",
        "WEFT_FLASHINFER_DIR",
        "flashinfer-python==0.6.18.post1",
        "flashinfer/data",
        (
            "include",
            "cccl/libcudacxx/include",
            "cccl/cub",
            "cccl/thrust",
            "cutlass/include",
            "cutlass/tools/util/include",
        ),
    ),
    Headers("deepgemm", "WEFT_DEEPGEMM_DIR", "sgl-deep-gemm==0.2.5", "deep_gemm/include", ("",)),
)


def main(argv: Sequence[str]) -> int:
    """Fetch what is missing; 1 if it cannot be had."""
    target = Path(argv[0])
    for headers in HEADERS:
        stamp = target / headers.folder / ".wheel"
        if not stamp.exists() or stamp.read_text() != headers.wheel:
            print(f"fetching headers of {headers.wheel}", file=sys.stderr)
            try:
                fetch(headers, target / headers.folder)
            except (subprocess.CalledProcessError, OSError, zipfile.BadZipFile) as error:
                print(f"cuda_headers: {headers.wheel}: {error}", file=sys.stderr)
                return 1
        print(f"-D{headers.option}={(target / headers.folder).resolve()}")
    return 0


def fetch(headers: Headers, target: Path) -> None:
    """Replace `target` by the headers of the wheel."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "-d", name, headers.wheel], check=True, stdout=sys.stderr)  # noqa: S603
        (wheel,) = folder.glob("*.whl")
        kept = folder / "kept"
        unpack(wheel, headers, kept)
        (kept / ".wheel").write_text(headers.wheel)
        shutil.rmtree(target, ignore_errors=True)
        kept.rename(target)


def unpack(wheel: Path, headers: Headers, target: Path) -> None:
    """Write the files of the wheel that `headers` names below `target`."""
    roots = [PurePosixPath(headers.root, part) for part in headers.parts]
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if entry.is_dir() or not any(path.is_relative_to(root) for root in roots):
                continue
            out = target / path.relative_to(headers.root)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_bytes(archive.read(entry))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
