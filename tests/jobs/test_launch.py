"""Commands handed to submitit: as text for sbatch, as processes of this machine, and to a SLURM made of scripts."""

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit
import tiny
import torch

from cluster.folder import RunFolder, alive
from ebsc.device import pick
from ebsc.errors import InputError
from jobs import launch, states
from jobs.launch import Job, Slurm, processes
from jobs.train import Train

GOLDEN = Path(__file__).parent / "golden"
QUICK = ["--width", 3, "--energy.steps", 2, "--energy.batch", 8, "--head.steps", 2, "--head.batch", 8]


@pytest.fixture
def slurm(program, tmp_path, monkeypatch):
    """Programs that pass for SLURM: what sbatch and squeue were asked lies in a file each."""
    program("srun", "exit 1")
    program("sbatch", f'cp "$1" {tmp_path}/script; env > {tmp_path}/environment; echo "Submitted batch job 77"')
    program("sacct", "exit 1")
    program("squeue", "exit 1")
    monkeypatch.setattr(states, "POLL", 0.0)
    return program


# -- the script -----------------------------------------------------------------------------------------------------

ALL = """--partition gpu --account me --qos high --nodes 2 --gpus 4 --tasks 4 --cpus 8 --memory 64.5 --time 90
    --constraint a100|h100 --gres fs:1 --parallel 3 --signal 60 --requeues 4 --sbatch reservation=night exclusive
    exclude=n1,n2 mail-type=END""".split()  # noqa: SIM905
TEXTS = {
    "training": ["train", *QUICK, *ALL, "--setup", "module load cuda", "export A=1"],
    "sweep": ["train", *QUICK, "--gpus", 2, "--sweep", "sigma=0.25,0.5", "energy.steps=3,4,5", "--parallel", 4],
    "certification": [
        "certify",
        "ebsc-mnist-0.25",
        "--nodes",
        3,
        "--gpus",
        8,
        "--cpus",
        16,
        "--memory",
        100,
        "--time",
        30,
    ],
}


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("name", TEXTS)
def test_the_script_for_sbatch_is_that_of_the_golden_file(name, tmp_path):
    folder = tmp_path / "work"
    result = tiny.cli(*TEXTS[name], "-o", folder, "--cluster", "slurm", "--dry-run")
    assert (result.status, result.err) == (0, "")
    text = result.out.replace(str(tmp_path), "/home/me").replace(shlex.quote(sys.executable), "/venv/bin/python")
    assert text == (GOLDEN / f"{name}.sbatch").read_text() + "\n"
    assert not folder.exists()
    assert not (tmp_path / "script").exists()


@pytest.mark.parametrize("name", TEXTS)
def test_the_golden_files_are_valid_scripts(name):
    subprocess.run(["bash", "-n", GOLDEN / f"{name}.sbatch"], check=True)


@pytest.mark.usefixtures("slurm")
def test_a_look_at_the_script_removes_nothing(place):
    before = tiny.files(place.folder)
    words = ["train", "-o", place.model, *QUICK, "--overwrite", "--cluster", "slurm", "--dry-run"]
    assert tiny.cli(*words).status == 0
    assert tiny.files(place.folder) == before


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--overwrite"], ["--sweep", "head.seed=1,2"]])
def test_without_slurm_it_is_said_on_one_line_and_no_file_changes(place, words):
    before = tiny.files(place.folder)
    result = tiny.cli("train", "-o", place.model, *QUICK, "--cluster", "slurm", *words)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("ebsc: there is no SLURM here")
    assert "use --cluster local or here" in result.err
    assert tiny.files(place.folder) == before


@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_only_slurm_has_a_script_to_show(tmp_path, cluster):
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", cluster, "--dry-run")
    assert (result.status, result.out) == (2, "")
    assert result.err == "ebsc: --dry-run shows a script of sbatch: it needs --cluster slurm\n"
    assert tiny.files(tmp_path) == {}


# -- what to ask for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ["colour=blue", "--colour", "partition=gpu", "array=0-3", "=1", ""])
def test_an_unknown_parameter_of_sbatch_is_answered_with_the_list(item):
    with pytest.raises(InputError, match=r"sbatch has no parameter '.*it has .*exclude, exclusive,.* reservation, "):
        Slurm(sbatch=(item,))


