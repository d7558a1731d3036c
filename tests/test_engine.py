import pytest
import torch

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import Family
from tuningvec.measures import models
from tuningvec.weights import engine

BF16, AMX, AVX2 = (dict(avx2=True, avx512_bf16=False, amx_bf16=False) | more for more in (
    dict(avx512_bf16=True), dict(amx_bf16=True), dict()
))  # fmt: skip
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which decides instead of the processor")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv("TUNINGVEC_DTYPE", raising=False)
    engine._computes_in_bfloat16.cache_clear()
    yield
    engine._computes_in_bfloat16.cache_clear()


@no_gpu
@pytest.mark.parametrize(("flags", "expected"), [(BF16, "bfloat16"), (AMX, "bfloat16"), (AVX2, "float32")])
def test_auto_is_what_the_processor_computes_in(monkeypatch, flags, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert engine.dtype_name() == engine.dtype_name("auto") == expected


@no_gpu
def test_where_the_processor_says_nothing_a_trial_decides(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    linear, slow = torch.nn.functional.linear, []

    def slower_in_bfloat16(x, W):
        slow.append(x.dtype)
        for _ in range(20 if x.dtype == torch.bfloat16 else 1):
            found = linear(x.float(), W.float())
        return found

    monkeypatch.setattr(torch.nn.functional, "linear", slower_in_bfloat16)
    assert engine.dtype_name() == "float32" and torch.bfloat16 in slow


def test_what_is_asked_for_is_taken_and_the_environment_stands_for_auto_alone(monkeypatch):
    monkeypatch.setenv("TUNINGVEC_DTYPE", "float16")
    assert [engine.dtype_name(asked) for asked in ("auto", "float32", "bfloat16")] == ["float16", "float32", "bfloat16"]


@pytest.mark.parametrize(("asked", "environment", "said"), [
    ("float64", "", "dtype is 'float64'; it must be auto, float32, bfloat16 or float16"),
    ("auto", "half", "TUNINGVEC_DTYPE is 'half'; it must be"),
])  # fmt: skip
def test_another_dtype_is_refused(monkeypatch, asked, environment, said):
    monkeypatch.setenv("TUNINGVEC_DTYPE", environment)
    with pytest.raises(TuningVecError, match=said):
        engine.dtype_name(asked)


def test_the_stores_key_holds_what_auto_came_to(monkeypatch):
    family = Family.load("tiny")
    monkeypatch.setenv("TUNINGVEC_DTYPE", "float32")
    assert models.Opened(family, "medical", "auto").dtype == "float32"
    assert next(models.Opened(family, "medical", "auto").model.parameters()).dtype == torch.float32


def test_the_machine_is_told_in_words():
    assert f"{torch.get_num_threads()} thread" in engine.machine()
