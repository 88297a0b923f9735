"""What a training leaves behind while it goes on: its state, one JSON line a log step, TensorBoard, pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors.torch
import torch.distributed
from safetensors import SafetensorError
from torch import Tensor

from ebsc.errors import InputError
from ebsc.files import parse_json, write_whole
from ebsc.training import Trainer

__all__ = ["Keeper", "Logbook", "is_main", "of_main", "read_lines"]

T = TypeVar("T")


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def of_main(find: Callable[[], T]) -> T:
    """What the process that writes finds, in all processes, which call this together."""
    found: list[Any] = [find() if is_main() else None]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    return cast(T, found[0])


class Keeper:
    """The state of one training on disk, and the best weights so far.

    The file appears whole or not at all, and all that the training still depends on is in it: killed at any moment, it
    goes on from the last one.

    Attributes:
        closed: nothing is saved while this is set.

    Args:
        path: a safetensors file.
        trainer: whose state it is. All processes call this together; the main one reads for all.

    Raises:
        InputError: the file is damaged or belongs to another training.
    """

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self._path = path
        self._trainer = trainer
        self.closed = False
        self.value = float("-inf")
        self._best: dict[str, Tensor] = {}
        found = of_main(self._read)
        if found is None:
            return
        state = dict(found)
        try:
            self.value = float(state.pop("value"))
            self._best = {name: state.pop(name) for name in list(state) if name.startswith("best.")}
            trainer.restore(state)
        except (KeyError, InputError) as error:
            raise InputError(f"{path} is the state of another training: remove it to start afresh") from error

    def save(self) -> None:
        """Write the state, unless a step is half made, or its look: then the state before it stays."""
        if is_main() and self._trainer.whole and not self.closed:
            state = self._trainer.state() | self._best | {"value": torch.tensor(self.value, dtype=torch.float64)}
            self._path.parent.mkdir(exist_ok=True)
            apart = {name: value.clone() for name, value in state.items()}  # weights that several layers share
            write_whole(self._path, safetensors.torch.save(apart))

    def judge(self, value: float) -> None:
        """Keep the average weights of now if ``value`` is the best so far."""
        if value <= self.value:
            return
        self.value = value
        weights = self._trainer.average.module.state_dict()
        self._best = {
            f"best.{name}": weight.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, weight in weights.items()
        }

    def finish(self) -> None:
        """End the training with its best weights where they were judged, else with the average at the end."""
        self._trainer.finish()
        if self._best:
            self._trainer.module.load_state_dict({k.removeprefix("best."): v for k, v in self._best.items()})

    def _read(self) -> dict[str, Tensor] | None:
        try:
            return safetensors.torch.load(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self._path} is damaged ({error}): remove it to start this part afresh") from error


class Logbook:
    """``metrics.jsonl`` and TensorBoard events of one part of a training.

    Gone on with at a step, it drops what a lost process wrote about later ones.

    Args:
        folder: the model folder.
        part: for example ``energy``.
        step: steps made before.
    """

    def __init__(self, folder: Path, part: str, step: int) -> None:
        self._part = part
        path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(path) if line["part"] != part or line["step"] <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(folder / "tensorboard" / part, purge_step=step + 1)
        except ImportError:  # not everywhere: the lines say the same
            self._board = None

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        if self._board:
            self._board.close()

    def write(self, step: int, steps: int, scalars: dict[str, float]) -> None:
        """One line, and one point of every curve."""
        self._file.write(json.dumps({"part": self._part, "step": step, "steps": steps, **scalars}) + "\n")
        if self._board:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def picture(self, step: int, rows: Tensor) -> None:
        """Show images of shape (row, column, channel, height, width) in [0, 1] as a grid."""
        if self._board:
            from torchvision.utils import make_grid  # loads the compiler: seconds, for commands that train nothing

            grid = make_grid(rows.flatten(0, 1).clamp(0, 1), nrow=rows.shape[1])
            self._board.add_image("clean, noisy, estimate", grid, step)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a torn one, or one that is none of ours, is left out."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("part"), str):
            entry = {name: value for name, value in entry.items() if name == "part" or isinstance(value, int | float)}
            if {"part", "step", "steps"} <= entry.keys():
                found.append(entry)
    return found
