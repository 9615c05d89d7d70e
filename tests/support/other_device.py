"""A device without hardware: its tensors hold real values, say that they are elsewhere, and refuse to mix with others.

What runs under `OtherDevice` computes what it computes on the processor, bit for bit, where it puts every tensor on the
device that it was given. It fails where a GPU would: at a tensor of the processor among those of the device, at numpy,
and at pinned memory of none. It is stricter than a GPU in one thing: indices must be on the device, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "lazy"  # a kind of device that torch knows and this build has no code for
DEVICE = torch.device(NAME, 0)
DONE: Counter[str] = Counter()  # operations on the device since the last `OtherDevice` began, by name
COPIES = {"copy_", "_to_copy"}  # which may go from one device to another
MADE_OF_VALUES = (torch.tensor, torch.as_tensor)  # torch makes these where no mode sees it


class _There(Tensor):
    """A tensor of the device: a wrapper of one of the processor."""

    value: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.value = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.value!r} on {DEVICE}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _dispatch(func, args, kwargs or {})


def _dispatch(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the processor; the result is where the tensors are, or where `device` says."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, _There) for tensor in tensors)
    if function.overloadpacket.__name__ not in COPIES and there:
        others = [tensor for tensor in tensors if not isinstance(tensor, _There) and tensor.dim()]
        if others:
            raise RuntimeError(f"{function} mixes {DEVICE} with a tensor {tuple(others[0].shape)} of the processor")
    if (device := kwargs.get("device")) is not None:
        there = torch.device(device).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if there:
        DONE[function.overloadpacket.__name__] += 1
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if function._schema.is_mutable:
        return kwargs.get("out", args[0])
    return tree_map(lambda value: _There(value) if there and isinstance(value, Tensor) else value, result)


def _inner(value: Any) -> Any:
    return value.value if isinstance(value, _There) else value


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Tensors made of values, and values of tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MADE_OF_VALUES and _is_there(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], _There):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype), device="cpu").to(DEVICE)
        if func is Tensor.tolist and isinstance(args[0], _There):
            return args[0].value.tolist()
        return func(*args, **kwargs)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


class OtherDevice(ExitStack):
    """Makes the device usable on this thread, which must compute alone: modes of torch are those of one thread."""

    def __enter__(self) -> Self:
        super().__enter__()
        DONE.clear()
        self.enter_context(torch.no_grad())
        self.enter_context(_Functions())
        self.enter_context(_Dispatch())  # type: ignore[no-untyped-call]
        return self


def on_both(run: Callable[[torch.device], Any]) -> tuple[Any, Any]:
    """Return what `run` returns for the processor, and for the device; tensors of the device as those they hold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            here = run(torch.device("cpu"))
        with OtherDevice():
            there = run(DEVICE)
    finally:
        torch.set_num_threads(threads)
    return here, there


def held(value: Tensor) -> Tensor:
    """Return the tensor that one of the device holds. Raises TypeError for one of the processor."""
    if not isinstance(value, _There):
        raise TypeError(f"a tensor {tuple(value.shape)} is on the processor, not on {DEVICE}")
    return value.value
