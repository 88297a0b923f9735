import errno
import os
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import tiny
from matplotlib.figure import Figure
from PIL import Image

from ebsc import data
from ebsc.errors import InputError
from jobs.entries import Entry, envelopes
from jobs.plots import curves, denoised, draws, radii, style, training


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


@pytest.mark.usefixtures("words")
def test_the_legend_does_not_round_up(tmp_path):
    curves([entry("almost a half", [0.4999, 0.4999])], tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert "almost a half (ACR 0.499)" in text


@pytest.mark.usefixtures("words")
def test_the_envelope_is_drawn_over_its_rows_and_alone_has_a_name(tmp_path):
    log = entry("log", [0.5, 0.5, 0.0, 0.0])
    rows = [*ENTRIES, replace(log, rounding=np.zeros(4)), replace(ENTRIES[0], name="float", sound=False)]
    curves(rows, tmp_path / "curve.svg", envelope=True)
    text = (tmp_path / "curve.svg").read_text()
    assert "envelope (2 rows)" in text
    assert "envelope of published logs (1 rows)" in text
    assert not {"one", "other", "log", "float"} & set(re.findall(r">([^<]+)</text>", text))
    best = envelopes(rows)[0][0]
    for radius in np.linspace(0, 1.3, 27):
        assert best.accuracy(radius) == max(row.accuracy(radius) for row in ENTRIES)


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


def test_a_figure_that_cannot_be_finished_leaves_the_one_that_stood_there(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    path.write_bytes(b"before")

    def half(figure, target, **options):
        target.write(b"half")
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(InputError, match="File too large"):
        curves(ENTRIES, path)
    assert path.read_bytes() == b"before"


def letters(path):
    """The words of a figure: letters, not their outlines."""
    return re.sub(r"<[^>]*>", " ", path.read_text())


@pytest.fixture
def words():
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


@pytest.mark.usefixtures("words")
def test_a_histogram_says_what_it_leaves_out(tmp_path):
    rows = [replace(entry("run", [0.3, 0.3, 0.0, 0.0, 1.2]), abstained=np.array([0, 0, 1, 0, 0], bool))]
    radii(rows, tmp_path / "radii.svg")
    assert "run (abstains 20.0%, wrong 20.0%)" in letters(tmp_path / "radii.svg")
    radii([*rows, entry("nothing", [0.0, 0.0])], tmp_path / "radii.png")
    assert has_content(tmp_path / "radii.png")


@pytest.mark.usefixtures("words")
def test_draws_of_runs_and_not_of_logs(tmp_path):
    run = replace(ENTRIES[0], draws=np.array([100, 200, 300, 400]))
    draws([run], tmp_path / "draws.svg")
    assert "one (mean 250)" in letters(tmp_path / "draws.svg")
    with pytest.raises(InputError, match="other is a log"):
        draws([run, ENTRIES[1]], tmp_path / "draws.svg")


@pytest.mark.parametrize("quantity", ["loss", "acr"])
def test_a_training_is_a_picture(tmp_path, quantity):
    training({"one": [(50, 0.5), (100, 0.25)], "two": [(50, 0.0)]}, quantity, tmp_path / "course.png")
    assert has_content(tmp_path / "course.png")


def test_letters_and_lines_fit_a_column_whatever_the_number_of_rows(tmp_path):
    rows = [entry(f"a method with a long name, sigma {number}", [0.1, number]) for number in range(28)]
    curves(rows, tmp_path / "curve.png", width=3.3)
    with Image.open(tmp_path / "curve.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[1] == 660
    edge = np.concatenate([pixels[:, :2].ravel(), pixels[:, -2:].ravel()])
    assert edge.min() == 255  # nothing is cut off


@pytest.mark.usefixtures("words")
def test_any_name_is_a_legend(tmp_path):
    curves([entry("_u", [0.1]), entry("a$b_{c$", [0.2])], tmp_path / "curve.svg")
    assert "_u (ACR 0.100)" in letters(tmp_path / "curve.svg")
    assert "a$b_{c$" in letters(tmp_path / "curve.svg")


def test_28_rows_have_28_styles():
    assert len({tuple(style(number).values()) for number in range(28)}) == 28
