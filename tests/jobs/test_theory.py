"""What `ebsc theory` prints and draws is what the exact answers and the votes are."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from ebsc.theory import exact_radius, margin, mean_radius, share_lowered
from ebsc.twoclass import Problem
from jobs import theory

PROBLEM = Problem(sigma=0.5, length=1.0, angle=60.0, s=0.5)
QUICK = ["theory", "--n", 300, "--s", "0,0.5", "--angles", "0,60"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The text of a small table, and its figure."""
    path = tmp_path_factory.mktemp("theory") / "figure.png"
    result = tiny.cli(*QUICK, "--plot", path)
    assert (result.status, result.err) == (0, "")
    return result.out, path


def test_the_table_holds_the_exact_numbers():
    rows = list(csv.reader(io.StringIO(tiny.cli(*QUICK, "--format", "csv").out)))
    assert rows[0] == ["exact", "angle", "plain", "s=0", "s=0.5"]
    assert [row[:2] for row in rows[1:]] == [
        [what, angle] for what in ("radius at mu", "mean radius", "lowered, %") for angle in ("0", "60")
    ]
    mu, w = np.array([1.0, 0.0]), np.array([0.5, 0.75**0.5])
    assert rows[2][2:] == [f"{value:.3f}" for value in (margin(mu, w), 1.0, exact_radius(mu, w, mu, 0.5, 0.5))]
    assert rows[4][2:] == [f"{value:.3f}" for value in (margin(mu, w), 1.0, mean_radius(w, mu, 0.5, 0.5))]
    assert rows[6][2:] == ["", "0.0", f"{100 * share_lowered(w, mu, 0.5, 0.5):.1f}"]
    assert rows[1][2:] == rows[3][2:] == ["1.000"] * 3
    assert 1 < float(rows[6][4]) < 20


def test_what_is_said_is_true(shown):
    text, _ = shown
    worse, better = 0.5, float(PROBLEM.at_mean)
    assert (
        "At x = mu denoising raises 2 of 4 radii and lowers 0; most at 60 degrees, s = 0: from 0.500 to 1.000." in text
    )
    assert 0.7 < better < 0.9 > worse
    found = re.search(r"s = 0\.5, where denoising lowers the\s+radius of ([\d.]+)% of the class", text)
    assert float(found[1]) == pytest.approx(100 * PROBLEM.lowered, abs=0.05)
    assert "6 certificates at x = mu from 300 draws each, on images of 8 x 8 pixels: " in text
    along, across, plain, ebsc = (
        float(number)
        for number in re.search(
            r"takes most at \(([-\d.]+), ([-\d.]+)\), where the signed radius is ([-\d.]+) plain and ([-\d.]+) with",
            text,
        ).groups()
    )
    x = np.array([along, across])
    assert along > 0
    assert plain == pytest.approx(x @ PROBLEM.w, abs=0.02)
    assert ebsc == pytest.approx(float(PROBLEM.radius(x)), abs=0.02)
    assert ebsc < plain - 0.3


def test_a_loss_would_be_said():
    rows = [[replace(PROBLEM, s=s) for s in (np.inf, 0.5)]]
    assert theory._compared("There", [[1.0, 0.25]], rows) == (
        "There denoising raises 0 of 1 radii and lowers 1; worst at 60 degrees, s = 0.5: from 1.000 to 0.250."
    )
    assert theory._compared("There", [[1.0, 1.0]], rows) == "There denoising raises 0 of 1 radii and lowers 0."
    assert (
        theory._hurt([[replace(PROBLEM, s=s) for s in (np.inf, 0.0)]])
        == "No point of these classes has its radius lowered."
    )


def test_the_figure_is_a_picture(shown):
    with Image.open(shown[1]) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    assert pixels.std() > 20
    blue, orange = ((pixels @ sign > 60).mean() for sign in (np.array([-1, 0, 1]), np.array([1, 0, -1])))
    assert blue > 0.05
    assert orange > 0.05


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_a_figure_of_one_angle_where_nothing_changes(tmp_path, ending):
    words = ["theory", "--n", 100, "--s", 0, "--angles", 0, "--region-angle", 0, "--length", 4, "--sigma", 0.2]
    result = tiny.cli(*words, "--plot", tmp_path / f"figure.{ending}", "-o", tmp_path / "table.txt")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert (tmp_path / f"figure.{ending}").stat().st_size > 1000
    text = (tmp_path / "table.txt").read_text()
    assert "raises 0 of 1 radii and lowers 0." in text
    assert "denoising changes no radius." in text


def test_the_same_seed_gives_the_same_text(shown):
    text, _ = shown
    assert tiny.cli(*QUICK).out == text
