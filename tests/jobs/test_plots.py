import matplotlib
import numpy as np
import pytest
import tiny
from PIL import Image

from ebsc import data
from ebsc.errors import InputError
from jobs.entries import Entry
from jobs.plots import curves, denoised


def entry(name, radius):
    radius = np.asarray(radius)
    return Entry(name=name, index=np.arange(len(radius)), radius=radius, abstained=radius == 0)


ENTRIES = [entry("one", [0.1, 0.5, 0.0, 1.2]), entry("other", [0.25, 0.0, 0.0, 0.0])]


def has_content(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    return min(pixels.shape) > 100 and pixels.std() > 5


def test_curves_are_a_picture(tmp_path):
    curves(ENTRIES, tmp_path / "curve.png")
    assert has_content(tmp_path / "curve.png")


def test_a_run_that_certifies_nothing_has_a_curve_too(tmp_path):
    curves([*ENTRIES, entry("nothing", [0.0, 0.0])], tmp_path / "curve.png")
    assert has_content(tmp_path / "curve.png")


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_ending_chooses_the_format(tmp_path, ending, start):
    curves(ENTRIES, tmp_path / f"curve.{ending}")
    assert (tmp_path / f"curve.{ending}").read_bytes().startswith(start)


def test_the_legend_does_not_round_up(tmp_path):
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters, not their outlines
        curves([entry("almost a half", [0.4999, 0.4999])], tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert "almost a half (ACR 0.499)" in text


def test_denoised_digits_are_a_picture(tmp_path):
    net, _ = tiny.nearest_mean()
    denoised(net, data.load("digits", "test"), tmp_path / "denoised.png", images=3)
    assert has_content(tmp_path / "denoised.png")


def test_denoised_images_in_colour_are_a_picture(tmp_path):
    net, _ = tiny.nearest_mean()
    digits = data.load("digits", "test").take(np.arange(2))
    colour = data.Dataset(
        name="colour",
        split="test",
        images=digits.images.repeat(3, axis=1),
        labels=digits.labels,
        levels=16,
        n_classes=10,
    )
    denoised(net.plain(), colour, tmp_path / "colour.png")
    assert has_content(tmp_path / "colour.png")


def test_a_figure_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot write the figure"):
        curves(ENTRIES, tmp_path / "nowhere" / "curve.png")
