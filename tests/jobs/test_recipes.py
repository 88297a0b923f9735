"""Recipes: the published settings, valid trainings, and options beside them that win."""

import dataclasses
import json

import pytest
import tiny

from ebsc import model
from ebsc.augment import Augmentation
from ebsc.model import ModelSpec
from ebsc.objectives import OBJECTIVES
from jobs import recipes
from jobs.cli import parse
from jobs.options import command_line, parse_sweep
from jobs.train import Train

SIGMAS = (0.25, 0.5, 1.0)

# objective -> draws, and hyperparameters at the three sigmas, as EXPERIMENTS.MD of the published logs has them
PUBLISHED = {
    "gaussian": (1, [{}] * 3),
    "stability": (1, [{"weight": 2}] * 3),
    "smoothadv": (4, [{"steps": 10}] * 3),
    "consistency": (2, [{"weight": weight, "entropy": 0.5} for weight in (10, 5, 5)]),
    "macer": (16, [{"weight": weight, "margin": 8, "temperature": 16} for weight in (16, 16, 6)]),
    "smoothmix": (4, [{"weight": 5, "step": 1, "steps": n, "mix_step": m} for n, m in ((2, 1), (4, 0), (8, 1))]),
    "catrs": (4, [{"weight": 1, "steps": 4}] * 3),
}


def typed(*words):
    return parse(Train, [str(word) for word in words])


def test_there_is_a_baseline_for_every_objective():
    assert set(PUBLISHED) == set(OBJECTIVES) <= set(recipes.RECIPES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_baselines_are_as_published(name):
    draws, hyper = PUBLISHED[name]
    for sigma, expected in zip(SIGMAS, hyper, strict=True):
        train = Train.by(name, sigma)
        assert (train.data, train.denoiser, train.classifier, train.objective) == ("mnist", "none", "lenet", name)
        assert (train.sigma, train.draws, train.hyper) == (sigma, draws, expected)
        assert train.head.batch == 256
        assert train.head.steps * 256 / 60_000 == pytest.approx(90, abs=0.01)
        assert train.head.decay == "step"
    assert train.epsilon == {"smoothadv": 255 / 256, "catrs": 1}.get(name)
    epochs = {"smoothadv": 10, "smoothmix": 10, "macer": 30}.get(name, 0)
    assert train.ramp * 256 / 60_000 == pytest.approx(epochs, abs=0.01)


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.75, 1.5])
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_a_valid_training_that_can_be_typed(name, sigma):
    train = Train.by(name, sigma)
    assert command_line(train).split() == ["ebsc", "train", "--recipe", name, "--sigma", f"{sigma:g}"]
    assert typed("--recipe", name, "--sigma", sigma) == train
    kinds = {"denoiser": {"kind": train.denoiser} | ({} if train.denoiser == "none" else {"width": train.width})}
    kinds["classifier"] = {"kind": train.classifier}
    spec = ModelSpec(sigma=sigma, shape=(1, 28, 28), n_classes=10, levels=255, storage=train.storage, **kinds)
    assert len(model.pack(model.build(spec), spec)[1]) < 3_000_000
    assert name in Train.__doc__ or name in json.dumps(tiny.cli("train", "--help").out)


def test_options_beside_a_recipe_win():
    train = typed("--head.steps", 7, "--recipe", "smoothadv", "--hyper", "steps", 3, "--sigma", 0.25, "--draws", 4)
    base = Train.by("smoothadv", 0.25)
    assert train == dataclasses.replace(base, head=dataclasses.replace(base.head, steps=7), hyper={"steps": 3})
    assert command_line(train) == "ebsc train --recipe smoothadv --sigma 0.25 --hyper steps 3 --head.steps 7"


def test_an_option_can_be_set_back_to_what_it_is_without_a_recipe():
    train = typed("--recipe", "gaussian", "--draws", Train().draws)
    assert train.draws == Train().draws
    assert command_line(train) == "ebsc train --recipe gaussian --draws 4"


def test_another_objective_does_not_inherit_hyperparameters():
    train = typed("--recipe", "smoothmix", "--objective", "stability")
    assert (train.objective, train.hyper) == ("stability", {})
    assert parse(Train, command_line(train).split()[2:]) == train


def test_a_sweep_over_sigma_or_recipes_follows_them(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))
    typed("--recipe", "consistency", "--head.steps", 5, "--sweep", "sigma=0.25,1", "draws=2,3").run()
    assert [(p.sigma, p.draws, p.hyper["weight"], p.head.steps) for p in found] == [
        (0.25, 2, 10, 5),
        (0.25, 3, 10, 5),
        (1.0, 2, 5, 5),
        (1.0, 3, 5, 5),
    ]
    found.clear()
    typed("--sigma", 0.25, "--classifier", "resnet", "--sweep", "recipe=gaussian,macer").run()
    assert [(p.recipe, p.objective, p.draws, p.classifier) for p in found] == [
        ("gaussian", "gaussian", 1, "resnet"),
        ("macer", "macer", 16, "resnet"),
    ]
    assert parse_sweep(Train(), ()) == {}


