"""With a tolerance, a run stops when its table is known that well, and says so."""

import json

import pytest
import tiny

from jobs.entries import read_entry

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
WORDS = ["--images", "::12", "--n", 1000, "--radii", "0:1:0.25"]


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    """The run that decides every image, one that draws all for every image, and those with a tolerance."""
    folder = tmp_path_factory.mktemp("tolerances")
    kinds = {
        "all": [],
        "fixed": ["--budget", "fixed", "--alpha", 0.0008],
        "0.2": ["--tolerance", 0.2],
        "0.05": ["--tolerance", 0.05],
        "acr": ["--acr-tolerance", 0.05],
        "both": ["--tolerance", 0.2, "--acr-tolerance", 0.05],
    }
    for name, words in kinds.items():
        result = tiny.cli(*finished.certify(*WORDS, *words, out=folder / name))
        assert result.status == 0, result.err
    return folder


def draws(run):
    return sum(tiny.columns(run)["draws"])


def test_a_wider_tolerance_takes_fewer_draws(runs):
    assert draws(runs / "0.2") < draws(runs / "0.05") < draws(runs / "all")
    assert max(draws(runs / "0.2"), draws(runs / "acr")) <= draws(runs / "both") < draws(runs / "fixed")


@pytest.mark.parametrize("tolerance", [0.2, 0.05])
def test_every_certified_accuracy_is_known_to_the_tolerance_and_never_above_what_all_draws_certify(runs, tolerance):
    known, full = read_entry(runs / str(tolerance)), read_entry(runs / "all")
    off = [full.accuracy(r) - known.accuracy(r) for r in RADII]
    assert all(0 <= miss <= tolerance + 1e-9 for miss in off)


@pytest.mark.parametrize("name", ["acr", "both"])
def test_the_average_certified_radius_is_known_to_its_tolerance(runs, name):
    """Against a fixed budget of as many draws at the share of alpha that the last look of a sequential one has."""
    assert read_entry(runs / "fixed").acr - read_entry(runs / name).acr <= 0.05
    assert "stopped" in tiny.columns(runs / name)["outcome"]


def test_each_certificate_is_one_that_all_draws_of_the_image_give_too(runs):
    known, full = (tiny.columns(runs / name) for name in ("0.2", "all"))
    assert known["predicted"] == full["predicted"]
    assert known["select"] == full["select"]
    assert all(few <= many for few, many in zip(known["p_lower"], full["p_lower"], strict=True))
    assert all(few <= many for few, many in zip(known["draws"], full["draws"], strict=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0.2", "an accuracy at those radii by about 0.2"),
        ("acr", "its ACR by about 0.05"),
        ("both", "an accuracy at those radii by about 0.2 and its ACR by about 0.05"),
    ],
)
def test_the_table_says_to_what_tolerance_it_is_known(runs, name, said):
    result = tiny.cli("table", runs / name, runs / "all", "--radii", "0:1:0.25")
    (note,) = [line for line in result.out.splitlines() if "table was known" in line]
    assert note.startswith(
        f"{name} stopped before that when its table was known: n draws for every image could raise {said} "
    )
    assert "abstain is too high" in note


def test_the_micro_batch_does_not_matter(runs, place):
    assert tiny.cli(*place.certify(*WORDS, "--batch", 100, "--tolerance", 0.05)).status == 0
    assert tiny.columns(place.folder / "new") == tiny.columns(runs / "0.05")


def test_killed_and_started_again_it_stops_with_the_same_table(runs, place):
    words, run = place.certify(*WORDS, "--tolerance", 0.05, "--batch", 64), place.folder / "new"
    total = tiny.lines(runs / "0.05" / "ledger.jsonl")
    tiny.start_and_kill("jobs.certify", words[1:], run, "ledger.jsonl", after=total // 2)
    assert 0 < tiny.lines(run / "ledger.jsonl") < total
    assert tiny.cli(*words).status == 0
    assert tiny.columns(run) == tiny.columns(runs / "0.05")
    assert tiny.lines(run / "ledger.jsonl") == total


def test_stopped_after_any_line_of_the_ledger_it_goes_on_to_the_same_table(runs, place):
    ledger = (runs / "0.2" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    config = (runs / "0.2" / "config.json").read_bytes()
    for kept in range(1, len(ledger), len(ledger) // 4):
        run = place.folder / str(kept)
        run.mkdir()
        (run / "config.json").write_bytes(config)
        (run / "ledger.jsonl").write_bytes(b"".join(ledger[:kept]))
        assert tiny.cli(*place.certify(*WORDS, "--tolerance", 0.2, out=run)).status == 0
        assert tiny.columns(run) == tiny.columns(runs / "0.2")


def test_the_configuration_holds_the_tolerance(runs):
    budgets = [json.loads((runs / name / "config.json").read_text())["question"]["budget"] for name in ("all", "both")]
    assert [budget["tolerance"] for budget in budgets] == [None, {"accuracy": 0.2, "acr": 0.05}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tolerance", 0.2, "--budget", "fixed"], "a tolerance needs --budget sequential"),
        (["--acr-tolerance", 0.2, "--budget", "fixed"], "a tolerance needs --budget sequential"),
        (["--tolerance", 0], "each a positive number, not 0"),
        (["--tolerance=-0.1"], r"each a positive number, not -0\.1"),
        (["--tolerance", "nan"], "each a positive number, not nan"),
        (["--tolerance", "inf"], "each a positive number, not inf"),
        (["--acr-tolerance", 0], "each a positive number, not 0"),
        (["--tolerance", 0.2, "--acr-tolerance", 0], "each a positive number"),
    ],
)
def test_what_is_no_tolerance_is_refused_and_leaves_nothing_behind(place, words, message):
    tiny.refused(place.folder, message, *place.certify(*words))
    assert not (place.folder / "new").exists()


def test_a_run_without_a_tolerance_does_not_go_on_with_one(place):
    message = r"another configuration: budget\.tolerance.*0\.2 here"
    tiny.refused(place.folder, message, *place.certify("--tolerance", 0.2, out="run"))
