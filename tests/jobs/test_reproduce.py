"""``ebsc reproduce``: the whole story, small; interrupted, it goes on; what it prints can be typed."""

import dataclasses
import itertools
import re
import shlex
from unittest.mock import patch

import pytest
import tiny
import tyro

from ebsc.attack import Pgd
from ebsc.training import Schedule
from jobs import paper, results
from jobs.certify import Certify
from jobs.cli import parse
from jobs.entries import read_entry
from jobs.options import command_line
from jobs.recipes import FURTHER
from jobs.reproduce import STORIES, Reproduce
from jobs.train import Train

SMALL = dataclasses.replace(
    paper.PLANS["digits"]["minutes"],
    sigmas=(0.25,),
    epsilons=(0.25,),
    energy=Schedule(steps=3),
    learned=Schedule(steps=3, batch=16),
    baseline=Schedule(steps=3),
    plug_in=Schedule(steps=500, learning_rate=1e-3),
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
    with patch.dict(paper.PLANS["digits"], minutes=SMALL):
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


PLANS = [(story, data, budget) for story in STORIES for data in STORIES[story] for budget in STORIES[story][data]]


@pytest.mark.parametrize(("story", "data", "budget"), PLANS)
def test_the_commands_of_every_budget_can_be_listed(story, data, budget):
    done = tiny.cli("reproduce", data, "--story", story, "--budget", budget, "--commands")
    assert done.status == 0, done.err
    assert done.out.count("ebsc train") >= 9
    if (n := STORIES[story][data][budget].n) != 100_000:  # the default is not said
        assert f"--n {n}" in done.out


@pytest.mark.parametrize(("story", "data", "budget"), PLANS)
def test_every_training_can_be_typed_and_all_names_differ(story, data, budget):
    steps = list(Reproduce(data=data, story=story, budget=budget).steps())
    trainings = [step.command for step in steps if isinstance(step.command, Train)]
    for command in trainings:
        line = command_line(command)
        assert command_line(parse(Train, shlex.split(line)[2:])) == line
    outcomes = [step.done for step in steps if step.done]
    assert len(set(outcomes)) == len(outcomes)


def test_a_budget_that_a_story_does_not_have_is_answered_with_those_it_has():
    done = tiny.cli("reproduce", "digits", "--budget", "small")
    assert done.err == "ebsc: the story paper of digits has no budget small: minutes, full\n"


def named(kind, classifier, sigma, seed):
    return f"{kind}-{classifier}-{sigma:g}" + f"-seed{seed}" * bool(seed)


def test_the_full_programme_is_that_of_the_issue():
    steps = list(Reproduce(data="mnist", story="results", budget="full").steps())
    certified = [step.command for step in steps if isinstance(step.command, Certify)]
    assert {(c.images, c.n, c.budget) for c in certified} == {("::", 100_000, "fixed")}
    assert all(c.two_sided == any(how in c.run_folder.name for how in ("-bounded-", "-few-")) for c in certified)
    trained = {step.command.folder.name: step.command for step in steps if isinstance(step.command, Train)}
    for sigma, classifier, seed in itertools.product(
        (0.15, 0.25, 0.35, 0.5, 0.75, 1.0), ("lenet", "resnet"), (0, 1, 2)
    ):
        ours, alone = (trained[named(kind, classifier, sigma, seed)] for kind in ("ebsc", "baseline"))
        assert (ours.sigma, ours.classifier, ours.head.seed, ours.energy.seed) == (sigma, classifier, seed, seed)
        assert (alone.sigma, alone.classifier, alone.head.seed, alone.denoiser) == (sigma, classifier, seed, "none")
        attack = ("objective", "epsilon", "draws", "hyper", "ramp")
        assert [getattr(ours, name) for name in attack] == [getattr(alone, name) for name in attack]
        assert ours.epsilon == (0.375 if sigma == 0.15 else 255 / 256)
        for (kind, before), loss in itertools.product((("ebsc", ours), ("baseline", alone)), FURTHER):
            further = trained.get(named(f"{kind}-{loss}", classifier, sigma, seed))
            assert (further is not None) == (sigma in (0.75, 1.0))
            if further:
                changed = ("epsilon", "hyper", "joint", "denoising", "ramp", "held_out", "classes", "out", "start_from")
                changed += ("draws",) * (loss == "few-sigmoid")
                assert further == dataclasses.replace(before, **{name: getattr(further, name) for name in changed})
                assert (further.epsilon, further.draws, further.hyper) == (
                    (round(3.3 * sigma, 6), 8, {"steps": 10, "slope": 8})
                    if loss == "few-sigmoid"
                    else (3 * sigma, before.draws, {"steps": 10, "q": 1})
                )
                assert (further.joint, further.denoising, further.ramp, further.held_out) == (False, 0, 300, 0)
                assert (len(further.classes), further.start_from) == (
                    0 if loss == "bounded" else 7 if sigma < 1 else 5,
                    before.folder,
                )


RESULTS = dataclasses.replace(
    results.PLANS["digits"]["minutes"],
    ebsc_changes={"energy": Schedule(steps=1), "head": Schedule(steps=1, batch=8), "width": 4, "held_out": 20},
    baseline_changes={"head": Schedule(steps=1, batch=8), "held_out": 20},
    plug_in=Schedule(steps=1, batch=8),
    images="::60",
    n=200,
    radii="0,0.25",
    bounded=(0.25,),
)


def test_the_programme_of_results_runs_to_the_end_and_its_rows_can_be_verified(tmp_path):
    folder = tmp_path / "results"
    log = tmp_path / "peer_sigma0.25.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t2\t2\t0.25\t1\t0:00:01\n")
    words = ["reproduce", "digits", "--story", "results", "--workers", 0, "-o", folder, "--peers", log]
    with patch.dict(results.PLANS["digits"], minutes=RESULTS):
        done = tiny.cli(*words)
    assert done.status == 0, done.err
    assert "peer_sigma0.25" in (folder / "headline-0.25.md").read_text()
    assert "ebsc-by-consistency" in (folder / "ablations.md").read_text()
    kept = sorted((folder / "kept").iterdir())
    assert {"ebsc-linear-0.25-seed1", "baseline-linear-0.25", "frozen-energy"} < {run.name for run in kept}
    assert tiny.cli("verify", *kept).status == 0
    assert {path.name for path in (folder / "released").iterdir()} == {
        f"ebsc{loss}-digits-0.25" for loss in ("", "-bounded", "-few", "-few-sigmoid")
    }
    assert "ebsc release" in (folder / "story.md").read_text()


def test_peers_of_another_data_set_are_refused_at_once(tmp_path):
    log = tmp_path / "peer_sigma0.25.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.25\t1\t0:00:01\n")
    refused = tiny.cli("reproduce", "digits", "--workers", 0, "-o", tmp_path / "story", "--peers", log)
    assert (refused.status, "their labels differ" in refused.err) == (2, True)
    assert not (tmp_path / "story").exists()


def test_peers_stand_beside_the_learned_rows(tmp_path):
    log = tmp_path / "gaussian_sigma0.50.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.5\t1\t0:00:01\n")
    tables = [
        step.command for step in Reproduce(data="mnist", peers=(log,)).steps() if hasattr(step.command, "envelope")
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
