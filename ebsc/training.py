"""One training loop; what is learned is a small function, the objective."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, isfinite, pi

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.noise import perturb
from ebsc.votes import Precision

__all__ = ["Objective", "Schedule", "Step", "accuracy", "classification", "denoising", "denoising_error", "fit"]

Objective = Callable[[UInt8[Tensor, "batch channel height width"], Int64[Tensor, " batch"], torch.Generator], Tensor]
"""Clean integer images, labels and a generator for noise -> the loss to minimise, a scalar."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train: Adam, linear warm-up, cosine decay, an average of the weights at the end.

    Attributes:
        steps: how many steps.
        batch: images a step. An energy learns far faster from many small steps than from few large ones.
        learning_rate: peak.
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; near its usual norm, or an energy's training may diverge in one bad step.
        ema: decay of the exponential moving average of the weights, which is what training returns.
        precision: of the network; ``bfloat16`` by autocast. The weights stay float32.
        seed: of the order of images and the noise.
    """

    steps: int = 9000
    batch: int = 64
    learning_rate: float = 3e-3
    warmup: int = 100
    clip: float = 0.1
    ema: float = 0.999
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.batch >= 1 and self.learning_rate > 0 and self.clip > 0 and self.warmup >= 0):
            raise InputError("steps, batch, learning_rate and clip must be positive, and warmup not negative")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must lie in [0, 1), not {self.ema}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, but is {self.seed}")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        return self.learning_rate * ramp * 0.5 * (1 + cos(pi * step / self.steps))


@dataclass(frozen=True)
class Step:
    """Where training stands."""

    step: int
    steps: int
    images: int
    loss: float


def denoising(denoiser: nn.Module, sigma: float, levels: int) -> Objective:
    """Least squares: E|x - xhat(x + sigma eps)|^2 per pixel, whose minimiser is the Bayes estimator.

    For an energy this is denoising score matching of the smoothed density (Saremi & Hyvärinen 2019).
    """

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        y = perturb(images, _noise(images, generator), sigma, levels)
        return (denoiser(y) - images / levels).square().mean()

    return loss


def classification(classifier: nn.Module, levels: int) -> Objective:
    """Cross-entropy on clean images."""

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(classifier(images / levels), labels)

    return loss


def fit(
    module: nn.Module,
    data: Dataset,
    objective: Objective,
    schedule: Schedule,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[Step], None] = lambda step: None,
) -> None:
    """Minimise the objective over the module's parameters, in place.

    Args:
        module: what is trained; the objective refers to it.
        data: images on the lattice and labels.
        objective: see :data:`Objective`.
        schedule: see :class:`Schedule`.
        device: where to train.
        report: called after every step.

    Raises:
        InputError: the data are off the lattice, or the loss became NaN or infinite.
    """
    if not data.on_lattice:
        raise InputError(f"{data.name}: training needs images on the lattice {{0..{data.levels}}}")
    device = torch.device(device)
    module.to(device).to(memory_format=torch.channels_last).train()
    average = AveragedModel(module, multi_avg_fn=_ema(schedule.ema), use_buffers=True)
    optimizer = torch.optim.Adam(module.parameters(), lr=schedule.learning_rate)
    generator = torch.Generator(device).manual_seed(schedule.seed)
    for step, (images, labels) in enumerate(_batches(data, schedule, device)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bfloat16"):
            loss = objective(images, labels, generator)
        value = loss.item()
        if not isfinite(value):
            raise InputError(f"the loss became {value} at step {step + 1}: lower the learning rate")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), schedule.clip)
        optimizer.step()
        average.update_parameters(module)
        report(Step(step + 1, schedule.steps, (step + 1) * schedule.batch, value))
    module.load_state_dict(average.module.state_dict())
    module.cpu().eval()


def _batches(data: Dataset, schedule: Schedule, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in a new random order every epoch; the last, incomplete one of an epoch joins the next epoch's first."""
    images, labels = torch.from_numpy(data.images).to(device), torch.from_numpy(data.labels).to(device)
    order = torch.Generator().manual_seed(schedule.seed)
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(schedule.steps):
        while len(left) < schedule.batch:
            left = torch.cat([left, torch.randperm(len(labels), generator=order)])
        batch, left = left[: schedule.batch].to(device), left[schedule.batch :]
        yield images[batch], labels[batch]


def _noise(images: Tensor, generator: torch.Generator) -> Float[Tensor, "batch channel height width"]:
    return torch.randn(images.shape, device=images.device, generator=generator)


def _ema(decay: float) -> Callable[..., None]:
    """Exponential moving average that forgets its start: the decay grows to ``decay`` over the first steps."""

    def update(average: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        done = int(count)
        weight = 1 - min(decay, (1 + done) / (10 + done))
        for kept, new in zip(average, current, strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, weight)
            else:
                kept.copy_(new)

    return update


def _in_batches(data: Dataset, sigma: float, seed: int, device: torch.device | str) -> Iterator[tuple[Tensor, ...]]:
    """Clean images, the same under noise, and labels."""
    generator = torch.Generator(device).manual_seed(seed)
    for first in range(0, len(data.labels), 512):
        images = torch.from_numpy(data.images[first : first + 512]).to(device)
        y = perturb(images, _noise(images, generator), sigma, data.levels)
        yield images / data.levels, y, torch.from_numpy(data.labels[first : first + 512]).to(device)


def denoising_error(
    denoiser: nn.Module, data: Dataset, sigma: float, *, seed: int = 0, device: torch.device | str = "cpu"
) -> float:
    """E|x - xhat(x + sigma eps)|^2 per pixel over a data set, one draw an image. Without a denoiser it is sigma^2."""
    denoiser = denoiser.to(device).eval()
    with torch.no_grad():
        total = sum(float((denoiser(y) - x).square().sum()) for x, y, _ in _in_batches(data, sigma, seed, device))
    return total / data.images.size


def accuracy(model: Ebsc, data: Dataset, *, seed: int = 0, device: torch.device | str = "cpu") -> float:
    """Share of f(xhat(x + eps)) that is right, one draw an image: the accuracy of the base classifier of the vote."""
    model = model.to(device).eval()
    with torch.no_grad():
        batches = _in_batches(data, model.sigma, seed, device)
        return sum(int((model(y).argmax(1) == labels).sum()) for _, y, labels in batches) / len(data.labels)
