"""A training that is stopped anywhere goes on, and ends with the weights and the lines of an undisturbed one."""

import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import safetensors.torch
import tiny
import torch

from jobs import fitting, launch
from jobs.cli import parse
from jobs.train import Train

STEPS = 12
"""Of each part; a look, and so a saved state, every 4."""


def words(folder, *more):
    return [
        *["train", "-o", folder, "--sigma", 0.25, "--width", 3, "--objective", "smoothadv", "--hyper", "steps", 1],
        *["--draws", 2, "--energy.steps", STEPS, "--energy.warmup", 1, "--energy.batch", 8, "--head.steps", STEPS],
        *[
            "--head.learning-rate",
            0.01,
            "--head.batch",
            8,
            "--held-out",
            0,
            "--watch.log",
            1,
            "--watch.looks",
            3,
            *more,
        ],
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "model"
    result = tiny.cli(*words(folder))
    assert result.status == 0, result.err
    return folder


def state(folder, part):
    return safetensors.torch.load_file(folder / "checkpoint" / f"{part}.safetensors")


def steps(folder):
    """How far each part's state is."""
    return {path.stem: int(state(folder, path.stem)["step"]) for path in (folder / "checkpoint").glob("*")}


def assert_goes_on(folder, undisturbed):
    result = tiny.cli(*words(folder))
    assert result.status == 0, result.err
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert sorted(tiny.metrics(folder), key=place) == tiny.metrics(undisturbed)


def place(line):
    return line["part"], line["step"]


def stop(folder, after):
    with tiny.after(after), pytest.raises(tiny.Stopped):
        tiny.cli(*words(folder))


def test_every_logged_step_has_one_line(undisturbed):
    assert list(map(place, tiny.metrics(undisturbed))) == [
        (part, step) for part in ("energy", "head") for step in range(1, STEPS + 1)
    ]


def test_stopped_again_and_again_it_ends_with_the_same_weights_and_lines(undisturbed, tmp_path):
    stop(tmp_path, after=2)
    assert steps(tmp_path) == {}
    stop(tmp_path, after=3)
    assert steps(tmp_path) == {"energy": 3}, "saved before the step of a look"
    stop(tmp_path, after=3)
    assert steps(tmp_path) == {"energy": 4}
    assert tiny.metrics(tmp_path)[-1]["step"] == 6  # written, and to be made again
    stop(tmp_path, after=STEPS - 4)
    assert steps(tmp_path) == {"energy": STEPS}
    stop(tmp_path, after=5)
    assert steps(tmp_path) == {"energy": STEPS, "head": 4}
    stop(tmp_path, after=0)
    assert_goes_on(tmp_path, undisturbed)


def test_stopped_between_the_last_state_and_the_model_it_writes_the_model(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.train._evaluate", lambda *args: tiny.stop())
    with pytest.raises(tiny.Stopped):
        tiny.cli(*words(tmp_path))
    assert steps(tmp_path) == {"energy": STEPS, "head": STEPS}
    monkeypatch.undo()
    with tiny.after(0):  # not a step more
        assert_goes_on(tmp_path, undisturbed)


def test_states_are_saved_by_the_clock_too(tmp_path):
    with tiny.after(6), pytest.raises(tiny.Stopped):
        tiny.cli(*words(tmp_path, "--watch.save", 0))
    assert steps(tmp_path) == {"energy": 6}


# -- signals --------------------------------------------------------------------------------------------------------


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(("after", "reached"), [(7, {"energy": 7}), (STEPS + 2, {"energy": STEPS, "head": 2})])
def test_ctrl_c_saves_the_last_step(undisturbed, tmp_path, after, reached):
    with tiny.after(after, interrupt):
        result = tiny.cli(*words(tmp_path))
    assert result.status == 130
    assert result.err.splitlines()[-1] == "ebsc: interrupted; start the same command again to go on"
    assert steps(tmp_path) == reached
    assert_goes_on(tmp_path, undisturbed)


def test_ctrl_c_within_a_step_keeps_the_state_before_it(undisturbed, tmp_path, monkeypatch):
    calls, update = [], torch.optim.swa_utils.AveragedModel.update_parameters

    def half(average, module):
        calls.append(None)
        if len(calls) == 7:
            interrupt()  # the weights are those of step 7, their average is that of step 6
        update(average, module)

    monkeypatch.setattr("torch.optim.swa_utils.AveragedModel.update_parameters", half)
    assert tiny.cli(*words(tmp_path)).status == 130
    assert steps(tmp_path) == {"energy": 4}
    assert_goes_on(tmp_path, undisturbed)


@pytest.mark.parametrize("look", [1, 3])
def test_a_look_that_is_interrupted_is_made_again(tmp_path, monkeypatch, look):
    """The last one, too: it may be what finds the best weights."""
    more, calls = ["--held-out", 20], []
    assert tiny.cli(*words(tmp_path / "whole"), *more).status == 0
    genuine = fitting.quick_certificates

    def once(*args, **options):
        calls.append(None)
        return interrupt() if len(calls) == look else genuine(*args, **options)

    monkeypatch.setattr(fitting, "quick_certificates", once)
    assert tiny.cli(*words(tmp_path / "cut"), *more).status == 130
    assert steps(tmp_path / "cut") == {"energy": STEPS, "head": 4 * look - 1}
    assert tiny.cli(*words(tmp_path / "cut"), *more).status == 0
    assert len(calls) == 4
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert sorted(tiny.metrics(tmp_path / "cut"), key=place) == tiny.metrics(tmp_path / "whole")


@pytest.fixture
def handlers():
    """Puts the signals back to what they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def scontrol(program, tmp_path, monkeypatch):
    """What scontrol is asked, in a job of SLURM that submitit knows nothing of."""
    asked = tmp_path / "asked"
    program("scontrol", f'echo "$@" >> {asked}')
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_PROCID", "0")
    for name in ("SUBMITIT_EXECUTOR", *ARRAY):
        monkeypatch.delenv(name, raising=False)
    return lambda: asked.read_text() if asked.exists() else ""


ARRAY = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "7"}


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("array", "job"), [({}, "77"), (ARRAY, "70_7")])
def test_before_a_time_limit_of_slurm_the_last_step_is_saved_and_the_job_queued_again(
    undisturbed, tmp_path, scontrol, monkeypatch, array, job
):
    for name, value in array.items():
        monkeypatch.setenv(name, value)
    model = tmp_path / "model"
    with tiny.after(7, lambda: os.kill(os.getpid(), signal.SIGUSR2)):
        result = tiny.cli(*words(model))
    assert result.status == 128 + signal.SIGUSR2
    assert steps(model) == {"energy": 7}
    assert scontrol() == f"requeue {job}\n"
    assert_goes_on(model, undisturbed)


@pytest.mark.usefixtures("handlers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_state_that_cannot_be_saved_keeps_no_job_from_being_queued_again(tmp_path, scontrol, monkeypatch):
    def fail(self):
        raise OSError("disk full")

    monkeypatch.setattr("jobs.record.Keeper.save", fail)
    with tiny.after(1, lambda: os.kill(os.getpid(), signal.SIGUSR2)):
        assert tiny.cli(*words(tmp_path / "model")).status == 128 + signal.SIGUSR2
    assert scontrol() == "requeue 77\n"


@pytest.mark.usefixtures("handlers", "scontrol")
def test_a_job_that_slurm_does_not_queue_again_goes_on(undisturbed, tmp_path, program, capfd):
    program("scontrol", "exit 1")
    with tiny.after(7, lambda: os.kill(os.getpid(), signal.SIGUSR2)):
        assert_goes_on(tmp_path / "model", undisturbed)


@pytest.mark.usefixtures("handlers", "scontrol")
def test_a_step_of_a_story_saves_what_slurm_stops(tmp_path, undisturbed):
    """The story is the job; its steps are commands of their own."""
    train = parse(Train, list(map(str, words(tmp_path / "model")[1:])))
    story = SimpleNamespace(folder=tmp_path, here=lambda on_stop: train.run())
    with tiny.after(7, lambda: os.kill(os.getpid(), signal.SIGUSR2)), pytest.raises(SystemExit):
        launch.dispatch([story], "here", launch.Slurm(), tmp_path)
    assert steps(tmp_path / "model") == {"energy": 7}
    assert launch._running == []
    assert_goes_on(tmp_path / "model", undisturbed)


@pytest.mark.usefixtures("handlers")
def test_told_to_end_by_slurm_it_saves_the_last_step_and_ends_when_the_job_does(
    undisturbed, tmp_path, scontrol, program
):
    model, asked = tmp_path / "model", tmp_path / "squeue"
    program("squeue", f'echo "$@" >> {asked}; [ $(wc -l < {asked}) = 1 ] && echo RUNNING || echo COMPLETING')
    with tiny.after(STEPS + 2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        result = tiny.cli(*words(model))
    assert result.status == 128 + signal.SIGTERM
    assert steps(model) == {"energy": STEPS, "head": 2}
    assert asked.read_text() == 2 * "-h -j 77 -o %T\n"
    assert scontrol() == ""  # SLURM itself queues a job again that was preempted
    assert_goes_on(model, undisturbed)


@pytest.mark.usefixtures("handlers")
def test_only_the_first_process_answers_a_signal_of_slurm(undisturbed, tmp_path, scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    with tiny.after(7, lambda: os.kill(os.getpid(), signal.SIGUSR2)):
        assert_goes_on(tmp_path / "model", undisturbed)
    assert scontrol() == ""


@pytest.mark.usefixtures("scontrol")
def test_signals_of_a_job_of_submitit_are_left_to_submitit(tmp_path, handlers, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    stop(tmp_path / "model", after=1)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


# -- what is found on disk ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A training stopped in its second part, to be copied."""
    folder = tmp_path_factory.mktemp("half") / "model"
    stop(folder, after=STEPS + 6)
    assert steps(folder) == {"energy": STEPS, "head": 4}
    return folder


@pytest.fixture
def stopped(half, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(half, tmp_path / "model")


def assert_refused(folder, message):
    before = tiny.files(folder)
    result = tiny.cli(*words(folder))
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"ebsc: {folder}/checkpoint/")
    assert message in result.err
    assert tiny.files(folder) == before


@pytest.mark.parametrize("part", ["energy", "head"])
def test_a_damaged_state_is_named_and_can_be_removed(stopped, undisturbed, part):
    path = stopped / "checkpoint" / f"{part}.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:100], b"PK\x03\x04" + whole):
        path.write_bytes(damaged)
        assert_refused(stopped, f"{part}.safetensors is damaged")
    path.unlink()
    assert_goes_on(stopped, undisturbed)


def without(*names):
    return lambda state: {name: value for name, value in state.items() if name not in names}


OTHERS = {
    "no_step": without("step"),
    "no_best_value": without("value"),
    "a_weight_fewer": without("module.classifier.map.bias"),
    "a_weight_more": lambda state: state | {"module.bias": torch.zeros(1)},
    "no_average": lambda state: {name: value for name, value in state.items() if not name.startswith("average.")},
    "no_optimiser": lambda state: {name: value for name, value in state.items() if not name.startswith("optimizer.")},
    "another_shape": lambda state: state | {"module.classifier.map.bias": torch.zeros(11)},
    "steps_beyond_the_last": lambda state: state | {"step": torch.tensor(STEPS + 1)},
    "only_weights": without("step", "value"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", OTHERS)
def test_the_state_of_another_training_is_refused(stopped, name):
    path = stopped / "checkpoint" / "head.safetensors"
    path.write_bytes(safetensors.torch.save(OTHERS[name](state(stopped, "head"))))
    assert_refused(stopped, "is the state of another training: remove it to start afresh")


def test_a_state_without_the_configuration_that_it_was_made_for_is_refused(stopped):
    (stopped / "config.json").unlink()
    before = tiny.files(stopped)
    result = tiny.cli(*words(stopped))
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert "no config.json" in result.err
    assert tiny.files(stopped) == before


def test_the_state_of_the_other_part_is_refused(stopped):
    path = stopped / "checkpoint" / "head.safetensors"
    path.write_bytes(safetensors.torch.save(state(stopped, "energy") | {"step": torch.tensor(4)}))
    assert_refused(stopped, "is the state of another training: remove it to start afresh")


def test_a_torn_line_of_the_metrics_is_dropped(stopped, undisturbed):
    path = stopped / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert_goes_on(stopped, undisturbed)


def test_lines_lost_with_the_power_are_no_hindrance(stopped, undisturbed):
    path = stopped / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-30] + b"\0" * 30)
    assert_goes_on(stopped, undisturbed)
