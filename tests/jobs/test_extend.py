"""A finished run is extended to a larger budget: every draw is kept, and it ends as if it had had it from the start."""

import csv
import json
from unittest.mock import patch

import pytest
import tiny

from cluster import certificates
from cluster import folder as run_folder
from cluster.folder import read_config
from cluster.ledger import KEPT, Ledger
from jobs.entries import read_entry

FIXED = ["--budget", "fixed"]


def certify(place, *words, out="new"):
    result = tiny.cli(*place.certify(*words, out=out))
    assert result.status == 0, result.err
    return place.folder / out


def records(run):
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]


def untimed(run):
    return [{**record, "seconds": 0.0} for record in records(run)]


def cut(run):
    """Leave a run as a kill would, after nine records; returns these."""
    kept = b"".join((run / "ledger.jsonl").read_bytes().splitlines(keepends=True)[:9])
    (run / "ledger.jsonl").write_bytes(kept)
    for name in certificates.FILES:
        (run / name).unlink()
    return kept


def test_a_run_of_gpus_does_not_go_on_on_cpus(place):
    extend = [*place.certify(out="run"), "--extend", "n=1000"]
    place.reconfigure(lambda config: config.update(device="cuda"))
    before = tiny.files(place.run)
    refused = tiny.cli(*extend)
    assert (refused.status, "counted on cuda so far" in refused.err) == (2, True)
    assert tiny.files(place.run) == before
    place.reconfigure(lambda config: config.update(device="cpu"))
    assert tiny.cli(*extend).status == 0
    assert read_config(place.run)["device"] == "cpu"


WAYS = {
    "n": ([], ["n=1000"]),
    "n_by_n": ([], ["n=600", "n=1000"]),
    "fixed": (FIXED, ["n=1000"]),
    "two_sided": (["--two-sided"], ["n=1000"]),
    "radii": (["--radii", "0", "--n", 1000], ["radii=0:1:0.5"]),
    "radii_and_n": (["--radii", "0"], ["radii=0:1:0.5", "n=1000"]),
    "n_and_radii": (["--radii", "0"], ["n=1000", "radii=0:1:0.5"]),
}


@pytest.mark.parametrize("name", WAYS)
def test_an_extended_run_keeps_its_draws_and_ends_as_one_with_that_budget_from_the_start(place, name):
    words, extend = WAYS[name]
    run = certify(place, *words)
    before, drawn = (run / "ledger.jsonl").read_bytes(), sum(tiny.columns(run)["draws"])
    certify(place, *words, "--extend", *extend)
    assert tiny.columns(run) == tiny.columns(certify(place, *words, "--extend", *extend, out="fresh"))
    assert (run / "ledger.jsonl").read_bytes().startswith(before)
    looks = [(record["image"], record["look"]) for record in records(run)]
    assert len(looks) == len(set(looks)) > before.count(b"\n")
    assert sum(tiny.columns(run)["draws"]) > drawn


@pytest.mark.parametrize(
    ("words", "extend"),
    [(FIXED, ["n=1000"]), ([*FIXED, "--two-sided"], ["n=300", "n=600", "n=1000"])],
    ids=["one-sided", "two-sided"],
)
def test_an_extended_fixed_budget_certifies_what_the_larger_one_does(place, words, extend):
    certify(place, *words)
    extended = certify(place, *words, "--extend", *extend)
    assert tiny.columns(extended) == tiny.columns(certify(place, *words, "--n", 1000, out="plain"))


def test_a_fixed_budget_takes_the_two_sided_bound_from_the_same_votes(place):
    run = certify(place, *FIXED)
    recorded, one_sided = (run / "ledger.jsonl").read_bytes(), tiny.columns(run)
    assert tiny.cli("verify", run, "--no-labels", "--keep", place.folder / "kept").status == 0
    certify(place, *FIXED, "--extend", "two-sided")
    assert (run / "ledger.jsonl").read_bytes() == recorded
    assert tiny.columns(run)["radius"] != one_sided["radius"]
    assert tiny.columns(run / "earlier" / "0") == one_sided
    fresh = tiny.columns(certify(place, *FIXED, "--two-sided", out="fresh"))
    assert tiny.columns(run) == fresh
    assert tiny.columns(certify(place, *FIXED, "--extend", "two-sided", out="kept/new")) == fresh


