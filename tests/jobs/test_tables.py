import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny

from ebsc import data, model
from ebsc.errors import InputError
from jobs.entries import Entry, common_images, read_entry
from jobs.tables import Table, compare, render

LOG = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t7\t7\t0.953\t1\t0:00:00.591566
20\t2\t2\t0.500\t1\t0:00:00.300609
40\t1\t3\t0.800\t0\t0:00:00.300609
60\t0\t-1\t0.0\t0\t0:00:00.300609
80\t4\t4\t0.25\t1\t0:00:00.300609
100\t4\t4\t0.249\t1\t0:00:00.300609
120\t9\t-1\t0.0\t0\t0:00:00.300609
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "method_sigma0.25.tsv"
    path.write_text(LOG)
    return path


@pytest.fixture
def peer(place, log):
    """A log about images of the data set that `place.run` is about."""
    labels = data.load("digits", "test").labels
    head, *lines = LOG.splitlines()
    rows = []
    for line in lines:
        index, label, predict, *rest = line.split("\t")
        truth = str(labels[int(index)])
        rows.append("\t".join([index, truth, truth if predict == label else "-1", *rest]))
    log.write_text("\n".join([head, *rows]) + "\n")
    return log


def entry(radius, name="run", index=None, **fields):
    radius = np.asarray(radius, dtype=float)
    index = np.arange(len(radius)) if index is None else np.asarray(index)
    return Entry(name=name, index=index, radius=radius, abstained=radius == 0, **fields)


def cells(text):
    """The rows of a csv table by column."""
    return list(csv.DictReader(text.splitlines()))


