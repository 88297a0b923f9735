"""A fitted mixture against the one that made the data, and against scikit-learn's own likelihood."""

import numpy as np
import pytest
import torch
from sklearn import mixture as sklearn_mixture

from ebsc import mixture
from ebsc.data import Dataset
from ebsc.errors import InputError


def dataset(images: np.ndarray) -> Dataset:
    return Dataset(
        name="made", split="train", images=images, labels=np.arange(len(images)) % 2, levels=255, n_classes=2
    )


def drawn(count: int = 600) -> Dataset:
    """Three groups of images: dark and many, grey and narrow, bright and wide."""
    rng = np.random.default_rng(0)
    group = rng.choice(3, count, p=[0.5, 0.3, 0.2])
    grey, spread = np.array([0.25, 0.5, 0.75])[group], np.array([0.03, 0.02, 0.06])[group]
    pixels = grey[:, None] + spread[:, None] * rng.normal(size=(count, 12))
    return dataset(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8).reshape(count, 1, 3, 4))


def test_it_finds_the_mixture_that_the_images_come_from():
    found = mixture.fit(drawn(), 3, sigma=0.5)
    order = found.means.mean((1, 2, 3)).argsort()
    np.testing.assert_allclose(found.means[order].flatten(1).mean(1), [0.25, 0.5, 0.75], atol=0.02)
    np.testing.assert_allclose(found.variances[order].sqrt(), [0.03, 0.02, 0.06], rtol=0.1)
    np.testing.assert_allclose(found.log_weights[order].exp(), [0.5, 0.3, 0.2], atol=0.06)
    assert found.sigma == 0.5


def test_as_sigma_vanishes_its_energy_is_the_likelihood_that_scikit_learn_has():
    data = drawn()
    pixels = data.images.reshape(len(data.images), -1) / 255
    theirs = sklearn_mixture.GaussianMixture(3, covariance_type="spherical", random_state=0).fit(pixels)
    ours = mixture.fit(data, 3, sigma=1e-6).double()
    phi = ours(torch.from_numpy(pixels).view(-1, 1, 3, 4)).numpy()
    np.testing.assert_allclose(-phi - 6 * np.log(2 * np.pi), theirs.score_samples(pixels), atol=0.01)


def test_the_seed_decides_and_only_so_many_images_are_used(monkeypatch):
    data = drawn()
    one, again, other = (mixture.fit(data, 5, sigma=0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.means, again.means)
    assert not torch.equal(one.means, other.means)
    monkeypatch.setattr(mixture, "_IMAGES", 50)
    fewer = mixture.fit(data, 1, sigma=0.5)
    assert not torch.allclose(fewer.means, mixture.fit(data, 1, sigma=0.5, seed=1).means, atol=1e-4)
    assert torch.allclose(fewer.means[0], torch.from_numpy(data.images / 255).mean(0).float(), atol=0.1)


def test_there_are_no_more_components_than_images_that_are_used(monkeypatch):
    monkeypatch.setattr(mixture, "_IMAGES", 10)
    with pytest.raises(InputError, match="between 1 and 10"):
        mixture.fit(drawn(), 11, sigma=0.5)
    mixture.fit(drawn(), 2, sigma=0.5, seed=2**40)


@pytest.mark.parametrize("components", [0, -1, 601])
def test_what_cannot_be_fitted_is_refused(components):
    with pytest.raises(InputError, match="components must lie between 1 and 600"):
        mixture.fit(drawn(), components, sigma=0.5)


def test_one_image_is_no_mixture():
    with pytest.raises(InputError, match="two images or more"):
        mixture.fit(drawn().take(np.array([0])), 1, sigma=0.5)
