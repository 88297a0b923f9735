"""The worker: a thin shell around the voter. A plain class; ``ray.remote`` is applied where it is used."""

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from ebsc.campaign import Unit
from ebsc.device import Device, out_of_memory, pick
from ebsc.errors import InputError
from ebsc.model import ModelSpec, code, unpack
from ebsc.own import top
from ebsc.votes import Precision, Voter
from ebsc.walkjump import Walk

__all__ = ["Assignment", "Tally", "Worker"]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """All that a worker needs, sent once.

    Attributes:
        spec: the model's specification.
        weights: the bytes of its safetensors file.
        code: modules of the user's own that the model needs, each with the checksum that it must have here too
            (:func:`ebsc.model.code`). Their packages are allowed, as the driver has imported them.
        plain: vote without the denoiser.
        walk: vote by chains; see :class:`ebsc.votes.Voter`.
        images: the images being certified, in the order of the campaign's rows: (row, channel, height, width), uint8 on
            the lattice or float32 in [0, 1].
        levels: L, the integer of white.
        device: see :func:`ebsc.device.pick`.
        precision, batch, compiled: see :class:`ebsc.votes.Voter`.
        threads: CPU threads of a worker; 0 leaves torch's choice.
    """

    spec: ModelSpec
    weights: bytes
    code: Mapping[str, str] = field(default_factory=dict)
    plain: bool = False
    walk: Walk | None = None
    images: np.ndarray
    levels: int
    device: Device = "auto"
    precision: Precision = "float32"
    batch: int = 256
    compiled: bool = False
    threads: int = 0


@dataclass(frozen=True)
class Tally:
    """Counts of a unit (span, class), the seconds it took, and the micro-batch in use, halved when memory runs out."""

    counts: np.ndarray
    seconds: float
    batch: int


class Worker:
    """Counts units, one after the other, on one device.

    Args:
        assignment: what to count with.
        batch: another micro-batch than the assignment's, after memory ran out.
    """

    def __init__(self, assignment: Assignment, batch: int | None = None) -> None:
        self._assignment = assignment
        self._first_batch = batch or assignment.batch

    @cached_property
    def _voter(self) -> Voter:
        assignment = self._assignment
        if assignment.threads:
            torch.set_num_threads(assignment.threads)
        model = unpack(assignment.spec, assignment.weights, allow=[top(name) for name in assignment.code])
        for name, checksum in code(assignment.spec).items():
            if checksum != assignment.code[name]:
                raise InputError(f"{name} on {platform.node()} is not the {name} that this run was started with")
        return Voter(
            model.plain() if assignment.plain else model,
            assignment.images,
            levels=assignment.levels,
            n_classes=assignment.spec.n_classes,
            device=pick(assignment.device),
            precision=assignment.precision,
            batch=self._first_batch,
            compiled=assignment.compiled,
            walk=assignment.walk,
            lattice=False,  # whether images may be off it, the driver has asked
        )

    def ready(self) -> int:
        """The micro-batch, once the network is loaded: not when an actor starts, as Ray would give its errors no type.

        Raises:
            InputError: this worker cannot count what was assigned, nor could another one.
        """
        return self._voter.batch

    def count(self, unit: Unit) -> Tally:
        """Votes of a unit. Out of memory, it goes on with half the micro-batch.

        Counts are the same on CPUs for micro-batches of four images or more; elsewhere a last bit may differ.

        Raises:
            InputError: as of :meth:`ready`.
            RunError: the network's outputs are not finite.
            MemoryError, RuntimeError: memory ran out for a micro-batch of one image, too.
        """
        started = time.perf_counter()
        while True:
            try:
                return Tally(self._voter.count(unit), time.perf_counter() - started, self._voter.batch)
            except (MemoryError, RuntimeError) as error:
                if self._voter.batch == 1 or not out_of_memory(error):
                    raise
                self._voter.resize(self._voter.batch // 2)
                torch.cuda.empty_cache()
