"""Which device to use, and how to compile for it."""

import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from ebsc.errors import InputError

__all__ = ["Device", "as_graph", "cannot_compile", "compiling", "out_of_memory", "pick"]

Device = Literal["auto", "cpu", "cuda"]


def pick(device: Device) -> torch.device:
    """The device by name; ``auto`` is CUDA where there is one.

    Raises:
        InputError: CUDA is asked for and absent.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device cuda is asked for, but torch finds none on {platform.node()}: use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def as_graph(function: Callable[..., Any], wanted: bool) -> Callable[..., Any]:
    """The function compiled as one graph for each shape that it sees, or as it is.

    Needs a C++ compiler on a CPU, for Triton a C compiler and Python's headers on a GPU.
    """
    return torch.compile(function, fullgraph=True, dynamic=False) if wanted else function


def compiling(**more: Any) -> AbstractContextManager[None]:
    """While compiled functions run: networks and shapes of one process share code, and dynamo stops at 8 of them."""
    return torch._dynamo.config.patch(recompile_limit=256, **more)


def cannot_compile(error: Exception) -> bool:
    """Whether a compiler failed, or is not there."""
    return type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of whatever device."""
    # torch's CPU allocator raises a RuntimeError that only its text tells apart
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
