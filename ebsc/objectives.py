"""Objectives of smoothed classifiers: small functions of the outputs on a batch under fixed draws of noise.

Each works with any denoiser, or none: with one it trains an empirical Bayes smoothed classifier, XHAT(epsilon) of
Saremi & Srivastava 2020 (arXiv 2005.04504) when it attacks; without one, the classifier of the paper that is named.

Every function takes f under noise (see :class:`NoisyNetwork`), clean images ``x`` of shape (row, channel, height,
width) in [0, 1] and labels of shape (row,), and returns the loss, a scalar, and the logits it was taken on, (draw, row,
class). Formulas were read in the authors' own code; the defaults are those of their published MNIST logs at sigma 0.5,
as far as these are known.
"""

import inspect
from collections.abc import Callable
from functools import partial
from math import inf
from sys import float_info
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, nll_loss, softmax

from ebsc.ascent import Gradient, ascend, project, within
from ebsc.device import as_graph
from ebsc.errors import InputError
from ebsc.model import Ebsc
from ebsc.training import Batch, Objective, Randomness

__all__ = [
    "OBJECTIVES",
    "Labels",
    "Logits",
    "Network",
    "NoisyNetwork",
    "catrs",
    "check_training",
    "consistency",
    "expected_cross_entropy",
    "gaussian",
    "hyperparameters",
    "learned",
    "macer",
    "smoothadv",
    "smoothmix",
    "stability",
]

Images = Float[Tensor, "row channel height width"]
Labels = Int64[Tensor, " row"]
Logits = Float[Tensor, "draw row class"]
Result = tuple[Tensor, Logits]


class Network:
    """A model as objectives use it: logits that can be trained through, and their gradients in the image.

    Args:
        model: f(xhat(y)).
        compiled: compile both, with ``torch.func`` inside ``torch.compile``: gradients through xhat are second
            derivatives of the energy.
    """

    def __init__(self, model: Ebsc, *, compiled: bool = False) -> None:
        self.model = model
        self._compiled = compiled
        self.logits = as_graph(self._logits, compiled)
        self.denoise = as_graph(lambda y: self.model.denoiser(y).float(), compiled)
        self._gradients: dict[Callable, Callable] = {}

    def _logits(self, y: Float[Tensor, "draw row channel height width"]) -> Logits:
        return self.model(y.flatten(0, 1)).float().unflatten(0, y.shape[:2])

    def gradient(
        self, value: Callable[..., Tensor], noise: Float[Tensor, "draw row channel height width"], *targets: Tensor
    ) -> Gradient:
        """X -> the gradient of ``value(logits of x + noise, *targets)`` in x, in evaluation mode."""
        if value not in self._gradients:

            def gradient(x: Tensor, noise: Tensor, *targets: Tensor) -> Tensor:
                return torch.func.grad(lambda v: value(self._logits(v + noise), *targets))(x)

            self._gradients[value] = as_graph(gradient, self._compiled)

        def at(x: Tensor) -> Tensor:
            before = self.model.training
            self.model.eval()
            found = self._gradients[value](x, noise, *targets)
            self.model.train(before)
            return found

        return at


class NoisyNetwork:
    """f(xhat(x + eps_i)) under m fixed draws eps_i: the attack and the loss see the same noise.

    Attributes:
        network: see :class:`Network`.
        noise: sigma times standard normals, (draw, row, channel, height, width).
        random: more random numbers of this step.
        strength: of the attack, in (0, 1]: grows while training warms up.
    """

    def __init__(self, network: Network, noise: Tensor, random: Randomness, strength: float = 1.0) -> None:
        self.network = network
        self.noise = noise
        self.random = random
        self.strength = strength
        self.sigma = network.model.sigma

    def __call__(self, x: Float[Tensor, "*draw row channel height width"]) -> Logits:
        """Logits at x + eps_i; x is one point for all draws, or one for each."""
        return self.network.logits(x + self.noise)

    def ascent(self, value: Callable[..., Tensor], *targets: Tensor) -> Gradient:
        """Gradient in x of ``value(logits, *targets)`` under these draws."""
        return self.network.gradient(value, self.noise, *targets)


def _mean(logits: Logits) -> Float[Tensor, "row class"]:
    """Mean over draws of the outputs: the probabilities of the smoothed classifier."""
    return softmax(logits, 2).mean(0)


