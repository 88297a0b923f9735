"""Walks against the laws that they must have, chains against a naive loop, and the vote over chains."""

import numpy as np
import pytest
import torch
from voting import SIGMA, certificates, images, model, naive, units

from ebsc.errors import InputError
from ebsc.noise import BLOCK, Normals, Stream
from ebsc.votes import Voter
from ebsc.walkjump import Walk, chain_votes, split_r_hat, walk

WALKS = [Walk(steps=2), Walk(steps=1, step_size=1.2), Walk(steps=2, friction=0.7)]
IDS = ["overdamped", "one long step", "underdamped"]


def normals(count: int, *shape: int) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


V = 0.05 + SIGMA**2


def gaussian(y: torch.Tensor) -> torch.Tensor:
    """xhat for X ~ N(0, 0.05): the smoothed density is N(0, V)."""
    return 0.05 / V * y


@pytest.mark.parametrize("friction", [None, 1.0], ids=["overdamped", "underdamped"])
@pytest.mark.parametrize("step_size", [0.3, 1.0])
def test_in_the_long_run_a_walk_has_the_smoothed_density_as_its_law(step_size, friction):
    how = Walk(steps=400, step_size=step_size, friction=friction)
    y = torch.full((4000, 1, 1, 1), 3.0, dtype=torch.float64)
    points = [point for point, _ in walk(gaussian, y, normals(how.normals, 4000, 1, 1, 1), SIGMA, how)]
    law = torch.cat(points[300:]).flatten()
    # overdamped, y <- (1 - p) y + delta z with delta^2 = 2 p V, whose variance is V / (1 - p / 2); BAOAB is exact here
    p = step_size**2 / 2 * SIGMA**2 / V
    assert float(law.mean()) == pytest.approx(0, abs=0.02)
    assert float(law.var()) == pytest.approx(V / (1 - p / 2) if friction is None else V, rel=0.03)


def test_every_point_comes_with_its_jump_and_the_next_one_follows_from_them():
    y, z = normals(2, 3, 1, 2, 2)
    first, second = walk(gaussian, y, [z], SIGMA, Walk(steps=1, step_size=0.6))
    for point, jump in (first, second):
        torch.testing.assert_close(jump, gaussian(point))
    torch.testing.assert_close(first[0], y)
    # -sigma^2 grad phi = xhat - y, so that (delta^2 / 2) grad phi = (step^2 / 2) (y - xhat)
    gradient, delta = (y - gaussian(y)) / SIGMA**2, 0.6 * SIGMA
    torch.testing.assert_close(second[0], y - delta**2 / 2 * gradient + delta * z)


def test_an_underdamped_walk_without_force_or_noise_glides_and_slows():
    y, velocity = normals(2, 3, 1, 2, 2)
    still = torch.zeros_like(y)
    how = Walk(steps=3, step_size=0.4, friction=0.5)
    *_, (last, _) = walk(lambda y: y, y, [velocity, still, still, still], SIGMA, how)
    kept = np.exp(-0.5 * 0.4)
    way = 0.4 * SIGMA * (0.5 + kept + kept**2 + kept**3 / 2)  # half steps before and after each slowing
    torch.testing.assert_close(last, y + way * velocity)


@pytest.mark.parametrize("how", WALKS, ids=IDS)
def test_a_chain_of_k_steps_makes_k_plus_1_evaluations(how):
    calls = 0

    def counting(y):
        nonlocal calls
        calls += 1
        return gaussian(y)

    points = list(walk(counting, normals(1, 1, 2, 2), normals(how.normals, 1, 1, 2, 2), SIGMA, how))
    assert calls == len(points) == how.steps + 1


# -- votes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WALKS, ids=IDS)
def test_votes_are_those_of_a_naive_loop(how):
    net, pixels = model(), images()
    voter = Voter(net, pixels, levels=16, n_classes=10, batch=64, walk=how)
    for unit in units():
        np.testing.assert_array_equal(voter.count(unit), naive(net, pixels, unit, how))


@pytest.mark.parametrize("how", WALKS, ids=IDS)
def test_votes_do_not_depend_on_batches_units_or_order(how):
    voters = [Voter(model(), images(), levels=16, n_classes=10, batch=batch, walk=how) for batch in (16, 256)]
    expected = certificates(voters[0])
    assert certificates(voters[1], shuffle=True) == certificates(voters[0], size=BLOCK, shuffle=True) == expected
    assert certificates(Voter(model(), images(), levels=16, n_classes=10)) != expected


def test_the_randomness_of_a_walk_is_not_that_of_the_draws_or_of_another_step():
    noise = Normals(0, (1, 8, 8), "cpu")
    addresses = [(3, stream, block, *step) for stream in Stream for block in (0, 1, 2) for step in ((), (1,), (2,))]
    blocks = {noise.block(*address).numpy().tobytes() for address in addresses}
    assert len(blocks) == len(addresses)


def test_chains_that_hardly_move_vote_as_one_step_does():
    net = model()
    y = torch.rand(64, 1, 8, 8)
    how = Walk(steps=3, step_size=1e-4)
    found = chain_votes(net, y, normals(64, how.normals, 1, 8, 8).float(), how)
    torch.testing.assert_close(found, net(y).softmax(1), rtol=0, atol=1e-3)


def test_without_a_denoiser_there_is_no_walk():
    with pytest.raises(InputError, match="needs a denoiser"):
        Voter(model().plain(), images(), levels=16, n_classes=10, walk=Walk())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"step_size": 0.0}, {"step_size": np.inf}, {"friction": -1.0}])
def test_what_is_no_walk_is_refused(wrong):
    with pytest.raises(InputError):
        Walk(**wrong)


# -- mixing -----------------------------------------------------------------------------------------------------------


def test_r_hat_tells_chains_that_mix_from_those_that_do_not():
    rng = np.random.default_rng(0)
    alike = rng.normal(size=(6, 500, 2))
    assert (split_r_hat(alike) < 1.02).all()
    apart = alike + np.array([0, 0, 0, 3, 3, 3])[:, None, None] * [1, 0]
    r_hat = split_r_hat(apart)
    assert r_hat[0] == pytest.approx(np.sqrt(1 + 9 / 4 * 12 / 11), rel=0.05)
    assert r_hat[1] < 1.02
    drifting = alike + np.linspace(0, 4, 500)[:, None]
    assert (split_r_hat(drifting) > 1.3).all()
