"""Killed at any moment and started again, a training ends with the weights of an undisturbed one, bit for bit."""

import tiny

STEPS = 30
"""Of each part; a state is saved after every one."""


WORDS = [
    *["train", "--sigma", 0.5, "--width", 3, "--energy.steps", STEPS, "--energy.warmup", 5, "--energy.batch", 8],
    *["--objective", "smoothadv", "--draws", 2, "--hyper", "steps", 1, "--head.steps", STEPS, "--head.warmup", 0],
    *["--head.seed", 3, "--head.learning-rate", 0.5, "--head.batch", 8, "--head.ema", 0, "--held-out", 20],
    *["--watch.log", 1, "--watch.looks", 6, "--watch.save", 0],
]
"""A training under attack that takes some seconds, and is at its best soon; `-o` is to be added."""


def lines(folder):
    return tiny.lines(folder / "metrics.jsonl")


def start_and_kill(folder, after):
    tiny.start_and_kill("jobs.train", WORDS[1:], folder, "metrics.jsonl", after, OMP_NUM_THREADS="1")


def test_a_training_killed_again_and_again_ends_with_the_same_weights(tmp_path):
    """In the energy, then in the classifier when the best weights are already behind it."""
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "model"
    assert tiny.cli(*WORDS, "-o", undisturbed).status == 0
    start_and_kill(folder, after=STEPS // 3)
    assert STEPS // 3 <= lines(folder) < STEPS
    start_and_kill(folder, after=STEPS + 2 * STEPS // 3)
    assert STEPS + 2 * STEPS // 3 <= lines(folder) < 2 * STEPS
    assert not (folder / "model.json").exists()
    result = tiny.cli(*WORDS, "-o", folder)
    assert result.status == 0, result.err
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    found = tiny.metrics(folder)
    assert found == tiny.metrics(undisturbed)
    assert [line["step"] for line in found] == 2 * list(range(1, STEPS + 1))
    values = [line["acr"] for line in found if "acr" in line]
    assert values.index(max(values)) < len(values) / 2
