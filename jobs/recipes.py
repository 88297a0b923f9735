"""Named recipes of ``ebsc train``: each is a function of sigma that returns the options of one training.

The baselines are the field's, with the hyperparameters of the published MNIST logs (jh-jeong/smoothmix and
alinlab/smoothing-catrs, ``EXPERIMENTS.MD``): LeNet, 90 epochs, batches of 256, a tenth of the learning rate after every
30 epochs, warm-ups of 10. Where those differ by sigma, so do these; a sigma without a log takes the nearest below.
Two things are ours for every recipe: Adam at 1e-3 in place of SGD at 1e-2, and m draws for all 256 images of a batch
where theirs cut it into m steps. The CAT-RS logs do not state the epochs, nor the weight but at sigma 0.25: those are
taken to be as here.
"""

from bisect import bisect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ebsc.augment import Augmentation
from ebsc.errors import InputError
from ebsc.training import Schedule
from jobs.fitting import Watch

__all__ = ["FURTHER", "RECIPES", "named"]

Options = dict[str, Any]

_EPOCH = 60_000 / 256
"""Steps of an epoch of the published trainings."""


def _published(objective: str, draws: int, *, warmup: int = 0, epsilon: float | None = None, **hyper: float) -> Options:
    """What the published trainings share; ``warmup`` in epochs."""
    return {
        "data": "mnist",
        "denoiser": "none",
        "classifier": "lenet",
        "objective": objective,
        "draws": draws,
        "ramp": round(warmup * _EPOCH),
        "epsilon": epsilon,
        "hyper": {name: float(value) for name, value in hyper.items()},
        "head": Schedule(
            steps=round(90 * _EPOCH), batch=256, learning_rate=1e-3, decay="step", clip=1.0, precision="bfloat16"
        ),
    }


def gaussian(sigma: float) -> Options:
    """Cohen et al. 2019."""
    return _published("gaussian", 1)


def stability(sigma: float) -> Options:
    """Li et al. 2019."""
    return _published("stability", 1, weight=2.0)


def smoothadv(sigma: float) -> Options:
    """Salman et al. 2019: PGD of 10 steps, epsilon 255 of 256."""
    return _published("smoothadv", 4, warmup=10, epsilon=255 / 256, steps=10)


def consistency(sigma: float) -> Options:
    """Jeong & Shin 2020."""
    return _published("consistency", 2, weight=10.0 if sigma < 0.5 else 5.0, entropy=0.5)


def macer(sigma: float) -> Options:
    """Zhai et al. 2020; the radius counts after 30 epochs."""
    return _published("macer", 16, warmup=30, weight=16.0 if sigma < 1 else 6.0, margin=8.0, temperature=16.0)


def smoothmix(sigma: float) -> Options:
    """Jeong et al. 2021; the logs at sigma 0.25 and 1 are those of its one-step adversary."""
    steps = 2 if sigma < 0.5 else 4 if sigma < 1 else 8
    return _published("smoothmix", 4, warmup=10, weight=5.0, steps=steps, step=1.0, mix_step=int(steps != 4))


def catrs(sigma: float) -> Options:
    """Jeong et al. 2023; see :func:`ebsc.objectives.catrs` for what differs."""
    return _published("catrs", 4, epsilon=1.0, weight=1.0, steps=4)


def ebsc_small(sigma: float) -> Options:
    """A learned EBSC of small budget: a narrow energy, then energy and LeNet jointly; for a CPU of a few cores."""
    return {
        "data": "mnist",
        "width": 16,
        "classifier": "lenet",
        "objective": "smoothadv",
        "joint": True,
        "epsilon": 1.0,
        "draws": 2,
        "ramp": 1500,
        "denoising": 1.0,
        "hyper": {"steps": 2.0},
        "energy": Schedule(steps=9000, precision="bfloat16", compile=True),
        "head": Schedule(steps=6000, batch=64, learning_rate=1e-3, clip=1.0, precision="bfloat16", compile=True),
        "watch": Watch(looks=6),
    }


def ebsc_cnn(sigma: float) -> Options:
    """A learned EBSC of small budget with a classifier stronger than LeNet: attacks of one step on one draw."""
    small = ebsc_small(sigma)
    return small | {
        "classifier": "cnn",
        "epsilon": 1.5 if sigma >= 1 else 1.0,
        "draws": 1,
        "hyper": {"steps": 1.0},
        "storage": "float16",
        "head": replace(small["head"], steps=7000, learning_rate=2e-3),
        "watch": Watch(looks=2),
    }


def ebsc_cnn_far(sigma: float) -> Options:
    """For larger radii: stronger attacks, on two draws. Meant to go on from an EBSC by :func:`ebsc_cnn`."""
    near = ebsc_cnn(sigma)
    epsilon = 1.25 if sigma < 0.75 else 1.75 if sigma < 1 else 2.5
    return near | {"epsilon": epsilon, "draws": 2, "ramp": 300, "head": replace(near["head"], steps=5000)}


def ebsc_cnn_frozen(sigma: float) -> Options:
    """As :func:`ebsc_cnn_far`, for longer and with the energy left as it is, at two thirds of the time a step."""
    far = ebsc_cnn_far(sigma)
    return far | {
        "joint": False,
        "denoising": 0.0,
        "epsilon": (0.375, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)[bisect((0.25, 0.33, 0.4, 0.6, 0.65, 0.8, 1), sigma)],
        "energy": replace(far["energy"], steps=800, learning_rate=1e-3),
        "head": replace(far["head"], steps=12_000),
    }


