"""``ebsc sample``: pictures of walks and jumps, and what is said about mixing."""

import json
from dataclasses import replace
from unittest.mock import patch

import matplotlib.image
import numpy as np
import pytest
import tiny
import torch

from ebsc import data
from jobs.sample import _grid, _mixing, _say


def sample(place, *words):
    return tiny.cli("sample", place.model, "--chains", 3, "--steps", 40, "--columns", 5, *words)


@pytest.mark.parametrize("words", [(), ("--friction", 1), ("--start", "data")])
def test_it_draws_walks_and_says_whether_they_mix(place, words):
    done = sample(place, *words)
    assert done.status == 0, done.err
    folder = place.model / "sample"
    record = json.loads((folder / "sample.json").read_text())
    assert f"R-hat {record['mixing']['r_hat']:.3f}" in done.out
    assert str(folder / "walks.png") in done.out
    assert matplotlib.image.imread(folder / "walks.png").std() > 0.1


def test_the_same_seed_gives_the_same_walk_and_another_another(place):
    found = []
    for seed in (1, 1, 2):
        assert sample(place, "--seed", seed).status == 0
        found.append(json.loads((place.model / "sample" / "sample.json").read_text())["mixing"])
    assert found[0] == found[1] != found[2]


def test_what_is_said_of_chains_that_stay_apart_and_of_chains_that_mix():
    rng = np.random.default_rng(0)
    jumps = torch.from_numpy(rng.normal(size=(4, 400, 6)))
    classes = rng.integers(0, 10, size=(4, 400))
    mixed = _mixing(jumps, classes)
    assert mixed["r_hat"] < 1.05
    assert (mixed["classes_each"], mixed["classes_all"]) == (10, 10)
    assert mixed["changes_each"] == pytest.approx(0.9 * 399, rel=0.1)
    assert "have mixed" in _say(mixed, 4, 399)
    apart = _mixing(jumps + 3 * torch.arange(4)[:, None, None], np.arange(4)[:, None] * np.ones((1, 400), dtype=int))
    assert apart["r_hat"] > 2
    assert (apart["classes_each"], apart["classes_all"], apart["changes_each"]) == (1, 4, 0)
    assert "have NOT mixed" in _say(apart, 4, 399)


def test_the_way_from_the_start_does_not_count(place):
    seen = []

    def mixing(jumps, classes):
        seen.append((jumps.shape, classes.shape))
        return _mixing(jumps, classes)

    with patch("jobs.sample._mixing", mixing):
        assert sample(place).status == 0
    assert seen == [((3, 20, 64), (3, 20))]


def test_a_walk_that_diverges_says_so(place):
    done = sample(place, "--step-size", 1e3)
    assert done.status == 2
    assert "the walk diverged at step" in done.err
    assert not (place.model / "sample" / "sample.json").exists()


def test_the_fewest_steps_are_enough_to_say_whether_chains_mix(place):
    done = tiny.cli("sample", place.model, "--chains", 2, "--steps", 7, "--columns", 2)
    assert (done.status, done.err.count("Warning")) == (0, 0)
    assert json.loads((place.model / "sample" / "sample.json").read_text())["mixing"]["r_hat"] > 0


@pytest.mark.parametrize("change", [{"images": np.zeros((20, 1, 12, 12), np.uint8)}, {"levels": 255}])
def test_data_that_are_others_now_are_not_started_from(place, monkeypatch, change):
    test = replace(data.load("digits", "test").take(np.arange(20)), **change)
    monkeypatch.setattr("jobs.sample.data.load", lambda *words: test)
    done = sample(place, "--start", "data")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "no longer holds the images" in done.err


def test_of_two_channels_the_first_is_drawn():
    grid = _grid(torch.rand(2, 2, 3, 2, 4, 4))
    assert grid.shape[0] == 3
    assert torch.equal(grid[0], grid[2])


def test_a_chain_has_its_walk_in_one_row_and_its_jumps_in_the_next():
    pictures = torch.arange(2 * 2 * 3).view(2, 2, 3, 1, 1, 1) / 12
    grid = _grid(pictures.expand(2, 2, 3, 1, 4, 4))
    assert grid.shape == (3, 4 * 5 + 1, 3 * 5 + 1)
    torch.testing.assert_close(grid[0, 3::5, 3::5], pictures.view(4, 3))
