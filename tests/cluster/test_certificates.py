import csv
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import certificates
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign, Outcome
from ebsc.errors import InputError

SECONDS = np.array([0.5, 2.0, 0.000001, 3661.25])


@pytest.fixture
def table():
    table = Campaign(np.array([7, 2, 1, 0]), 10, 0.5, budget=Fixed(), images=np.array([0, 20, 40, 60])).certificates()
    table["predicted"] = [7, 2, 1, 3]
    table["radius"] = [0.4996, 0.0, 1.25, 0.29]
    table["p_lower"] = [0.84, 0.4, 0.994, 0.719]
    table["outcome"] = [Outcome.CERTIFIED, Outcome.ABSTAINED, Outcome.BUDGET_SPENT, Outcome.CERTIFIED]
    table["counts"][:, 2] = [1, 20, 300, 4000]
    table["select"][:, 5] = 100
    table["draws"] = [100, 200, 300, 400]
    return table


def rows(text):
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def test_parquet_holds_every_field(tmp_path, table):
    certificates.write(tmp_path, table, SECONDS)
    stored = pq.read_table(tmp_path / "certificates.parquet").to_pydict()
    for name in set(table.dtype.names) - {"outcome"}:
        assert stored[name] == table[name].tolist()
    assert stored["outcome"] == ["certified", "abstained", "budget_spent", "certified"]
    assert stored["seconds"] == SECONDS.tolist()


def test_what_is_read_is_what_was_written(tmp_path, table):
    certificates.write(tmp_path, table, SECONDS)
    read = certificates.read(tmp_path)
    for name in read.dtype.names:
        assert (read[name] == table[name]).all()
    assert {"index", "label", "predicted", "radius", "draws", "outcome"} <= set(read.dtype.names)


def test_correct_needs_the_right_class_and_a_radius(table):
    assert certificates.correct(table).tolist() == [True, False, True, False]


def test_tsv_is_in_the_form_of_the_field(tmp_path, table):
    certificates.write(tmp_path, table, SECONDS)
    text = (tmp_path / "certificates.tsv").read_text()
    assert text.splitlines()[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    read = [[int(row[name]) for name in ("idx", "label", "predict", "correct")] for row in rows(text)]
    assert read == [[0, 7, 7, 1], [20, 2, -1, 0], [40, 1, 1, 1], [60, 0, 3, 0]]
    assert [row["radius"] for row in rows(text)] == ["0.499", "0.000", "1.250", "0.290"]
    assert [row["time"] for row in rows(text)] == ["0:00:00.500000", "0:00:02", "0:00:00.000001", "1:01:01.250000"]


@given(radius=st.floats(0, 10), seconds=st.floats(0, 80_000))
def test_printed_radii_are_never_above_the_stored_ones(radius, seconds):
    table = Campaign(np.array([0]), 2, 0.5, budget=Fixed()).certificates()
    table["radius"] = radius
    (row,) = rows(certificates.to_tsv(table, np.array([seconds])))
    assert radius - 0.001 < float(row["radius"]) <= radius
    assert row["predict"] == ("0" if radius > 0 else "-1")
    assert re.fullmatch(r"\d+:\d\d:\d\d(\.\d{6})?", row["time"])


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="not finished"):
        certificates.read(tmp_path)


def test_a_damaged_or_foreign_file_is_refused(tmp_path, table):
    certificates.write(tmp_path, table, SECONDS)
    path = tmp_path / "certificates.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        certificates.read(tmp_path)
    certificates.write(tmp_path, table, SECONDS)
    whole = pq.read_table(path)
    text = pa.array(["far"] * len(whole))
    spoilt = [pa.table({"index": [1, 2]}), whole.drop_columns(["label"]), whole.drop_columns(["radius"])]
    spoilt.append(spoilt[-1].append_column("radius", text))
    for one in spoilt:
        pq.write_table(one, path)
        with pytest.raises(InputError, match="not that of a certification"):
            certificates.read(tmp_path)