def ebsc_cnn_moved(sigma: float) -> Options:
    """As :func:`ebsc_cnn_frozen`, on moved images; to go on from an EBSC, for small sigmas. No weights are picked."""
    frozen = ebsc_cnn_frozen(sigma)
    head = replace(frozen["head"], steps=14_000)
    return frozen | {"augment": Augmentation(shift=1, rotate=12.0, scale=0.12), "held_out": 0, "head": head}


def ebsc_cnn_draws(sigma: float) -> Options:
    """As :func:`ebsc_cnn_frozen`, on four draws of half as many images, in smaller steps; no weights are picked.

    Meant to go on from an EBSC by :func:`ebsc_cnn`, at sigma 1 for a higher average certified radius.
    """
    frozen = ebsc_cnn_frozen(sigma)
    head = replace(frozen["head"], batch=32, learning_rate=1e-3)
    return frozen | {"epsilon": 1.25 if sigma < 1 else 1.5, "draws": 4, "ramp": 0, "held_out": 0, "head": head}


def ebsc_cnn_bounded(sigma: float) -> Options:
    """As :func:`ebsc_cnn_frozen`, by a bounded loss: to go on from an EBSC, for radii near three times sigma."""
    return _continued(sigma, bounded)


def bounded(sigma: float, hyper: dict[str, float]) -> Options:
    """Changes that continue a training by SmoothAdv with a bounded loss; ``hyper``: its hyperparameters.

    No weights are picked: quick certificates reach less than two sigma, and would prefer those that gave up less.
    """
    changes = {"joint": False, "denoising": 0.0, "ramp": 300, "held_out": 0}
    return changes | {"epsilon": 3 * sigma, "hyper": hyper | {"q": 1.0}}


def ebsc_cnn_few(sigma: float) -> Options:
    """As :func:`ebsc_cnn_bounded`, by some of MNIST's digits alone; for sigma 0.75 and above."""
    return _continued(sigma, few)


def few(sigma: float, hyper: dict[str, float]) -> Options:
    """As :func:`bounded`, by some of MNIST's digits alone: those that look like others are given up for these."""
    return bounded(sigma, hyper) | {"classes": (0, 1, 2, 3, 4, 6, 7) if sigma < 1 else (0, 1, 3, 6, 7)}


def ebsc_cnn_sigmoid(sigma: float) -> Options:
    """As :func:`ebsc_cnn_bounded`, by a smooth count of lost votes over more draws."""
    continued = _continued(sigma, sigmoid)
    return continued | {"head": replace(continued["head"], steps=6000, batch=32)}


def sigmoid(sigma: float, hyper: dict[str, float]) -> Options:
    """As :func:`bounded`, by a smooth count of lost votes over more draws."""
    return bounded(sigma, hyper) | {"epsilon": round(3.3 * sigma, 6), "draws": 8, "hyper": hyper | {"slope": 8.0}}


def few_sigmoid(sigma: float, hyper: dict[str, float]) -> Options:
    """As :func:`few`, by the loss of :func:`sigmoid`."""
    return few(sigma, hyper) | sigmoid(sigma, hyper)


def _continued(sigma: float, changes: Callable[[float, dict[str, float]], Options]) -> Options:
    """:func:`ebsc_cnn_frozen` with the changes of one of :data:`FURTHER`."""
    frozen = ebsc_cnn_frozen(sigma)
    return frozen | changes(sigma, frozen["hyper"])


def smoothadv_cnn(sigma: float) -> Options:
    """The baseline of :func:`ebsc_cnn`: its classifier under its attack, without a denoiser."""
    ours = ebsc_cnn(sigma)
    same = ("data", "classifier", "objective", "epsilon", "draws", "hyper", "storage", "watch")
    head = replace(ours["head"], steps=16_000, compile=False)
    return {name: ours[name] for name in same} | {"denoiser": "none", "ramp": 3000, "head": head}


def ebsc_full(sigma: float) -> Options:
    """A learned EBSC of full budget: a wide energy, then both under the published SmoothAdv's attack; for a GPU.

    Weights are stored in float16, and so fit into 3 MB.
    """
    adversary = smoothadv(sigma)
    return {
        "data": "mnist",
        "width": 48,
        "classifier": "lenet",
        "joint": True,
        "denoising": 1.0,
        "storage": "float16",
        **{name: adversary[name] for name in ("objective", "draws", "ramp", "epsilon", "hyper")},
        "energy": Schedule(steps=60_000, batch=128, precision="bfloat16", compile=True),
        "head": Schedule(
            steps=round(90 * _EPOCH), batch=256, learning_rate=1e-3, clip=1.0, precision="bfloat16", compile=True
        ),
    }


RECIPES: dict[str, Callable[[float], Options]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(gaussian, stability, smoothadv, consistency, macer, smoothmix, catrs),
        *(smoothadv_cnn, ebsc_small, ebsc_cnn, ebsc_cnn_far, ebsc_cnn_frozen, ebsc_cnn_moved, ebsc_cnn_draws),
        *(ebsc_cnn_bounded, ebsc_cnn_few, ebsc_cnn_sigmoid, ebsc_full),
    )
}
"""Recipes by name."""

FURTHER = {"bounded": bounded, "few": few, "few-sigmoid": few_sigmoid}
"""Changes that continue a training by SmoothAdv for radii near three sigma, to be certified with p_B."""


def named(recipe: str, sigma: float) -> Options:
    """The options of a recipe at a sigma.

    >>> named("consistency", 0.25)["hyper"]
    {'weight': 10.0, 'entropy': 0.5}

    Raises:
        InputError: unknown name.
    """
    if recipe not in RECIPES:
        raise InputError(f"unknown recipe {recipe!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[recipe](sigma)
