"""Where a result comes from: options, versions, commit, host."""

import importlib.metadata
import json
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ebsc.device import Device

__all__ = ["configuration", "options_of", "provenance"]


def configuration(question: dict[str, Any], command: Any, device: Device = "auto") -> dict[str, Any]:
    """What a ``config.json`` holds: what decides the result, how the command was given, and where it ran."""
    return {"question": question, "options": options_of(command), "provenance": provenance(device)}


def options_of(command: Any) -> dict[str, Any]:
    """Every option of a command, as JSON takes it."""
    return json.loads(json.dumps(asdict(command), default=str))


def provenance(device: Device = "auto") -> dict[str, Any]:
    """Package versions, git commit (with ``+`` when the tree is changed), host, device and time, for a config.json.

    The device is that of this process: workers on a cluster may have another.
    """
    packages = ("ebsc", "torch", "numpy", "scipy", "ray", "submitit", "torchvision")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    with_gpu = device != "cpu" and torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
        "host": platform.node(),
        "device": torch.cuda.get_device_name() if with_gpu else platform.processor() or platform.machine(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _commit() -> str:
    def git(*words: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
