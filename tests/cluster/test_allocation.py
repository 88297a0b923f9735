"""What SLURM gave a task, as its environment says. Ray over real allocations is tested in tests/slurm."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
import ray

from cluster import allocation
from cluster.allocation import Allocation, ray_across
from ebsc.errors import RunError

STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_ON_NODE": "16",
}


@pytest.fixture
def step(monkeypatch):
    """Puts the environment of a step in place of that of this process."""

    def put(**changes):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "CUDA_")):
                monkeypatch.delenv(name)
        for name, value in (STEP | changes).items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return put


def test_a_task_knows_its_node_and_what_it_has_of_it(step):
    step(SLURM_CPUS_PER_TASK="8", SLURM_MEM_PER_NODE="32000", CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_RESTART_COUNT="2")
    expected = Allocation(job="77-2", node=1, nodes=2, cpus=8, gpus=4, memory=32000)
    assert Allocation.here() == expected


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({}, "job", "77-0"),
        ({}, "cpus", 16),
        ({"SLURM_CPUS_ON_NODE": None}, "cpus", 1),
        ({}, "memory", 0),
        ({"SLURM_MEM_PER_CPU": "500"}, "memory", 8000),
        ({}, "gpus", 0),
        ({"CUDA_VISIBLE_DEVICES": ""}, "gpus", 0),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "gpus", 0),
        ({"CUDA_VISIBLE_DEVICES": "3"}, "gpus", 1),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,GPU-d72c3a3e"}, "gpus", 2),
        ({"SLURM_STEP_GPUS": "0,1"}, "gpus", 2),
        ({"SLURM_JOB_GPUS": "0,1,2"}, "gpus", 3),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_STEP_GPUS": "0,1", "SLURM_JOB_GPUS": "0,1"}, "gpus", 1),
    ],
)
def test_what_slurm_does_not_say_is_taken_from_what_it_says(step, changes, field, value):
    step(**changes)
    assert getattr(Allocation.here(), field) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_PROCID": None},  # the batch script itself
        {"SLURM_STEP_NUM_TASKS": "4"},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "2"},  # a script or a shell with room for such a step
    ],
)
def test_a_step_without_one_task_on_each_node_is_refused(step, changes):
    step(**changes)
    with pytest.raises(RunError, match="use srun --ntasks-per-node=1"):
        Allocation.here()


def test_ray_has_room_for_the_names_of_its_sockets(monkeypatch):
    for folder, below in (("/scratch/me", "/scratch/me"), ("/localscratch/someuser.12345678.0", "/tmp")):
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert allocation._scratch("ebsc-12345678-0") == Path(below) / "ebsc-12345678-0"


@pytest.mark.parametrize(
    ("nodes", "looked_up", "found"),
    [(1, "127.0.1.1", "127.0.0.1"), (2, "10.0.0.7", "10.0.0.7"), (2, "127.0.1.1", None), (2, OSError(), None)],
)
def test_a_head_that_knows_itself_by_no_other_address_is_looked_up(monkeypatch, nodes, looked_up, found):
    def look_up(name):
        assert name == "n7"
        if isinstance(looked_up, OSError):
            raise looked_up
        return looked_up

    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(socket, "gethostbyname", look_up)
    if found:
        assert allocation._address(nodes) == found
    else:
        with pytest.raises(RunError, match=r"at 127\.\S+ only: n7 must resolve to an address"):
            allocation._address(nodes)


def test_a_node_names_itself_in_the_network_of_the_head():
    assert allocation._towards("127.0.0.1") == "127.0.0.1"


def test_a_node_that_never_hears_of_the_head_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "START_SECONDS", 0.3)
    node = Allocation(job="77-0", node=1, nodes=2, cpus=1, gpus=0, memory=0)
    with pytest.raises(RunError, match=r"did not write .*ray-77-0\.json within 0\.3 s"), ray_across(node, tmp_path):
        pass


def test_what_the_nodes_share_is_of_this_start_of_the_job_and_torn_files_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(allocation, "START_SECONDS", 0.3)
    path = tmp_path / "ray-77-0.json"
    path.write_text('{"ip": "10.0')
    with pytest.raises(RunError):
        allocation._await(path)
    path.write_text('{"ip": "10.0.0.1", "port": 5, "token": "x"}')
    assert allocation._await(path) == {"ip": "10.0.0.1", "port": 5, "token": "x"}
