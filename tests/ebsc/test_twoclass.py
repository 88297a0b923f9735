"""Two Gaussian classes: the votes find the exact radii, and the certificates err as often as they may."""

import numpy as np
import pytest

from ebsc.budgets import Fixed
from ebsc.twoclass import Point, Problem, Region, certified


def problem(s=0.5, length=1.0):
    return Problem(sigma=0.5, length=length, angle=60.0, s=s)


def test_in_the_plane_denoising_helps_and_hurts():
    region = Region.of(problem(), side=21)
    assert region.gain.max() > 0.3
    assert region.gain.min() < -0.3
    np.testing.assert_allclose(region.gain, -region.gain[::-1, ::-1], atol=1e-6)
    row, column = 3, 14
    x = np.array([region.axis[column], region.axis[row]])
    assert region.ebsc[row, column] == pytest.approx(float(problem().radius(x)))
    assert region.plain[row, column] == pytest.approx(x @ problem().w)


@pytest.mark.parametrize("s", [np.inf, 0.0, 0.5])
@pytest.mark.parametrize("side", [2, 5, 8])
def test_votes_on_images_find_the_exact_radius(side, s):
    point = certified(problem(s=s, length=0.9), side, Fixed(n=20_000), seed=1, number=3)
    assert point.exact == pytest.approx(problem(s=s, length=0.9).at_mean, abs=0.01)
    assert point.low < point.exact < point.high
    assert 0.9 * point.exact < point.certified < point.exact
    assert not point.false
    assert not point.missed


def test_certificates_and_intervals_err_as_often_as_alpha_says():
    points = [certified(problem(), 2, Fixed(n=200, n0=20, alpha=0.3), seed=0, number=number) for number in range(120)]
    assert 0.1 < np.mean([point.false for point in points]) < 0.45
    assert 0.1 < np.mean([point.missed for point in points]) < 0.45
    assert len({point.certified for point in points}) > 10


def test_a_certificate_for_the_losing_class_is_false():
    numbers = {"problem": problem(), "low": -0.9, "high": 0.1}
    assert Point(exact=-0.8, certified=0.05, **numbers).false
    assert not Point(exact=-0.8, certified=0.0, **numbers).false
    assert not Point(exact=-0.8, certified=0.0, **numbers).missed
    assert Point(exact=0.2, certified=0.0, **numbers).missed
