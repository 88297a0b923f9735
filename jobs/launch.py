"""Where a command runs: in this process, or as a job of submitit. Nothing else in the tree imports submitit."""

import atexit
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

import torch

from ebsc.device import Device
from ebsc.errors import EbscError, InputError, RunError, one_line
from ebsc.files import make_folder, refused, write_whole
from jobs.states import ask, states, table, wait

__all__ = ["Cluster", "Command", "Job", "OnStop", "Slurm", "dispatch", "processes", "sbatch_text", "start_token"]

Cluster = Literal["here", "slurm", "local", "debug"]

OnStop = Callable[[Callable[[], None]], None]
"""Tells whoever watches for signals what to do before this process is stopped."""

GRACE = 900.0
"""Seconds for which a process that got SIGTERM waits for its end."""

_PYTHON = f"""sh -c 'trap "" TERM USR2; exec "$0" "$@"' {shlex.quote(sys.executable)}"""
"""Python with signals ignored until it listens: they would end the job as failed, and it would not be queued again."""

_USUAL = ("account", "partition", "qos", "constraint", "reservation")
"""What people set by ``SBATCH_ACCOUNT`` and its like: sbatch would prefer it to what our script says."""

# sbatch's own options that no option of ours covers, from its manual page
_SBATCH = """
    account-gather-freq acctg-freq batch begin bell burst-buffer bb bbf chdir cluster-constraint clusters comment
    container container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu deadline delay-boot dependency
    distribution exclude exclusive export export-file extra extra-node-info get-user-env gid gpu-bind gpu-freq gpus
    gpus-per-socket gpus-per-task gres-flags hint hold ignore-pbs kill-on-invalid-dep licenses mail-type mail-user
    mcs-label mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill nodefile nodelist ntasks-per-core
    ntasks-per-gpu ntasks-per-socket overcommit oversubscribe power prefer priority profile propagate quiet reboot
    reservation resv-ports sockets-per-node spread-job switches thread-spec threads-per-core time-min tmp tres-bind
    tres-per-task uid use-min-nodes wait-all-nodes wckey x11""".split()  # noqa: SIM905


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What to ask SLURM for; refused with --cluster here, and of no effect with local where only SLURM knows it.

    Attributes:
        partition: Partition to submit to. Default: SLURM's own.
        account: Account to charge.
        qos: Quality of service.
        nodes: Nodes of one job.
        gpus: GPUs on each node.
        tasks: Processes on each node. Default: one for each GPU of a training, else one.
        cpus: CPUs of each process. Default: one for each of its GPUs, at least one.
        memory: Memory on each node, in GB. Default: SLURM's own.
        time: Time limit, in minutes. A job that reaches it is requeued and goes on.
        constraint: Features that nodes must have.
        gres: Generic resources, as `--gres` of sbatch; `gpu:a100:4` counts as 4 GPUs.
        setup: Shell lines to run before the job, for example `"module load cuda"`.
        sbatch: Further parameters of sbatch, as key=value; a wrong key is answered with the list.
        parallel: Tasks of a sweep that SLURM runs at a time.
        signal: Seconds before the time limit at which a job saves its state and requeues itself.
        requeues: How many time limits a job may reach.
        wait: Stay until all is over, and show the states; exit status 1 if anything failed.
        dry_run: Show the sbatch script, and submit nothing.

    Raises:
        InputError: a value that is not allowed.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    gpus: int = 0
    tasks: int | None = None
    cpus: int | None = None
    memory: float | None = None
    time: int = 60
    constraint: str | None = None
    gres: str | None = None
    setup: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()
    parallel: int = 64
    signal: int = 120
    requeues: int = 1000
    wait: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        some = (number for number in (self.tasks, self.cpus) if number is not None)
        if min(self.nodes, self.time, self.parallel, self.signal, *some) < 1:
            raise InputError("nodes, tasks, cpus, time, parallel and signal must be at least 1")
        if self.signal >= 60 * self.time:
            raise InputError(f"a signal {self.signal} s before the end comes too early for a job of {self.time} min")
        if self.gpus < 0 or self.requeues < 0 or (self.memory is not None and self.memory <= 0):
            raise InputError("gpus and requeues must not be negative, memory must be positive")
        self.extra()

    @property
    def all_gpus(self) -> int:
        """GPUs on each node, by --gpus or by --gres.

        >>> Slurm(gres="gpu:a100:4,nvme:1").all_gpus
        4
        """
        kinds = [item.split(":") for item in (self.gres or "").split(",")]
        return self.gpus or sum(int(kind[-1]) if kind[-1].isdecimal() else 1 for kind in kinds if kind[0] == "gpu")

    def device(self, asked: Device, cluster: str) -> Device:
        """The device of a command: where GPUs were asked for, torch must find them."""
        return "cuda" if asked == "auto" and cluster == "slurm" and self.all_gpus else asked

    @property
    def asked(self) -> list[str]:
        """The options that were given.

        >>> Slurm(gpus=4, dry_run=True).asked
        ['--gpus', '--dry-run']
        """
        given = [item.name for item in fields(self) if getattr(self, item.name) != item.default]
        return [f"--{name.replace('_', '-')}" for name in given]

    @property
    def depends(self) -> bool:
        """Whether the job begins after others, whose files may not be there yet."""
        return any(item.removeprefix("--").startswith("dependency") for item in self.sbatch)

    def one_process(self, command: str, *, on_each_node: bool = False) -> None:
        """Raise :class:`InputError` where more processes are asked for than the command is."""
        if self.tasks not in (None, 1):
            raise InputError(f"{command} is one process{' on each node' * on_each_node}: it does not take --tasks")
        if self.nodes > 1 and not on_each_node:
            raise InputError(f"{command} is one process: it does not take --nodes {self.nodes}")

    def extra(self) -> dict[str, str | bool]:
        """The further parameters of sbatch.

        >>> Slurm(sbatch=("reservation=night", "exclusive")).extra()
        {'reservation': 'night', 'exclusive': True}
        """
        found: dict[str, str | bool] = {}
        for item in self.sbatch:
            key, equals, value = item.removeprefix("--").partition("=")
            if key not in _SBATCH:
                raise InputError(f"sbatch has no parameter {key!r} to be given here; it has {', '.join(_SBATCH)}")
            found[key] = value if equals else True
        return found

    def parameters(self, name: str, tasks: int) -> dict[str, Any]:
        """As submitit takes them."""
        cpus = self.cpus or max(1, self.all_gpus // tasks)
        optional = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_gres": self.gres,
            "slurm_setup": list(self.setup) or None,
            "mem_gb": self.memory,
            "gpus_per_node": self.gpus or None,
        }
        return {key: value for key, value in optional.items() if value is not None} | {
            "name": name,
            "timeout_min": self.time,
            "nodes": self.nodes,
            "tasks_per_node": tasks,
            "cpus_per_task": cpus,
            "slurm_signal_delay_s": self.signal,
            "slurm_array_parallelism": self.parallel,
            # a node that dies takes its job back to the queue, and a dead task does not leave the others waiting
            "slurm_additional_parameters": {"requeue": True, **self.extra()},
            # srun does not inherit these: not the CPUs (SLURM 22.05 to 23.02), nor the environment after --export
            "slurm_srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", "--export=ALL"],
        }


