import csv

import numpy as np
import pytest
import tiny
from PIL import Image

from ebsc import data, geometry
from jobs.entries import read_entry

RADII = 0.0, 0.25, 0.5, 1.25


def tables(*words):
    """The two tables as dictionaries by column."""
    result = tiny.cli("geometry", "--radii", "0,0.25,0.5,1.25", "--format", "csv", *words)
    assert (result.status, result.err) == (0, "")
    return [list(csv.DictReader(part.splitlines())) for part in result.out.split("\n\n")]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train"), data.load("digits", "test")


def test_the_tables_say_what_the_functions_find(digits):
    train, test = digits
    shells, accuracies = tables("--sigmas", "0.25,1", "--draws", 8)
    distances = geometry.nearest(test, train, other=True)
    margins = geometry.kernel_margins(test, train, (0.25, 1.0), indices=np.arange(360), draws=8)
    for row, sigma, odds in zip(shells, (0.25, 1.0), margins, strict=True):
        assert float(row["sigma"]) == sigma
        assert float(row["shell radius"]) == pytest.approx(sigma * 64**0.5, rel=0.01)
        assert float(row["D: median"]) == pytest.approx(np.median(distances), abs=0.006)
        assert float(row["D: 5%"]) < float(row["D: median"])
        assert float(row["shared mass"]) == pytest.approx(100 * geometry.overlap(distances, sigma).mean(), rel=0.05)
        assert 0 <= 100 * (odds > 0).mean() - float(row["right on y"]) < 0.1
    most = geometry.most_certified(test, RADII)
    radius = geometry.predicted_radius(margins[0], 0.25)
    bound, narrow, wide = ([float(row[f"r={r:g}"]) for r in RADII] for row in accuracies)
    assert bound == pytest.approx(100 * most / 360, abs=0.1)
    assert bound[0] == 100 > bound[-1]
    assert narrow == pytest.approx([100 * ((radius >= r) & (radius > 0)).mean() for r in RADII], abs=0.1)
    assert narrow[0] > 90 > 60 > wide[0]
    assert all(a >= b for a, b in zip(bound, narrow, strict=True))


def test_runs_stand_beside_the_prediction_over_the_same_images(place, digits):
    log = place.folder / "somebody_sigma0.25.tsv"
    log.write_text(
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
        + "".join(f"{i}\t{c}\t{c}\t0.3\t1\t0\n" for i, c in enumerate(digits[1].labels[:200]))
    )
    other = place.folder / "somebody_sigma0.50.tsv"
    other.write_bytes(log.read_bytes())
    _, (_, guess, run, peer) = tables("--sigmas", "0.25", "--runs", place.run, log, other)
    assert [row["certified accuracy"] for row in (run, peer)] == ["run", "somebody_sigma0.25"]
    found = read_entry(place.run).only(np.array([0, 60, 120, 180]))
    assert float(run["r=0.25"]) == 100 * found.accuracy(0.25)
    assert [peer[f"r={r}"] for r in ("0.25", "0.5")] == ["100.0", "0.0"]
    assert float(guess["r=0"]) % 25 == 0  # four images
    result = tiny.cli("geometry", "--sigmas", "0.25", "--runs", place.run, log)
    assert "4 images of digits (test)" in result.out
    assert "Published logs" in result.out
    assert "A proof" in result.out
    log.write_text(log.read_text().replace("\n1\t", "\n5000\t"))
    result = tiny.cli("geometry", "--sigmas", "0.25", "--runs", log)
    assert (result.status, result.err) == (2, f"ebsc: {log} is not about digits (test): its labels are others\n")


def test_images_of_the_training_split_are_not_their_own_neighbours(digits):
    train, _ = digits
    shells, _ = tables("--split", "train", "--images", "::10", "--sigmas", "0.25")
    chosen = np.arange(0, len(train.labels), 10)
    rest = train.take(np.setdiff1d(np.arange(len(train.labels)), chosen))
    margins = geometry.kernel_margins(train.take(chosen), rest, (0.25,), indices=chosen)
    assert 0 <= 100 * (margins > 0).mean() - float(shells[0]["right on y"]) < 0.1


def test_images_off_the_lattice_are_no_hindrance(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (generator.random((40, 4, 4)) / 4 + labels[:, None, None] / 2).astype(np.float32)
    on = np.rint(255 * images).astype(np.uint8)
    np.savez(tmp_path / "x.npz", train_images=on, train_labels=labels, test_images=images, test_labels=labels)
    shells, (bound, guess) = tables("--data", tmp_path / "x.npz", "--sigmas", "0.1", "--draws", 128)
    assert float(shells[0]["D: median"]) == pytest.approx(2, abs=0.5)
    assert (guess["r=0.5"], guess["r=1.25"], bound["r=1.25"]) == ("100.0", "0.0", "50.0")  # D / 2 is about 1


def test_the_figure_is_a_picture(tmp_path):
    result = tiny.cli("geometry", "--images", "::4", "--plot", tmp_path / "x.png")
    assert (result.status, result.err) == (0, "")
    with Image.open(tmp_path / "x.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_other_formats(form):
    result = tiny.cli("geometry", "--images", "::20", "--sigmas", "0.5", "--format", form)
    assert result.status == 0
    assert "shell radius" in result.out
    assert "no classifier exceeds" in result.out


def test_a_run_is_named_by_its_config(place):
    place.reconfigure(lambda config: config["question"].update(split="train"))
    result = tiny.cli("geometry", "--runs", place.run)
    assert result.status == 2
    assert "is about digits (train), not digits (test)" in result.err
