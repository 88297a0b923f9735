"""Geometry against closed forms, brute force and exhaustive search."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.geometry import kernel_margins, most_certified, nearest, overlap, predicted_radius, shell, shell_overlap


def dataset(images, labels, levels=255, n_classes=3) -> Dataset:
    images, labels = np.asarray(images), np.asarray(labels)
    images = images.reshape(len(images), 1, 1, -1)
    return Dataset(name="mine", split="test", images=images, labels=labels, levels=levels, n_classes=n_classes)


def noise_images(count, dtype=np.uint8, pixels=100, seed=0) -> Dataset:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, pixels), dtype=np.uint8)
    images = images if dtype == np.uint8 else (images / 255).astype(np.float32)
    return dataset(images, generator.integers(0, 3, count))


def simplex(count, dimension=784) -> Dataset:
    """Images with one white pixel each: all at distance sqrt(2)."""
    return dataset(255 * np.eye(count, dimension, dtype=np.uint8), np.arange(count) % 3)


def brute_distances(one: Dataset, other: Dataset) -> np.ndarray:
    x, y = (data.images.reshape(len(data.images), -1).astype(np.float64) for data in (one, other))
    unit = one.levels if one.on_lattice else 1
    return np.linalg.norm(x[:, None] - y, axis=2) / unit


@pytest.mark.parametrize("dimension", [1, 2, 64, 784])
def test_the_shell_is_where_noise_lies(dimension):
    norms = 0.5 * np.linalg.norm(np.random.default_rng(0).normal(size=(20_000, dimension)), axis=1)
    radius, thickness = shell(0.5, dimension)
    assert abs(norms.mean() - radius) < 5 * thickness / 20_000**0.5
    assert norms.std() == pytest.approx(thickness, rel=0.03)


def test_in_high_dimension_the_shell_is_thin():
    radius, thickness = shell(2.0, 150_528)
    assert radius == pytest.approx(2 * 150_528**0.5, rel=1e-5)
    assert thickness == pytest.approx(2**0.5, rel=1e-3)
    assert shell(1.0, 1) == pytest.approx(((2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5))


def test_overlap_is_the_integral_of_the_smaller_density():
    at = np.linspace(-10, 10, 200_001)
    smaller = np.minimum(norm.pdf(at, 0, 0.7), norm.pdf(at, 1.3, 0.7))
    assert overlap(np.array([1.3]), 0.7)[0] == pytest.approx(smaller.sum() * (at[1] - at[0]), abs=1e-6)


@pytest.mark.parametrize(("distance", "dimension"), [(1.0, 64), (4.0, 784)])
def test_overlap_of_shells_against_monte_carlo(distance, dimension):
    eps = 0.5 * np.random.default_rng(0).normal(size=(20_000, dimension))
    own = np.linalg.norm(eps, axis=1)
    eps[:, 0] += distance
    moved = np.linalg.norm(eps, axis=1)
    thresholds = np.linspace(own.min(), moved.max(), 400)
    shared = ((moved[:, None] < thresholds).mean(0) + (own[:, None] > thresholds).mean(0)).min()
    assert shell_overlap(distance, 0.5, dimension) == pytest.approx(shared, abs=0.02)
    assert shell_overlap(distance, 0.5, dimension) > overlap(np.array([distance]), 0.5)[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("other", [True, False])
def test_nearest_against_brute_force(dtype, other, monkeypatch):
    monkeypatch.setattr("ebsc.geometry._ROWS", 7)
    monkeypatch.setattr("ebsc.geometry._COLUMNS", 16)
    images, references = noise_images(30, dtype), noise_images(50, dtype, seed=1)
    distances = brute_distances(images, references)
    distances[(images.labels[:, None] == references.labels) == other] = np.inf
    found = nearest(images, references, other=other)
    np.testing.assert_allclose(found, distances.min(1), rtol=1e-15 if dtype == np.uint8 else 1e-9)


def test_nearest_of_a_simplex_and_where_there_is_none():
    assert nearest(simplex(5), simplex(5), other=True).tolist() == [2**0.5] * 5
    alone = dataset(np.zeros((2, 3), np.uint8), [1, 1])
    assert nearest(alone, alone, other=True).tolist() == [np.inf, np.inf]


def test_images_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="one shape on one lattice"):
        nearest(noise_images(2), noise_images(2, np.float32), other=True)


# -- what no classifier exceeds -------------------------------------------------------------------------------------


def test_two_images_at_a_distance_d_are_both_certified_up_to_half_of_it():
    two = dataset(np.array([[0], [51]], np.uint8), [0, 1])  # D = 1/5
    assert most_certified(two, (0.0, 0.0999, 0.1, 0.1001, 9.0)).tolist() == [2, 2, 2, 1, 1]
    same = dataset(np.array([[0], [51]], np.uint8), [1, 1])
    assert most_certified(same, (9.0,)).tolist() == [2]


def test_equal_images_of_two_classes_cannot_both_be_certified():
    assert most_certified(dataset(np.zeros((2, 4), np.uint8), [0, 1]), (0.0, 0.1)).tolist() == [2, 1]


def test_a_hand_made_graph_of_conflicts():
    """A star of a grey image among four of another class, and three images of three classes close together."""
    star = np.array([[100, 0], [80, 0], [120, 0], [100, 20], [100, 235]])
    triangle = np.array([[0, 250], [0, 240], [10, 250]])
    images = np.concatenate([star, triangle]).astype(np.uint8)
    some = dataset(images, [0, 1, 1, 1, 1, 0, 1, 2])
    # r = 11/255: pairs nearer than 22: the star's centre with three leaves (1 image lost), the triangle (2 lost)
    assert most_certified(some, (11 / 255,)).tolist() == [5]
    assert most_certified(some, (6 / 255,)).tolist() == [7]  # pairs nearer than 12: 0-1 and 0-2 of the triangle


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_one_and_no_worse_than_a_matching(seed, monkeypatch):
    """Against the largest set without a conflict, found by trying all of them."""
    monkeypatch.setattr("ebsc.geometry._ROWS", 4)
    monkeypatch.setattr("ebsc.geometry._COLUMNS", 5)
    some = noise_images(11, pixels=2, seed=seed)
    distances = brute_distances(some, some)
    radii = 0.05, 0.1, 0.2, 0.4
    bounds = most_certified(some, radii)
    for radius, bound in zip(radii, bounds, strict=True):
        conflict = (distances < 2 * radius) & (some.labels[:, None] != some.labels)
        sets = (part for size in range(12) for part in combinations(range(11), size))
        largest = max(len(part) for part in sets if not conflict[np.ix_(part, part)].any())
        assert largest <= bound <= 11
        left, matched = conflict.copy(), 0
        while left.any():
            i, j = np.argwhere(left)[0]
            left[[i, j]] = left[:, [i, j]] = False
            matched += 1
        assert bound <= 11 - matched


# -- the Bayes classifier of kernels --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_between_two_images_the_margins_have_their_exact_law(dtype):
    """Log odds of D^2 / (2 sigma^2) +- D / sigma; right at a share Phi(D / (2 sigma)); radius D / 2."""
    pixels = np.array([[0] * 16, [51] * 16], np.uint8)  # D = 4/5
    pixels = pixels if dtype == np.uint8 else (pixels / 255).astype(np.float32)
    two, many = dataset(pixels, [0, 1]), dataset(pixels.repeat(200, axis=0), np.repeat([0, 1], 200))
    sigmas = 0.3, 0.8
    margins = kernel_margins(many, two, sigmas, indices=np.arange(400), draws=128)
    assert margins.shape == (2, 400, 128)
    for sigma, odds in zip(sigmas, margins, strict=True):
        share, spread = norm.cdf(0.8 / (2 * sigma)), 0.8 / sigma
        error = 5 / odds.size**0.5
        assert abs((odds > 0).mean() - share) < error * (share * (1 - share)) ** 0.5
        assert abs(odds.mean() - 0.8**2 / (2 * sigma**2)) < error * spread
        assert odds.std() == pytest.approx(spread, rel=0.02)
        assert predicted_radius(odds, sigma).mean() == pytest.approx(0.4, rel=0.05)


def test_margins_against_the_posterior_by_definition(monkeypatch):
    monkeypatch.setattr("ebsc.geometry._ROWS", 7)
    images, references, sigma = noise_images(5, pixels=6), noise_images(40, pixels=6, seed=1), 0.4
    found = kernel_margins(images, references, (sigma,), indices=np.arange(3, 8), draws=3, seed=2)[0]
    from ebsc.noise import Normals, Stream

    for row in range(5):
        z = Normals(2, (1, 1, 6), "cpu").block(row + 3, Stream.ESTIMATE, 0)[:3].double().numpy().reshape(3, 6)
        y = images.images[row].ravel() / 255 + sigma * z
        squared = ((y[:, None] - references.images.reshape(40, 6) / 255) ** 2).sum(2)
        mass = np.stack([np.exp(-squared / (2 * sigma**2))[:, references.labels == c].sum(1) for c in range(3)], 1)
        own = images.labels[row]
        expected = np.log(mass[:, own] / np.delete(mass, own, axis=1).max(1))
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_a_class_without_a_reference_is_never_right():
    two = dataset(np.array([[0] * 16, [51] * 16], np.uint8), [0, 1])
    third = dataset(np.array([[51] * 16], np.uint8), [2])
    margins = kernel_margins(third, two, (0.5,), indices=np.array([0]), draws=4)
    assert (margins == -np.inf).all()
    assert predicted_radius(margins[0], 0.5).tolist() == [0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 1}, "draws must lie in 2..128, not 1"),
        ({"draws": 129}, "draws must lie in 2..128"),
        ({"seed": -1}, "seed must not be negative"),
        ({"sigmas": (0.5, 0.0)}, "sigma must be a positive number"),
        ({"references": dataset(np.zeros((2, 100), np.uint8), [1, 1])}, "two classes"),
        ({"references": noise_images(9, pixels=50)}, "one shape"),
    ],
)
def test_what_is_out_of_range_is_refused(changes, message):
    words = {"references": noise_images(9), "sigmas": (0.5,), "indices": np.arange(4)} | changes
    with pytest.raises(InputError, match=message):
        kernel_margins(noise_images(4), **words)


def test_the_same_draws_whatever_the_selection():
    images, references = noise_images(6), noise_images(20, seed=1)
    every = kernel_margins(images, references, (0.5,), indices=np.arange(6), draws=4)
    some = kernel_margins(images.take(np.array([4, 1])), references, (0.5,), indices=np.array([4, 1]), draws=4)
    torch.testing.assert_close(torch.from_numpy(every[:, [4, 1]]), torch.from_numpy(some), rtol=1e-4, atol=1e-3)
