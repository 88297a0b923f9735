import json
import shutil

import matplotlib
import pytest
import tiny

from jobs.plot import Plot


@pytest.mark.parametrize("kind", ["curves", "radii", "draws"])
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_run_as_every_kind_of_figure(place, kind, ending, start):
    out = place.folder / f"figure.{ending}"
    result = tiny.cli("plot", place.run, "--kind", kind, "-o", out, "--width", 3.3)
    assert (result.status, result.out) == (0, f"written to {out}\n")
    assert out.read_bytes().startswith(start)


def test_it_goes_where_the_kind_says_by_default(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    assert tiny.cli("plot", place.run, "--kind", "radii").status == 0
    assert (place.folder / "radii.png").exists()


@pytest.fixture
def trained(tmp_path):
    lines = [
        {"part": "energy", "step": 50, "steps": 100, "loss": 0.5},
        {"part": "energy", "step": 100, "steps": 100, "loss": 0.25},
        {"part": "classifier", "step": 50, "steps": 50, "loss": 1.0, "acr": 0.3},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_a_training_by_its_parts(trained, tmp_path_factory):
    out = trained / "course.svg"
    assert tiny.cli("plot", trained, "--kind", "training", "-o", out).status == 0
    assert tiny.cli("plot", trained, "--kind", "training", "--quantity", "acr", "-o", out).status == 0
    namesake = tmp_path_factory.mktemp("other") / trained.name
    shutil.copytree(trained, namesake)
    courses = Plot(rows=(trained, namesake), kind="training")._courses()
    assert len(courses) == 2 * len(Plot(rows=(trained,), kind="training")._courses())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quantity", "speed"], "no 'speed' in these trainings: there are acr, loss"),
        (["--width", "0.1"], "width must be 1 to 40 inches"),
    ],
)
def test_what_cannot_be_drawn_of_a_training_is_said(trained, words, message):
    result = tiny.cli("plot", trained, "--kind", "training", *words)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert message in result.err


def test_a_folder_without_a_training_is_said(place):
    result = tiny.cli("plot", place.run, "--kind", "training")
    assert result.status == 2
    assert "no metrics.jsonl" in result.err


def test_accuracy_under_attack_is_drawn_beside_the_certified_one(place):
    result = tiny.cli(
        "attack", place.run, "--model", place.model, "--steps", 1, "--draws", 2, "--n", 200, "--radii", "1"
    )
    assert result.status == 0, result.err
    out = place.folder / "curve.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters, not their outlines
        tiny.cli("plot", place.run, "-o", out)
        assert "run under attack (estimate)" in out.read_text()
        tiny.cli("plot", place.run, "--no-attacks", "-o", out)
        assert "attack" not in out.read_text()
