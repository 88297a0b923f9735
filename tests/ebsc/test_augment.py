from dataclasses import replace

import pytest
import torch

from ebsc.augment import Augmentation, augmented
from ebsc.classifier import build
from ebsc.data import load
from ebsc.errors import InputError
from ebsc.training import Batch, Randomness, Schedule, Trainer, classification

WIDE = torch.randint(0, 256, (1, 1, 6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MANY = torch.zeros(400, 3, 7, 9, dtype=torch.uint8)
MANY[:, :, 3, 4] = torch.tensor([10, 20, 30], dtype=torch.uint8)
DIGITS = load("digits", "train")


class Chosen(Randomness):
    """Random numbers that a test chooses: shift left, shift up, turn, size, side."""

    def __init__(self, *numbers):
        self.numbers = torch.tensor(numbers)

    def uniform(self, draws):
        return self.numbers[:draws, None]


def moved(augmentation, images, *numbers):
    return augmentation(images, Chosen(*numbers))


def drawn(augmentation, images=MANY, step=0):
    return augmentation(images, Randomness(0, step, len(images), slice(0, len(images)), "cpu"))


def test_what_moves_nothing_is_false_and_gives_the_objective_itself():
    def objective(batch):
        return {}

    assert not Augmentation()
    assert augmented(objective, Augmentation()) is objective
    assert drawn(Augmentation()).equal(MANY)


def test_shifts_are_whole_pixels_within_the_limit_all_of_them_and_black_moves_in():
    found = drawn(Augmentation(shift=2))
    assert found.dtype == torch.uint8
    assert found[:, :, 1:6, 2:7].flatten(1).sum(1).eq(60).all()
    places = {tuple(place) for place in found[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in range(1, 6) for column in range(2, 7)}
    left_up = moved(Augmentation(shift=2), WIDE, 0.99, 0.99, 0.5, 0.5, 0)
    assert left_up[..., :4, :8].equal(WIDE[..., 2:, 2:])
    assert not left_up[..., 4:, :].any()
    assert not left_up[..., 8:].any()


def test_half_of_the_images_are_mirrored_exactly():
    images = WIDE.expand(400, -1, -1, -1)
    found = drawn(Augmentation(flip=True), images)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (mirrored ^ (found == images).flatten(1).all(1)).all()
    assert 160 < mirrored.sum() < 240


def test_rotations_keep_the_form_of_what_is_not_square():
    assert moved(Augmentation(rotate=180.0), WIDE, 0.5, 0.5, 1.0, 0.5, 0).equal(WIDE.flip(2, 3))
    square = WIDE[..., :6]
    quarter = moved(Augmentation(rotate=180.0), square, 0.5, 0.5, 0.75, 0.5, 0)
    assert quarter.equal(square.rot90(1, (2, 3)))
    tall = torch.zeros(1, 1, 21, 41, dtype=torch.uint8)
    tall[..., 4:17, 20] = 200
    lying = moved(Augmentation(rotate=90.0), tall, 0.5, 0.5, 1.0, 0.5, 0)
    assert lying[..., 10, 14:27].eq(200).all()
    assert lying.sum() == tall.sum()


def test_a_mirrored_image_turns_and_moves_as_others_do():
    both = Augmentation(rotate=90.0, shift=2, flip=True)
    plain, mirrored = (
        moved(both, image, 0.99, 0.5, 0.8, 0.5, side) for image, side in ((WIDE.flip(3), 0.9), (WIDE, 0.1))
    )
    assert plain.equal(mirrored)
    assert plain.any()


def test_sizes_change_by_the_share_that_is_asked_for():
    box = torch.zeros(1, 1, 41, 41, dtype=torch.uint8)
    box[..., 11:30, 11:30] = 200
    for size, side in ((1.0, 19 * 1.5), (0.0, 19 * 0.5)):
        found = moved(Augmentation(scale=0.5), box, 0.5, 0.5, 0.5, size, 0).float().sum() / 200
        assert found.sqrt() == pytest.approx(side, rel=0.06)


def test_each_process_moves_its_rows_as_one_process_would():
    how = Augmentation(shift=2, rotate=20.0, scale=0.2, flip=True)
    images = MANY[:40]
    half = how(images[20:], Randomness(0, 0, 40, slice(20, 40), "cpu"))
    assert drawn(how, images)[20:].equal(half)
    assert not drawn(how, images).equal(drawn(how, images, step=1))


def test_a_training_in_bfloat16_moves_images_as_precisely():
    how = Augmentation(shift=2, rotate=20.0, scale=0.2, flip=True)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = drawn(how, WIDE.expand(400, -1, -1, -1))
    assert coarse.equal(drawn(how, WIDE.expand(400, -1, -1, -1)))


def test_a_training_on_moved_images_goes_on_from_any_step_as_if_undisturbed():
    def trainer():
        torch.manual_seed(0)
        net = build("linear", DIGITS.shape, 10)
        objective = augmented(classification(net, DIGITS.levels), Augmentation(shift=1, rotate=10.0))
        return Trainer(net, DIGITS, objective, Schedule(steps=4, batch=8, precision="bfloat16"))

    whole, first, second = trainer(), trainer(), trainer()
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.restore(first.state())
    while not second.done:
        second.advance()
    assert all(value.equal(whole.state()[name]) for name, value in second.state().items())


def test_an_objective_sees_the_moved_images_and_all_else_of_the_batch():
    seen = []
    batch = Batch(MANY, torch.arange(400) % 10, 5, Randomness(0, 5, 400, slice(0, 400), "cpu"))
    augmented(lambda batch: seen.append(batch) or {"loss": torch.tensor(1.0)}, Augmentation(shift=1))(batch)
    assert seen[0].images.equal(drawn(Augmentation(shift=1), step=5))
    assert replace(seen[0], images=batch.images) == batch


@pytest.mark.parametrize(
    "wrong",
    [{"shift": -1}, {"rotate": -1.0}, {"rotate": 181.0}, {"rotate": float("nan")}, {"scale": 1.0}, {"scale": -0.1}],
)
def test_values_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match="moved images: shift must be 0 or more, rotate 0 to 180 degrees"):
        Augmentation(**wrong)