def test_a_sweep_over_recipes_takes_options_that_only_these_allow(monkeypatch):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))
    typed("--sweep", "epsilon=0.5,2", "recipe=ebsc-cnn,smoothadv").run()
    assert [(p.recipe, p.epsilon, p.draws) for p in found] == [
        ("ebsc-cnn", 0.5, 1),
        ("smoothadv", 0.5, 4),
        ("ebsc-cnn", 2, 1),
        ("smoothadv", 2, 4),
    ]


@pytest.mark.parametrize("words", [(), ("--recipe", "gaussian"), ("--recipe", "smoothadv")])
def test_a_sweep_over_recipes_has_all_that_they_say(monkeypatch, words):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))
    typed(*words, "--sweep", "recipe=ebsc-cnn,ebsc-small", "denoiser=residual,scalar").run()
    assert [(p.recipe, p.denoiser) for p in found] == [
        (recipe, denoiser) for recipe in ("ebsc-cnn", "ebsc-small") for denoiser in ("residual", "scalar")
    ]
    for point in found:
        assert point == Train.by(point.recipe, 0.5, denoiser=point.denoiser, out=point.out)


def test_a_sweep_over_recipes_of_several_objectives_has_their_hyperparameters(monkeypatch):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))
    typed("--sweep", "recipe=ebsc-cnn,consistency").run()
    assert [(p.epsilon, p.hyper) for p in found] == [(1.0, {"steps": 1}), (None, {"weight": 5, "entropy": 0.5})]


def test_what_is_swept_beside_sigma_is_not_the_recipes(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))
    typed("--recipe", "consistency", "--sigma", 0.5, "--sweep", "sigma=0.25,0.5", "hyper.weight=5,10").run()
    assert [(p.sigma, p.hyper) for p in found] == [
        (sigma, {"weight": weight, "entropy": 0.5}) for sigma in (0.25, 0.5) for weight in (5, 10)
    ]
    found.clear()
    typed("--recipe", "smoothmix", "--sweep", "sigma=0.25,0.5", "hyper.weight=3,5").run()
    assert [(p.hyper["weight"], p.hyper["steps"], p.hyper["mix_step"]) for p in found] == [
        (3, 2, 1),
        (5, 2, 1),
        (3, 4, 0),
        (5, 4, 0),
    ]
    found.clear()
    typed("--recipe", "ebsc-cnn", "--sweep", "sigma=0.5,1", "epsilon=1,2").run()
    assert [(p.sigma, p.epsilon) for p in found] == [(0.5, 1), (0.5, 2), (1, 1), (1, 2)]


def test_a_swept_option_of_a_group_leaves_the_others_of_its_group_to_the_recipe(monkeypatch):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))
    typed("--sigma", 0.25, "--head.batch", 32, "--sweep", "recipe=ebsc-cnn-moved,ebsc-cnn", "augment.rotate=5").run()
    assert [(p.augment.rotate, p.augment.shift, p.head.steps, p.head.batch) for p in found] == [
        (5, 1, 14_000, 32),
        (5, 0, 7000, 32),
    ]


def test_what_was_typed_beside_a_swept_recipe_stays_and_objectives_have_their_own(monkeypatch):
    found = []
    monkeypatch.setattr("jobs.train.dispatch", lambda points, *rest: found.extend(points))

    def swept(*words):
        found.clear()
        typed(*words).run()
        return found

    words = ["--recipe", "consistency", "--hyper", "weight", 5, "--sweep", "sigma=0.25,0.5"]
    assert [p.hyper for p in swept(*words)] == [{"weight": 5.0, "entropy": 0.5}] * 2
    assert [p.epsilon for p in swept("--recipe", "ebsc-cnn", "--epsilon", 1, "--sweep", "sigma=0.5,1")] == [1, 1]
    words = ["--recipe", "ebsc-cnn", "--head.no-compile", "--sweep", "sigma=0.5,1"]
    assert [p.head.compile for p in swept(*words)] == [False, False]
    points = swept("--recipe", "smoothadv", "--sweep", "objective=gaussian,catrs,smoothadv", "sigma=0.25,0.5")
    alone = [typed("--recipe", "smoothadv", "--objective", p.objective, "--sigma", p.sigma) for p in points]
    assert [(p.epsilon, p.hyper) for p in points] == [(p.epsilon, p.hyper) for p in alone]
    assert [p.epsilon for p in points] == [None] * 4 + [255 / 256] * 2
    words = ["--recipe", "stability", "--sweep", "objective=stability,consistency", "sigma=0.5,0.25"]
    assert [p.hyper for p in swept(*words)] == [{"weight": 2.0}] * 2 + [{}] * 2
    assert all(p.given == () for p in found)
    assert [p.draws for p in swept("--draws", Train().draws, "--sweep", "recipe=gaussian,macer")] == [4, 4]