def expected_cross_entropy(logits: Logits, labels: Labels) -> Tensor:
    """-log of the mean probability over draws, summed over rows: what an attack on the smoothed classifier raises."""
    return nll_loss(_mean(logits).clamp(min=1e-20).log(), labels, reduction="sum")


def _each(logits: Logits, labels: Labels) -> Float[Tensor, "draw row"]:
    """Cross-entropy of every draw of every row."""
    targets = labels.expand(logits.shape[:2])
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def _kl(target: Float[Tensor, "*row class"], logits: Float[Tensor, "*row class"]) -> Float[Tensor, "*row"]:
    """KL(target || softmax(logits)), with 0 log 0 = 0, where its gradient is finite too."""
    log_target = target.clamp(min=torch.finfo(target.dtype).tiny).log()
    return (target * (log_target - log_softmax(logits, -1))).sum(-1)


def gaussian(f: NoisyNetwork, x: Images, labels: Labels) -> Result:
    """Gaussian augmentation: cross-entropy under noise (Cohen, Rosenfeld & Kolter 2019, arXiv 1902.02918)."""
    logits = f(x)
    return _each(logits, labels).mean(), logits


def stability(f: NoisyNetwork, x: Images, labels: Labels, *, weight: float = 2.0) -> Result:
    """Stability training: cross-entropy on the clean image, and its outputs close to those under noise.

    Li, Chen, Wang & Carin 2019, arXiv 1809.03113; the distance is the cross-entropy of the two outputs.
    """
    logits = f(x)
    clean = f.network.logits(x[None])
    distance = -(softmax(clean, 2) * log_softmax(logits, 2)).sum(2).mean()
    return _each(clean, labels).mean() + weight * distance, logits


def smoothadv(
    f: NoisyNetwork,
    x: Images,
    labels: Labels,
    *,
    epsilon: float = 1.0,
    steps: int = 10,
    q: float = 0.0,
    slope: float = 0.0,
) -> Result:
    """SmoothAdv: cross-entropy, or with q or slope > 0 a bounded loss, under noise at the point where PGD on g ends.

    Salman et al. 2019, arXiv 1906.04584. Steps of length 2 epsilon / steps; pixels stay in [0, 1]. Published MNIST
    logs: epsilon 255/256.

    ``q``, at most 1, is ours: the loss of a draw is the generalised cross-entropy (1 - p^q) / q, p the label's
    probability, whose limit at 0 is the cross-entropy (Zhang & Sabuncu 2018, arXiv 1805.07836, for noisy labels). It
    is bounded: images that cannot be certified that far no longer outweigh those that can. Its gradient vanishes with
    p, so it is for a classifier that is trained already. The attack stays as it is.

    ``slope``, in place of q, is ours too: the loss of an image is sigmoid(slope (1/2 - p)), p the label's mean
    probability over the draws. That is a smooth count of lost votes: images at which the vote is far from changing
    sides, won or lost, hardly count. It wants draws enough to know p.
    """
    epsilon *= f.strength
    point = ascend(
        f.ascent(expected_cross_entropy, labels),
        x,
        steps=steps,
        step=2 * epsilon / steps,
        onto=within(x, epsilon),
    )
    logits = f(point)
    if slope:
        p = _mean(logits).gather(1, labels[:, None])
        return torch.sigmoid(slope * (0.5 - p)).mean(), logits
    loss = _each(logits, labels)
    return (-torch.expm1(-q * loss) / q if q else loss).mean(), logits


def consistency(f: NoisyNetwork, x: Images, labels: Labels, *, weight: float = 5.0, entropy: float = 0.5) -> Result:
    """Consistency regularisation: every draw's output close to their mean, and the mean far from uniform.

    Jeong & Shin 2020, arXiv 2006.04062: cross-entropy + weight mean_i KL(mean || F_i) + entropy H(mean). Published
    MNIST logs: 2 draws; weight 10 at sigma 0.25.
    """
    logits = f(x)
    mean = _mean(logits)
    spread = _kl(mean.expand_as(logits), logits).mean()
    uncertainty = -(mean * mean.clamp(min=1e-20).log()).sum(1).mean()
    return _each(logits, labels).mean() + weight * spread + entropy * uncertainty, logits


