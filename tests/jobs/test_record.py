import json

import pytest
import tiny

from jobs.record import Logbook, read_lines

LINES = [
    {"part": "energy", "step": 10, "steps": 10, "loss": 0.5},
    {"part": "head", "step": 2, "steps": 8, "loss": 2.25},
    {"part": "head", "step": 4, "steps": 8, "loss": 1.125},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


@pytest.mark.parametrize(("step", "kept"), [(0, 1), (2, 2), (3, 2), (4, 3)])
def test_lines_of_steps_still_to_come_are_dropped(folder, step, kept):
    with Logbook(folder, "head", step) as logbook:
        assert read_lines(folder / "metrics.jsonl") == LINES[:kept]
        logbook.write(6, 8, {"loss": 0.25})
    assert read_lines(folder / "metrics.jsonl") == [
        *LINES[:kept],
        {"part": "head", "step": 6, "steps": 8, "loss": 0.25},
    ]


def test_a_line_is_on_disk_when_it_is_written(folder):
    with Logbook(folder, "head", 4) as logbook:
        logbook.write(6, 8, {"loss": 0.25})
        assert len(read_lines(folder / "metrics.jsonl")) == 4


def test_a_torn_line_is_left_out_wherever_it_was_torn(folder):
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for cut in range(last, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_lines(path) == LINES[:2]
        Logbook(folder, "head", 2).__exit__()
        assert path.read_bytes() == whole[:last]


def test_a_folder_without_metrics_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "metrics.jsonl") == []
    with Logbook(tmp_path, "energy", 0):
        assert tiny.files(tmp_path)["metrics.jsonl"] == b""


def test_without_tensorboard_the_lines_are_written_all_the_same(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with Logbook(folder, "head", 4) as logbook:
        logbook.write(6, 8, {"loss": 0.25})
    assert len(read_lines(folder / "metrics.jsonl")) == 4
    assert sorted(tiny.files(folder)) == ["metrics.jsonl"]
