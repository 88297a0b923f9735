import json
import os
import subprocess

import numpy as np
import pytest
import tiny

from cluster import certificates
from jobs.entries import read_entry

HEAD = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
LINES = ["0\t7\t7\t2.37\t1\t0:00:04.246721\n", "3\t2\t-1\t0.0\t0\t0:00:00.3\n", "9\t1\t4\t0.0123\t0\t1.5\n"]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "method_sigma0.50.tsv"
    path.write_text(HEAD + "".join(LINES))
    return path


def test_an_imported_log_is_a_row_with_what_the_log_does_not_say(log, tmp_path):
    folder = tmp_path / "runs" / "method"
    result = tiny.cli("import", log, "-o", folder, "--n", 100_000, "--alpha", 0.001, "--source", "a paper")
    assert (result.status, result.out.split(" ")[0]) == (0, "3")
    row, plain = read_entry(folder), read_entry(log)
    assert (row.name, row.sigma, row.n, row.alpha, row.published) == ("method", 0.5, 100_000, 0.001, True)
    assert (row.radius.tolist(), row.rounding.tolist()) == (plain.radius.tolist(), plain.rounding.tolist())
    question = json.loads((folder / "config.json").read_text())["question"]
    assert (question["log"]["name"], question["source"]) == (log.name, "a paper")


def test_a_log_may_come_through_a_pipe(log, tmp_path):
    pipe, folder = tmp_path / "pipe", tmp_path / "run"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", log, pipe]):
        assert tiny.cli("import", pipe, "-o", folder, "--sigma", 0.5).status == 0
    assert tiny.cli("export", folder).out == log.read_text()


def test_an_imported_log_that_was_emptied_is_one_line(log, tmp_path):
    folder = tmp_path / "run"
    tiny.cli("import", log, "-o", folder)
    (folder / "certificates.tsv").write_text("")
    result = tiny.cli("export", folder, "--images", "::2")
    assert (result.status, result.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("command", ["import", "table"])
def test_the_log_of_a_run_that_is_not_sound_is_no_row(place, command):
    path = place.run / "config.json"
    config = json.loads(path.read_text())
    config["question"]["lattice"] = False
    path.write_text(json.dumps(config))
    result = tiny.cli(command, place.run / "certificates.tsv", "-o", place.folder / "out")
    assert result.status == 2
    assert f"has no place to say so: name {place.run}" in result.err


def test_an_imported_log_goes_out_as_it_came(log, tmp_path):
    folder = tmp_path / "run"
    tiny.cli("import", log, "-o", folder)
    assert tiny.cli("export", folder).out == log.read_text()
    assert tiny.cli("export", folder, "--images", "1:").out == HEAD + "".join(LINES[1:])


def test_blank_lines_are_no_images(log, tmp_path):
    log.write_text((HEAD + "".join(LINES)).replace("\n", "\r\n\r\n"))
    tiny.cli("import", log, "-o", tmp_path / "run")
    assert len(tiny.cli("export", tmp_path / "run", "--images", "::2").out.split()) == 6 + 2 * 6


def test_another_log_does_not_replace_an_imported_one(log, tmp_path):
    folder = tmp_path / "run"
    tiny.cli("import", log, "-o", folder)
    before = tiny.files(folder)
    assert tiny.cli("import", log, "-o", folder).status == 0
    log.write_text(HEAD + LINES[0])
    result = tiny.cli("import", log, "-o", folder)
    assert result.status == 2
    assert "log.sha256" in result.err
    assert tiny.files(folder)["certificates.tsv"] == before["certificates.tsv"]


def test_a_run_goes_out_in_the_fields_form_rounded_down(place):
    result = tiny.cli("export", place.run)
    lines = result.out.splitlines()
    assert (lines[0] + "\n", len(lines)) == (HEAD, 7)
    stored = certificates.read(place.run)
    for line, row in zip(lines[1:], stored, strict=True):
        index, label, predict, radius, right, time = line.split("\t")
        assert (int(index), int(label)) == (row["index"], row["label"])
        assert row["radius"] - 0.001 < float(radius) <= row["radius"]
        assert int(predict) == (row["predicted"] if row["radius"] else -1)
        assert (right == "1") == (predict == label)
        assert time.startswith("0:00:0")
    out = place.folder / "some.tsv"
    tiny.cli("export", place.run, "--images", "::2", "-o", out)
    assert out.read_text().splitlines() == [lines[0], *lines[1::2]]


def test_certificates_that_are_not_sound_do_not_go_out(place):
    tiny.cli(*place.certify("--no-lattice", out="float"))
    assert not (place.folder / "float" / "certificates.tsv").exists(), "it has no place to say so"
    result = tiny.cli("export", place.folder / "float")
    assert (result.status, result.out) == (2, "")
    assert "not sound" in result.err


@pytest.mark.parametrize("command", ["attack", "merge", "status"])
def test_what_needs_votes_refuses_an_imported_log_in_one_line(log, tmp_path, command):
    for name in "ab":
        tiny.cli("import", log, "-o", tmp_path / name, "--n", 1000, "--alpha", 0.001)
    words = [command, tmp_path / "a"] + ([tmp_path / "b", "--into", tmp_path / "c"] if command == "merge" else [])
    result = tiny.cli(*words)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "imported log" in result.err


def test_an_imported_log_stands_beside_the_geometry_as_a_log_does(place):
    folder = place.folder / "imported"
    tiny.cli("import", place.run / "certificates.tsv", "-o", folder, "--sigma", 0.25)
    words = ["geometry", "--images", "::60", "--sigmas", "0.25", "--radii", "0,0.5", "--runs", folder]
    result = tiny.cli(*words)
    assert result.status == 0, result.err
    assert "imported" in result.out


def test_half_a_unit_of_the_last_digit_whichever_way_a_log_rounds(tmp_path):
    def rounding(*radii):
        path = tmp_path / "log.tsv"
        path.write_text(HEAD + "".join(f"{i}\t1\t1\t{radius}\t1\t0:00:01\n" for i, radius in enumerate(radii)))
        return certificates.from_tsv(path)["rounding"]

    # three significant digits with trailing zeros dropped, as Python's {:.3} prints; then three decimals
    np.testing.assert_allclose(rounding("1.0", "2.37", "0.5", "0.953", "0.0123"), [5e-3, 5e-3, 5e-4, 5e-4, 5e-5])
    np.testing.assert_allclose(rounding("1.000", "2.371", "0.500", "0.012"), [5e-4] * 4)
    np.testing.assert_allclose(rounding("1e-05", "0.0"), [5e-6, 0])
    assert float(f"{0.9996:.3}") == 1.0  # what the rounding is about


def test_times_are_read_as_others_write_them(log, tmp_path):
    assert certificates.from_tsv(log)["seconds"].tolist() == pytest.approx([4.246721, 0.3, 1.5])
    log.write_text(HEAD + "0\t7\t7\t2.37\t1\t1 day, 0:00:01\n")
    assert np.isnan(certificates.from_tsv(log)["seconds"]).all()
