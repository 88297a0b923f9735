"""``ebsc report``: what the page says, that it is honest, whole and harmless. How it behaves: ``tests/browser``."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
import torch

from cluster import certificates
from ebsc import data, model
from ebsc.campaign import SPAN, Unit
from ebsc.noise import Normals, Stream, perturb
from ebsc.votes import Voter
from jobs import attacked
from jobs.charts import staircase
from jobs.entries import Entry
from jobs.gallery import affordable, cards, instructive
from jobs.report import TOO_LARGE

QUICK = ["--steps", 3, "--draws", 4, "--n", 500]


class Page(HTMLParser):
    """Tags with their attributes, and the text of each element of a kind."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def report(place, *words):
    out = place.folder / "report.html"
    done = tiny.cli("report", *words, "-o", out)
    assert done.status == 0, done.err
    return out.read_text(), done


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory):
    """A page of a run that was attacked, made once."""
    copy = type(finished)(shutil.copytree(finished.folder, tmp_path_factory.mktemp("reported") / "place"))
    for radii in ("0.2,2", "certified"):
        assert tiny.cli("attack", copy.run, "--model", copy.model, *QUICK, "--radii", radii).status == 0
    return copy, report(copy, copy.run, "--radii", "0:1:0.25")[0]


def test_the_table_is_that_of_ebsc_table(made):
    place, text = made
    rows = tiny.cli("table", place.run, "--radii", "0:1:0.25", "--format", "csv").out.splitlines()
    page = Page(text)
    heads = [text for text in page.texts["button"] if text.strip()]
    assert heads == rows[0].split(",")
    body = re.search(r'<table id="table".*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    cells = [
        re.sub("<.*?>", "", cell, flags=re.DOTALL).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", body, re.DOTALL)
    ]
    assert cells == rows[1].split(",")
    notes = tiny.cli("table", place.run, "--radii", "0:1:0.25").out.split("\n\n")[1].splitlines()
    assert [note for note in notes if note in page.texts["li"]] == [note for note in notes if "marked" not in note]


def test_it_says_what_is_behind_a_row(made):
    place, text = made
    config = json.loads((place.run / "config.json").read_text())
    values = {re.sub("<.*?>", "", a): b for a, b in re.findall(r"<tr><th scope=.row.>(.*?)</th><td>(.*?)</td>", text)}
    assert values["budget.n"] == "200"
    assert values["seed"] == "0"
    assert values["torch"] == json.dumps(config["provenance"]["versions"]["torch"]).replace('"', "&#34;")
    assert config["provenance"]["commit"] in text
    assert config["question"]["checksum"] in text
    assert config["question"]["model"] in text
    assert f"{certificates.read(place.run)['draws'].sum():,}" in text
    assert values["denoiser.kind"] == "&#34;residual&#34;"