def macer(
    f: NoisyNetwork,
    x: Images,
    labels: Labels,
    *,
    weight: float = 16.0,
    margin: float = 8.0,
    temperature: float = 16.0,
) -> Result:
    """MACER: cross-entropy of the mean output, and a hinge on the certified radius of rows that are right.

    Zhai et al. 2020, arXiv 2001.02378; ``temperature`` multiplies the logits of the radius. The radius counts once the
    ramp of training is over. Published MNIST logs: 16 draws, a ramp of a third of training; weight 6 at sigma 1.
    """
    logits = f(x)
    loss = nll_loss((_mean(logits) + 1e-10).log(), labels)
    if f.strength < 1:
        return loss, logits
    best = _mean(temperature * logits).topk(2)
    gap = torch.special.ndtri(best.values[:, 1]) - torch.special.ndtri(best.values[:, 0])
    counts = (best.indices[:, 0] == labels) & torch.isfinite(gap) & (gap.abs() <= margin)
    # picked before the inverse: through an infinite one the gradient would be NaN even where it is masked
    top = best.values[counts]
    hinge = torch.special.ndtri(top[:, 1]) - torch.special.ndtri(top[:, 0]) + margin
    return loss + weight * f.sigma / 2 * hinge.sum() / len(labels), logits


def smoothmix(
    f: NoisyNetwork,
    x: Images,
    labels: Labels,
    *,
    weight: float = 5.0,
    steps: int = 4,
    step: float = 1.0,
    mix_step: int = 0,
) -> Result:
    """SmoothMix: from an image to an adversarial example without a ball, outputs go linearly to uniform.

    Jeong et al. 2021, arXiv 2111.09277; mixed with lambda uniform in [0, 1/2]. Published MNIST logs: ``mix_step`` 1
    (the image after one step takes the clean one's place) at sigma 0.25 and 1, where ``steps`` is 2 and 8.
    """
    ascent = f.ascent(expected_cross_entropy, labels)

    def walk(start: Tensor, count: int) -> Tensor:
        return ascend(ascent, start, steps=count, step=step, onto=lambda point: point.clamp(0, 1))

    near = walk(x, mix_step)
    far = walk(near, steps - mix_step)
    if mix_step:
        near = (x + project(near - x, f.strength * step * mix_step)).clamp(0, 1)
    logits = f(near)
    mean = _mean(logits)
    share = f.random.uniform(1)[0] / 2
    between = torch.lerp(near, far, share[:, None, None, None])
    target = torch.lerp(mean, torch.full_like(mean, 1 / mean.shape[1]), share[:, None])
    mixed = f(between)
    right = mean.argmax(1) == labels
    loss = (right * _kl(target.expand_as(mixed), mixed)).mean()
    return _each(logits, labels).mean() + weight * f.strength * loss, logits


def catrs(
    f: NoisyNetwork, x: Images, labels: Labels, *, epsilon: float = 1.0, weight: float = 1.0, steps: int = 4
) -> Result:
    """CAT-RS: the easiest draws of uncertain images, the worst-case draw of images that are certain.

    Jeong, Kim & Shin 2023, arXiv 2212.09000. With p the share of draws that vote for the label and K ~ Bin(m, p), at
    least 1: the K smallest cross-entropies, and where K = m, max_i KL(target || F(x + eps_i*)) with every eps_i*
    within epsilon of eps_i before it is given that one's mean and size again. The authors take the target from votes
    of a network trained before; here it is the network's own mean output. As theirs, its attack has no ramp.
    """
    logits = f(x)
    target = _mean(logits.detach())
    share = (logits.argmax(2) == labels).float().mean(0)
    kept = (f.random.uniform(len(logits)) < share).sum(0).clamp(min=1)
    order = torch.arange(len(logits), device=kept.device)[:, None]
    easy = (_each(logits, labels).sort(0).values * (order < kept)).mean(0)
    points = ascend(
        f.network.gradient(_expected_divergence, torch.zeros_like(f.noise), target),
        x + f.noise,
        steps=steps,
        step=2 * epsilon / steps,
        onto=lambda points: x + _moments(f.noise + project(points - x - f.noise, epsilon), f.noise),
    )
    worst = f.network.logits(points)
    hard = _kl(target.expand_as(worst), worst).max(0).values
    return (easy + weight * (kept == len(logits)) * hard).mean(), worst


def _expected_divergence(logits: Logits, target: Float[Tensor, "row class"]) -> Tensor:
    """Mean over draws of KL(target || output), summed over rows."""
    return _kl(target.expand_as(logits), logits).mean(0).sum()


