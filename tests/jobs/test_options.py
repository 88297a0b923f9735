"""Options that name many things: sweeps, every combination of some values; and images."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from ebsc.errors import InputError
from jobs.certify import Certify
from jobs.launch import Slurm
from jobs.options import option_names, parse_images, parse_sweep, slice_of
from jobs.train import Train

QUICK = ["--width", 3, "--energy.steps", 2, "--energy.batch", 8, "--head.steps", 2, "--head.batch", 8]


def test_a_sweep_is_every_combination_under_a_label_that_says_it():
    train = Train(width=7)
    assert parse_sweep(train, ["sigma=0.25,1", "energy.steps=3,4"]) == {
        f"sigma={sigma:g},energy.steps={steps}": replace(train, sigma=sigma, energy=replace(train.energy, steps=steps))
        for sigma in (0.25, 1.0)
        for steps in (3, 4)
    }


@pytest.mark.parametrize(
    ("word", "label", "expected"),
    [
        ("denoiser=scalar", "denoiser=scalar", Train(denoiser="scalar")),
        ("--held-out=5", "held_out=5", Train(held_out=5)),
        ("head.learning-rate=1e-2", "head.learning_rate=1e-2", Train(head=replace(Train().head, learning_rate=0.01))),
        ("head.compile=true", "head.compile=true", Train(head=replace(Train().head, compile=True))),
        ("overwrite=false", "overwrite=false", Train(overwrite=False)),
        ("epsilon=None", "epsilon=None", Train()),
        ("data=/a/b.npz", "data=_a_b.npz", Train(data="/a/b.npz")),
    ],
)
def test_values_are_read_as_the_command_line_reads_them(word, label, expected):
    assert parse_sweep(Train(), [word]) == {label: expected}


@pytest.mark.parametrize(
    ("base", "word", "expected"),
    [
        (Train(objective="smoothadv", joint=True), "joint=false,true", [False, True]),
        (Train(objective="smoothadv"), "joint=false,true", [False, True]),
    ],
)
def test_a_switch_can_be_on_or_off(base, word, expected):
    assert [point.joint for point in parse_sweep(base, [word]).values()] == expected


def test_options_outside_the_sweep_stay(tmp_path):
    train = Train(objective="smoothadv", hyper={"steps": 2.0}, out=tmp_path, slurm=Slurm(partition="gpu", time=5))
    assert parse_sweep(train, ["epsilon=0.5"]) == {"epsilon=0.5": replace(train, epsilon=0.5)}


def test_hyperparameters_are_swept_by_name_beside_those_that_stay():
    train = Train(objective="smoothmix", hyper={"steps": 2.0})
    assert parse_sweep(train, ["hyper.mix_step=0,1", "hyper.weight=5"]) == {
        f"hyper.mix_step={mix:g},hyper.weight=5": replace(train, hyper={"steps": 2.0, "mix_step": mix, "weight": 5.0})
        for mix in (0.0, 1.0)
    }


def test_no_words_are_no_sweep():
    assert parse_sweep(Train(), []) == {}


def test_names_of_options_are_those_of_the_command_line_with_dots_for_groups():
    names = option_names(Train())
    assert {"sigma", "held_out", "energy.steps", "head.learning_rate", "watch.looks"} <= set(names)
    assert len(names) == len(set(names))
    assert "budget" in option_names(Certify(model="m"))


def test_every_option_that_is_offered_can_be_swept():
    """Each with the value that it has."""
    train = Train()
    for name in option_names(train):
        if name.endswith(".NAME"):
            continue
        value = train
        for part in name.split("."):
            value = getattr(value, part)
        if isinstance(value, (str, int, float)) and value != "":
            text = str(value).lower() if isinstance(value, bool) else str(value)
            assert parse_sweep(train, [f"{name}={text}"]) == {f"{name}={text}": train}, name


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sigma", "sweep 'sigma': give option=value,value"),
        ("sigma=", "sweep 'sigma=': give option=value,value"),
        ("sigma=0.5,", "sweep 'sigma=0.5,': give option=value,value"),
        ("=1", "there is no option ''"),
        ("sgima=1", "sweep 'sgima=1': there is no option 'sgima'; there are recipe, data, "),
        ("steps=1", "there is no option 'steps'; there are .*energy.steps, .*head.steps, "),
        ("sigma=big", "sweep: --sigma big is not what these options take"),
        (
            "denoiser=residual,cubic",
            "unknown denoiser 'cubic': choose one of residual, .*, or name your own as module:factory",
        ),
        ("sigma=0.5,-1", "sigma must be a positive"),
        ("energy.steps=0", "steps, .* must be positive"),
        ("hyper.=1", "there is no option 'hyper.'; there are .*hyper.NAME"),
        ("hyper=1", "there is no option 'hyper'; there are .*hyper.NAME"),
        ("hyper.steps=1", "hyper need an --objective other than clean"),
        ("energy.colour=1", "there is no option 'energy.colour'"),
    ],
)
def test_a_sweep_that_cannot_be_is_answered_with_what_can(word, message):
    with pytest.raises(InputError, match=message):
        parse_sweep(Train(), [word])


@pytest.mark.parametrize("name", ["sigma", "hyper.steps"])
def test_an_option_swept_twice_is_refused(name):
    with pytest.raises(InputError, match=f"sweep '{name}=4': {name} is given twice; give {name}=value,value"):
        parse_sweep(Train(objective="smoothadv"), [f"{name}=2", "epsilon=1", f"{name}=4"])


def test_a_sweep_over_hyperparameters_that_an_objective_does_not_have_is_refused():
    with pytest.raises(InputError, match="objective smoothadv has no 'colour': it has epsilon, steps, q, slope"):
        parse_sweep(Train(objective="smoothadv"), ["hyper.colour=1"])
    with pytest.raises(InputError, match="sweep: --hyper q wide is not what these options take"):
        parse_sweep(Train(objective="smoothadv"), ["hyper.q=wide"])


# -- the command ----------------------------------------------------------------------------------------------------


def rows(text):
    """State by folder name, of the table at the end."""
    below = text.split("\n---")[1].splitlines()[1:]
    return {words[0].rsplit("/", 1)[1]: words[1] for words in map(str.split, below)}


def test_each_point_is_what_a_training_of_its_own_is(tmp_path):
    folder = tmp_path / "sweep"
    result = tiny.cli("train", "-o", folder, *QUICK, "--sweep", "sigma=0.25,0.5", "head.seed=1,2")
    assert result.status == 0, result.err
    labels = [f"sigma={sigma},head.seed={seed}" for sigma in ("0.25", "0.5") for seed in (1, 2)]
    assert [line for line in result.out.splitlines() if line.startswith("[")] == [
        f"[{number}/4] {folder}/{label}" for number, label in enumerate(labels, 1)
    ]
    assert rows(result.out) == dict.fromkeys(labels, "completed")
    assert "head 2/2" in result.out
    assert "loss " in result.out
    assert sorted(path.name for path in folder.iterdir()) == sorted(labels)
    alone = tmp_path / "alone"
    assert tiny.cli("train", "-o", alone, *QUICK, "--sigma", 0.25, "--head.seed", 2).status == 0
    assert (folder / labels[1] / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    again = tiny.cli("train", "-o", folder, *QUICK, "--sweep", "sigma=0.25,0.5,1", "head.seed=1,2")
    assert again.out.count("is trained already") == 4
    assert list(rows(again.out).values()) == ["completed"] * 6


def test_a_point_that_fails_does_not_hide_the_others(tmp_path):
    result = tiny.cli("train", "-o", tmp_path, *QUICK, "--sweep", "classifier=linear,lenet,resnet")
    assert result.status == 1
    assert rows(result.out) == {
        "classifier=linear": "completed",
        "classifier=lenet": "stopped",
        "classifier=resnet": "completed",
    }
    cause = "a LeNet needs images of 16 x 16 or more, not 8 x 8"
    assert f"ebsc: {tmp_path}/classifier=lenet: {cause}" in result.err
    assert result.err.splitlines()[-1] == f"ebsc: 1 of 3 failed: classifier=lenet ({cause})"


@pytest.mark.parametrize("word", ["sigma=0.5,-1", "sigma=0.5,big", "sgima=1", "sigma"])
def test_a_sweep_that_cannot_be_ends_before_anything_is_trained(tmp_path, word):
    result = tiny.cli("train", "-o", tmp_path, *QUICK, "--sweep", word)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert tiny.files(tmp_path) == {}


def test_a_sweep_trains_anew_when_asked(tmp_path):
    words = ["train", "-o", tmp_path, "--sweep", "sigma=0.25,0.5"]
    assert tiny.cli(*words, *QUICK).status == 0
    assert tiny.cli(*words, *QUICK, "--head.seed", 1).status == 1
    assert tiny.cli(*words, *QUICK, "--head.seed", 1, "--overwrite").status == 0
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("*/config.json")]
    assert [config["question"]["head"]["seed"] for config in configs] == [1, 1]


def test_a_sweep_without_a_folder_of_its_own_is_named_after_what_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert tiny.cli("train", *QUICK, "--denoiser", "none", "--sweep", "head.seed=0").status == 0
    assert (tmp_path / "models" / "digits-none-linear-0.5-sweep" / "head.seed=0" / "model.json").exists()


# -- images ------------------------------------------------------------------------------------------------------------


def spelled(part):
    return ":".join("" if bound is None else str(bound) for bound in (part.start, part.stop, part.step))


@given(st.slices(24), st.slices(24))
def test_images_are_those_of_a_slice_in_its_order_or_of_several_each_once(one, other):
    several = sorted({*range(24)[one], *range(24)[other]})
    for text, expected in (
        (spelled(one), [*range(24)[one]]),
        (f"{spelled(one)},{spelled(other)}", several),
        (f"{spelled(other)},{spelled(one)}", several),
    ):
        if expected:
            assert parse_images(text, 24).tolist() == expected
        else:
            with pytest.raises(InputError, match="selects none of the 24 images"):
                parse_images(text, 24)


@given(st.sets(st.integers(0, 23), min_size=1).map(sorted), st.slices(24))
def test_a_slice_is_found_of_the_indices_that_it_selects_and_of_no_others(some, taken):
    for indices in (some, sorted(range(24)[taken]) or [0]):
        found = slice_of(np.array(indices), 24)
        if found is None:
            assert len({later - earlier for earlier, later in pairwise(indices)}) > 1
        else:
            assert parse_images(found, 24).tolist() == indices