@pytest.mark.parametrize("order", [["two-sided", "n=1000"], ["n=1000", "two-sided"]], ids="-then-".join)
def test_a_fixed_budget_takes_more_draws_and_the_other_bound_in_any_order(place, order):
    run = certify(place, *FIXED)
    for words in (order[:1], order):
        certify(place, *FIXED, "--extend", *words)
    fresh = certify(place, *FIXED, "--two-sided", "--extend", "n=1000", out="fresh")
    assert tiny.columns(run) == tiny.columns(fresh)
    assert len(list((run / "earlier").iterdir())) == 2


def test_with_more_radii_a_run_is_one_that_was_asked_for_all_of_them(place):
    extended = certify(place, "--n", 1000, "--radii", 0)
    certify(place, "--n", 1000, "--radii", 0, "--extend", "radii=0:1:0.5")
    plain = certify(place, "--n", 1000, "--radii", "0:1:0.5", out="plain")
    assert tiny.columns(extended) == tiny.columns(plain)
    assert read_entry(extended).decided == (0.0, 0.5, 1.0)
    assert read_entry(extended / "earlier" / "0").decided == (0.0,)


def test_more_draws_certify_more(place):
    before = read_entry(place.run)
    after = read_entry(certify(place, "--extend", "n=2000", out="run"))
    assert after.acr > before.acr
    assert (before.n, after.n) == (200, 2000)


def test_the_earlier_table_is_kept_as_it_was(place):
    before, table = tiny.files(place.run), tiny.columns(place.run)
    certify(place, "--extend", "n=1000", out="run")
    earlier = place.run / "earlier" / "0"
    assert tiny.files(earlier) == {
        name: before[name] for name in ("config.json", "certificates.parquet", "certificates.tsv")
    }
    assert tiny.columns(earlier) == table != tiny.columns(place.run)


def test_the_earlier_table_stands_beside_the_new_one(place):
    shown = tiny.cli("table", place.run, "--format", "csv").out.splitlines()[1]
    certify(place, "--extend", "n=1000", out="run")
    result = tiny.cli("table", place.run / "earlier" / "0", place.run, "--format", "csv")
    assert result.status == 0, result.err
    _, earlier, now = csv.reader(result.out.splitlines())
    assert (earlier[0], now[0]) == ("0", "run")
    assert earlier[1:] == shown.split(",")[1:]
    assert (earlier[2], now[2]) == ("200", "1000")


def test_a_run_is_extended_again_by_a_longer_chain(place):
    certify(place, "--extend", "n=600", out="run")
    middle = tiny.columns(place.run)
    certify(place, "--extend", "n=600", "n=1000", out="run")
    fresh = certify(place, "--extend", "n=600", "n=1000", out="fresh")
    assert tiny.columns(place.run) == tiny.columns(fresh)
    assert [read_entry(place.run / "earlier" / step).n for step in "01"] == [200, 600]
    assert tiny.columns(place.run / "earlier" / "1") == middle


def test_a_chain_in_which_a_step_adds_nothing(place):
    run = certify(place, "--radii", "0:1:0.5")
    before = tiny.columns(run)
    certify(place, "--radii", "0:1:0.5", "--extend", "radii=0", "n=1000")
    fresh = certify(place, "--radii", "0:1:0.5", "--extend", "n=1000", out="fresh")
    assert tiny.columns(run) == tiny.columns(fresh)
    assert before in [tiny.columns(path) for path in (run / "earlier").iterdir()]


def test_started_again_an_extended_run_says_the_same_and_changes_nothing(place):
    certify(place, "--extend", "n=1000", out="run")
    before = tiny.files(place.run)
    certify(place, "--extend", "n=1000", out="run")
    assert tiny.files(place.run) == before


