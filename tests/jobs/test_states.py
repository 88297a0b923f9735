"""Where jobs and runs stand, from folders as they are left and from a SLURM of two scripts."""

import json
import os
import platform
import subprocess
import sys
from unittest.mock import patch

import pytest
import tiny

from cluster import certificates
from cluster.folder import RunFolder
from ebsc.errors import RunError
from jobs import states
from jobs.states import wait

CONFIG = {"question": {"seed": 0}}
LINES = [
    {"part": "energy", "step": 9, "steps": 9, "loss": 0.75, "held_out_denoising_error": 0.25},
    {"part": "head", "step": 4, "steps": 8, "loss": 1.5, "accuracy": 0.25, "acr": 0.125},
    {"part": "head", "step": 6, "steps": 8, "loss": 1.25, "accuracy": 0.5},
]


@pytest.fixture
def slurm(program, tmp_path):
    """A function of what squeue and sacct say; the words of all questions lie in a file."""

    def say(squeue="", sacct="", status=0):
        for name, answer in (("squeue", squeue), ("sacct", sacct)):
            (tmp_path / name).write_text(answer)
            program(name, f'echo {name} "$@" >> {tmp_path}/asked; cat {tmp_path}/{name}; exit {status}')

    return say


@pytest.fixture
def dead():
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        pass
    return process.pid


