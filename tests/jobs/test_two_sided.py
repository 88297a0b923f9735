"""`--two-sided` bounds the strongest other class as well."""

import json

import pytest
import tiny
from scipy import stats


def certify(place, *words):
    result = tiny.cli(*place.certify("--two-sided", *words))
    assert result.status == 0, result.err
    return place.folder / "new"


def test_the_radius_is_that_of_two_binomial_tests_at_half_of_alpha(place):
    table = tiny.columns(certify(place, "--budget", "fixed", "--images", "::24"))
    certified = 0
    for row, counts in enumerate(table["counts"]):
        candidate = counts.pop(table["predicted"][row])
        one = stats.binomtest(candidate, 200, alternative="greater").proportion_ci(1 - 0.001 / 2, "exact").low
        other = stats.binomtest(max(counts), 200, alternative="less").proportion_ci(1 - 0.001 / 2, "exact").high
        radius = 0.25 / 2 * (stats.norm.ppf(one) - stats.norm.ppf(min(other, 1 - one)))
        assert table["radius"][row] == pytest.approx(max(radius, 0), abs=1e-9)
        certified += radius > 0
    assert 0 < certified < 15


@pytest.mark.parametrize("budget", ["fixed", "sequential"])
def test_the_configuration_says_so(place, budget):
    run = certify(place, "--budget", budget)
    assert json.loads((run / "config.json").read_text())["question"]["budget"]["two_sided"] is True
    assert json.loads((place.run / "config.json").read_text())["question"]["budget"]["two_sided"] is False


def test_a_one_sided_run_does_not_go_on_as_a_two_sided_one(place):
    before = tiny.files(place.folder)
    result = tiny.cli(*place.certify("--two-sided", out="run"))
    assert result.status == 2
    assert result.err.endswith(
        "another configuration: budget.two_sided is false there, true here (-o names another folder)\n"
    )
    assert tiny.files(place.folder) == before