def test_a_kept_run_is_extended_as_the_run_itself_and_a_damaged_one_is_not(place):
    kept, damaged = place.folder / "kept" / "run", place.folder / "damaged" / "run"
    for run in (kept, damaged):
        assert tiny.cli("verify", place.run, "--keep", run.parent).status == 0
    recorded, packed = (place.run / "ledger.jsonl").read_bytes(), (kept / KEPT).read_bytes()
    certify(place, "--extend", "n=1000", out="run")
    certify(place, "--extend", "n=1000", out="kept/run")
    assert tiny.columns(kept) == tiny.columns(place.run)
    assert sorted(map(json.dumps, untimed(kept))) == sorted(map(json.dumps, untimed(place.run)))
    extended = (kept / "ledger.jsonl").read_bytes()
    assert extended.startswith(recorded)
    assert not (kept / KEPT).exists()
    (kept / KEPT).write_bytes(packed)  # as a kill between the two would leave it
    certify(place, "--extend", "n=1000", out="kept/run")
    assert (kept / "ledger.jsonl").read_bytes() == extended
    assert not (kept / KEPT).exists()
    (damaged / KEPT).write_bytes((damaged / KEPT).read_bytes()[:-20])
    before = tiny.files(damaged)
    result = tiny.cli(*place.certify("--extend", "n=1000", out="damaged/run"))
    assert result.status == 2
    assert "ledger.jsonl.xz is damaged" in result.err
    assert tiny.files(damaged) == before | {"lock": b""}


def test_an_unfinished_run_can_be_extended_and_has_no_earlier_table(place):
    kept = cut(place.run)
    certify(place, "--extend", "n=1000", out="run")
    assert tiny.columns(place.run) == tiny.columns(certify(place, "--extend", "n=1000", out="fresh"))
    assert (place.run / "ledger.jsonl").read_bytes().startswith(kept)
    assert not (place.run / "earlier").exists()


def test_an_unfinished_run_of_a_fixed_budget_can_take_the_two_sided_bound(place):
    run = certify(place, *FIXED)
    kept = cut(run)
    certify(place, *FIXED, "--extend", "two-sided")
    assert tiny.columns(run) == tiny.columns(certify(place, *FIXED, "--two-sided", out="fresh"))
    assert (run / "ledger.jsonl").read_bytes().startswith(kept)


def test_the_workers_time_of_earlier_draws_is_in_the_new_table(place):
    certify(place, "--extend", "n=1000", out="run")
    total = sum(record["seconds"] for record in records(place.run))
    assert certificates.seconds(place.run).sum() == pytest.approx(total)
    assert (certificates.seconds(place.run) >= certificates.seconds(place.run / "earlier" / "0")).all()


# -- interrupted ----------------------------------------------------------------------------------------------------


def test_killed_while_it_is_extended_a_run_goes_on_to_the_same_certificates(place):
    words = ["--images", "::20", "--batch", 64]
    run = certify(place, *words)
    before, table = tiny.lines(run / "ledger.jsonl"), tiny.columns(run)
    longer = place.certify(*words, "--extend", "n=1000")
    tiny.start_and_kill("jobs.certify", longer[1:], run, "ledger.jsonl", before + 20)
    assert not (run / "certificates.parquet").exists()
    assert tiny.columns(run / "earlier" / "0") == table
    certify(place, *words, "--extend", "n=1000")
    assert tiny.columns(run) == tiny.columns(certify(place, *words, "--extend", "n=1000", out="fresh"))
    assert tiny.columns(run / "earlier" / "0") == table


@pytest.mark.parametrize("files", range(5))
def test_stopped_while_the_table_is_put_away_nothing_is_lost(place, files):
    """After so many files of the folder are written."""
    before, write, written = tiny.columns(place.run), run_folder.write_whole, []

    def writing(path, data):
        if len(written) == files:
            raise tiny.Stopped
        written.append(path)
        write(path, data)

    with patch.object(run_folder, "write_whole", writing), pytest.raises(tiny.Stopped):
        tiny.cli(*place.certify("--extend", "n=1000", out="run"))
    certify(place, "--extend", "n=1000", out="run")
    assert tiny.columns(place.run / "earlier" / "0") == before
    assert read_entry(place.run / "earlier" / "0").n == 200
    assert tiny.columns(place.run) == tiny.columns(certify(place, "--extend", "n=1000", out="fresh"))


