"""Small networks on digits."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from ebsc import model
from ebsc.model import Ebsc, ModelSpec


def small(denoiser: str, classifier: str = "linear", *, width: int = 4, seed: int = 0, std: float = 0.0) -> Ebsc:
    """As training starts it, or with normal weights of a standard deviation: without the zeros of its last layers."""
    torch.manual_seed(seed)
    options = {"kind": denoiser} | ({"width": width} if denoiser != "none" else {})
    base = {"kind": classifier} | ({"width": 4} if classifier == "resnet" else {})
    net = model.build(ModelSpec(sigma=0.5, shape=(1, 8, 8), n_classes=10, levels=16, denoiser=options, classifier=base))
    for weight in net.parameters() if std else ():
        torch.nn.init.normal_(weight, std=std)
    return net


@contextmanager
def float64() -> Iterator[None]:
    """Everything in float64, also where the code asks for floats."""
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(torch.Tensor, "float", torch.Tensor.double):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