def test_it_loads_nothing(made):
    _, text = made
    page = Page(text)
    assert not [attrs for tag, attrs in page.tags if tag in ("link", "iframe", "object", "embed", "base")]
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert re.match(r"#|data:image/png;base64,", attrs.get(name) or "#"), (tag, attrs)
    styles = " ".join(page.texts["style"])
    assert not re.search(r"@import|url\(", styles)
    (policy,) = [attrs["content"] for attrs in page.of("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_it_can_be_read_by_machines_that_read_aloud(made):
    page = Page(made[1])
    assert page.of("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.of("img"))
    assert all("scope" in head for head in page.of("th"))
    assert {"caption", "main", "nav", "h1"} <= page.texts.keys()
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.tags:
        names = attrs.get("aria-labelledby", "").split() + attrs.get("for", "").split()
        assert set(names + [link[1:] for link in [attrs.get("href", "")] if link.startswith("#")]) <= set(ids)


def test_a_name_cannot_smuggle_anything_in(place):
    wicked = "<script>alert(1)<" + "\N{DIVISION SLASH}script><img src=x onerror=alert(2)>&\"'"
    run = place.run.rename(place.folder / wicked)
    plain = type(place)(place.folder)
    text, _ = report(plain, run, "--title", "</title><script>alert(3)</script>")
    assert wicked not in text
    assert "alert(1)" in text
    page = Page(text)
    assert [set(attrs) for attrs in page.of("script")] == [{"type", "id"}] * (len(page.of("script")) - 2) + [set()] * 2
    assert not [attrs for _, attrs in page.tags if {"onerror", "onload"} & set(attrs)]


@pytest.mark.parametrize("images", [1, 40, 10_000])
def test_the_drawn_staircase_is_never_above_the_true_one(images):
    random = np.random.default_rng(images)
    radius = np.maximum(random.normal(0.5, 0.5, images), 0).round(3 if images > 50 else 9)
    row = Entry(name="", index=np.arange(images), radius=radius, abstained=radius == 0)
    grid, shares = staircase(row, (0.0, 0.25, 0.5, 9.0))
    assert len(grid) <= 405
    assert grid[0] == 0
    assert (np.diff(grid) > 0).all()
    assert grid[-1] <= max(radius.max(), 0)
    for r in np.concatenate([grid, random.uniform(0, radius.max() + 0.1, 300)]):
        place = np.searchsorted(grid, r)
        drawn = shares[place] if place < len(grid) else 0.0
        true = 100 * row.accuracy(r)
        assert drawn <= true + 1e-9
        assert drawn >= true - 100 / 400 - 0.1 - 1e-9
    for r in (0.0, 0.25):
        if r in grid:
            assert shares[grid == r] == np.floor(1000 * row.accuracy(r) + 1e-9) / 10


def test_pictures_are_those_of_the_run(made):
    place, text = made
    rows = certificates.read(place.run)
    net, _ = model.load(place.model)
    digits = data.load("digits", "test")
    question = json.loads((place.run / "config.json").read_text())["question"]
    found = attacked.read(place.run / "attack")
    shown = cards(rows, instructive(rows, 6), net, digits, question, [found])
    assert sorted(card.index for card in shown) == rows["index"].tolist()
    by_index = {int(row["index"]): row for row in rows}
    for card in shown:
        row = by_index[card.index]
        assert float(card.radius) <= row["radius"] < float(card.radius) + 0.001
        assert card.predicted == (row["predicted"] if row["radius"] else None)
        assert sum(vote.count for vote in card.votes) == row["counts"].sum()
        assert {int(vote.name): vote.count for vote in card.votes if vote.name.isdigit()} == {
            c: row["counts"][c] for c in map(int, [vote.name for vote in card.votes if vote.name.isdigit()])
        }
        titles = [panel.title.split(",")[0] for panel in card.panels]
        assert titles[:3] == ["clean x", "noisy y", "x\u0302(y)"]
        tried = (found.lines["length"] > 0) & (found.lines["index"] == card.index)
        assert titles[3:] == ["attacked"] * bool(tried.any())
        assert ("certified radius" in card.attack or "no certificate" in card.attack) == tried.any()
        assert all(panel.uri in text for panel in card.panels[:3])


def test_the_noise_shown_is_the_first_draw_of_the_run(made):
    place, _ = made
    rows, digits = certificates.read(place.run), data.load("digits", "test")
    net, spec = model.load(place.model)
    index = int(rows["index"][1])
    z = Normals(0, (1, 8, 8), "cpu").block(index, Stream.ESTIMATE, 0)[:1]
    noisy = perturb(torch.from_numpy(digits.images[index : index + 1]), z, spec.sigma, 16)
    seen = []
    voter = Voter(net, digits.images[index : index + 1], levels=16, n_classes=10, batch=1)
    voter._classify = lambda batch: seen.append(batch.clone()) or torch.zeros(len(batch), dtype=torch.int64)
    spans = np.array([(0, index, Stream.ESTIMATE, 0, 1)], dtype=SPAN)
    voter.count(Unit(0, 0, spans))
    assert torch.equal(seen[0], noisy)


def test_the_attack_is_shown_and_called_an_estimate(made):
    _, text = made
    assert "attack left right or abstaining" in text
    assert re.search(r"Attacked over L2 length \d\.\d+ \(outside the certified radius\)", text)
    item = json.loads(re.search(r'id="curves-data">(.*?)</script>', text)[1])
    assert "under attack (estimate)" in json.dumps(item)


def test_a_run_whose_model_is_gone_says_so_and_the_rest_is_there(place):
    place.reconfigure(lambda config: config["options"].update(model=str(place.folder / "elsewhere")))
    text, _ = report(place, place.run)
    assert re.search(r"no pictures, as .*is not a model folder", text)
    assert "<img" not in text
    assert "budget.n" in text


def test_a_run_on_data_that_changed_has_no_pictures(place):
    place.reconfigure(lambda config: config["question"].update(checksum="0" * 64))
    assert "checksums differ" in report(place, place.run)[0]


def test_plain_runs_and_logs_and_merged_runs_are_rows_too(place):
    assert tiny.cli(*place.certify("--plain", out="plain")).status == 0
    assert tiny.cli(*place.certify("--images", "1::60", out="other")).status == 0
    assert tiny.cli("merge", place.run, place.folder / "other", "--into", place.folder / "merged").status == 0
    log = shutil.copy(place.run / "certificates.tsv", place.folder / "somebody_sigma0.25.tsv")
    text, _ = report(place, place.folder / "plain", place.folder / "merged", log, "--envelope")
    assert "2 runs and 1 published log on" in text
    assert text.count(">Part ") == 2
    assert "rounded to nearest in print" in text
    assert "envelope of published logs" in text
    assert "f(y), without a denoiser" in text


def test_a_log_alone_makes_a_report(place):
    text, _ = report(place, place.run / "certificates.tsv")
    assert "1 published log on 6" in text
    assert 'id="pictures"' not in text


def test_pictures_can_be_left_out(place):
    text, done = report(place, place.run, "--gallery", 0)
    assert "<img" not in text
    assert done.err == ""


def test_images_in_colour_are_pictures(tmp_path):
    net, _ = tiny.nearest_mean()
    digits = data.load("digits", "test").take(np.arange(2))
    images = digits.images.repeat(3, axis=1)
    colour = data.Dataset(name="c", split="test", images=images, labels=digits.labels, levels=16, n_classes=10)
    rows = np.zeros(1, [("index", "i8"), ("label", "i8"), ("predicted", "i8"), ("radius", "f8"), ("counts", "i4", 10)])
    (card,) = cards(rows, [(0, "abstains")], net.plain(), colour, {"seed": [3, 4], "sigma": 0.25})
    assert len(card.panels) == 2
    assert card.predicted is None


def test_what_is_instructive():
    rows = np.zeros(40, dtype=[("radius", "f8"), ("label", "i8"), ("predicted", "i8")])
    rows["radius"] = np.arange(40) / 10
    rows["predicted"][5:8] = 1  # certified, and wrong
    rows["radius"][:3] = 0
    found = dict(instructive(rows, 12))
    assert len(found) == 12
    assert [row for row, kind in found.items() if kind == "largest radius"] == [39]
    assert [row for row, kind in found.items() if kind == "smallest radius"] == [3]
    assert [row for row, kind in found.items() if kind.startswith("certified, but")] == [7, 6]
    assert len([row for row, kind in found.items() if kind == "abstains"]) == 2
    between = [row for row, kind in found.items() if kind == "between"]
    assert len(between) == 6
    assert between == sorted(between, reverse=True)
    assert len(instructive(rows[:2], 12)) == 2


def test_thirty_runs_have_room():
    assert affordable(12, 30, (1, 8, 8)) == 12
    assert affordable(12, 30, (3, 224, 224)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name at least one"),
        (["--rho", 2], "rho must lie"),
        (["--gallery", -1], "gallery"),
        (["nowhere"], "no such run folder or log"),
    ],
)
def test_mistakes_are_one_line_and_status_2(words, said, tmp_path, place):
    rows = words if words == ["nowhere"] else [*([place.run] if words else []), *words]
    done = tiny.cli("report", *rows, "-o", tmp_path / "report.html")
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_cannot_be_written_is_said(place):
    done = tiny.cli("report", place.run, "--gallery", 0, "-o", place.folder / "nowhere" / "report.html")
    assert done.status == 2
    assert "cannot write" in done.err


def test_a_report_that_is_too_large_says_so(place, monkeypatch):
    monkeypatch.setattr("jobs.report.TOO_LARGE", 1000)
    assert "above 5 MB" in report(place, place.run)[1].err


def test_it_is_small(made):
    assert len(made[1]) < TOO_LARGE / 2


def test_other_commands_do_not_load_bokeh():
    program = (
        "import sys, jobs.cli; [jobs.cli.load(name) for name in jobs.cli.COMMANDS]; sys.exit('bokeh' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
