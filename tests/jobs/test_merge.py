"""Runs over disjoint images, or of disjoint draws, add up to one run; whatever else is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from scipy import stats

from jobs import verify
from jobs.entries import read_entry

FIXED = ["--budget", "fixed", "--images", "::24", "--n0", 1]

RUNS = {
    "all": ["--images", "::30"],
    "even": ["--images", "::60"],
    "odd": ["--images", "30::60"],
    "some": ["--images", ":90:30"],
    "elsewhere": ["--images", "30::60", "--seed", 1],
    "even-1": ["--images", "::60", "--seed", 1],
    "longer": ["--images", "30::60", "--n", 300],
    "plain": ["--images", "30::60", "--plain"],
    **{f"fixed-{seed}": [*FIXED, "--seed", seed] for seed in range(4)},
    "fixed-some": [*FIXED, "--images", "::48", "--seed", 1],
    "third": ["--images", "10::120"],
    "fifth": ["--images", "50::120"],
    **{f"backwards-{seed}": [*FIXED, "--images", "::-60", "--seed", seed] for seed in range(2)},
    "tolerant": ["--images", "::60", "--tolerance", 0.5],
    "tolerant-others": ["--images", "30::60", "--tolerance", 0.5],
    **{f"extended-{seed}": [*FIXED, "--seed", seed, "--extend", "n=300", "n=500"] for seed in range(2)},
    **{f"two-sided-{seed}": [*FIXED, "--two-sided", "--seed", seed] for seed in range(2)},
    "two-sided-later": [*FIXED, "--seed", 2, "--extend", "two-sided"],
}


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    """A folder with all of these runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in RUNS.items():
        result = tiny.cli(*finished.certify(*words, out=folder / name))
        assert result.status == 0, result.err
    return folder


@pytest.fixture
def merge(runs, tmp_path):
    """A function that merges runs by name, or by path."""

    def merged(*names, into=tmp_path / "merged"):
        result = tiny.cli("merge", *(runs / name for name in names), "--into", into)
        assert result.status == 0, result.err
        assert str(into) in result.out
        return into

    return merged


def votes(runs, kind, seeds):
    """Their selecting and their estimating votes, and how many estimate."""
    tables = [tiny.columns(runs / f"{kind}-{seed}") for seed in seeds]
    select, counts = (np.sum([table[name] for table in tables], axis=0) for name in ("select", "counts"))
    return select, counts, 200 * len(seeds)


@pytest.mark.parametrize("names", [("even", "odd"), ("odd", "even")])
def test_runs_over_disjoint_images_are_the_run_over_all_of_them(runs, merge, names):
    assert tiny.columns(merge(*names)) == tiny.columns(runs / "all")


def test_the_time_of_every_image_goes_along(runs, merge, tmp_path):
    def seconds(run):
        table = pq.read_table(run / "certificates.parquet")
        return dict(zip(table["index"].to_pylist(), table["seconds"].to_pylist(), strict=True))

    assert seconds(merge("odd", "even")) == seconds(runs / "even") | seconds(runs / "odd")
    one, other = seconds(runs / "fixed-0"), seconds(runs / "fixed-1")
    both = seconds(merge("fixed-0", "fixed-1", into=tmp_path / "both"))
    assert both == pytest.approx({image: one[image] + other[image] for image in one})


@pytest.mark.parametrize("seeds", [(0, 1), (3, 0, 2, 1)])
def test_votes_of_other_seeds_add_up_and_certify_as_one_binomial_test(runs, merge, seeds):
    merged = tiny.columns(merge(*(f"fixed-{seed}" for seed in seeds)))
    select, counts, n = votes(runs, "fixed", seeds)
    assert merged["select"] == select.tolist()
    assert merged["counts"] == counts.tolist()
    assert merged["draws"] == [n + len(seeds)] * 15
    for row, candidate in enumerate(merged["predicted"]):
        test = stats.binomtest(int(counts[row, candidate]), n, alternative="greater")
        assert merged["p_lower"][row] == pytest.approx(test.proportion_ci(0.999, "exact").low, rel=1e-9)
        assert merged["radius"][row] == pytest.approx(max(0.25 * stats.norm.ppf(merged["p_lower"][row]), 0))
        assert merged["outcome"][row] == ("certified" if merged["p_lower"][row] > 0.5 else "abstained")
    assert max(merged["radius"]) > max(tiny.columns(runs / "fixed-0")["radius"])


