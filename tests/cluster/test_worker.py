import sys
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from cluster.worker import Assignment, Worker
from ebsc import data, model
from ebsc.budgets import Fixed
from ebsc.campaign import Campaign
from ebsc.errors import InputError
from ebsc.votes import Voter

DIGITS = data.load("digits", "test").take(np.arange(4))
NET, SPEC = tiny.nearest_mean()
UNIT = Campaign(DIGITS.labels, 10, SPEC.sigma, budget=Fixed(n=200, n0=40)).next_units(1000)[0]


@pytest.fixture
def assignment():
    spec, weights = model.pack(NET, SPEC)
    return Assignment(spec=spec, weights=weights, images=DIGITS.images, levels=16, device="cpu", batch=64)


def voter(net=NET):
    return Voter(net, DIGITS.images, levels=16, n_classes=10)


def test_a_worker_counts_what_a_voter_counts(assignment):
    tally = Worker(assignment).count(UNIT)
    assert (tally.counts == voter().count(UNIT)).all()
    assert tally.counts.sum() == UNIT.draws
    assert len(np.unique(tally.counts.argmax(1))) > 1
    assert tally.batch == 64
    assert tally.seconds > 0


def test_a_plain_worker_leaves_the_denoiser_out(assignment):
    plain = Worker(replace(assignment, plain=True)).count(UNIT).counts
    assert (plain == voter(NET.plain()).count(UNIT)).all()
    assert (plain != Worker(assignment).count(UNIT).counts).any()


def test_threads_are_what_the_assignment_says(assignment):
    before = torch.get_num_threads()
    try:
        Worker(replace(assignment, threads=3)).ready()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def out_of_memory_above(batch, monkeypatch):
    count = Voter.count

    def limited(self, unit):
        if self.batch > batch:
            raise torch.OutOfMemoryError("out of memory")
        return count(self, unit)

    monkeypatch.setattr(Voter, "count", limited)


@pytest.mark.parametrize("room", [63, 32, 31, 3])
def test_out_of_memory_it_goes_on_with_a_smaller_micro_batch(assignment, monkeypatch, room):
    expected = voter().count(UNIT)
    out_of_memory_above(room, monkeypatch)
    worker = Worker(assignment)
    tally = worker.count(UNIT)
    assert (tally.counts == expected).all()
    assert room / 2 < tally.batch <= room
    assert worker.count(UNIT).batch == tally.batch  # it stays small


def test_out_of_memory_for_a_single_image_is_an_error(assignment, monkeypatch):
    out_of_memory_above(0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        Worker(assignment).count(UNIT)


def test_a_worker_that_finds_other_code_than_the_driver_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "some_nets.py").write_text("from torch.nn import Identity\nclass Front(Identity):\n  pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    net, spec = tiny.nearest_mean()
    spec, weights = model.pack(net.plain(), replace(spec, denoiser={"kind": "some_nets:Front"}))
    images = data.load("digits", "test").images[:2]
    assignment = Assignment(spec=spec, weights=weights, images=images, levels=16, code={"some_nets": "another"})
    with pytest.raises(InputError, match=r"some_nets on .* is not the some_nets that this run was started with"):
        Worker(assignment).ready()
    Worker(replace(assignment, code=model.code(spec))).ready()
    with pytest.raises(InputError, match="allow it with --allow some_nets"):
        Worker(replace(assignment, code={})).ready()
    del sys.modules["some_nets"]