def _moments(
    noise: Float[Tensor, "draw row channel height width"], like: Float[Tensor, "draw row channel height width"]
) -> Float[Tensor, "draw row channel height width"]:
    """Noise shifted and scaled to the mean and the root mean square that each draw had before."""
    axes = (2, 3, 4)
    size, wanted = (draws.square().mean(axes, keepdim=True).sqrt() for draws in (noise, like))
    return (noise - noise.mean(axes, keepdim=True)) / size * wanted + like.mean(axes, keepdim=True)


OBJECTIVES: dict[str, Callable[..., Result]] = {
    function.__name__: function for function in (gaussian, stability, smoothadv, consistency, macer, smoothmix, catrs)
}
"""Objectives by name."""


def learned(
    model: Ebsc,
    name: str,
    *,
    levels: int,
    draws: int = 4,
    ramp: int = 0,
    denoising: float = 0.0,
    compiled: bool = False,
    **options: Any,
) -> Objective:
    """An objective by name as training takes it.

    Args:
        model: what is trained.
        name: one of :data:`OBJECTIVES`.
        levels: L, the integer of white.
        draws: m, draws of noise for each image.
        ramp: steps over which the attacks of SmoothAdv and SmoothMix grow to their full strength, and after which
            MACER's radius term begins.
        denoising: weight of E|x - xhat|^2 per pixel in units of sigma^2, which keeps phi an energy while it is trained.
        compiled: see :class:`Network`.
        options: hyperparameters of the function.

    Raises:
        InputError: an unknown name or hyperparameter, or draws < 1.
    """
    check_training(draws, ramp, denoising)
    chosen = hyperparameters(name, options)
    function = partial(OBJECTIVES[name], **chosen)
    network = Network(model, compiled=compiled)

    def loss(batch: Batch) -> dict[str, Tensor]:
        x = batch.images / levels
        noise = model.sigma * batch.random.normal(draws, *x.shape[1:])
        f = NoisyNetwork(network, noise, batch.random, min(1.0, (batch.step + 1) / (ramp + 1)))
        value, logits = function(f, x, batch.labels)
        right = (_mean(logits.detach()).argmax(1) == batch.labels).float().mean()
        scalars = {"loss": value, "accuracy": right}
        if denoising:
            error = (network.denoise(x + noise[0]) - x).square().mean()
            scalars |= {"loss": value + denoising * error / model.sigma**2, "denoising_error": error}
        return scalars

    return loss


def check_training(draws: int, ramp: int, denoising: float) -> None:
    """Raise :class:`InputError` unless :func:`learned` takes these."""
    if draws < 1 or ramp < 0 or not 0 <= denoising < inf:
        raise InputError("draws must be at least 1, ramp and the weight of denoising not negative")


_LIMITS = {
    "steps": (1, float_info.max, "of 1 or more"),
    "epsilon": (float_info.min, float_info.max, "above 0"),
    "q": (0, 1, "from 0 to 1"),
}
"""Hyperparameters that do not go from 0 to any size: the least, the most, and how to say so."""


def hyperparameters(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters of an objective, cast to the types that it states.

    Raises:
        InputError: an unknown objective, or a hyperparameter that it does not have or take.
    """
    if name not in OBJECTIVES:
        raise InputError(f"unknown objective {name!r}: choose one of {', '.join(OBJECTIVES)}")
    known = {
        key: parameter
        for key, parameter in inspect.signature(OBJECTIVES[name]).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    chosen = {}
    for key, value in options.items():
        if key not in known:
            raise InputError(f"objective {name} has no {key!r}: it has {', '.join(known) or 'no hyperparameters'}")
        kind = known[key].annotation
        least, most, limits = _LIMITS.get(key, (0, float_info.max, "of 0 or more"))
        if not least <= value <= most or (kind is int and value != int(value)):
            what = "whole number" if kind is int else "finite number"
            raise InputError(f"{key} of objective {name} must be a {what} {limits}, not {value}")
        chosen[key] = kind(value)
    whole = {key: parameter.default for key, parameter in known.items()} | chosen
    if whole.get("mix_step") and whole["mix_step"] >= whole["steps"]:
        raise InputError(f"mix_step of objective {name} must be below its steps, {whole['steps']}")
    if whole.get("q") and whole.get("slope"):
        raise InputError(f"objective {name} takes q or slope, not both: {whole['q']:g} and {whole['slope']:g}")
    return chosen
