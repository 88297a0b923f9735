"""Which device to use."""

from typing import Literal

import torch

from ebsc.errors import InputError

__all__ = ["Device", "pick"]

Device = Literal["auto", "cpu", "cuda"]


def pick(device: Device) -> torch.device:
    """The device by name; ``auto`` is CUDA where there is one.

    Raises:
        InputError: CUDA is asked for and absent.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda is asked for, but torch finds none: use auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