class Command(Protocol):
    """What can be launched: a picklable command with a folder of its own."""

    @property
    def folder(self) -> Path:
        """Where it writes."""

    @property
    def tasks(self) -> int:
        """Processes on each node."""

    def here(self, on_stop: OnStop) -> None:
        """Carry it out in this process."""


class Job:
    """A command as it is carried out, here or on a node by submitit, and what to save before it is stopped.

    Whatever stops it, started again it goes on from its own folder.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.save: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        """Carry the command out."""
        if _in_a_step():
            self.save_on_sigterm()
        elif os.environ.get("SUBMITIT_EXECUTOR") == "local":
            signal.signal(signal.SIGTERM, self._end)
        self.carry_out()

    def carry_out(self) -> None:
        """Carry the command out; what it carries out in turn is saved with it."""
        _running.append(self)
        try:
            self.command.here(self._on_stop)
        finally:
            _running.pop()

    def checkpoint(self) -> Any:
        """Called by submitit on the signal before a preemption or the time limit: save, and be queued again."""
        from submitit.helpers import DelayedSubmission

        _in_thread(self.save)
        return DelayedSubmission(Job(self.command))

    def save_on_sigterm(self) -> None:
        """Save when SLURM ends the job. While Python itself ends, and handles no signals, ignore those of SLURM."""
        signal.signal(signal.SIGTERM, lambda signum, frame: _save_and_wait(self.save))
        for number in (signal.SIGTERM, signal.SIGUSR2):
            atexit.register(signal.signal, number, signal.SIG_IGN)

    def _end(self, signum: int, frame: object) -> None:
        """As ``kill`` asks for, which submitit would ignore."""
        _in_thread(self.save)
        sys.exit(128 + signum)

    def _on_stop(self, save: Callable[[], None]) -> None:
        self.save = save

    def __getstate__(self) -> dict[str, Any]:
        return {"command": self.command}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["command"])  # type: ignore[misc]


_running: list[Job] = []
"""The job that this process carries out, if it does."""


def dispatch(commands: Sequence[Command], cluster: Cluster, slurm: Slurm, folder: Path) -> None:
    """Carry commands out one after the other here, or submit them, several as one array.

    Raises:
        RunError: some failed; the others were carried out.
        InputError: the cluster is not there, or does not take the job.
    """
    if asked := [] if cluster != "here" or slurm.dry_run else slurm.asked:
        raise InputError(f"only jobs take {', '.join(asked)}: nothing is submitted without --cluster slurm or local")
    if cluster != "here" or slurm.dry_run:
        submitted = _submit(commands, cluster, slurm, folder)
        if submitted and slurm.wait:
            wait(submitted)
        return
    if len(commands) == 1:
        _carry_out(commands[0])
        return
    failed = []
    for number, command in enumerate(commands, 1):
        print(f"[{number}/{len(commands)}] {command.folder}", flush=True)
        try:
            _carry_out(command)
        except EbscError as error:
            failed.append(f"{command.folder.name} ({error})")
            print(f"ebsc: {command.folder}: {error}", file=sys.stderr, flush=True)
    print(table(states([command.folder for command in commands])))
    if failed:
        raise RunError(f"{len(failed)} of {len(commands)} failed: {'; '.join(failed)}")


def _submit(commands: Sequence[Command], cluster: Cluster, slurm: Slurm, folder: Path) -> list[Path]:
    """Hand the commands to submitit; returns their folders, none when nothing was to be submitted."""
    import submitit

    if slurm.dry_run and cluster != "slurm":
        raise InputError("--dry-run shows a script of sbatch: it needs --cluster slurm")
    if cluster == "local" and (slurm.nodes > 1 or commands[0].tasks > 1):
        raise InputError("--cluster local is one process: for several, torchrun --nproc-per-node N -m jobs.train ...")
    logs = (folder / "logs").absolute()
    try:
        executor = submitit.AutoExecutor(
            folder=logs / "%j", cluster=cluster, slurm_max_num_timeout=slurm.requeues, slurm_python=_PYTHON
        )
    except RuntimeError as error:
        raise InputError(f"there is no SLURM here ({error}): use --cluster local or here") from error
    executor.update_parameters(**slurm.parameters(f"ebsc-{folder.name}", commands[0].tasks))
    executor._executor.parameters["wckey"] = None  # else "submitit", which a cluster with such keys does not know
    folders = [command.folder for command in commands]
    if slurm.dry_run:
        print(sbatch_text(executor, len(commands)))
        if len(commands) > 1:
            print("# a task for each of these that is not under way already:", *folders, sep="\n# ")
        return []
    make_folder(folder, "folder")
    if not slurm.depends:
        busy = {state.folder: state for state in states(folders) if state.job and state.active}
        for state in busy.values():
            print(f"{state.folder}: job {state.job} is {state.state.lower()} already")
        commands = [command for command in commands if command.folder not in busy]
    if not commands:
        return folders
    jobs: list[Any] = []
    new = not logs.exists()
    try:
        # from inside a job too; which cluster, and what is usual for its user, is kept unless an option says otherwise
        given = {*slurm.extra(), *(name for name in _USUAL if getattr(slurm, name, None))}
        usual = [f"SBATCH_{name.upper()}" for name in _USUAL if name not in given]
        kept = ("SLURM_CONF", "SLURM_CLUSTERS", *usual)
        keep = {name: os.environ[name] for name in kept if name in os.environ}
        with submitit.helpers.clean_env(), executor.batch():
            os.environ |= keep
            jobs += [executor.submit(Job(command)) for command in commands]
    except OSError as error:
        raise refused(error, "the job was not accepted") from error
    except submitit.core.utils.FailedJobError as error:
        if new:
            shutil.rmtree(logs, ignore_errors=True)  # what was to be submitted
        raise InputError(f"the job was not accepted: {one_line(error, 500)}") from error
    if cluster == "debug":  # runs when it is asked for its result
        for job in jobs:
            job.result()
        return []
    for command, job in zip(commands, jobs, strict=True):
        make_folder(command.folder, "folder")
        ticket = {"cluster": cluster, "job": job.job_id, "logs": str(job.paths.folder), "log": str(job.paths.stderr)}
        write_whole(command.folder / "job.json", json.dumps({**ticket, "time": time.time()}).encode())
        print(f"{command.folder}: {cluster} job {job.job_id}, logs in {job.paths.folder}", flush=True)
    numbers = [job.job_id for job in jobs]
    stop = f"scancel {numbers[0].split('_')[0]}" if cluster == "slurm" else f"kill {' '.join(numbers)}"
    print(f"see them with: ebsc jobs {shlex.quote(str(folder))}; stop them with: {stop}")
    return folders


def sbatch_text(executor: Any, count: int) -> str:
    """The sbatch script that submitit would submit for so many jobs."""
    inner = executor._executor  # submitit offers no other way to see it
    if count > 1:
        inner.parameters["map_count"] = count
    return str(inner._make_submission_file_text(inner._submitit_command_str, "dry-run"))


def _carry_out(command: Command) -> None:
    """Run a command in this process; saved before Ctrl-C, and before SLURM stops a job that submitit did not start.

    One that another command carries out, as a step of a story, is saved by what saves that one.
    """
    if _running:
        command.here(_running[-1]._on_stop)
        return
    job = Job(command)

    def requeue(signum: int, frame: object) -> None:
        if os.environ["SLURM_PROCID"] != "0":
            return  # the first process speaks for all
        _in_thread(job.save)
        try:
            subprocess.run(["scontrol", "requeue", _number()], timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"ebsc: saved, but not queued again, so going on: {one_line(error)}", file=sys.stderr, flush=True)
        else:
            sys.exit(128 + signum)

    if _in_a_step() and "SUBMITIT_EXECUTOR" not in os.environ:
        signal.signal(signal.SIGUSR2, requeue)
        job.save_on_sigterm()
    try:
        job.carry_out()
    except KeyboardInterrupt:
        job.save()
        raise


def _in_a_step() -> bool:
    """Whether SLURM runs this process, with nobody at its terminal: then a signal is SLURM's."""
    return "SLURM_PROCID" in os.environ and not (sys.stdin and sys.stdin.isatty())


