"""``ebsc verify``: certificates are what the ledger gives, also when it was kept, compressed; nothing else passes."""

import lzma
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from cluster import certificates
from jobs.entries import read_entry

BUDGETS = {
    "sequential": [],
    "fixed": ["--budget", "fixed"],
    "two-sided": ["--two-sided"],
    "tolerance": ["--tolerance", 0.2],
    "off the lattice": ["--no-lattice"],
}


def verify(*words):
    return tiny.cli("verify", *words)


@pytest.mark.parametrize("name", BUDGETS)
def test_an_honest_run_is_verified(place, name):
    assert tiny.cli(*place.certify(*BUDGETS[name])).status == 0
    done = verify(place.folder / "new")
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{place.folder / 'new'}: verified, 6 images\n"


def test_an_extended_run_is_verified(place):
    assert tiny.cli(*place.certify("--extend", "n=400", out="run")).status == 0
    assert verify(place.run).status == 0


def test_a_kept_run_is_small_whole_and_a_row_like_any(place):
    before = tiny.files(place.run)
    assert verify(place.run, "--keep", place.folder / "kept").status == 0
    assert tiny.files(place.run) == before
    kept = place.folder / "kept" / "run"
    assert set(tiny.files(kept)) == {"config.json", "certificates.parquet", "ledger.jsonl.xz"}
    assert lzma.decompress((kept / "ledger.jsonl.xz").read_bytes()) == (place.run / "ledger.jsonl").read_bytes()
    assert verify(kept).status == 0
    assert (read_entry(kept).radius == read_entry(place.run).radius).all()
    assert verify(kept, "--keep", place.folder / "again").status == 0
    assert tiny.files(place.folder / "again" / "run") == tiny.files(kept)


def change(run, name, row, value):
    path = run / "certificates.parquet"
    table = pq.read_table(path)
    values = table[name].to_pylist()
    values[row] = value
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, pa.array(values, table[name].type)), path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("radius", 0.9),
        ("label", 3),
        ("predicted", 3),
        ("outcome", "abstained"),
        ("counts", [0] * 9 + [200]),
        ("draws", 1),
        ("p_lower", 0.999),
        ("index", 61),
        ("seconds", 1e6),
    ],
)
def test_a_tampered_certificate_is_found(place, name, value):
    change(place.run, name, 1, value)
    done = verify(place.run)
    assert done.status == 1
    assert done.err.startswith(f"ebsc: {place.run}: ")
    assert done.err.count("\n") == 1


def test_a_radius_of_nearly_nothing_is_not_nothing(place):
    rows = tiny.columns(place.run)
    (place.run / "certificates.tsv").unlink()
    change(place.run, "radius", 1, 0.0)
    none = verify(place.run)
    assert rows["radius"][1] > 0
    assert (none.status, "radius of image" in none.err) == (1, True)


@pytest.mark.parametrize("name", ["radius", "p_lower"])
def test_the_last_digit_of_another_version_of_scipy_is_no_fault(place, name):
    change(place.run, name, 1, float(np.nextafter(tiny.columns(place.run)[name][1], 1)))
    (place.run / "certificates.tsv").unlink()
    assert verify(place.run).status == 0


@pytest.mark.parametrize("name", ["label", "select", "radius"])
def test_a_missing_column_is_found(place, name):
    path = place.run / "certificates.parquet"
    pq.write_table(pq.read_table(path).drop_columns([name]), path)
    assert verify(place.run).err == f"ebsc: {path} is not that of a certification: no {name}\n"


def test_what_is_wrong_is_said(place):
    radius = tiny.columns(place.run)["radius"][1]
    change(place.run, "radius", 1, 0.9)
    assert verify(place.run).err == (
        f"ebsc: {place.run}: radius of image 60 is 0.9 in certificates.parquet, but {radius} by its votes;"
        " so for 1 of 6 images\n"
    )


def test_a_tampered_table_for_others_is_found(place):
    path = place.run / "certificates.tsv"
    path.write_text(path.read_text().replace("\t1\t", "\t0\t"))
    assert verify(place.run).err == (f"ebsc: {place.run}: certificates.tsv is not what certificates.parquet holds\n")


def test_an_honest_certificate_of_too_few_votes_is_found(place):
    ledger = place.run / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    done = verify(place.run)
    assert done.status == 1
    assert "images open" in done.err


def test_votes_of_another_budget_are_refused(place):
    place.reconfigure(lambda config: config["question"]["budget"].update(n0=50))
    done = verify(place.run)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "not of one run: votes of look 0 do not add up to 50" in done.err


