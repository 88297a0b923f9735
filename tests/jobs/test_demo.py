import json

import pytest
import tiny


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo on twelve images: its folder, what it said, and a function that starts it again."""
    folder = tmp_path_factory.mktemp("demo") / "demo"

    def start():
        return tiny.cli("demo", "--out", folder, "--steps", 5, "--n", 200, "--workers", 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebsc.data._DIGITS_TRAIN", 1797 - 12)
        yield folder, start(), start


def test_the_demo_makes_everything(demo):
    folder, first, _ = demo
    assert first.status == 0, first.err
    made = tiny.files(folder)
    assert {"model/model.json", "plain/certificates.tsv", "ebsc/certificates.tsv"} <= set(made)
    assert made["curve.png"][:4] == made["denoised.png"][:4] == b"\x89PNG"
    table = made["table.txt"].decode()
    assert [line.split()[0] for line in table.splitlines()[2:4]] == ["plain", "ebsc"]
    assert table in first.out


def test_every_radius_in_its_table_is_one_that_the_runs_decided(demo):
    folder, _, _ = demo
    shown = {
        float(word[2:]) for word in (folder / "table.txt").read_text().splitlines()[0].split() if word.startswith("r=")
    }
    assert len(shown) > 3
    for run in ("plain", "ebsc"):
        budget = json.loads((folder / run / "config.json").read_text())["question"]["budget"]
        assert shown <= set(budget["radii"])


def test_started_again_it_goes_on(demo):
    folder, _, start = demo
    made = tiny.files(folder)
    (folder / "ebsc" / "certificates.parquet").unlink()
    lines = made["ebsc/ledger.jsonl"].splitlines(keepends=True)
    (folder / "ebsc" / "ledger.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    again = start()
    assert again.status == 0
    assert "training" not in again.err
    assert tiny.files(folder)["model/model.safetensors"] == made["model/model.safetensors"]
    assert (folder / "table.txt").read_bytes() == made["table.txt"]


@pytest.mark.parametrize(("option", "value"), [("--sigma", 0.3), ("--steps", 6)])
def test_another_model_than_the_one_that_is_there_is_refused(demo, option, value):
    folder, *_ = demo
    done = tiny.cli("demo", "--out", folder, "--steps", 5, "--n", 200, "--workers", 0, option, value)
    assert done.status == 2
    assert f"{option.removeprefix('--')} is {0.25 if option == '--sigma' else 5} there, {value} here" in done.err
