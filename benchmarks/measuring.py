"""What the measurements share."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebsc.data import Dataset
from ebsc.estimator import EmpiricalBayes
from ebsc.model import Ebsc, ModelSpec, build

Task = Callable[[], Any]


def round_robin(tasks: dict[str, Task], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every task in every round; the first round warms up and is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(took[1:]) for name, took in seconds.items()}


def repeated(task: Task, times: int) -> Task:
    return lambda: [task() for _ in range(times)]


def count_flops(module: nn.Module, x: Tensor) -> int:
    """Of one call. xhat counts twice its network: the gradient with respect to the input costs what the output does."""
    if isinstance(module, EmpiricalBayes):
        return 2 * count_flops(module.energy.network, x)
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops()


def lenet(data: Dataset, denoiser: str) -> tuple[Ebsc, ModelSpec]:
    """A LeNet behind a denoiser of this kind, for sigma 0.5, with random weights."""
    torch.manual_seed(0)
    spec = ModelSpec(
        sigma=0.5,
        shape=data.shape,
        n_classes=data.n_classes,
        levels=data.levels,
        denoiser={"kind": denoiser},
        classifier={"kind": "lenet"},
    )
    return build(spec), spec


def save(path: Path, **results: Any) -> None:
    """What was measured, with the machine that it was measured on, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2, default=str) + "\n")


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