def _in_thread(save: Callable[[], None]) -> None:
    """Save from a signal's handler, in a thread of its own.

    The interrupted thread may be in the middle of torch.func.grad or of a compilation, when its tensors are not what
    they seem. What goes wrong is said, and keeps no job from being queued again.
    """
    thread = threading.Thread(target=save)
    thread.start()
    thread.join()


def _save_and_wait(save: Callable[[], None]) -> None:
    """After SIGTERM: save, and end when SLURM has decided what becomes of the job.

    To end before, in the grace time of a preemption, would count as a failure of the job, and it would not be queued
    again. Nor is there a point in going on: the signal may have ended processes that this one needs, such as Ray's.
    """
    _in_thread(save)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        # the first process asks for all: srun ends the others with it; no answer decides nothing
        first = os.environ["SLURM_PROCID"] == "0"
        if first and (found := ask("squeue", "-h", "-j", _number(), "-o", "%T")) and found != ["RUNNING"]:
            break
        time.sleep(1)
    sys.exit(128 + signal.SIGTERM)


def start_token() -> str:
    """What tells this start of a command from others given earlier; the same when SLURM or torchrun start it again.

    Empty where nothing that was there before is to be replaced any more.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        return ""
    return f"slurm {_number()}.{os.environ.get('SLURM_STEP_ID')}" if _in_a_step() else uuid4().hex


def _number() -> str:
    """This job's number, for commands of SLURM; that of an array's task, as the plain one may be the whole array's."""
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}" if task else os.environ["SLURM_JOB_ID"]


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """The process group of this training: that of ``torchrun``, that of the tasks of a SLURM step, or none."""
    if "RANK" not in os.environ:
        # not SLURM_NTASKS: in a script or a shell of an allocation that is the number of tasks of a step to come
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
            yield
            return
        from submitit.helpers import TorchDistributedEnvironment

        os.environ.setdefault("SUBMITIT_EXECUTOR", "slurm")  # it knows its way in the steps of other scripts, too
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    # imported while a group is there, as by DistributedDataParallel, it holds on to that group (torch 2.14.1), whose
    # threads then outlive it, and now and then abort the process when it ends
    import_module("torch._dynamo")
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