def test_the_candidate_is_what_all_selecting_votes_select(runs, merge):
    seeds = (0, 1, 2, 3)
    merged = tiny.columns(merge(*(f"fixed-{seed}" for seed in seeds)))
    assert merged["predicted"] == votes(runs, "fixed", seeds)[0].argmax(1).tolist()
    assert merged["predicted"] != tiny.columns(runs / "fixed-0")["predicted"]


def test_two_sided_runs_are_merged_to_a_two_sided_bound(runs, merge):
    merged = tiny.columns(merge("two-sided-0", "two-sided-1"))
    _, counts, n = votes(runs, "two-sided", (0, 1))
    for row, candidate in enumerate(merged["predicted"]):
        rest = np.delete(counts[row], candidate)
        one, other = (
            stats.binomtest(int(counts[row, candidate]), n, alternative="greater"),
            stats.binomtest(int(rest.max()), n, alternative="less"),
        )
        lower = one.proportion_ci(1 - 0.001 / 2, "exact").low
        upper = min(other.proportion_ci(1 - 0.001 / 2, "exact").high, 1 - lower)
        radius = 0.25 / 2 * (stats.norm.ppf(lower) - stats.norm.ppf(upper))
        assert merged["radius"][row] == pytest.approx(max(radius, 0))


def test_a_merged_run_is_a_row_of_a_table(runs, merge):
    merged = merge("fixed-0", "fixed-1")
    row = read_entry(merged)
    assert (row.n, row.sigma, row.alpha, set(row.draws)) == (400, 0.25, 0.001, {402})
    result = tiny.cli("table", merged, runs / "fixed-0", "--format", "csv")
    assert result.status == 0, result.err
    assert [line.split(",")[:3] for line in result.out.splitlines()[1:]] == [
        ["merged", "0.25", "400"],
        ["fixed-0", "0.25", "200"],
    ]
    assert (merged / "certificates.tsv").read_text().count("\n") == 16


def config(run):
    return json.loads((run / "config.json").read_text())


def test_over_disjoint_images_question_and_votes_are_those_of_the_run_over_all_of_them(runs, merge, finished):
    def untimed(run):
        records = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
        return sorted(
            ({**record, "seconds": 0.0, "votes_of": ""} for record in records),
            key=lambda line: (line["image"], line["look"]),
        )

    merged = merge("odd", "even")
    assert config(merged)["question"] == config(runs / "all")["question"]
    assert untimed(merged) == untimed(runs / "all")
    said = config(merged)
    assert said["options"] == config(runs / "odd")["options"] | {"images": "::30", "run_folder": str(merged)}
    assert said["provenance"].keys() >= {"commit", "host", "time"}
    assert said["merged"] == [{"run": str(runs / name), **config(runs / name)} for name in ("odd", "even")]


def test_a_merged_run_goes_on_as_the_run_over_all_images_does(runs, merge, finished, tmp_path):
    merged, whole = merge("even", "odd"), shutil.copytree(runs / "all", tmp_path / "all")
    before, voted = tiny.columns(merged), (merged / "ledger.jsonl").read_bytes()
    for extend in ([], ["--extend", "n=500"]):
        for run in (merged, whole):
            result = tiny.cli(*finished.certify(*RUNS["all"], *extend, out=run))
            assert result.status == 0, result.err
        assert tiny.columns(merged) == tiny.columns(whole)
        assert (merged / "ledger.jsonl").read_bytes().startswith(voted)
        assert (tiny.columns(merged) == before) == (not extend)


@pytest.mark.parametrize(
    "names",
    [
        ("even", "odd"),
        ("even", "third"),
        *((f"{kind}-0", f"{kind}-1") for kind in ("fixed", "two-sided", "extended", "backwards")),
    ],
)
def test_a_merged_run_is_verified_and_kept(merge, names, tmp_path):
    merged = merge(*names)
    result = tiny.cli("verify", merged, "--keep", tmp_path / "kept")
    assert (result.status, result.err) == (0, "")
    assert "merged: verified" in result.out
    assert tiny.cli("verify", tmp_path / "kept" / "merged").status == 0


def test_images_that_are_no_slice_are_named_by_their_parts(merge, finished, tmp_path):
    two = merge("even", "third", into=tmp_path / "two")
    merged = merge(two, "fifth")
    parts = "10::120,50::120,::60"
    for run in (merged, merge(merge("third", "fifth", into=tmp_path / "others"), "even", into=tmp_path / "again")):
        assert config(run)["question"]["images"] == parts
    voted = (merged / "ledger.jsonl").read_bytes()
    result = tiny.cli(*finished.certify("--images", parts, out=merged))
    assert result.status == 0, result.err
    assert (merged / "ledger.jsonl").read_bytes() == voted
    expected = {*range(0, 360, 60), *range(10, 360, 120), *range(50, 360, 120)}
    assert tiny.columns(merged)["index"] == sorted(expected)