def test_parameters_of_sbatch_may_have_equals_signs_in_their_values():
    extra = Slurm(sbatch=("export=A=1,B=2", "--hold", "nodelist=n[1-3]")).extra()
    assert extra == {"export": "A=1,B=2", "hold": True, "nodelist": "n[1-3]"}


@pytest.mark.parametrize(
    ("options", "message"),
    [({name: 0}, "must be at least 1") for name in ("nodes", "tasks", "cpus", "time", "parallel", "signal")]
    + [({name: -1}, "must not be negative") for name in ("gpus", "requeues")]
    + [({"memory": memory}, "memory must be positive") for memory in (0.0, -1.0)]
    + [({"time": 2, "signal": 120}, "a signal 120 s before the end comes too early for a job of 2 min")],
)
def test_what_cannot_be_asked_for_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Slurm(**options)


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        *[({}, 1), ({"gpus": 4}, 4), ({"gpus": 4, "tasks": 2}, 2)],
        *[({"gres": gres}, 2) for gres in ("gpu:2", "gpu:a100:2", "nvme:4,gpu:a100,gpu:v100")],
        *[({"gres": gres}, 1) for gres in ("gpu", "gpu:a100", "nvme:4")],
    ],
)
def test_a_training_has_a_process_for_each_gpu_unless_told_otherwise(options, tasks):
    assert Train(slurm=Slurm(**options)).tasks == tasks


@pytest.mark.parametrize(
    ("options", "tasks", "cpus"), [({}, 1, 1), ({"gpus": 8}, 1, 8), ({"gpus": 8}, 8, 1), ({"gpus": 8, "cpus": 2}, 1, 2)]
)
def test_there_are_cpus_for_a_worker_on_each_gpu(options, tasks, cpus):
    assert Slurm(**options).parameters("a", tasks)["cpus_per_task"] == cpus


def test_a_gpu_that_was_asked_for_is_never_a_cpu():
    asked = Slurm(gpus=1)
    assert [asked.device("auto", "slurm"), asked.device("cpu", "slurm"), asked.device("auto", "here")] == [
        *["cuda", "cpu", "auto"]
    ]
    assert Slurm().device("auto", "slurm") == "auto"


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--data", "minst"], "unknown data set 'minst'"),
        (["train", "--nodes", 3], "a batch of 64 images cannot be shared equally by 3 processes"),
        (["train", "--nodes", 3, "--energy.batch", 192], "a batch of 128 images cannot be shared equally by 3 pro"),
        (["train", "--start-from", "no-such-model"], "no-such-model"),
        (["certify", "no-such-model"], "no-such-model"),
        (["certify", "ebsc-mnist-0.25", "--data", "minst"], "unknown data set 'minst'"),
        (["attack", "no-such-run"], "no-such-run is not a run folder"),
    ],
)
def test_what_is_wrong_is_said_before_the_queue(tmp_path, words, said):
    words = [*words, "-o", tmp_path / "a", "--cluster", "slurm"]
    result = tiny.cli(*words)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err
    assert not (tmp_path / "a").exists()
    if "no-such-" in said:  # a job before this one may make it
        after = tiny.cli(*words, "--sbatch", "dependency=afterok:5")
        assert (after.status, after.err) == (0, "")


def test_a_batch_that_cannot_be_shared_is_said_before_the_energy_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--head.batch", 3)
    assert (result.status, result.err) == (2, "ebsc: a batch of 3 images cannot be shared equally by 2 processes\n")
    assert not (tmp_path / "a").exists()


# -- jobs -----------------------------------------------------------------------------------------------------------


class Plain:
    """A command that holds something to save, which cannot be pickled."""

    def __init__(self, saved):
        self.saved = saved

    def here(self, on_stop):
        on_stop(lambda: self.saved.append("first"))
        on_stop(lambda: self.saved.append("second"))


def test_a_job_is_a_small_pickle_that_holds_nothing_but_the_command():
    job = Job(Train(sigma=0.25, slurm=Slurm(partition="gpu")))
    job._on_stop(lambda: None)
    packed = pickle.dumps(job)
    assert len(packed) < 2000
    assert pickle.loads(packed).command == job.command
    assert vars(pickle.loads(packed)).keys() == vars(job).keys()