def training(folder, *, job="", cluster="slurm", log="", lines=LINES, done=False, held=None):
    """A model folder as a training leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if job:
        (folder / "job.json").write_text(json.dumps({"cluster": cluster, "job": job, "log": str(log), "time": 0}))
    if held:
        (folder / "driver.json").write_text(json.dumps({"host": platform.node(), "pid": held, "since": "today"}))
    if done:
        (folder / "model.json").touch()
    return folder


def row(folder):
    """What the table says about a folder: state, progress, figures, job, where, log."""
    (found,) = states.states([folder])
    return found.state, found.progress, {*filter(None, found.figures.split(", "))}, found.job, found.where, found.log


FIGURES = {"loss 1.25", "accuracy 0.5", "acr 0.125"}


def test_a_training_in_another_process_is_running(tmp_path):
    with RunFolder(training(tmp_path / "a"), CONFIG, "model.json"):
        assert row(tmp_path / "a") == ("RUNNING", "head 6/8", FIGURES, "", platform.node(), "")


def test_a_training_whose_process_is_gone_is_stopped(tmp_path, dead):
    assert row(training(tmp_path / "a", held=dead)) == ("STOPPED", "head 6/8", FIGURES, "", "", "")


def test_a_training_that_left_its_model_is_completed(tmp_path):
    assert row(training(tmp_path / "a", done=True))[:2] == ("COMPLETED", "head 6/8")


def test_what_a_run_was_before_it_was_extended_is_not_listed(place):
    result = tiny.cli(*place.certify("--extend", "n=400", out="run"))
    assert result.status == 0, result.err
    assert (place.run / "earlier" / "0" / "config.json").exists()
    listed = tiny.cli("jobs", place.folder)
    assert [line.split()[0] for line in listed.out.splitlines()[2:]] == [str(place.run)]


def test_finished_work_of_every_kind_is_completed(finished, place, tmp_path):
    imported, reproduced = tmp_path / "log", tmp_path / "story"
    words = [
        ["attack", place.run, "--radii", 0.1, "--n", 100, "--steps", 1, "--images", ":1"],
        ["verify", place.run, "--keep", tmp_path / "kept"],
        ["import", place.run / "certificates.tsv", "-o", imported, "--sigma", 0.25, "--n", 200, "--alpha", 0.001],
    ]
    for command in words:
        result = tiny.cli(*command)
        assert result.status == 0, result.err
    for folder in (finished.model, place.run, place.run / "attack", tmp_path / "kept" / "run", imported):
        assert row(folder)[0] == "COMPLETED"
    assert row(place.run)[1] == "6/6 images"
    assert row(tmp_path / "kept" / "run")[1] == "6 images"
    with RunFolder(reproduced, CONFIG, "story.md"):
        pass
    assert row(reproduced)[0] == "STOPPED"
    (reproduced / "story.md").touch()
    assert row(reproduced)[0] == "COMPLETED"


def test_a_training_that_has_not_begun_has_nothing_to_show(tmp_path):
    assert row(training(tmp_path / "a", lines=[])) == ("STOPPED", "", set(), "", "", "")


def test_a_torn_line_is_not_looked_at(tmp_path):
    folder = training(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"part": "head", "step": 8, "st')
    assert row(folder)[1:3] == ("head 6/8", FIGURES)


def test_certifications_are_listed_by_their_images(place):
    assert row(place.run)[:2] == ("COMPLETED", "6/6 images")
    for name in certificates.FILES:
        (place.run / name).unlink()
    assert row(place.run)[:2] == ("STOPPED", "6/6 images")
    (place.run / "status.json").write_text("{}")
    assert row(place.run)[:2] == ("STOPPED", "")


@pytest.mark.parametrize(("done", "state"), [(True, "COMPLETED"), (False, "STOPPED")])
def test_a_process_of_this_machine_that_has_ended(tmp_path, dead, done, state):
    assert row(training(tmp_path / "a", job=str(dead), cluster="local", done=done))[0] == state


def test_a_process_of_this_machine_that_runs(tmp_path):
    folder = training(tmp_path / "a", job=str(os.getpid()), cluster="local")
    assert row(folder)[0] == "RUNNING"


# -- what SLURM says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("squeue", "sacct", "state", "where"),
    [
        ("77|PENDING||Resources", "", "PENDING", "(Resources)"),
        ("77|RUNNING|n[1-2]|None", "77|RUNNING|n[1-2]", "RUNNING", "n[1-2]"),
        ("77|COMPLETED|n1|None", "77|RUNNING|n1", "COMPLETED", "n1"),  # the accounts come later
        ("77|PENDING||BeginTime", "77|NODE_FAIL|n1", "PENDING", "(BeginTime)"),  # and know less of a second start
        ("", "77|FAILED|n2", "FAILED", "n2"),
        ("", "77|CANCELLED by 1000|n2", "CANCELLED", "n2"),
        ("", "77|TIMEOUT|n2", "TIMEOUT", "n2"),
        ("", "77|OUT_OF_MEMORY|n2", "OUT_OF_MEMORY", "n2"),
        ("", "77|COMPLETED|n2", "COMPLETED", "n2"),
        ("", "", "UNKNOWN", ""),
        ("78|RUNNING|n1|None", "7|FAILED|n1", "UNKNOWN", ""),
    ],
)
def test_a_job_is_what_slurm_says(slurm, tmp_path, squeue, sacct, state, where):
    slurm(squeue + "\n" * bool(squeue), sacct + "\n" * bool(sacct))
    folder = training(tmp_path / "a", job="77", log="/logs/77.err")
    assert row(folder) == (state, "head 6/8", FIGURES, "77", where, "/logs/77.err")


def test_a_job_that_slurm_has_forgotten_is_known_by_what_it_left(slurm, tmp_path, dead):
    slurm(status=1)
    assert row(training(tmp_path / "a", job="77", done=True))[0] == "COMPLETED"
    assert row(training(tmp_path / "b", job="77", held=os.getpid()))[0] == "RUNNING"
    assert row(training(tmp_path / "c", job="77", held=dead))[0] == "UNKNOWN"


def test_one_question_is_asked_for_all_jobs(slurm, tmp_path):
    queue = "77_0|COMPLETED|n1|None\n77_1|RUNNING|n2|None\n77_2|PENDING||JobArrayTaskLimit\n9|RUNNING|n3|None\n"
    slurm(queue)
    for point in range(3):
        training(tmp_path / f"sweep/seed={point}", job=f"77_{point}")
    training(tmp_path / "alone", job="9")
    result = tiny.cli("jobs", tmp_path)
    assert (result.status, result.err) == (0, "")
    table = [line.split()[:2] for line in result.out.splitlines()[2:]]
    assert table == [
        [f"{tmp_path}/alone", "running"],
        [f"{tmp_path}/sweep/seed=0", "completed"],
        [f"{tmp_path}/sweep/seed=1", "running"],
        [f"{tmp_path}/sweep/seed=2", "pending"],
    ]
    assert "(JobArrayTaskLimit)" in result.out
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [(line.split()[0], line.split()[-2:]) for line in asked] == [
        ("sacct", ["-j", "77,9"]),
        ("squeue", ["-j", "77,9"]),
    ]


def test_nothing_is_asked_when_no_job_is_of_slurm(slurm, tmp_path, dead):
    slurm()
    training(tmp_path / "a")
    training(tmp_path / "b", job=str(dead), cluster="local")
    assert tiny.cli("jobs", tmp_path).status == 0
    assert not (tmp_path / "asked").exists()


def test_a_process_of_this_machine_is_not_taken_for_the_job_of_the_same_number(slurm, tmp_path, dead):
    slurm(f"{dead}|RUNNING|n1|None\n")
    training(tmp_path / "a", job=str(dead))
    training(tmp_path / "b", job=str(dead), cluster="local")
    result = tiny.cli("jobs", tmp_path)
    assert [line.split()[1] for line in result.out.splitlines()[2:]] == ["running", "stopped"]


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_the_folders_are_shown_all_the_same(tmp_path):
    training(tmp_path / "a", job="77")
    training(tmp_path / "b", job="78", done=True)
    result = tiny.cli("jobs", tmp_path)
    assert result.status == 0
    assert [line.split()[1] for line in result.out.splitlines()[2:]] == ["unknown", "completed"]
    assert [line.split(":")[:2] for line in result.err.splitlines()] == [
        ["ebsc", " sacct does not answer"],
        ["ebsc", " squeue does not answer"],
    ]


# -- last words -----------------------------------------------------------------------------------------------------


def test_a_failed_job_is_quoted_with_its_last_words(slurm, tmp_path):
    slurm("1|FAILED|n1|None\n2|RUNNING|n1|None\n3|COMPLETED|n1|None\n4|TIMEOUT|n1|None\n5|FAILED|n1|None\n")
    for job in range(1, 5):
        log = tmp_path / f"{job}.err"
        log.write_text(
            "Traceback (most recent call last):\n"
            f"ebsc.errors.InputError: sigma {job} is too big\n\n"
            "slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED ***\n"
            "srun: error: n1: task 0: Exited with exit code 1\n"
        )
        training(tmp_path / f"m{job}", job=str(job), log=log)
    training(tmp_path / "m5", job="5", log=tmp_path / "nowhere.err")
    result = tiny.cli("jobs", tmp_path)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[7:] == [
        f"{tmp_path}/m1: ebsc.errors.InputError: sigma 1 is too big",
        f"{tmp_path}/m4: ebsc.errors.InputError: sigma 4 is too big",
    ]


def test_a_folder_that_cannot_be_read_costs_no_other_its_row(tmp_path):
    folder = training(tmp_path / "a", lines=[])
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    training(tmp_path / "b")
    result = tiny.cli("jobs", tmp_path)
    assert (result.status, result.err) == (0, "")
    assert "Is a directory" in result.out
    assert "head 6/8" in result.out


def test_the_last_words_are_those_of_the_process_that_failed(slurm, tmp_path):
    slurm("1|FAILED|n1|None\n")
    for process, line in enumerate(["training: 100%", "torch.OutOfMemoryError: CUDA out of memory", "warning"]):
        (tmp_path / f"1_{process}_log.err").write_text(f"{line}\n")
    training(tmp_path / "m", job="1", log=tmp_path / "1_0_log.err")
    assert (
        tiny.cli("jobs", tmp_path).out.splitlines()[-1] == f"{tmp_path}/m: torch.OutOfMemoryError: CUDA out of memory"
    )


# -- the command ----------------------------------------------------------------------------------------------------


def test_folders_are_looked_through_to_the_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models/a", "models/sweep/b", "runs/c", "elsewhere/d"):
        training(tmp_path / name)
    assert [line.split()[0] for line in tiny.cli("jobs").out.splitlines()[2:]] == [
        "models/a",
        "models/sweep/b",
        "runs/c",
    ]
    found = tiny.cli("jobs", "elsewhere", "models/a", "models").out.splitlines()[2:]
    assert [line.split()[0] for line in found] == ["elsewhere/d", "models/a", "models/sweep/b"]


@pytest.mark.parametrize("words", [[], ["nowhere"]])
def test_where_nothing_is_it_is_said(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    result = tiny.cli("jobs", *words)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"ebsc: no job or run below {', '.join(words) or 'models, runs'}\n"


@pytest.mark.parametrize("name", ["config.json", "job.json", "driver.json", "metrics.jsonl", "ledger.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        *[b"", b"[]", b"{}\n", b"5\n", b'{"part": 5}\n', b"Dear diary\n", b"\xff\xfe\n", b'{"cluster": "slurm"}'],
        *[b'{"cluster": "local", "job": "x"}', b'{"part": "head", "step": 1, "steps": 2, "loss": null}\n'],
        *[b'{"part": ["head"], "step": 1, "steps": 2}\n', b'{"cluster": "local", "job": "x", "time": null}'],
        *[b'{"part": "head", "step": null, "steps": 2}\n', b'{"cluster": "local", "job": "99999999999999999999"}'],
    ],
)
def test_files_of_somebody_else_are_no_hindrance(tmp_path, name, content):
    folder = training(tmp_path / "a", lines=[])
    (folder / name).write_bytes(content)
    result = tiny.cli("jobs", tmp_path)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[2].split()[:2] == [str(folder), "stopped"]


def test_waiting_ends_when_a_process_of_this_machine_has_ended(tmp_path, dead, capsys):
    folder = training(tmp_path / "a", job=str(dead), cluster="local")
    with patch.object(states, "POLL", 0.0), pytest.raises(RunError, match=r"1 of 1 did not complete: .*a \(stopped\)"):
        wait([folder])
    assert "stopped" in capsys.readouterr().out