def test_extended_runs_add_up_look_by_look(runs, merge):
    merged = merge("extended-0", "extended-1")
    budget = config(merged)["question"]["budget"]
    assert (budget["n"], budget["n0"], budget["extends"]) == (1000, 2, [400, 600])
    assert config(merged)["question"]["seed"] == [0, 1]
    counts = np.sum([tiny.columns(runs / f"extended-{seed}")["counts"] for seed in range(2)], axis=0)
    found = tiny.columns(merged)
    assert found["counts"] == counts.tolist()
    for row, candidate in enumerate(found["predicted"]):
        test = stats.binomtest(int(counts[row, candidate]), 1000, alternative="greater")
        assert found["p_lower"][row] == pytest.approx(test.proportion_ci(0.999, "exact").low, rel=1e-9)


def test_merged_again_into_the_same_folder_it_says_the_same(merge):
    before = tiny.columns(merge("even", "odd"))
    assert tiny.columns(merge("even", "odd")) == before


def test_a_finished_run_that_answers_the_same_is_left_alone(runs, merge, tmp_path):
    whole = shutil.copytree(runs / "all", tmp_path / "all")
    before = tiny.files(whole)
    assert tiny.files(merge("even", "odd", into=whole)) == before
    (whole / "certificates.parquet").unlink()  # as a kill would leave it
    assert tiny.columns(merge("even", "odd", into=whole)) == tiny.columns(runs / "all")
    assert tiny.cli("verify", whole).status == 0


def test_runs_that_change_meanwhile_are_not_merged(runs, tmp_path, monkeypatch):
    """One is extended after it was verified."""
    parts = [Path(shutil.copytree(runs / name, tmp_path / name)) for name in ("even", "odd")]
    ledger = parts[0] / "ledger.jsonl"
    whole = verify.verify

    def verified(run, root):
        found = whole(run, root)
        if run == parts[1]:
            last = json.loads(ledger.read_text().splitlines()[-1])
            ledger.write_text(ledger.read_text() + json.dumps(last | {"look": last["look"] + 1}) + "\n")
        return found

    monkeypatch.setattr("jobs.merge.verify", verified)
    result = tiny.cli("merge", *parts, "--into", tmp_path / "merged")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert "changed while they were merged" in result.err
    assert not (tmp_path / "merged").exists()


def test_a_merged_run_can_be_attacked(merge):
    result = tiny.cli("attack", merge("even", "odd"), "--radii", 0.1, "--n", 100, "--steps", 1, "--images", ":1")
    assert result.status == 0, result.err


def test_merged_runs_can_be_merged(merge, tmp_path):
    two, others = merge("fixed-0", "fixed-1", into=tmp_path / "a"), merge("fixed-2", "fixed-3", into=tmp_path / "b")
    at_once = merge(*(f"fixed-{seed}" for seed in range(4)), into=tmp_path / "c")
    assert tiny.columns(merge(two, others)) == tiny.columns(at_once)


def test_a_seed_that_two_merged_runs_share_is_refused(merge, tmp_path):
    two, others = merge("fixed-0", "fixed-1", into=tmp_path / "a"), merge("fixed-1", "fixed-2", into=tmp_path / "b")
    refused(tmp_path, [two, others], tmp_path / "c", "twice")
    assert not (tmp_path / "c").exists()


