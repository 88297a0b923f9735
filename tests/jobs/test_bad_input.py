"""Whatever is wrong with what the user gave: one line that says so, exit status 2, and no file changed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from cluster.ledger import Ledger
from ebsc import data, model

CASES = {}
"""Name -> a function of a place that spoils it and returns the words to start, and a pattern of the message."""


def case(message):
    def enter(make):
        CASES[make.__name__] = make, message
        return make

    return enter


def options(name, message, *words):
    CASES[name] = lambda place: place.certify(*words), message


def train(place, *words):
    quick = ["--energy.steps", 1, "--head.steps", 1, "--width", 4]
    return ["train", "-o", place.folder / "trained", *quick, *words]


@case("--sweep is given twice: give all its values after one")
def two_sweeps(place):
    return train(place, "--sweep", "sigma=0.25,0.5", "--sweep", "head.seed=1,2")


@case("--sbatch is given twice")
def two_lists_of_slurm(place):
    return train(place, "--cluster", "slurm", "--sbatch", "a=b", "--sbatch", "c")


CASES["sigma_of_a_certification"] = lambda place: place.certify("--sigma", 0.5), "--sigma: it is the model's"
CASES["skip_as_in_other_programs"] = lambda place: place.certify("--skip=20"), "--skip: give .* --images ::20"
CASES["command_in_other_letters"] = lambda place: ["certfy", place.model], "no command 'certfy'; perhaps certify;"
CASES["command_of_nothing_like_ours"] = lambda place: ["xyz"], "no command 'xyz'; ebsc --help lists them"
CASES["certify_a_run"] = (
    lambda place: ["certify", place.run, "-o", place.folder / "new"],
    r"not a model folder, but a run: model\.json is missing",
)
for command in ("table", "plot", "report", "export", "attack", "verify"):
    CASES[f"{command}_of_a_model"] = (
        lambda place, command=command: [command, place.model],
        "is a model folder, not a run",
    )
for command in ("export", "attack", "verify", "status"):
    CASES[f"{command}_of_a_log"] = (
        lambda place, command=command: [command, place.run / "certificates.tsv"],
        "certificates.tsv is not a run folder, but a file",
    )


@case("two points would have the folder")
def two_points_of_one_name(place):
    return train(place, "--sweep", "start_from=a/b,a_b")


@case("cannot start from itself")
def a_training_that_would_replace_what_it_starts_from(place):
    return train(place, "--start-from", place.model, "-o", place.model, "--overwrite")


@case("cannot start from itself")
def the_same_before_the_queue(place):
    return [*a_training_that_would_replace_what_it_starts_from(place), "--cluster", "slurm", "--dry-run"]


@case("networks do not fit into memory")
def networks_larger_than_memory(place):
    return train(place, "--width", 10**6)


@case(r"model\.json cannot be read")
def model_nested_too_deeply(place):
    (place.model / "model.json").write_text("[" * 100_000)
    return place.certify()


@case("learning_rate must be positive and at most 3e\\+37")
def learning_rate_that_float32_lacks(place):
    return train(place, "--head.learning-rate", 1e38)


@case("not negative")
def states_saved_after_nan_seconds(place):
    return train(place, "--watch.save", "nan")


@case("is a model folder, not a run: ebsc certify .*trained makes one")
def table_of_a_training(place):
    assert tiny.cli(*train(place)).status == 0
    return ["table", place.folder / "trained"]


def lines_of(place):
    return (place.run / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def npz(place, images, **arrays):
    labels = np.zeros(len(images), dtype=np.int64)
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels} | arrays
    np.savez(place.folder / "mine.npz", **arrays)
    return place.folder / "mine.npz"


def options_of(command, name, message, *words):
    CASES[name] = lambda place: [command, place.model, *words], message


# -- models ---------------------------------------------------------------------------------------------------------


@case(r"is not a model folder: model\.json is missing")
def missing_model(place):
    return ["certify", place.folder / "nowhere"]


@case(r"model\.safetensors is missing")
def missing_weights(place):
    (place.model / "model.safetensors").unlink()
    return place.certify()


@case("truncated or altered")
def truncated_weights(place):
    path = place.model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return place.certify()


@case(r"model\.json cannot be read")
def model_that_is_not_json(place):
    (place.model / "model.json").write_text("weights: good")
    return place.certify()


@case(r"model\.json cannot be read")
def model_with_an_unknown_entry(place):
    head = json.loads((place.model / "model.json").read_text())
    (place.model / "model.json").write_text(json.dumps(head | {"colour": "blue"}))
    return place.certify()


@case("does not fit")
def model_of_another_width(place):
    path = place.model / "model.json"
    path.write_text(path.read_text().replace('"width": 8', '"width": 16'))
    return place.certify()


@case("contains NaN or infinity")
def nan_in_weights(place):
    net, spec = tiny.nearest_mean()
    net.classifier.map.bias.data[3] = float("nan")
    model.save(place.model, net, spec)
    return place.certify()


@case("model does not say what it was trained on: name a data set with --data")
def model_without_a_data_set(place):
    head = json.loads((place.model / "model.json").read_text())
    (place.model / "model.json").write_text(json.dumps(head | {"training": {}}))
    return ["certify", place.model, "--workers", 0]


def of_code(message, kind, *allow):
    def spoil(place):
        head = json.loads((place.model / "model.json").read_text())
        (place.model / "model.json").write_text(json.dumps(head | {"classifier": {"kind": kind}}))
        return place.certify(*allow)

    CASES[f"model_of_{kind}"] = spoil, message


of_code("'os:remove' is code that is no part of ebsc: .* allow it with --allow os$", "os:remove")
of_code("'os.path:join': .* defines no such", "os.path:join", "--allow", "os")
of_code("cannot import nowhere_to_be_found", "nowhere_to_be_found:net", "--allow", "nowhere_to_be_found")
of_code("is named as module:factory", "a/b:net", "--allow", "a")


# -- data sets ------------------------------------------------------------------------------------------------------


options("unknown_data", "unknown data set 'diggits': choose one of digits", "--data", "diggits")
options("missing_npz", "not a readable .npz", "--data", "nowhere.npz")


@case("mnist cannot be read .* nor downloaded")
def missing_mnist(place):
    return place.certify("--data", "mnist", "--data-root", place.folder)


@case(r"takes images of shape \(1, 8, 8\), .* has \(1, 9, 9\)")
def images_of_another_shape(place):
    return place.certify("--data", npz(place, np.zeros((3, 9, 9), dtype=np.uint8)))


@case("images must be uint8")
def images_of_another_dtype(place):
    return place.certify("--data", npz(place, np.zeros((3, 8, 8), dtype=np.int32)))


@case("images must be uint8")
def images_without_a_height(place):
    return place.certify("--data", npz(place, np.zeros((3, 64), dtype=np.uint8)))


@case("labels must be integers")
def labels_that_are_no_classes(place):
    return place.certify("--data", npz(place, np.zeros((3, 8, 8), dtype=np.uint8), test_labels=np.ones(3)))


@case("an array is missing.*test_labels")
def npz_without_labels(place):
    np.savez(place.folder / "mine.npz", test_images=np.zeros((3, 8, 8), dtype=np.uint8))
    return place.certify("--data", place.folder / "mine.npz")


@case("NaN or infinity")
def nan_in_images(place):
    return place.certify("--data", npz(place, np.full((3, 8, 8), np.nan, dtype=np.float32)))


@case("off the lattice")
def images_off_the_lattice(place):
    return place.certify("--data", npz(place, np.full((3, 8, 8), 0.1234)))


@case("off the lattice")
def pixels_above_the_levels(place):
    return place.certify("--data", npz(place, np.full((3, 8, 8), 17, dtype=np.uint8), levels=16))


@case("levels")
def levels_that_are_no_lattice(place):
    return place.certify("--data", npz(place, np.zeros((3, 8, 8), dtype=np.uint8), levels=0))


@case("no image|labels must be")
def no_images_at_all(place):
    return place.certify("--data", npz(place, np.zeros((0, 8, 8))))


@case("knows 10 classes")
def more_classes_than_the_model_knows(place):
    images = np.zeros((3, 8, 8), dtype=np.uint8)
    return place.certify("--data", npz(place, images, test_labels=np.array([0, 1, 10])))


# -- options of certify ---------------------------------------------------------------------------------------------

for value in ("0", "1", "2", "-0.1", "nan"):
    options(f"alpha_{value}", r"alpha must lie in \(0, 1\)", f"--alpha={value}")
options("fewer_draws_than_select", "n must be at least n0", "--n", 50, "--n0", 100)
options("fixed_fewer_draws_than_select", "n must be at least n0", "--budget", "fixed", "--n", 50)
options("too_many_draws", "below 2", "--n", 2**31)
options("no_selecting_draw", "n0 must be at least 1", "--n0", 0)
for value in ("", "x", "0:1", "1:0:0.5", "1:0:1", "0:1:0", "0:1:nan", "0:1:-1", "-0.5", "nan", "0.5,inf", "0:1:0.5:2"):
    options(f"radii_{value}", "give numbers >= 0", f"--radii={value}")
for value in ("x", "5", "::0", "1:2:3:4", "1.5:"):
    options(f"images_{value}", "give start:stop:step", f"--images={value}")
options("images_that_select_none", "selects none of the 360", "--images", "400:")
options("negative_seed", "seed", "--seed=-1")
options("slurm_options_without_slurm", "only jobs take --gpus, --wait: nothing is submitted", "--gpus", 2, "--wait")
options("a_list_given_twice", "--extend is given twice", "--extend", "n=300", "--extend", "radii=0")
options("alpha_before_the_queue", "alpha", "--alpha", 2, "--cluster", "slurm")
options("extension_before_the_queue", "extend 'more'", "--extend", "more", "--cluster", "slurm")
options("empty_micro_batch", "micro-batch must be at least 1", "--batch", 0)
options("negative_workers", "workers", "--workers=-1")
options("negative_cpus", "cpu", "--workers", 1, "--cpus-per-worker=-1")
options("negative_gpus", "gpu", "--workers", 1, "--gpus-per-worker=-1")
for value in ("nan", "inf", "1e-5"):
    options(f"cpus_{value}", "CPUs per worker must be 0 or 0.0001 and more", "--cpus-per-worker", value)
for value in ("nan", "inf", "1e-5", "1.5"):
    options(f"gpus_{value}", "from 0.0001 to 1, or a whole number", "--gpus-per-worker", value)
for words in (("--address", "auto"), ("--gpus-per-worker", 1), ("--cpus-per-worker", 2)):
    options(f"{words[0]}_without_workers", "are those of Ray: --workers 0 starts none", *words)
options("radii_of_a_fixed_budget", "give numbers >= 0", "--budget", "fixed", "--radii", "banana")
options("two_rays", "starts a Ray of its own", "--cluster", "slurm", "--address", "auto", "--workers", 2)
options("nodes_without_workers", "it does not take --nodes 2", "--cluster", "slurm", "--nodes", 2, "--workers", 0)
options("tasks_of_a_certification", "is one process: it does not take --tasks", "--cluster", "slurm", "--tasks", 2)
options_of(
    "attack",
    "attack_on_two_nodes",
    "an attack is one process: it does not take --nodes 2",
    "--cluster",
    "slurm",
    "--nodes",
    2,
)
CASES["story_on_two_nodes"] = (
    lambda place: ["reproduce", "digits", "--cluster", "slurm", "--nodes", 2],
    "a story is one process",
)


# -- run folders ----------------------------------------------------------------------------------------------------


@case("cannot write the run folder")
def run_folder_below_a_file(place):
    return place.certify("-o", place.model / "model.json" / "run")


@case(r"no config\.json")
def ledger_without_config(place):
    (place.run / "config.json").unlink()
    return place.certify(out="run")


@case(r"config\.json cannot be read")
def damaged_config(place):
    (place.run / "config.json").write_text("{")
    return place.certify(out="run")


@case("line 3 is not a ledger line")
def damaged_line_of_the_ledger(place):
    lines = lines_of(place)
    (place.run / "ledger.jsonl").write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", *lines[3:]]))
    return place.certify(out="run")


def foreign(name, message, **changes):
    """A ledger whose first line is valid in form, but not of this run."""

    def make(place):
        first, *rest = lines_of(place)
        line = json.dumps(json.loads(first) | changes).encode() + b"\n"
        (place.run / "ledger.jsonl").write_bytes(line + b"".join(rest))
        return place.certify(out="run")

    CASES[name] = make, f"damaged or foreign.*{message}"


foreign("ledger_of_other_images", "image 1", image=1)
foreign("ledger_of_another_n0", "do not add up to 100", votes={"0": 99})
foreign("ledger_of_other_classes", "", votes={"10": 100})
foreign("ledger_with_a_class_that_is_no_number", "", votes={"seven": 100})
foreign("ledger_with_a_negative_class", "", votes={"-1": 100})
foreign("ledger_with_enormous_votes", "", votes={"0": 2**40})
foreign("ledger_with_enormous_votes_that_add_up", "", votes={"0": 2**40, "1": 100 - 2**40})
foreign("ledger_with_votes_that_are_a_list", "", votes=[100])
foreign("ledger_with_votes_that_are_text", "", votes={"0": "100"})
foreign("ledger_with_a_negative_look", "", look=-1)
foreign("ledger_with_a_look_that_cannot_be", "", look=99)


@case("damaged or foreign")
def ledger_with_a_line_twice(place):
    lines = lines_of(place)
    (place.run / "ledger.jsonl").write_bytes(b"".join([lines[0], *lines]))
    return place.certify(out="run")


@case("damaged or foreign")
def foreign_and_torn_ledger(place):
    lines = lines_of(place)
    (place.run / "ledger.jsonl").write_bytes(b"".join([lines[0], *lines])[:-5])
    return place.certify(out="run")


@case("damaged or foreign")
def foreign_file_in_place_of_the_ledger(place):
    (place.run / "ledger.jsonl").write_text("Dear diary")
    return place.certify(out="run")


@case("seed is 0 there, 1 here")
def run_folder_of_another_seed(place):
    return place.certify("--seed", 1, out="run")


@case("another configuration.*budget")
def run_folder_of_another_budget(place):
    return place.certify("--n", 300, out="run")


@case("another configuration.*plain is False there, True here")
def run_folder_of_the_other_smoothing(place):
    return place.certify("--plain", out="run")


# -- train ----------------------------------------------------------------------------------------------------------

for value in ("0", "-0.5", "nan", "inf"):
    CASES[f"sigma_{value}"] = lambda place, value=value: train(place, f"--sigma={value}"), "sigma must be a positive"
CASES["train_on_unknown_data"] = lambda place: train(place, "--data", "x"), "unknown data set"
CASES["train_a_lenet_on_digits"] = lambda place: train(place, "--classifier", "lenet"), "16 x 16"
CASES["train_without_channels"] = lambda place: train(place, "--width", 0), "width"
CASES["train_with_negative_width"] = lambda place: train(place, "--width=-1"), "width"
CASES["train_without_a_step"] = lambda place: train(place, "--energy.steps", 0), "steps"
CASES["train_in_reverse"] = lambda place: train(place, "--head.learning-rate=-1"), "learning_rate"
CASES["train_with_a_bad_average"] = lambda place: train(place, "--energy.ema", 1), "ema"


for value in (0, -1, 1438):
    CASES[f"mixture_of_{value}"] = (
        lambda place, value=value: train(place, "--denoiser", "mixture", f"--components={value}"),
        "components must lie between 1 and 1437, the images",
    )
for value in ("0", "-0.5", "nan", "inf"):
    words = ("--objective", "smoothadv", f"--epsilon={value}")
    CASES[f"epsilon_{value}"] = lambda place, words=words: train(place, *words), "epsilon must be a positive number"


def learn(name, message, *words, objective="smoothadv"):
    CASES[name] = lambda place: train(place, "--objective", objective, *words), message


NEED = "need an --objective other than clean"
learn("joint_on_clean_images", NEED, "--joint", objective="clean")
learn("attack_on_clean_images", NEED, "--epsilon", 1, objective="clean")
learn("denoising_on_clean_images", NEED, "--denoising", 1, objective="clean")
learn("hyperparameters_on_clean_images", NEED, "--hyper", "steps", 5, objective="clean")
learn("joint_without_a_denoiser", "need a denoiser", "--joint", "--denoiser", "none")
learn("joint_with_a_mixture", "need a denoiser with weights to train", "--joint", "--denoiser", "mixture")
learn("unknown_hyperparameter", "smoothadv has no 'colour': it has epsilon, steps, q, slope", "--hyper", "colour", 1)
learn("hyperparameter_of_another", "no 'weight': it has no hyper", "--hyper", "weight", 1, objective="gaussian")
learn("sigma_beyond_certificates", "sigma 10000 is too large for certificates", "--sigma", 10000)
learn("attack_of_another", "gaussian has no 'epsilon'", "--epsilon", 1, objective="gaussian")
learn("attack_without_a_step", "steps of objective smoothadv", "--hyper", "steps", 0)
learn("attack_of_a_step_and_a_half", "a whole number of 1 or more", "--hyper", "steps", 1.5)
learn("weight_that_is_no_number", "a finite number of 0 or more", "--hyper", "weight", "nan", objective="macer")
learn("no_draw_of_noise", "draws must be at least 1", "--draws", 0)
learn("negative_ramp", "ramp .* not negative", "--ramp=-1")
learn("negative_weight_of_denoising", "denoising not negative", "--denoising=-1", "--joint")
for value in (-1, 1437, 5000):
    CASES[f"hold_out_{value}"] = (
        lambda place, value=value: train(place, f"--held-out={value}"),
        "held_out must lie between 0 and 1436",
    )
for value in (-1, 10):
    CASES[f"class_{value}"] = (
        lambda place, value=value: train(place, "--classes", 3, value),
        f"digits has the classes 0 to 9, not {value}",
    )
for name, classes in {"one_class": [3], "a_class_twice": [1, 3, 1]}.items():
    CASES[name] = (
        lambda place, classes=classes: train(place, "--classes", *classes),
        "classes must be two or more different ones",
    )
CASES["moved_by_two_turns"] = lambda place: train(place, "--augment.rotate", 720), "rotate 0 to 180 degrees"
CASES["never_log"] = lambda place: train(place, "--watch.log", 0), "at least 1"
CASES["never_look"] = lambda place: train(place, "--watch.looks", 0), "at least 1"
CASES["save_before_now"] = lambda place: train(place, "--watch.save=-1"), "not negative"
CASES["start_from_nowhere"] = lambda place: train(place, "--start-from", "nowhere"), "nowhere is not a model folder"


@case("has shape .*'width': 8}; asked for are .*'width': 4}")
def start_from_another_width(place):
    return train(place, "--start-from", place.model, "--sigma", 0.25)


@case(r"has .*shape \(1, 8, 8\), .*asked for are .*\(1, 9, 9\)")
def start_from_another_shape(place):
    images = npz(place, np.zeros((3, 9, 9), dtype=np.uint8), train_labels=np.arange(3))
    return train(place, "--start-from", place.model, "--width", 8, "--sigma", 0.25, "--data", images)


@case(r"model\.json cannot be read")
def start_from_a_damaged_model(place):
    (place.model / "model.json").write_text("{")
    return train(place, "--start-from", place.model)


@case(r"holds model\.json but no config\.json")
def train_over_a_model(place):
    (place.model / "lock").touch()
    return train(place, "-o", place.model)


@case(r"config\.json cannot be read")
def train_on_with_a_damaged_config(place):
    (place.model / "lock").touch()
    (place.model / "config.json").write_text("{")
    return train(place, "-o", place.model)


@case("another configuration.*model")
def train_in_a_run_folder(place):
    return train(place, "-o", place.run)


@case("cannot write the (model|run folder)")
def train_below_a_file(place):
    """Said before training, not after it: the line on stderr is the only one."""
    return train(place, "-o", place.model / "model.json" / "model")


@case(r"its training images have shape \(1, 8, 8\), its test images \(1, 6, 6\)")
def train_on_images_of_two_shapes(place):
    images = np.zeros((20, 8, 8), np.uint8)
    return train(place, "--data", npz(place, images, test_images=images[:, 1:7, 1:7]))


@case(r"seed must not be negative, and below 2\^63")
def train_with_a_seed_too_large(place):
    return train(place, "--energy.seed", 10**20)


@case(r"seed must not be negative, and below 2\^63")
def sample_with_a_seed_too_large(place):
    return ["sample", place.model, "--seed", 10**20]


@case("lattice")
def train_off_the_lattice(place):
    return train(place, "--data", npz(place, np.full((3, 8, 8), 0.1234)))


@case("channels come first")
def train_on_channels_last(place):
    return train(place, "--data", npz(place, np.zeros((20, 8, 8, 3), np.uint8)))


@case("labels are 0, 1, ..., below 100,000, and the largest here is 4611686018427387904")
def train_on_labels_that_are_no_classes(place):
    labels = np.array([0, 2**62])
    images = np.zeros((2, 8, 8), np.uint8)
    return train(place, "--data", npz(place, images, train_labels=labels, test_labels=labels))


@case("File name too long")
def table_of_a_name_too_long(place):
    return ["table", place.folder / ("x" * 300)]


@case("File name too long")
def jobs_below_a_name_too_long(place):
    return ["jobs", place.folder / ("x" * 300)]


@case("these are 1,000,000,000,001 numbers")
def table_of_too_many_radii(place):
    return ["table", place.run, "--radii", "0:1:1e-12"]


def imported(place):
    log = place.folder / "log.tsv"
    log.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0\n")
    assert tiny.cli("import", log, "-o", place.folder / "imported").status == 0
    return place.folder / "imported"


@case("certificates.tsv cannot be read")
def export_of_an_imported_log_that_is_gone(place):
    (imported(place) / "certificates.tsv").unlink()
    return ["export", place.folder / "imported"]


@case("certificates.tsv cannot be read")
def export_of_an_imported_log_that_is_no_text(place):
    (imported(place) / "certificates.tsv").write_bytes(b"\xff\xfe")
    return ["export", place.folder / "imported"]


for name, value, message in (
    ("n", "1000", "no whole number"),
    ("sigma", "0.5", "no number"),
    ("alpha", [1], "no number"),
):

    def imported_with(place, name=name, value=value):
        path = imported(place) / "config.json"
        config = json.loads(path.read_text())
        config["question"][name] = value
        path.write_text(json.dumps(config))
        return ["table", path.parent]

    CASES[f"table_of_an_imported_log_of_wrong_{name}"] = imported_with, message


@case(r"certificates\.parquet is missing; start its command again")
def table_of_an_unfinished_run_with_a_colon_in_its_name(place):
    (place.run / "certificates.parquet").unlink()
    return ["table", place.run.rename(place.folder / "x:y")]


@case("loop")
def verify_of_a_loop(place):
    (place.folder / "loop").symlink_to("loop")
    return ["verify", place.folder / "loop", "--keep", place.folder / "kept"]


@case("its name must end in one of")
def plot_that_needs_latex(place):
    return ["plot", place.run, "-o", place.folder / "x.pgf"]


@case("name at least one model folder")
def plot_of_no_training(place):
    return ["plot", "--kind", "training"]


@case("cannot write the figure .*: it is a folder")
def plot_into_a_folder(place):
    return ["plot", place.run, "-o", place.folder]


@case("'0.5' is no number")
def table_of_a_run_whose_sigma_is_a_text(place):
    place.reconfigure(lambda config: config["question"].update(sigma="0.5"))
    return ["table", place.run]


@case("None is no whole number")
def table_of_a_run_without_n(place):
    place.reconfigure(lambda config: config["question"]["budget"].update(n=None))
    return ["table", place.run]


@case("n must be at least n0")
def demo_with_too_few_draws(place):
    return ["demo", "--out", place.folder / "demo", "--n", 50, "--workers", 0, "--steps", 1]


# -- table ----------------------------------------------------------------------------------------------------------


def table(name, message, spoil=lambda place: None, row="run", words=()):
    def make(place):
        spoil(place)
        return ["table", place.folder / row, *words]

    CASES[name] = make, message


def write(name, content):
    return lambda place: (place.folder / name).write_bytes(content)


HEAD = b"idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
ROW = b"0\t7\t7\t0.953\t1\t0:00:00.591566\n"

table("table_of_a_missing_path", "no such run folder or log", row="nowhere")
table(
    "table_of_a_folder_that_is_no_run", r"config\.json is missing", lambda place: (place.folder / "x").mkdir(), row="x"
)
table(
    "table_of_an_unfinished_run",
    "not finished",
    lambda place: (place.run / "certificates.parquet").unlink(),
)
table("table_of_damaged_certificates", "cannot be read", write("run/certificates.parquet", b"PAR1 and no more"))
table("table_of_a_damaged_config", r"config\.json cannot be read", write("run/config.json", b"{"))
table("table_of_a_foreign_config", r"config\.json", write("run/config.json", b'{"question": {"colour": "blue"}}'))
table("table_of_a_picture", "not a log", write("x", b"\x89PNG\r\n\x1a\n\x00\x00\xff"), row="x")
table("table_of_noise", "not a log", write("x", np.random.default_rng(0).bytes(300_000)), row="x")
table("table_of_one_endless_line", "not a log", write("x", b"a" * 300_000), row="x")
table("table_of_an_empty_log", "not a log|holds no image", write("x", b""), row="x")
table("table_of_a_log_without_rows", "holds no image", write("x", HEAD), row="x")
table("table_of_another_log", "not a log", write("x", b"a\tb\n1\t2\n"), row="x")
table("table_of_a_log_with_a_bad_number", "not a log", write("x", HEAD + ROW.replace(b"0.953", b"big")), row="x")
table("table_of_a_log_with_a_nan", "not a log", write("x", HEAD + ROW.replace(b"0.953", b"nan")), row="x")
table("table_of_a_torn_log", "not a log", write("x", HEAD + ROW + ROW[:10]), row="x")
table("table_of_a_log_with_an_image_twice", "twice", write("x", HEAD + ROW + ROW), row="x")
table("table_with_bad_radii", "give numbers >= 0", words=["--radii", "0:1"])
table("table_with_bad_rho", "rho must lie in", words=["--rho", 0])


@case("no image in common")
def table_of_runs_without_a_common_image(place):
    (place.folder / "x").write_bytes(HEAD + ROW.replace(b"0\t7\t7", b"1\t7\t7"))
    return ["table", place.run, place.folder / "x"]


@case("at least one")
def table_of_nothing(place):
    return ["table"]


@case("cannot write")
def table_into_a_folder_that_is_not_there(place):
    return ["table", place.run, "--out", place.folder / "nowhere" / "table.txt"]


@case("cannot write the figure")
def plot_into_an_unknown_format(place):
    return ["table", place.run, "--out", os.devnull, "--plot", place.folder / "curve.xyz"]


@case("is not the model of")
def attack_with_another_model(place):
    head, weights = model.load(place.model)
    torch.nn.init.normal_(head.classifier.map.bias)
    model.save(place.folder / "other", head, weights)
    return ["attack", place.run, "--model", place.folder / "other"]


@case("is not the model of")
def attack_with_another_sigma(place):
    shutil.copytree(place.model, place.folder / "other")
    head = json.loads((place.model / "model.json").read_text()) | {"sigma": 1.0}
    (place.folder / "other" / "model.json").write_text(json.dumps(head))
    return ["attack", place.run, "--model", place.folder / "other"]


@case("was made on other images than")
def attack_on_other_pixels(place):
    test = data.load("digits", "test")
    arrays = {"test_images": test.images[:30, 0], "test_labels": test.labels[:30], "levels": 16}
    mine = npz(place, test.images[:30, 0], **arrays)
    assert tiny.cli(*place.certify("--data", mine, "--images", "::10")).status == 0
    npz(place, test.images[:30, 0], **arrays | {"test_images": test.images[29::-1, 0]})
    return ["attack", place.folder / "new"]


@case("nothing is certified in")
def attack_inside_certificates_that_are_not_there(place):
    assert tiny.cli(*place.certify("--images", "360:0:-400", "--n", 100, "--alpha", 1e-40)).status == 0
    return ["attack", place.folder / "new", "--radii", "certified"]


@case("name it with --model")
def attack_on_a_run_that_does_not_name_its_model(place):
    place.reconfigure(lambda config: config["options"].pop("model"))
    return ["attack", place.run]


@case(r"model\.json is missing; .*new was made with it: if it was moved, name it with --model")
def attack_with_a_model_that_was_moved(place):
    assert tiny.cli(*place.certify()).status == 0
    place.model.rename(place.folder / "elsewhere")
    return ["attack", place.folder / "new"]


@case("is no certification: ebsc jobs says")
def status_of_a_training(place):
    assert tiny.cli(*train(place)).status == 0
    return ["status", place.folder / "trained"]


@case("was submitted and has not begun: ebsc jobs says")
def status_of_a_job_that_has_not_begun(place):
    (place.folder / "new").mkdir()
    (place.folder / "new" / "job.json").write_text("{}")
    return ["status", place.folder / "new"]


@case("is not finished")
def attack_on_a_run_that_is_not_finished(place):
    (place.run / "certificates.parquet").unlink()
    return ["attack", place.run, "--model", place.model]


def attack(name, message, *words):
    CASES[name] = lambda place: ["attack", place.run, "--model", place.model, *words], message


attack("attack_at_no_radius", "radii of an attack must be positive", "--radii", "0:1:0.5")
attack("attack_in_no_steps", "must be at least 1", "--steps", 0)
attack("attack_on_no_images", "the batch must be at least 1", "--batch", 0)
attack("attack_with_a_negative_seed", "seed must not be negative", "--seed=-1")
attack("attack_with_too_few_draws", "n must be at least n0", "--n", 50)
attack("attack_with_no_alpha", "alpha", "--alpha", 2)
attack("plot_of_no_curve", "a plot needs radii", "--radii", "certified", "--plot", "x.png")
attack("attack_on_images_that_are_not_there", "selects none", "--images", "100:")


# -- geometry -------------------------------------------------------------------------------------------------------


def look(name, message, *words):
    CASES[name] = lambda place: ["geometry", *words], message


for value in ("", "x", "-0.5", "nan", "0.5,inf", "0:1"):
    look(f"geometry_sigmas_{value}", "sigmas .*give numbers >= 0", f"--sigmas={value}")
look("geometry_without_noise", "sigma must be a positive number", "--sigmas", "0,0.5")
look("geometry_of_unknown_data", "unknown data set", "--data", "diggits")
look("geometry_of_no_image", "selects none", "--images", "400:")
look("geometry_of_all_there_is", "no training image is left", "--split", "train")
look("geometry_with_bad_radii", "give numbers >= 0", "--radii", "x")
look("geometry_of_one_draw", "draws must lie in 2..128", "--draws", 1)
look("geometry_with_a_negative_seed", "seed must not be negative", "--seed=-1")
look("geometry_beside_nothing", "no such run folder or log", "--runs", "nowhere")
look("geometry_into_no_folder", "there is no folder nowhere", "--images", "::40", "--plot", "nowhere/x.png")
look("geometry_at_infinite_radii", "give numbers >= 0", "--radii", "1e300")
look("geometry_into_an_unknown_format", "cannot write the figure", "--images", "::40", "--plot", "x.xyz")


@case("is about digits .*, not .*mine")
def geometry_beside_a_run_of_other_data(place):
    return ["geometry", "--data", npz(place, np.zeros((3, 8, 8), dtype=np.uint8)), "--runs", place.run]


@case("no image in common")
def geometry_beside_runs_of_other_images(place):
    return ["geometry", "--images", "1:5", "--sigmas", "0.25", "--runs", place.run]


@case("two classes are needed")
def geometry_of_one_class(place):
    return ["geometry", "--data", npz(place, np.zeros((3, 8, 8), dtype=np.uint8))]


# -- theory ---------------------------------------------------------------------------------------------------------


def theory(name, message, *words):
    CASES[name] = lambda place: ["theory", "--n", 100, "--s", 0, "--angles", 30, "--out", os.devnull, *words], message


theory("theory_without_noise", "sigma must be a positive", "--sigma", 0)
theory("theory_of_classes_that_are_too_wide", "must be at most 1e+06".replace("+", r"\+"), "--region-s", 1e200)
theory("theory_with_too_much_noise", "from 1e-6 to 1e6", "--sigma", 1e200)
theory("theory_of_negative_classes", "s '-1': give numbers >= 0", "--s=-1")
theory("theory_of_no_angle", "angles 'x': give numbers >= 0", "--angles", "x")
theory("theory_of_a_right_angle", r"angles .* \[0, 90\)", "--angles", "0:90:30")
theory("theory_of_classes_that_float32_cannot_part", "w.mu, .* at least 1e-5", "--angles", 89.99, "--length", 0.01)
theory("theory_of_a_region_at_a_right_angle", r"angles .* \[0, 90\)", "--region-angle", 90)
theory("theory_of_a_region_of_nothing", "region_s must be a number", "--region-s", "nan")
theory("theory_with_a_mean_off_the_pixels", "up to 4, not 4.5", "--length", 4.5)
theory("theory_without_a_mean", "above 0 and up to 4, not 0", "--length", 0)
theory("theory_of_one_pixel", "side must be at least 2", "--side", 1)
theory("theory_with_too_few_draws", "n must be at least", "--n", 50)
theory("theory_with_a_bad_alpha", "alpha must lie in", "--alpha", 1)
theory("theory_with_a_negative_seed", "seed must not be negative", "--seed=-1")
theory("theory_out_of_reach", "at most 36 sigma", "--sigma", 0.01)
theory("theory_into_no_folder", "cannot write", "--out", "nowhere/table.txt")
theory("theory_drawn_in_an_unknown_format", "cannot write the figure", "--plot", "figure.xyz")


CASES["reproduce_beside_a_log_that_is_not_there"] = (
    lambda place: ["reproduce", "digits", "--peers", "nowhere.tsv"],
    "no such log",
)


# -- walks ----------------------------------------------------------------------------------------------------------

options("no_steps", "a walk needs 1 step or more", "--steps", 0)
options("steps_of_no_length", "of a positive length", "--step-size", 0)
options("steps_too_long", "up to 1000", "--step-size", 1e200)
options("negative_friction", "friction must be a positive number", "--friction", -1)
options("walk_without_a_denoiser", "a walk needs a denoiser", "--vote", "walk-jump", "--plain")
options_of("sample", "one_chain", "give 2 chains", "--chains", 1)
options_of("sample", "few_steps", "7 steps or more", "--steps", 5)
said = "10 steps and the start are 11 pictures: --columns 12 is too many"
options_of("sample", "more_columns_than_steps", said, "--steps", 10)
options_of("sample", "sample_with_friction_0", "friction must be a positive number", "--friction", 0)
options_of("sample", "more_chains_than_images", "only 360 test images", "--start", "data", "--chains", 400)


@pytest.mark.timeout(15)
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", CASES)
def test_one_line_status_2_and_no_file_changed(place, name, monkeypatch):
    monkeypatch.chdir(place.folder)
    make, message = CASES[name]
    words = make(place)
    before = tiny.files(place.folder)
    result = tiny.cli(*words)
    assert result.status == 2
    assert len(result.err.splitlines()) == 1, result.err
    assert re.match(f"(?i)ebsc: .*({message})", result.err)
    assert tiny.files(place.folder) == before


def test_a_second_driver_is_refused(place):
    with Ledger(place.run, json.loads((place.run / "config.json").read_text())):
        before = tiny.files(place.folder)
        result = tiny.cli(*place.certify(out="run"))
        assert tiny.files(place.folder) == before
    assert result.status == 2
    assert result.err.startswith(f"ebsc: {place.run} is in use by another process (process {os.getpid()} on ")
    assert result.err.count("\n") == 1


def test_a_torn_ledger_is_mended(place):
    """Not an error: what the crash tore is counted again."""
    whole, table = tiny.files(place.run), tiny.columns(place.run)
    (place.run / "ledger.jsonl").write_bytes(whole["ledger.jsonl"][:-5])
    (place.run / "certificates.parquet").unlink()
    assert tiny.cli(*place.certify(out="run")).status == 0
    assert tiny.columns(place.run) == table


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_images_off_the_lattice_are_certified_when_asked_and_marked_in_the_table(place, form):
    data = npz(place, np.random.default_rng(0).random((5, 8, 8)), test_labels=np.arange(5))
    result = tiny.cli(*place.certify("--data", data, "--no-lattice", "--images", "::"))
    assert result.status == 0
    marked = tiny.cli("table", place.folder / "new", "--format", form)
    unmarked = tiny.cli("table", place.run, "--format", form)
    assert "not sound in floating point" in marked.out.lower()
    assert "not sound in floating point" not in unmarked.out.lower()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["certify"],
        ["certify", "model", "--nonsense"],
        ["certify", "model", "--budget", "free"],
        ["train", "--sigma", "big"],
        ["train", "--device", "abacus"],
        ["table", "x", "--format", "pdf"],
    ],
)
def test_a_command_line_that_cannot_be_parsed_ends_with_status_2(words):
    result = tiny.cli(*words)
    assert result.status == 2
    assert result.out == ""
    assert result.err


@pytest.mark.parametrize(
    "words",
    [["-m", "jobs.train", "--sigma", "0"], ["ebsc", "certify", "model", "--device", "cuda", "--workers", "0"]],
    ids=["module", "command"],
)
def test_a_real_process_says_one_line_and_ends_with_status_2(place, words):
    program = [sys.executable] if words[0] == "-m" else [str(Path(sys.executable).parent / words.pop(0))]
    result = subprocess.run(
        program + words, cwd=place.folder, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("ebsc: ")
    assert result.stderr.count("\n") == 1
    assert not (place.folder / "runs").exists()