def test_a_job_that_is_told_to_stop_saves_and_is_handed_in_afresh():
    command = Plain([])
    job = Job(command)
    job()
    again = job.checkpoint()
    assert command.saved == ["second"]  # the state of the part that is being trained
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert type(again.function) is Job
    assert again.function is not job
    assert again.function.command is command
    assert (again.args, again.kwargs) == ((), {})
    again.function.checkpoint()
    assert command.saved == ["second"]  # nothing is held yet


class Killed(Plain):
    def here(self, on_stop):
        super().here(on_stop)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_of_this_machine_that_is_killed_saves_first(monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    command, before = Killed([]), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            Job(command)()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 128 + signal.SIGTERM
    assert command.saved == ["second"]


ENDING = """
import os, signal, sys
from pathlib import Path
from jobs.launch import Job, Slurm, dispatch

class Command:
    folder, tasks = Path(), 1

    def here(self, on_stop):
        print("done")

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), numbers=(signal.SIGUSR2, signal.SIGTERM)):
        for number in numbers:
            kill(process, number)

late = Late()  # it goes when Python ends, after the last handler of a signal
if sys.argv[1] == "submitit":
    signal.signal(signal.SIGUSR2, print)
    Job(Command())()
else:
    dispatch([Command()], "here", Slurm(), Path())
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_signals_are_those_of_slurm_where_nobody_sits_at_a_terminal(monkeypatch, terminal):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    assert launch._in_a_step() != terminal


@pytest.mark.parametrize("started_by", ["submitit", "a script"])
def test_a_signal_of_slurm_while_python_ends_does_not_fail_what_is_done(started_by, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    ended = subprocess.run([sys.executable, "-c", ENDING, started_by], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_NTASKS": "2"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # in a script or a shell, before any step
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    ],
)
def test_a_process_that_is_alone_needs_no_group(monkeypatch, environment):
    for name in ("RANK", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with processes(pick("cpu")):
        assert not torch.distributed.is_initialized()


# -- submitted ------------------------------------------------------------------------------------------------------


def ticket(folder):
    return json.loads((folder / "job.json").read_text())


@pytest.mark.usefixtures("slurm")
def test_a_job_that_was_submitted_leaves_a_ticket(tmp_path):
    folder = tmp_path / "model"
    result = tiny.cli("train", "-o", folder, *QUICK, "--cluster", "slurm", "--partition", "gpu")
    assert (result.status, result.err) == (0, "")
    logs = folder / "logs" / "77"
    assert result.out.splitlines() == [
        f"{folder}: slurm job 77, logs in {logs}",
        f"see them with: ebsc jobs {folder}; stop them with: scancel 77",
    ]
    found = ticket(folder)
    assert found.pop("time") > 1.7e9
    assert found == {"cluster": "slurm", "job": "77", "logs": str(logs), "log": str(logs / "77_0_log.err")}
    delayed = submitit.core.utils.DelayedSubmission.load(logs / "77_submitted.pkl")
    assert (delayed.function.command.out, delayed.function.command.width) == (folder, 3)
    assert delayed._timeout_countdown == 1000
    assert "#SBATCH --partition=gpu\n" in (tmp_path / "script").read_text()
    assert not (folder / "config.json").exists()  # that is for the job to write


@pytest.mark.usefixtures("slurm")
def test_a_sweep_is_an_array_with_a_ticket_for_each_point(tmp_path):
    folder = tmp_path / "sweep"
    result = tiny.cli("train", "-o", folder, *QUICK, "--cluster", "slurm", "--sweep", "head.seed=1,2,3")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-1] == f"see them with: ebsc jobs {folder}; stop them with: scancel 77"
    assert "#SBATCH --array=0-2%3\n" in (tmp_path / "script").read_text()
    for number in range(3):
        point = folder / f"head.seed={number + 1}"
        found = ticket(point)
        assert (found["job"], found["log"]) == (f"77_{number}", f"{folder}/logs/77_{number}/77_{number}_0_log.err")
        delayed = submitit.core.utils.DelayedSubmission.load(f"{found['logs']}/77_{number}_submitted.pkl")
        assert (delayed.function.command.folder, delayed.function.command.head.seed) == (point, number + 1)


@pytest.mark.usefixtures("slurm")
def test_inside_of_a_job_the_new_one_is_its_own_but_of_the_same_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "/etc/mine.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "me")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    before = dict(os.environ)
    assert tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm").status == 0
    seen = (tmp_path / "environment").read_text().splitlines()
    of_slurm = sorted(line for line in seen if line.startswith(("SLURM_", "SBATCH_")))
    assert of_slurm == ["SBATCH_ACCOUNT=me", "SLURM_CONF=/etc/mine.conf"]
    assert dict(os.environ) == before


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("words", [["--account", "other"], ["--sbatch", "reservation=night"]])
def test_an_option_counts_more_than_what_is_usual(tmp_path, monkeypatch, words):
    for name in ("ACCOUNT", "RESERVATION", "QOS", "TIMELIMIT"):
        monkeypatch.setenv(f"SBATCH_{name}", "usual")
    assert tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", *words).status == 0
    seen = (tmp_path / "environment").read_text().splitlines()
    left = {"ACCOUNT", "RESERVATION", "QOS"} - {"ACCOUNT" if "--account" in words else "RESERVATION"}
    assert {line for line in seen if line.startswith("SBATCH_")} == {f"SBATCH_{name}=usual" for name in left}


def test_what_waits_or_runs_already_is_not_submitted_again(slurm, tmp_path):
    slurm("squeue", "exit 1")
    words = ["train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", "--sweep"]
    assert tiny.cli(*words, "head.seed=1,2").status == 0
    slurm("squeue", "echo '77_0|RUNNING|n1|None'; echo '77_1|PENDING||Priority'")
    slurm("sbatch", f'cp "$1" {tmp_path}/script; echo "Submitted batch job 78"')
    result = tiny.cli(*words, "head.seed=1,2,3")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[:2] == [
        f"{tmp_path}/a/head.seed=1: job 77_0 is running already",
        f"{tmp_path}/a/head.seed=2: job 77_1 is pending already",
    ]
    assert [ticket(tmp_path / "a" / f"head.seed={seed}")["job"] for seed in (1, 2, 3)] == ["77_0", "77_1", "78"]
    (tmp_path / "script").unlink()
    assert tiny.cli(*words, "head.seed=1,2").status == 0
    assert not (tmp_path / "script").exists()
    assert tiny.cli(*words, "head.seed=1,2", "--sbatch", "dependency=afterok:77").status == 0
    assert (tmp_path / "script").exists()


def test_a_job_that_slurm_refuses_ends_with_status_2_and_its_words(slurm, tmp_path):
    slurm("sbatch", 'echo "sbatch: error: invalid partition specified: gup" >&2; exit 1')
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", "--partition", "gup")
    assert (result.status, result.out) == (2, "")
    last = result.err.splitlines()[-1]
    assert last == "ebsc: the job was not accepted: sbatch: error: invalid partition specified: gup"
    assert tiny.files(tmp_path / "a") == {}


def course(slurm, tmp_path, *answers):
    """squeue gives these answers one after the other, the last one again and again."""
    for number, answer in enumerate(answers):
        (tmp_path / f"answer{number}").write_text(answer)
    asked, last = tmp_path / "asked", len(answers) - 1
    asked.write_text("")
    count = f'n=$(wc -l < {asked}); echo "$@" >> {asked}'
    slurm("squeue", f"{count}; cat {tmp_path}/answer$((n < {last} ? n : {last}))")


def said(result):
    """States as they were said, without the time."""
    lines = result.out.split("scancel 77\n")[1].split("\nrun ")[0].splitlines()
    return [line.split(": ", 1)[1].strip() for line in lines]


def test_waiting_says_what_changes_until_all_is_over(slurm, tmp_path):
    pending, running, done = "77|PENDING||Priority\n", "77|RUNNING|n1|None\n", "77|COMPLETED|n1|None\n"
    course(slurm, tmp_path, pending, pending, running, running, done)
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", "--wait")
    assert (result.status, result.err) == (0, "")
    assert said(result) == ["pending (Priority)", "running n1", "completed n1"]
    assert result.out.splitlines()[-1].split() == [
        *[str(tmp_path / "a"), "completed", "77", "n1", str(tmp_path / "a/logs/77/77_0_log.err")]
    ]


def test_after_sigterm_a_job_that_slurm_does_not_end_ends_by_itself(slurm, tmp_path, monkeypatch):
    course(slurm, tmp_path, "RUNNING\n")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(launch, "GRACE", 0.1)
    saved = []
    with pytest.raises(SystemExit) as end:
        launch._save_and_wait(lambda: saved.append(True))
    assert (saved, end.value.code) == ([True], 143)


def test_no_answer_of_squeue_does_not_end_a_job_that_is_preempted(slurm, tmp_path, monkeypatch):
    """As of a controller that is busy: not before SLURM says something, or GRACE is over."""
    course(slurm, tmp_path, "", "", "COMPLETING\n")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit):
        launch._save_and_wait(lambda: None)
    assert len((tmp_path / "asked").read_text().splitlines()) == 3


def test_a_job_on_its_way_back_to_the_queue_is_waited_for(slurm, tmp_path):
    failed, pending, done = "77|NODE_FAIL|n1|None\n", "77|PENDING||BeginTime\n", "77|COMPLETED|n2|None\n"
    course(slurm, tmp_path, failed, pending, failed, done)
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", "--wait")
    assert (result.status, result.err) == (0, "")
    assert said(result) == ["node_fail n1", "pending (BeginTime)", "node_fail n1", "completed n2"]


def test_waiting_ends_where_slurm_forgets_what_is_over(slurm, tmp_path):
    course(slurm, tmp_path, "77|RUNNING|n1|None\n", "77|TIMEOUT|n1|None\n", "")
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", "--wait")
    assert (result.status, said(result)) == (1, ["running n1", "timeout n1"])
    assert result.err == f"ebsc: 1 of 1 did not complete: {tmp_path}/a (timeout)\n"


def test_waiting_for_a_sweep_ends_with_status_1_when_a_point_failed(slurm, tmp_path):
    course(
        slurm, tmp_path, "77_0|COMPLETED|n1|None\n77_1|RUNNING|n2|None\n", "77_0|COMPLETED|n1|None\n77_1|FAILED|n2|\n"
    )
    log = tmp_path / "a" / "logs" / "77_1" / "77_1_0_log.err"
    log.parent.mkdir(parents=True)
    log.write_text("ebsc.errors.InputError: sigma is too big\nsrun: error: n2: task 0: Exited with exit code 1\n")
    words = ["train", "-o", tmp_path / "a", *QUICK, "--cluster", "slurm", "--wait", "--sweep", "sigma=0.5,9"]
    result = tiny.cli(*words)
    assert result.status == 1
    assert result.err == f"ebsc: 1 of 2 did not complete: {tmp_path}/a/sigma=9 (failed)\n"
    assert result.out.splitlines()[-1] == f"{tmp_path}/a/sigma=9: ebsc.errors.InputError: sigma is too big"


# -- here, by submitit ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The weights of a training in this process."""
    folder = tmp_path_factory.mktemp("here") / "model"
    assert tiny.cli("train", "-o", folder, *QUICK).status == 0
    return (folder / "model.safetensors").read_bytes()


# submitit forgets the processes that it started, and leaves its logs open
forgetful = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@forgetful
@pytest.mark.timeout(180)
def test_a_process_of_this_machine_trains_the_same(here, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "POLL", 0.1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(Path(launch.__file__).parents[1])
    result = tiny.cli("train", "-o", tmp_path, *QUICK, "--cluster", "local", "--wait")
    assert (result.status, result.err) == (0, "")
    assert (tmp_path / "model.safetensors").read_bytes() == here
    assert "training the residual denoiser: 100%" in Path(ticket(tmp_path)["log"]).read_text()
    assert result.out.splitlines()[-1].split()[:4] == [str(tmp_path), "completed", "head", "2/2"]
    assert tiny.cli("jobs", tmp_path).out in result.out
    again = tiny.cli("train", "-o", tmp_path, *QUICK, "--cluster", "local", "--wait")  # finds all done
    assert (again.status, again.err) == (0, "")
    assert "completed" in again.out


@forgetful
@pytest.mark.timeout(180)
def test_an_attack_as_a_process_of_this_machine_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(states, "POLL", 0.1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["--radii", 0.1, "--n", 100, "--steps", 1, "--images", ":1"]
    result = tiny.cli("attack", place.run, *words, "--cluster", "local", "--wait")
    assert (result.status, result.err) == (0, "")
    assert "completed" in result.out
    other = tiny.cli("attack", place.run, *words, "--radii", 0.2, "--cluster", "local", "--wait")
    assert other.status == 1
    assert "failed" in other.out
    assert 'radii is "0.1" there, "0.2" here' in other.out


@forgetful
@pytest.mark.timeout(180)
def test_processes_of_this_machine_are_stopped_as_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "POLL", 0.1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    long = ["--width", 3, "--energy.steps", 100_000, "--watch.log", 1, "--watch.save", 1000, "--cluster", "local"]
    submitted = tiny.cli("train", "-o", tmp_path, *long, "--sweep", "energy.seed=0,1")
    stop = submitted.out.split("stop them with: ")[1].split()
    numbers = [int(ticket(point)["job"]) for point in sorted(tmp_path.glob("energy.seed=*"))]
    assert stop == ["kill", *map(str, numbers)]
    points = [tmp_path / f"energy.seed={seed}" for seed in (0, 1)]
    tiny.until(lambda: all(tiny.lines(point / "metrics.jsonl") > 2 for point in points), "both train", 60)
    subprocess.run(stop, check=True)
    tiny.until(lambda: not any(map(alive, numbers)), "both have ended", 60)
    assert tiny.cli("jobs", tmp_path).out.count("stopped") == 2


@forgetful
@pytest.mark.timeout(180)
def test_what_is_done_already_is_completed_and_an_extension_of_it_is_waited_for(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "POLL", 0.1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = Path(shutil.copytree(finished.folder / "run", tmp_path / "run"))
    submitted = [*finished.certify(out=run), "--cluster", "local", "--wait"]
    for extend in ([], ["--extend", "n=400"]):
        result = tiny.cli(*submitted, *extend)
        assert (result.status, result.err) == (0, "")
        assert json.loads((run / "config.json").read_text())["question"]["budget"]["n"] == (400 if extend else 200)
        assert (run / "certificates.parquet").exists()


@forgetful
def test_submitit_trains_the_same_in_this_process(here, tmp_path):
    result = tiny.cli("train", "-o", tmp_path, *QUICK, "--cluster", "debug")
    assert result.status == 0, result.err
    assert (tmp_path / "model.safetensors").read_bytes() == here


def test_this_machine_is_one_node(tmp_path):
    result = tiny.cli("train", "-o", tmp_path / "a", *QUICK, "--cluster", "local", "--nodes", 2)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert tiny.files(tmp_path) == {}


@pytest.mark.usefixtures("slurm")
def test_submitting_a_job_clears_nothing_yet(tmp_path):
    folder = tmp_path / "a"
    with RunFolder(folder, {"question": {}}, "model.json"):
        before = tiny.files(folder)
        result = tiny.cli("train", "-o", folder, *QUICK, "--cluster", "slurm", "--overwrite")
        after = tiny.files(folder)
        assert {name: after[name] for name in before} == before
    assert result.status == 0, result.err  # the job itself is refused, if the folder is still in use then


def test_a_job_that_overwrites_clears_older_traces_and_not_its_own_when_it_is_started_again(tmp_path):
    ours, older = Train(out=tmp_path, token="ours"), Train(out=tmp_path, token="older")
    for clearing, left in ((ours, True), (older, False)):
        (tmp_path / "config.json").write_text('{"question": {"objective": "clean"}, "options": {"token": "ours"}}')
        (tmp_path / "checkpoint").mkdir(exist_ok=True)
        clearing._clear()
        assert (tmp_path / "config.json").exists() == (tmp_path / "checkpoint").exists() == left


def test_a_script_that_overwrites_does_so_once_though_slurm_queues_it_again(monkeypatch):
    for name in ("SLURM_ARRAY_TASK_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert launch.start_token() != launch.start_token()
    for name, value in {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    first = launch.start_token()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert launch.start_token() == first
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert launch.start_token() != first, "another command of the same script"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert launch.start_token() == ""


def test_every_point_of_a_command_that_overwrites_has_its_token(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("jobs.train.dispatch", lambda commands, *rest: seen.extend(commands))
    Train(out=tmp_path, overwrite=True, sweep=("head.seed=1,2",)).run()
    Train(out=tmp_path).run()
    tokens = [command.token for command in seen]
    assert tokens[0] == tokens[1] != ""
    assert tokens[2] == ""
