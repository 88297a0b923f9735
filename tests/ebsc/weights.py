"""Networks whose every weight matters."""

import torch


def with_random_weights(module: torch.nn.Module) -> torch.nn.Module:
    """The same in float64 and without the zeros that its last layers start from."""
    for parameter in module.double().parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module