def test_a_log_against_a_count_by_hand(log):
    row = read_entry(log)
    assert [row.accuracy(r) * 7 for r in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([4, 3, 2, 1, 0])
    assert row.acr == pytest.approx((0.953 + 0.5 + 0.25 + 0.249) / 7)
    assert row.abstained.sum() == 2
    assert (row.sigma, row.published, row.n) == (0.25, True, None)


def test_printed_shares_are_rounded_down(log):
    (row,) = cells(render([read_entry(log)], (0.0, 0.25, 0.5, 0.75, 1.0), "csv"))
    assert [row[f"r={r}"] for r in ("0", "0.25", "0.5", "0.75", "1")] == ["57.1", "42.8", "28.5", "14.2", "0.0"]
    assert row["ACR"] == "0.278"  # 0.27885...
    assert row["sigma"] == "0.25"


@pytest.mark.parametrize("images", [3, 7, 360, 500, 10_000])
def test_printed_accuracy_is_the_share_in_tenths_of_a_per_cent_and_never_above_it(images):
    for right in {0, 1, images // 3, images // 2, images - 1, images}:
        row = entry([1.0] * right + [0.0] * (images - right))
        (shown,) = cells(render([row], (0.5,), "csv"))
        assert round(float(shown["r=0.5"]) * 10) == right * 1000 // images


def test_a_printed_share_that_abstains_is_never_below_it():
    (shown,) = cells(render([entry([1.0] * 2999 + [0.0])], (0.5,), "csv"))
    assert (shown["abstain"], shown["r=0.5"]) == ("0.1", "99.9")


def test_a_radius_counts_from_what_it_certifies_upwards():
    row = entry([0.25, 0.2499999, 0.0])
    assert row.accuracy(0.25) == pytest.approx(1 / 3)
    assert row.accuracy(0.0) == pytest.approx(2 / 3)


def test_only_common_images_are_compared():
    one, other = entry([1.0, 0.5, 0.25], index=[0, 20, 40]), entry([0.75, 0.1], index=[60, 20])
    one, other = common_images([one, other])
    assert (one.radius.tolist(), other.radius.tolist()) == ([0.5], [0.1])
    assert one.index.tolist() == other.index.tolist() == [20]


def test_the_order_of_images_does_not_matter(log):
    lines = LOG.splitlines(keepends=True)
    other = log.with_name("other.tsv")
    other.write_text("".join([lines[0], *reversed(lines[1:])]))
    result = tiny.cli("table", log, other, "--format", "csv")
    one, two = cells(result.out)
    assert {**one, "run": "", "sigma": ""} == {**two, "run": "", "sigma": ""}


ROWS = [
    entry([0.5, 0.3, 0.0], "a_b", sigma=0.25, n=1000, alpha=0.001, draws=np.array([300, 301, 300])),
    entry([1.0, 0, 0], "peer"),
]


def test_text():
    head, rule, *rows = render(ROWS, (0.0, 0.5)).splitlines()[:4]
    assert head.split() == ["run", "sigma", "n", "alpha", "draws/image", "ACR", "abstain", "r=0", "r=0.5"]
    assert set(rule) <= set("- ")
    assert [row.split() for row in rows] == [
        ["a_b", "0.25", "1000", "0.001", "300", "0.266", "33.4", "66.6*", "33.3*"],
        ["peer", "0.333*", "66.7", "33.3", "33.3*"],
    ]


def test_markdown():
    lines = render(ROWS, (0.0, 0.5), "markdown").splitlines()
    assert all(re.fullmatch(r"\|(.+\|){9}", line) for line in lines[:4])
    assert [cell.strip() for cell in lines[2].split("|")][1:3] == ["a_b", "0.25"]


def test_latex():
    text = render(ROWS, (0.0, 0.5), "latex")
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin", r"\end")] == [1] * 5
    (row,) = [line for line in text.splitlines() if r"a\_b" in line]
    assert row.endswith(r"\\")
    assert row.count("&") == 8


def test_everything_around_a_latex_table_is_a_comment_or_can_be_typeset():
    text = render([entry([0.5], "a_b", decided=(1.0,))], (0.0,), "latex")
    assert "stopped" in text
    outside = text[text.index(r"\end{tabular}") :].splitlines()[1:]
    assert not [line for line in outside if not line.startswith("%") and re.search(r"(?<!\\)[_%&#$]", line)]


def test_csv_is_a_table_and_nothing_else():
    text = render(ROWS, (0.0, 0.5), "csv")
    assert [row["run"] for row in cells(text)] == ["a_b", "peer"]
    assert {line.count(",") for line in text.splitlines()} == {text.splitlines()[0].count(",")}


def test_the_notes_say_what_is_compared_and_what_holds_for_the_whole_set():
    radii = np.ones(500)
    rows = [
        entry(radii, index=np.arange(0, 10_000, 20), alpha=0.001, n=100),
        entry(radii, "peer", index=np.arange(0, 10_000, 20), rounding=np.full(500, 0.0005)),
    ]
    notes = render(rows, (0.0,)).split("\n\n")[1]
    assert "500 images (every 20th of them, 0 to 9980)" in notes
    # P[Binomial(500, 0.001) > 4] = 0.00017 <= 0.001 < 0.0017 = P[Binomial(500, 0.001) > 3]
    assert "Alpha 0.001: with probability 0.999, no more than 4 of the 500 are wrong" in notes
    assert "0.8 points" in notes
    assert "Published logs, whose radii are rounded" in notes
    assert "ublished" not in render(rows[:1], (0.0,))


def test_the_number_that_may_be_wrong_follows_rho():
    rows = [entry(np.ones(500), alpha=0.001)]
    # P[Binomial(500, 0.001) > 1] = 0.0901 <= 0.1 < 0.394 = P[Binomial(500, 0.001) > 0]
    assert "with probability 0.9, no more than 1 of the 500" in render(rows, (0.0,), rho=0.1)


def test_columns_that_a_run_did_not_decide_are_named():
    notes = render([entry([1.0], "run", decided=(0.0, 0.5))], (0.0, 0.25, 0.5, 0.75)).split("\n\n")[1]
    (note,) = [line for line in notes.splitlines() if line.startswith("run stopped")]
    assert re.search(r"\b0\.25\b.*\b0\.75\b", note)
    assert not re.search(r"\b0\.5\b", note)
    assert "ACR" in note
    assert "stopped" not in render([entry([1.0], "run")], (0.0, 0.25))


def test_images_that_are_no_arithmetic_sequence_are_not_called_one():
    assert "every" not in render([entry([1.0, 1.0, 1.0], index=[0, 5, 6])], (0.0,))


def test_the_best_of_each_column_is_marked_and_ties_in_print_alike():
    rows = [entry([1.0, 1.0, 0.0], "low"), entry([1.0, 0.9, 0.9], "high"), entry([9.0] * 3, "float", sound=False)]
    found = compare(rows, (0.0, 1.0))
    named = [{found.head[column] for column in best} for best in found.best]
    assert named == [{"r=1"}, {"ACR", "r=0"}, set()]
    assert compare(rows[:1], (0.0,)).best == [set()]
    assert "**0.933**" in render(rows, (0.0,), "markdown")
    assert r"\textbf{0.933}" in render(rows, (0.0,), "latex")
    text = render(rows, (0.0,))
    assert "0.933*" in text
    assert len({line.rstrip().rindex(".") for line in text.splitlines()[2:5]}) == 1  # digits below digits
    assert text.endswith("Best of each column: marked *.\n")
    assert "*" not in render(rows, (0.0,), "csv")


def test_rounding_in_print_does_not_decide_which_row_is_best():
    peer = entry([1.0, 1.0, 0.4], "peer", rounding=np.array([0.005, 0.005, 0.0005]))
    rows = [entry([1.2, 0.9, 0.4], "ours"), peer]  # one reaches r=1; two do in print, but each may be 0.995
    found = compare(rows, (0.0, 0.5, 1.0))
    assert peer.accuracies(1.0) == pytest.approx((0.0, 2 / 3))
    at_one = found.head.index("r=1")
    assert [at_one in best for best in found.best] == [True, True]
    assert "66.7 points (r=1)" in " ".join(found.notes)
    half = found.head.index("r=0.5")  # all agree there, out of reach of the rounding
    assert [half in best for best in found.best] == [True, True]
    lower = compare([entry([0.9, 0.9, 0.9], "ours"), peer], (0.99,))
    assert [lower.head.index("r=0.99") in best for best in lower.best] == [False, True]


def test_rows_that_were_cut_to_common_images_are_named(place, peer):
    notes = tiny.cli("table", place.run, peer).out.split("\n\n")[1]
    assert "cut to those that all rows have: run (6), method_sigma0.25 (7)." in notes
    assert "cut to" not in tiny.cli("table", place.run).out


def test_what_is_to_be_said_of_a_csv_table_goes_to_stderr(place, peer):
    words = ["table", place.run, peer, "--envelope", "--paired"]
    said = tiny.cli(*words).out.split("\n\n")[1].splitlines()
    result = tiny.cli(*words, "--format", "csv")
    assert len(cells(result.out)) == 5
    assert len([line for line in said if line.startswith(("Envelope: ", "Pairs: "))]) == 2
    assert result.err.splitlines() == [line for line in said if "Best of each column" not in line]


def test_that_images_of_two_data_sets_are_the_same_is_not_taken_for_granted(place):
    test = data.load("digits", "test")
    for name, images in (("same", test.images), ("inverted", 16 - test.images)):
        arrays = {
            f"{split}_{kind}": part
            for split in ("train", "test")
            for kind, part in (("images", images), ("labels", test.labels))
        }
        np.savez(place.folder / f"{name}.npz", levels=16, **arrays)
        words = ["--data", place.folder / f"{name}.npz", "--images", "::120" if name == "inverted" else "::60"]
        assert tiny.cli(*place.certify(*words, out=name)).status == 0
    few, other = tiny.cli("table", place.run, place.folder / "inverted"), tiny.cli("table", place.run, place.run)
    assert re.search(
        r"^Rows are of \S*inverted.npz, digits: that what they call image 0 is one image", few.out, re.MULTILINE
    )
    assert "Rows are of" not in other.out


def test_a_run_may_stand_in_the_folder_of_its_model(place):
    assert tiny.cli(*place.certify(out="model")).status == 0
    for words in (["table"], ["verify"], ["plot", "-o", place.folder / "curves.png"]):
        done = tiny.cli(*words, place.model)
        assert done.status == 0, done.err


def test_runs_of_one_name_are_told_apart_by_their_folders(place):
    other = place.folder / "b" / "run"
    shutil.copytree(place.run, other)
    names = [row["run"] for row in cells(tiny.cli("table", place.run, other, "--format", "csv").out)]
    assert names == ["place/run", "b/run"]


def test_names_are_told_apart_however_far_up_they_differ(place):
    one, other = place.folder / "a" / "x" / "run", place.folder / "b" / "x" / "run"
    for copy in (one, other):
        shutil.copytree(place.run, copy)
    names = [row["run"] for row in cells(tiny.cli("table", one, other, "--format", "csv").out)]
    assert names == ["a/x/run", "b/x/run"]
    assert tiny.cli("table", one, one).status == 0


def test_logs_without_an_ending_keep_their_name_and_sigma(log):
    paths = [log.with_name("sigma_0.50"), log.with_name("sigma_0.25")]
    for path in paths:
        path.write_text(LOG)
    rows = cells(tiny.cli("table", *paths, "--format", "csv").out)
    assert [(row["run"], row["sigma"]) for row in rows] == [("sigma_0.50", "0.5"), ("sigma_0.25", "0.25")]


def test_rows_about_other_images_are_refused(log):
    other = log.with_name("other.tsv")
    other.write_text(LOG.replace("0\t7\t7", "0\t1\t1"))
    result = tiny.cli("table", log, other)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "their labels differ" in result.err


def test_a_radius_is_printed_with_all_its_digits():
    found = compare([entry([0.996094])], (0.99609375, 0.996094))
    assert found.head[-2:] == ["r=0.99609375", "r=0.996094"]


def test_an_abstaining_image_is_right_for_no_label(log):
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t-1\t-1\t0.9\t1\t1\n1\t1\t1\t0.5\t1\t1\n")
    assert read_entry(log).radius.tolist() == [0.0, 0.5]


def test_votes_without_the_denoiser_are_named(place):
    tiny.cli(*place.certify("--plain", out="plain"))
    assert "plain votes without its model's denoiser" in tiny.cli("table", place.folder / "plain").out


def test_json_has_the_numbers_as_they_are(place, peer):
    said = json.loads(tiny.cli("table", place.run, peer, "--format", "json", "--radii", "0.25").out)
    run, other = said["rows"]
    row, _ = common_images([read_entry(place.run), read_entry(peer)])
    assert said["images"] == [0, 60, 120]
    assert (run["acr"], run["clean_accuracy"]) == (row.acr, row.accuracy(0.0))
    assert run["certified_accuracy"] == {"0.25": row.accuracy(0.25)}
    assert (run["n"], run["alpha"], run["draws_per_image"]) == (200, 0.001, row.draws.mean())
    assert (other["n"], other["published"], run["published"]) == (None, True, False)
    assert any("alpha" in note for note in said["notes"])


def test_a_run_folder_is_a_row(place):
    row = read_entry(place.run)
    assert (row.name, row.sigma, row.n, row.alpha, row.published) == ("run", 0.25, 200, 0.001, False)
    stored = tiny.columns(place.run)
    right = [r if p == y else 0 for r, p, y in zip(stored["radius"], stored["predicted"], stored["label"], strict=True)]
    assert row.radius.tolist() == right
    assert 0 < row.acr < 1
    assert row.draws.tolist() == stored["draws"]
    assert row.index.tolist() == list(range(0, 360, 60))


def test_a_run_reads_the_same_from_its_tsv_but_for_the_rounding(place):
    run, log = read_entry(place.run), read_entry(place.run / "certificates.tsv")
    assert (run.index == log.index).all()
    assert (run.abstained == log.abstained).all()
    assert ((log.radius <= run.radius) & (run.radius < log.radius + 0.001)).all()


@pytest.mark.parametrize(
    ("log", "acr"),
    [("gaussian_sigma0.25", 0.911), ("gaussian_sigma0.50", 1.553), ("smoothmix_sigma1.00", 1.820)],
)
def test_published_logs_have_their_published_acr(peers, log, acr):
    row = read_entry(peers / f"{log}.tsv")
    assert len(row.index) == 10_000
    assert row.acr == pytest.approx(acr, abs=0.004)


def test_all_published_logs_in_one_table(peers):
    paths = sorted(peers.glob("*.tsv"))
    assert len(paths) == 21
    result = tiny.cli("table", *paths, "--radii", "0:1:0.5", "--format", "csv")
    assert [row["run"] for row in cells(result.out)] == [path.stem for path in paths]
    for row in cells(result.out):
        assert float(row["r=0"]) > float(row["r=0.5"]) > float(row["r=1"])
        assert row["sigma"] in row["run"].replace("1.00", "1").replace("0.50", "0.5")


def test_the_table_can_go_to_a_file_with_a_plot_beside_it(place, peer):
    out, plot = place.folder / "table.md", place.folder / "curve.svg"
    result = tiny.cli("table", place.run, peer, "--format", "markdown", "--out", out, "--plot", plot)
    assert (result.status, result.out) == (0, "")
    shown = tiny.cli("table", place.run, peer, "--format", "markdown")
    assert out.read_text() == shown.out
    assert "<svg" in plot.read_text()
    assert "on 3 images" in shown.out  # 0, 60 and 120


def test_config_leads_back_to_model_data_and_commit(place):
    config = json.loads((place.run / "config.json").read_text())
    model = json.loads((place.model / "model.json").read_text())
    question = config["question"]
    assert question["model"] == model["sha256"]
    assert (question["data"], question["split"], question["images"], question["seed"]) == ("digits", "test", "::60", 0)
    assert len(question["checksum"]) == 64
    assert {"versions", "commit", "host", "device", "time"} <= set(config["provenance"])
    assert config["options"]["workers"] == 0


def test_the_envelope_is_the_best_of_sound_rows_at_each_radius_ours_and_published_apart():
    def row(name, *radii, **options):
        radius = np.array(radii)
        return Entry(name=name, index=np.arange(4), radius=radius, abstained=radius == 0, **options)

    rows = [
        row("near", 0.3, 0.3, 0.3, 0.0),
        row("far", 1.0, 0.0, 0.0, 0.0),
        row("float", 2.0, 2.0, 2.0, 2.0, sound=False),
        row("log", 0.3, 0.3, 0.0, 0.0, rounding=np.zeros(4)),
    ]
    lines = render(rows, (0.0, 0.5), "csv", envelope=True).splitlines()
    assert lines[-2:] == ["envelope,,,,,,,75.0,25.0", "envelope of published logs,,,,,,,50.0,0.0"]
    assert "with probability 0.996" in render(rows, (0.0, 0.5), envelope=True)
    assert "envelope" not in render(rows, (0.0, 0.5)).lower()


def test_mean_and_spread_of_seeds():
    rows = [entry([0.5, 0.5, 0.0], "net"), entry([0.5, 0.2, 0.2], "net-seed1"), entry([0.1, 0.1, 0.1], "other")]
    mean, spread = cells(render(rows, (0.0, 0.5), "csv", spread=True))[3:]
    assert (mean["run"], mean["ACR"], mean["abstain"]) == ("net: mean of 2 seeds", "0.316", "16.7")
    assert (mean["r=0"], mean["r=0.5"]) == ("83.3", "50.0")
    assert (spread["run"], spread["ACR"], spread["r=0"], spread["r=0.5"]) == ("net: spread", "0.034", "33.4", "33.4")
    assert "an estimate" in render(rows, (0.0,), spread=True)
    assert len(cells(render(rows, (0.0,), "csv"))) == 3


def test_pairs_count_the_images_that_only_one_of_two_rows_certifies():
    ours = entry([1.0] * 8 + [0.2, 0.0], name="ours")
    theirs = entry([0.0, 1.0] + [0.2] * 6 + [0.0, 1.0], name="theirs", index=np.arange(9, -1, -1))
    rows = cells(render([ours, theirs, ours], (0.5,), "csv", paired=True))
    beside = rows[3]
    # differences of radii are 0, 1, six times 0.8, -0.8, 0: sum 5, sum of squares 5.48; sqrt((5.48 - 2.5) / 9 / 10)
    assert (beside["run"], beside["ACR"], beside["abstain"]) == ("ours : theirs", "+0.500 (0.182)", "")
    # by image, theirs are 1, 0, six of 0.2, 1, 0: only ours at 0.5 are images 1 to 7, only theirs image 8
    assert beside["r=0.5"] == "7:1 (0.08)", "the sum of the 8 choose 0, 1, 7 and 8 of 256 is 18: 0.0703, rounded up"
    assert rows[4]["r=0.5"] == "0:0 (1)", "a row beside itself"


def test_a_level_too_small_for_a_number_is_not_zero_in_print():
    rows = cells(render([entry([1.0] * 2000), entry([0.0] * 2000)], (0.5,), "csv", paired=True))
    assert rows[2]["r=0.5"] == "2000:0 (<1e-99)"


def test_pairs_are_of_radii_that_both_rows_decided():
    rows = cells(render([entry([0.5, 0.5]), entry([0.5, 0.7], decided=(0.0, 0.5))], (0.5, 0.6), "csv", paired=True))
    assert [rows[2][f"r={radius}"] for radius in ("0", "0.5", "0.6")] == ["0:0 (1)", "0:0 (1)", ""]
    assert rows[2]["ACR"] == "", "the second row's radii are lower bounds"
    known = entry([0.5, 0.7], decided=(0.0, 0.5), tolerance={"accuracy": None, "acr": 0.1})
    (*_, pair) = cells(render([entry([0.5, 0.5]), known], (0.5,), "csv", paired=True))
    assert (pair["ACR"], pair["r=0.5"]) == ("", ""), "which images it left open is not known"


def test_pairs_are_of_radii_that_both_rows_can_certify():
    short = entry([0.5, 0.5], name="short", reach=0.55)
    for rows in ([entry([0.7, 0.7]), short], [short, entry([0.7, 0.7])]):
        pair = cells(render(rows, (0.5, 0.6), "csv", paired=True))[2]
        assert (pair["r=0.5"], pair["r=0.6"]) == ("0:0 (1)", "")


def test_a_difference_of_average_radii_is_rounded_towards_0():
    ours, theirs = entry([0.5016, 0.5022]), entry([0.5, 0.5])
    for rows, sign in (([ours, theirs], "+"), ([theirs, ours], "-")):
        assert cells(render(rows, (0.5,), "csv", paired=True))[2]["ACR"].startswith(f"{sign}0.001 ")


def test_the_notes_say_what_was_extended_and_what_voted_coarsely():
    rows = [entry([0.5], "far", extends=2), entry([0.5], "coarse", precision="bfloat16"), entry([0.5], "plain")]
    notes = render(rows, (0.5,)).split("\n\n")[1]
    assert "far was extended" in notes
    assert "up to 3 alpha" in notes
    assert "adds up 2 seeds" in render([entry([0.5], "both", seeds=2)], (0.5,))
    assert "bfloat16, not float32, which is another function: coarse." in notes
    assert "extended" not in render(rows[2:], (0.5,))


def test_rounding_of_a_log_counts_for_the_log_in_pairs():
    ours, log = entry([0.5, 0.4996, 0.5]), entry([0.4996, 0.5004, 0.498], name="log", rounding=np.full(3, 0.0005))
    rows = cells(render([ours, log], (0.5,), "csv", paired=True))
    assert rows[2]["r=0.5"].startswith("1:1 "), "0.4996 in print may be 0.5001"
    rows = cells(render([log, ours], (0.5,), "csv", paired=True))
    assert rows[2]["r=0.5"].startswith("1:1 "), "whichever comes first"


def test_between_two_logs_rounding_makes_the_split_less_clear():
    half = np.full(4, 0.0005)
    one = entry([0.51, 0.51, 0.51, 0.4], name="one", rounding=half)
    two = entry([0.4996, 0.4996, 0.4, 0.4], name="two", rounding=half)
    assert cells(render([one, two], (0.5,), "csv", paired=True))[2]["r=0.5"] == "1:0 (1)"
    assert cells(render([two, one], (0.5,), "csv", paired=True))[2]["r=0.5"] == "0:1 (1)"
    many = entry([0.5] * 20, name="many", rounding=np.full(20, 0.0005))
    assert cells(render([many, many], (0.5,), "csv", paired=True))[2]["r=0.5"].endswith(" (1)")


def test_a_run_and_its_own_export_are_level(tmp_path):
    run = next(path for path in model.RELEASED.glob("ebsc-mnist-0.50/runs/*"))
    log = tmp_path / "same_sigma0.50.tsv"
    assert tiny.cli("export", run, "-o", log).status == 0
    for rows in ([run, log], [log, run]):
        entries = [read_entry(path) for path in rows]
        for radius in (0.0, 0.5, 1.0, 1.25):
            assert cells(render(entries, (radius,), "csv", paired=True))[2][f"r={radius:g}"] == "0:0 (1)"
    ours, theirs = read_entry(run), read_entry(log)
    assert ours.accuracy(0) == theirs.accuracy(0)


def test_a_right_image_whose_radius_prints_as_0_is_right(tmp_path):
    log = tmp_path / "log.tsv"
    head = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    log.write_text(head + "0\t1\t1\t0.0\t1\t0\n1\t1\t-1\t0.0\t0\t0\n2\t1\t1\t0.5\t1\t0\n3\t1\t2\t0.5\t0\t0\n")
    assert (read_entry(log).accuracy(0), read_entry(log).acr) == (0.5, 0.125)


def test_runs_over_equally_numbered_images_of_other_data_are_refused():
    one, other = (replace(entry([0.5], name=name), checksum=name) for name in ("one", "other"))
    with pytest.raises(InputError, match="about different images: their checksums differ"):
        common_images([one, other])
    common_images([one, replace(other, checksum="")])
    common_images([one, replace(other, index=np.array([1, 0]), radius=np.zeros(2), abstained=np.zeros(2, bool))])


def test_a_table_says_no_more_than_it_knows_and_keeps_its_form(tmp_path):
    text = render([entry([0.5], name="a|b\nc", alpha=0.001)], (0.5,), "markdown", rho=1e-20)
    assert "with probability 1 - 1e-20" in text
    assert r"a\|b c" in text


def test_pairs_need_two_rows(log):
    with pytest.raises(InputError, match="two or more"):
        Table(rows=(log,), paired=True).run()