def test_the_frozen_recipe_attacks_as_the_released_models_of_this_name_were_attacked():
    released = [model.load(name)[1] for name in model.released() if name.startswith("ebsc-cnn-frozen-")]
    assert len(released) >= 7
    told = {0.5: 1.5}  # by an option
    for spec in released:
        epsilon = told.get(spec.sigma, Train.by("ebsc-cnn-frozen", spec.sigma).epsilon)
        assert spec.training["options"]["epsilon"] == epsilon, spec.sigma


def test_the_recipe_of_moved_images_is_the_frozen_one_on_these_without_picking():
    moved, frozen = Train.by("ebsc-cnn-moved", 0.25), Train.by("ebsc-cnn-frozen", 0.25)
    head = dataclasses.replace(frozen.head, steps=14_000)
    augment = Augmentation(shift=1, rotate=12.0, scale=0.12)
    assert moved == dataclasses.replace(frozen, head=head, augment=augment, held_out=0, recipe="ebsc-cnn-moved")
    assert moved.epsilon == 0.75


def test_how_images_are_moved_can_be_typed_beside_a_recipe():
    train = typed("--recipe", "ebsc-cnn-moved", "--augment.rotate", 5, "--augment.flip")
    assert train.augment == Augmentation(shift=1, rotate=5.0, scale=0.12, flip=True)
    assert command_line(train) == "ebsc train --recipe ebsc-cnn-moved --augment.rotate 5 --augment.flip"


def test_the_recipe_of_more_draws_is_the_frozen_one_on_four_draws_of_half_as_many_images():
    for sigma, epsilon in ((0.5, 1.25), (1.0, 1.5)):
        frozen = Train.by("ebsc-cnn-frozen", sigma)
        changes = {"epsilon": epsilon, "draws": 4, "ramp": 0, "held_out": 0, "recipe": "ebsc-cnn-draws"}
        head = dataclasses.replace(frozen.head, batch=32, learning_rate=1e-3)
        assert Train.by("ebsc-cnn-draws", sigma) == dataclasses.replace(frozen, head=head, **changes)


def test_the_bounded_recipe_is_the_frozen_one_for_three_sigma_without_picking():
    bounded, frozen = Train.by("ebsc-cnn-bounded", 0.75), Train.by("ebsc-cnn-frozen", 0.75)
    changes = {"epsilon": 2.25, "hyper": {"steps": 1, "q": 1}, "held_out": 0, "recipe": "ebsc-cnn-bounded"}
    assert bounded == dataclasses.replace(frozen, **changes)


def test_the_few_classes_are_learned_as_by_the_bounded_recipe():
    for sigma, classes in ((0.75, (0, 1, 2, 3, 4, 6, 7)), (1.0, (0, 1, 3, 6, 7))):
        bounded = Train.by("ebsc-cnn-bounded", sigma)
        assert Train.by("ebsc-cnn-few", sigma) == dataclasses.replace(bounded, recipe="ebsc-cnn-few", classes=classes)


def test_the_sigmoid_recipe_is_the_bounded_one_by_another_loss_on_more_draws():
    bounded, sigmoid = Train.by("ebsc-cnn-bounded", 0.5), Train.by("ebsc-cnn-sigmoid", 0.5)
    changes = {"epsilon": 1.65, "draws": 8, "hyper": {"steps": 1, "slope": 8}, "recipe": "ebsc-cnn-sigmoid"}
    head = dataclasses.replace(bounded.head, steps=6000, batch=32)
    assert sigmoid == dataclasses.replace(bounded, head=head, **changes)


def test_an_unknown_recipe_is_answered_with_the_list():
    done = tiny.cli("train", "--recipe", "ebsc-ful")
    assert done.status == 2
    assert done.err == f"ebsc: unknown recipe 'ebsc-ful': choose one of {', '.join(recipes.RECIPES)}\n"


def test_a_wrong_option_beside_a_recipe_is_explained():
    for words in (["--sigma", "x"], ["--dras", 3], ["--recipe"]):
        done = tiny.cli("train", "--recipe", "gaussian", *words)
        assert done.status == 2
        assert words[0] in done.err


def test_help_after_a_recipe_shows_what_it_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    done = tiny.cli("train", "--recipe", "macer", "--help")
    assert done.status == 0
    assert "usage: ebsc train" in done.out
    assert "(default: 16)" in done.out


def test_the_recipe_and_all_that_it_says_is_in_the_record(tmp_path):
    words = ["--classifier", "linear", "--data", "digits", "--head.steps", 2, "--head.batch", 8, "--held-out", 20]
    done = tiny.cli("train", "--recipe", "gaussian", *words, "-o", tmp_path / "m", "--storage", "float16")
    assert done.status == 0, done.err
    _, spec = model.load(tmp_path / "m")
    said = spec.training["options"]
    assert (said["recipe"], said["objective"], said["draws"], said["head"]["decay"]) == (
        "gaussian",
        "gaussian",
        1,
        "step",
    )
    assert spec.storage == "float16"
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["options"]["recipe"] == "gaussian"
    assert config["question"]["storage"] == "float16"
    assert "recipe" not in config["question"]  # the same options without its name are the same training