def refused(folder, runs, into, message):
    tiny.refused(folder, message, "merge", *runs, "--into", into)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["even", "longer"], r"even and .*longer are not runs of one configuration: budget\.n is 200 and 300$"),
        (["even", "plain"], "plain is false and true"),
        (["even", "odd", "plain"], "plain is false and true"),
        (["fixed-0", "two-sided-1"], r"budget\.two_sided is false and true"),
        (["even", "even-1"], "sequential"),
        (["tolerant", "tolerant-others"], "tolerance"),
        (["even", "elsewhere"], r"one seed, these have \[0, 1\]"),
        (["even", "all"], "share some images but not all"),
        (["all", "some"], "share some images but not all"),
        (["fixed-0", "fixed-some"], "share some images but not all"),
        (["fixed-0", "fixed-1", "fixed-some"], "share some images but not all"),
        (["even", "even"], "different runs"),
        (["even", "../runs/even"], "different runs"),
        (["even"], "two or more"),
        ([], "two or more"),
        (["even", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_what_is_not_one_run_is_refused(runs, tmp_path, names, message):
    names = [name.replace("../runs", f"../{runs.name}") for name in names]
    refused(runs, [runs / name for name in names], tmp_path / "merged", message)
    assert not (tmp_path / "merged").exists()


def test_the_same_draws_are_not_counted_twice(runs, tmp_path):
    copy = shutil.copytree(runs / "fixed-0", tmp_path / "copy")
    refused(tmp_path, [runs / "fixed-0", runs / "fixed-1", copy], tmp_path / "merged", r"twice")
    assert not (tmp_path / "merged").exists()


def test_votes_of_cpus_and_gpus_are_not_added(runs, tmp_path):
    copy = shutil.copytree(runs / "odd", tmp_path / "odd")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"device": "cuda"}))
    refused(tmp_path, [runs / "even", copy], tmp_path / "merged", "on CPUs and on GPUs")
    assert not (tmp_path / "merged").exists()


def test_votes_on_other_pixels_are_not_added(place):
    """The file of the data set was changed between the runs: its images have the same indices and are others."""
    path, rng = place.folder / "mine.npz", np.random.default_rng(0)
    for seed in (0, 1):
        images, labels = rng.integers(0, 17, (4, 8, 8), dtype=np.uint8), np.arange(4)
        np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
        words = ["--no-lattice", "--data", path, "--images", "::", "--budget", "fixed", "--seed", seed]
        assert tiny.cli(*place.certify(*words, out=f"seed-{seed}")).status == 0
    runs = [place.folder / f"seed-{seed}" for seed in (0, 1)]
    refused(place.folder, runs, place.folder / "merged", "checksum|pixels|data")
    assert not (place.folder / "merged").exists()


@pytest.mark.parametrize("order", [1, -1])
def test_a_bound_that_was_changed_later_is_said_of_the_merger(merge, tmp_path, order):
    said = "with probability up to 2 alpha"
    assert said in tiny.cli("table", merge(*["two-sided-0", "two-sided-later"][::order])).out
    assert said not in tiny.cli("table", merge("two-sided-0", "two-sided-1", into=tmp_path / "same")).out


def test_a_run_whose_votes_say_something_else_is_refused(runs, tmp_path):
    spoilt = Path(shutil.copytree(runs / "even", tmp_path / "spoilt"))
    table = pq.read_table(spoilt / "certificates.parquet")
    larger = pa.array([radius + 0.1 for radius in table["radius"].to_pylist()])
    place = table.column_names.index("radius")
    pq.write_table(table.set_column(place, "radius", larger), spoilt / "certificates.parquet")
    result = tiny.cli("merge", spoilt, runs / "odd", "--into", tmp_path / "merged")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert "radius of image 0" in result.err
    assert not (tmp_path / "merged").exists()


def test_an_unfinished_run_is_refused(place, runs):
    (place.run / "certificates.parquet").unlink()
    refused(place.folder, [place.run, runs / "odd"], place.folder / "merged", "not finished")
    assert not (place.folder / "merged").exists()


@pytest.mark.parametrize("into", ["run", "merged"])
def test_a_folder_that_holds_another_run_is_left_alone(place, runs, into):
    """One of those that are merged, or a merger of others."""
    if into == "merged":
        words = [runs / "fixed-0", runs / "fixed-1", "--into", place.folder / "merged"]
        assert tiny.cli("merge", *words).status == 0
    refused(place.folder, [place.run, runs / "odd"], place.folder / into, "holds a run of another configuration")


def test_a_folder_in_which_something_was_certified_without_a_configuration_is_left_alone(place, runs):
    (place.folder / "run" / "config.json").unlink()
    refused(place.folder, [runs / "even", runs / "odd"], place.run, r"no config\.json")


def test_a_run_that_was_begun_on_another_device_is_not_finished_by_a_merger(runs, tmp_path):
    whole = shutil.copytree(runs / "all", tmp_path / "all")
    (whole / "certificates.parquet").unlink()
    (whole / "config.json").write_text(json.dumps(config(whole) | {"device": "cuda"}))
    before = tiny.files(whole)
    result = tiny.cli("merge", runs / "even", runs / "odd", "--into", whole)
    assert (result.status, "was counted on cuda so far" in result.err) == (2, True)
    assert tiny.files(whole) == before