# -- refused --------------------------------------------------------------------------------------------------------


def refused(place, message, *words, out="run"):
    tiny.refused(place.folder, message, *place.certify(*words, out=out))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"budget\.extends is \[200\] there, \[\] here; budget\.n is 1000 there, 200 here"),
        (["--n", 1000], r"budget\.extends is \[200\] there, \[\] here"),
        (["--extend", "n=2000"], r"budget\.n is 1000 there, 2000 here"),
        (["--extend", "n=600", "n=1000"], r"budget\.extends is \[200\] there, \[200, 600\] here"),
    ],
)
def test_an_extended_run_goes_on_only_under_its_own_command_or_a_longer_one(place, words, message):
    certify(place, "--extend", "n=1000", out="run")
    refused(place, f"another configuration: .*{message}", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n=200"], "larger n: not 200 after 200"),
        (["n=150"], "larger n: not 150 after 200"),
        (["n=600", "n=600"], "larger n: not 600 after 200, 600"),
        (["n=600", "n=500"], "larger n: not 500 after 200, 600"),
        ([f"n={2**31}"], r"below 2\^31"),
        (["nonsense"], "extend 'nonsense': give n=DRAWS or radii="),
        (["two-sided"], "extend 'two-sided': give n=DRAWS or radii="),
        (["n"], "extend 'n': give n=DRAWS"),
        (["n="], "extend 'n=': give n=DRAWS"),
        (["n=-5"], "give n=DRAWS"),
        (["n=1e6"], "give n=DRAWS"),
        (["m=1000"], "give n=DRAWS"),
        (["n=1000", "nonsense"], "extend 'nonsense'"),
        (["radii="], "radii ''"),
        (["radii=x"], "give numbers >= 0"),
        (["n=1000", "--tolerance", 0.1], "a run with a tolerance cannot be extended"),
        (["n=1000", "--acr-tolerance", 0.1], "a run with a tolerance cannot be extended"),
        (["n=1000", "--seed", 1], "another configuration: .*seed is 0 there, 1 here"),
        (["n=1000", "--plain"], "another configuration: .*plain is false there, true here"),
        (["n=1000", "--n", 300], r"another configuration: .*budget\.n is 200 there, 1000 here"),
        (["n=1000", "--budget", "fixed"], "another configuration: .*budget.kind"),
        (["n=1000", "--two-sided"], "another configuration: .*two_sided"),
    ],
)
def test_what_is_no_extension_of_the_run_is_refused_and_changes_nothing(place, words, message):
    refused(place, message, "--extend", *words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("radii=0:1:0.5", "extend 'radii=0:1:0.5': give n=DRAWS or two-sided$"),
        ("n=100", "larger n: not 100 after 200"),
        ("x", "give n=DRAWS or two-sided$"),
    ],
)
def test_a_fixed_budget_has_no_radii_to_extend(place, word, message):
    certify(place, *FIXED)
    refused(place, message, *FIXED, "--extend", word, out="new")


def test_in_a_new_folder_a_wrong_word_leaves_nothing_behind(place):
    refused(place, "larger n", "--extend", "n=200", out="new")
    assert not (place.folder / "new").exists()


def test_a_run_that_is_held_is_not_extended(place):
    with Ledger(place.run, json.loads((place.run / "config.json").read_text())):
        refused(place, "in use by another process", "--extend", "n=1000")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines[:2], lines[2][:20] + b"\n", *lines[3:]], "line 3 is not a ledger line"),
        (lambda lines: [lines[0], *lines], "damaged or foreign"),
        (lambda lines: [*lines, b"Dear diary"], "damaged or foreign"),
    ],
    ids=["torn", "twice", "foreign"],
)
def test_a_damaged_run_is_not_extended_and_keeps_its_table(place, damage, message):
    path = place.run / "ledger.jsonl"
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    refused(place, message, "--extend", "n=1000")
