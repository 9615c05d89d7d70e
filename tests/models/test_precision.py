"""bfloat16 needs machine instructions; float32 products use the faster library."""

from __future__ import annotations

import threading

import pytest
import torch

from kt_batch.models import precision
from kt_batch.models.precision import bfloat16_is_fast, quick_products


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx2": True, "avx512_f": True}, False),
        ({}, False),
    ],
)
def test_bfloat16_needs_processor_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bfloat16_is_fast("cpu") is fast


def test_bfloat16_is_slow_if_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert bfloat16_is_fast("cpu") is False


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16_is_slow_on_a_gpu_that_emulates_it(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert bfloat16_is_fast("cuda") is native


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("before", ["highest", "high"])
def test_the_other_library_multiplies_only_within_the_context_and_without_rounding(
    before: str, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "quick_precision", lambda: "highest" if rounds else "medium")
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with quick_products():
            assert torch.get_float32_matmul_precision() == ("highest" if rounds else "medium")
        assert torch.get_float32_matmul_precision() == before
        with pytest.raises(ValueError, match="broken"), quick_products():
            raise ValueError("broken")
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(usual)


def test_the_last_thread_to_leave_restores_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "quick_precision", lambda: "medium")
    inside, first_left = threading.Barrier(2), threading.Event()
    seen = []

    def leave_first() -> None:
        with quick_products():
            inside.wait(timeout=60)
        first_left.set()

    def leave_last() -> None:
        with quick_products():
            inside.wait(timeout=60)
            first_left.wait(timeout=60)
            seen.append(torch.get_float32_matmul_precision())

    both = [threading.Thread(target=work) for work in (leave_first, leave_last)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=60)
    assert seen == ["medium"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_products_for_two_devices_are_not_computed_simultaneously(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "quick_precision", lambda: "medium")
    with quick_products(), pytest.raises(RuntimeError, match="for cuda cannot be made"), quick_products("cuda"):
        pass
    with quick_products("cuda"):
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("rounded", [(), ("bmm",), ("mm",), ("bmm", "mm")], ids=str)
def test_products_of_rounded_operands_are_detected(rounded: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def product(a: torch.Tensor, b: torch.Tensor, rounding: bool) -> torch.Tensor:
        if rounding:
            a, b = a.bfloat16(), b.bfloat16()
        return (a.double() @ b.double()).float()

    monkeypatch.setattr(torch, "bmm", lambda a, b: product(a, b, "bmm" in rounded))
    monkeypatch.setattr(torch, "mm", lambda a, b: product(a, b, "mm" in rounded))
    assert precision.quick_precision.__wrapped__() == ("highest" if rounded else "medium")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_on_a_gpu_no_product_is_rounded(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "quick_precision", lambda: "medium")
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with quick_products("cuda"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(usual)


def test_fast_products_have_float32_precision() -> None:
    a, b = torch.randn(2, 40, 128, generator=torch.Generator().manual_seed(0))
    with quick_products():
        found = a @ b.T
    torch.testing.assert_close(found.double(), a.double() @ b.double().T, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("able", "right"), [(True, True), (True, False), (False, True)])
def test_integer_products_are_used_where_instructions_exist_and_are_exact(
    able: bool, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        exact = (a.long() @ b.long().T).int()
        return exact if right else exact.clamp(max=2**15 - 1)

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": able}, raising=False)
    monkeypatch.setattr(precision, "integer_products", product)
    assert precision.quick_integers.__wrapped__() == (able and right)


def test_integer_products_are_not_used_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    monkeypatch.setattr(precision, "has_integer_products", lambda: False)
    monkeypatch.setattr(precision, "integer_products", None)  # calling it would fail
    assert precision.quick_integers.__wrapped__() is False