def test_labels_are_those_of_the_data_set_unless_one_says_so(place):
    place.reconfigure(lambda config: config["question"].update(checksum="0"))
    ledger = place.run / "ledger.jsonl"
    ledger.write_text(re.sub(', "votes_of": "[^"]*"', "", ledger.read_text()))
    assert "on other images than digits holds" in verify(place.run).err
    assert verify(place.run, "--no-labels").status == 0


def test_a_damaged_kept_ledger_is_one_line(place):
    assert verify(place.run, "--keep", place.folder / "kept").status == 0
    path = place.folder / "kept" / "run" / "ledger.jsonl.xz"
    whole = path.read_bytes()
    for spoilt in (whole[:-20], b"no xz", lzma.compress(b'{"image": 0}\n')):
        path.write_bytes(spoilt)
        done = verify(path.parent)
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "ledger.jsonl.xz" in done.err
    path.unlink()
    assert verify(path.parent).err == (f"ebsc: {path.parent} has no ledger: neither ledger.jsonl nor ledger.jsonl.xz\n")


ASKED = ("model", "sigma", "plain", "data", "split", "images", "checksum", "lattice", "budget", "seed", "precision")


@pytest.mark.parametrize("name", [*ASKED, "compile", "options"])
@pytest.mark.parametrize("command", ["verify", "merge", "attack"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_configuration_that_is_damaged_is_refused(place, name, command, missing):
    def damage(config):
        part = config if name == "options" else config["question"]
        part[name] = None
        if missing:
            del part[name]

    place.reconfigure(damage)
    other = shutil.copytree(place.run, place.folder / "other")
    result = tiny.cli(command, place.run, *([other, "--into", place.folder / "all"] if command == "merge" else []))
    assert (result.status, result.out) == (2, "")
    assert result.err == f"ebsc: {place.run}/config.json is not that of a certification: look at {name}\n"
    assert not (place.folder / "all").exists()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("question", "sigma", 0), ("question", "sigma", -1), ("options", "model", 5), ("options", "extend", None)],
)
def test_a_value_that_no_certification_has_is_refused(place, part, name, value):
    place.reconfigure(lambda config: config[part].update({name: value}))
    expected = f"look at {name if part == 'question' else part}\n"
    for command in ("verify", "attack", *["report"] * (name == "model")):
        result = tiny.cli(command, place.run)
        assert (result.status, result.out) == (2, "")
        assert result.err.endswith(expected)


def test_a_provenance_that_is_no_mapping_is_refused(place):
    place.reconfigure(lambda config: config.update(provenance=[1]))
    for command in ("verify", "table", "report"):
        result = tiny.cli(command, place.run)
        assert (result.status, result.out) == (2, "")
        assert "config.json cannot be read" in result.err


def test_of_several_runs_all_are_looked_at(place):
    assert tiny.cli(*place.certify()).status == 0
    change(place.run, "radius", 1, 0.9)
    done = verify(place.run, place.folder / "new", "--keep", place.folder / "kept")
    assert done.status == 1
    assert done.err == "ebsc: 1 of 2 runs failed: run\n"
    assert "new: verified" in done.out
    assert [path.name for path in (place.folder / "kept").iterdir()] == ["new"]


def test_fewer_classes_than_the_data_has_do_not_verify(place):
    tiny.cli(*place.certify("--two-sided", "--budget", "fixed", out="two"))
    run = place.folder / "two"
    rows, spent = certificates.read(run), certificates.seconds(run)
    fewer = [(n, rows[n].dtype, (9,)) if rows[n].ndim > 1 else (n, rows[n].dtype) for n in rows.dtype.names]
    tampered = np.zeros(len(rows), fewer)
    for name in rows.dtype.names:
        tampered[name] = rows[name][:, :9] if rows[name].ndim > 1 else rows[name]
    certificates.write(run, tampered, spent)
    done = tiny.cli("verify", run)
    assert (done.status, len(done.err.splitlines())) == (1, 1)
    assert "fewer classes" in done.err


def test_runs_of_one_name_are_not_kept_over_each_other(place):
    other = place.folder / "b" / "run"
    shutil.copytree(place.run, other)
    kept = place.folder / "kept"
    assert tiny.cli("verify", place.run, other, "--keep", kept).status == 2
    assert not kept.exists()
    assert tiny.cli("verify", place.run, "--keep", place.folder).status == 2


def test_the_ledger_that_was_verified_is_the_one_that_is_kept(place):
    (place.run / "ledger.jsonl.xz").write_bytes(b"an older one")
    assert tiny.cli("verify", place.run, "--keep", place.folder / "kept").status == 0
    assert tiny.cli("verify", place.folder / "kept" / "run").status == 0
