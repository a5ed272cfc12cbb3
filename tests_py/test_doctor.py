"""weft.doctor says what is there, on any machine."""

import pytest

from weft import _weft, doctor


def test_it_names_a_kernel_for_each_op(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    for op, kernel, _ in _weft.cpu_kernels():
        assert op in text
        assert kernel in text
    assert "CUDA" in text


def test_both_backends_serve_the_same_ops() -> None:
    assert [row[0] for row in _weft.cpu_kernels()] == [row[0] for row in _weft.cuda_kernels()]


def test_it_says_why_a_fast_kernel_does_not_serve() -> None:
    kernel, why = next(row[1:] for row in _weft.cuda_kernels() if row[0] == "paged_attention")
    assert ("FlashInfer for prompts" in kernel) != ("FlashInfer" in why)


def test_it_says_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    info: _weft.CudaInfo = {"built": True, "emulated": False, "why_no_gpu": "no driver", "gpus": []}
    monkeypatch.setattr(_weft, "cuda_info", lambda: info)
    assert "CUDA    no driver" in doctor.report()
    info["gpus"] = [
        {
            "name": "Card",
            "compute_capability": "9.0",
            "multiprocessors": 132,
            "total_bytes": 80 << 30,
            "free_bytes": 79 << 30,
        }
    ]
    expected = "GPU 0   Card, compute capability 9.0, 132 multiprocessors, 79.0 of 80.0 GiB free"
    assert expected in doctor.report()
    info["built"] = False
    assert "CUDA kernels" not in doctor.report()
