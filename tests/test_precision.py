import pytest
import torch

from model import precision


@pytest.mark.parametrize(
    ("words", "able"),
    [
        ("flags : fpu avx2 f16c", set()),
        ("flags : fpu avx512f avx512_bf16", {"bf16"}),
        ("flags : amx_bf16 avx512_fp16", {"bf16", "fp16"}),
        ("Features : fp asimd asimdhp bf16", {"bf16", "fp16"}),
    ],
)
def test_processors_say_what_they_compute_in(tmp_path, monkeypatch, words, able):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\n{words}\n")
    monkeypatch.setattr(precision, "Path", lambda name: file)
    monkeypatch.setattr(precision.platform, "system", lambda: "Linux")
    assert {name for name in precision.AMP_DTYPES if precision.cpu_computes_in(name)} == able


def test_only_processors_without_units_are_refused(monkeypatch):
    monkeypatch.setattr(precision, "cpu_computes_in", lambda name: name == "bf16")
    precision.check_amp_dtype("bf16", torch.device("cpu"))
    precision.check_amp_dtype("fp16", torch.device("cuda"))
    with pytest.raises(ValueError, match="does not compute in fp16.*leave --use_amp16 out"):
        precision.check_amp_dtype("fp16", torch.device("cpu"))
