"""``ebsc reproduce``: the whole story, small; interrupted, it goes on; what it prints can be typed."""

import dataclasses
import re
import shlex
from unittest.mock import patch

import pytest
import tiny
import tyro

from ebsc.attack import Pgd
from ebsc.training import Schedule
from jobs import reproduce
from jobs.certify import Certify
from jobs.entries import read_entry
from jobs.options import command_line
from jobs.reproduce import BUDGETS, Reproduce
from jobs.train import Train

SMALL = dataclasses.replace(
    BUDGETS["digits"](full=False),
    sigmas=(0.25,),
    epsilons=(0.25,),
    energy=Schedule(steps=3),
    learned=Schedule(steps=3, batch=16),
    baseline=Schedule(steps=3),
    images="::60",
    n=200,
    pgd=Pgd(steps=1, draws=2),
    samples=12,
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The story, interrupted at its third certification and gone on with."""
    folder, runs, genuine = tmp_path_factory.mktemp("told") / "story", 0, Certify.run

    def stopping(self):
        nonlocal runs
        runs += 1
        if runs == 3:
            raise tiny.Stopped
        genuine(self)

    words = ["reproduce", "digits", "-o", folder, "--workers", 0]
    with patch.dict(reproduce.BUDGETS, digits=lambda full: SMALL):
        with patch.object(Certify, "run", stopping), pytest.raises(tiny.Stopped):
            tiny.cli(*words)
        assert not (folder / "story.md").exists()
        models = {path: path.stat().st_mtime_ns for path in folder.rglob("model.json")}
        assert len(models) == 2
        done = tiny.cli(*words)
    assert done.status == 0, done.err
    assert models.items() <= {path: path.stat().st_mtime_ns for path in folder.rglob("model.json")}.items()
    return folder, done


def test_it_tells_the_whole_story(told):
    folder, done = told
    story = (folder / "story.md").read_text()
    assert str(folder / "story.md") in done.out
    figures = re.findall(r"!\[.*\]\((.*)\)", story)
    assert {"plug-in.png", "learned.png", "envelope.png", "attack.png", "theory.png", "geometry.png"} <= set(figures)
    assert all((folder / figure).stat().st_size > 5000 for figure in figures)
    for said in ("right under attack", "| envelope", "no classifier exceeds (proof)", "radius at mu", "walk-jump"):
        assert said in story
    for name in ("plug-in-0.25", "plain-0.25", "gaussian-0.25", "learned-0.25-epsilon-0.25", "walk-jump-0.25"):
        assert len(read_entry(folder / "runs" / name).index) == 6


def test_one_step_and_walk_jump_have_equal_network_evaluations(told):
    folder, _ = told
    one, walk = (read_entry(folder / "runs" / name) for name in ("plug-in-0.25", "walk-jump-0.25"))
    assert one.n == 2 * walk.n


def test_every_command_can_be_typed(told):
    _, done = told
    typed = re.findall(r"^\$ (.*)$", done.out, re.MULTILINE)
    steps = len(re.findall(r"^\[\d+/\d+\]", done.out, re.MULTILINE))
    assert len(typed) == steps > 15
    kinds = {"train": Train, "certify": Certify}
    for line in typed:
        _, name, *words = shlex.split(line)
        if name in kinds:
            assert command_line(tyro.cli(kinds[name], args=words)) == line


@pytest.mark.parametrize("data", BUDGETS)
@pytest.mark.parametrize("budget", ["minutes", "full"])
def test_the_commands_of_every_budget_can_be_listed(data, budget):
    done = tiny.cli("reproduce", data, "--budget", budget, "--commands")
    assert done.status == 0, done.err
    assert done.out.count("ebsc train") >= 9
    draws = {"minutes": {"mnist": 1000, "digits": 500}, "full": {}}[budget].get(data)
    assert (f"--n {draws}" in done.out) == (draws is not None)  # 100,000 is the default


def test_peers_stand_beside_the_learned_rows(tmp_path):
    log = tmp_path / "gaussian_sigma0.50.tsv"
    log.write_text("")
    tables = [
        step.command for step in Reproduce(data="mnist", peers=(log,))._steps() if hasattr(step.command, "envelope")
    ]
    assert [log in table.rows for table in tables] == [False, True, False, True]


def test_another_budget_or_data_set_does_not_go_on_in_the_same_folder(told):
    folder, _ = told
    for words in (["digits", "--budget", "full"], ["mnist"]):
        before = (folder / "story.md").read_bytes()
        done = tiny.cli("reproduce", *words, "-o", folder)
        assert done.status == 2
        assert "holds a run of another configuration" in done.err
        assert (folder / "story.md").read_bytes() == before
