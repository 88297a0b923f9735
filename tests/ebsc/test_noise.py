"""Noise: what it is (moments, law, lattice) and what it depends on (its address and nothing else)."""

import numpy as np
import pytest
import torch
from scipy import stats

from ebsc.noise import BLOCK, REFINEMENT, Normals, Stream, box_muller, perturb


def block(seed: int = 0, image: int = 0, stream: Stream = Stream.ESTIMATE, number: int = 0, shape=(1, 4, 4)):
    return Normals(seed, shape, "cpu").block(image, stream, number).clone()


def many(images: int = 200) -> np.ndarray:
    normals = Normals(0, (1, 8, 8), "cpu")
    return np.stack([normals.block(i, Stream.ESTIMATE, 0).numpy().reshape(BLOCK, -1).copy() for i in range(images)])


def test_draws_are_standard_normal_and_independent():
    z = many()  # image, draw, pixel: 1,638,400 numbers
    error = 5 / np.sqrt(z.size)
    assert abs(z.mean()) < error
    assert abs((z**2).mean() - 1) < error * np.sqrt(2)
    assert abs((z**3).mean()) < error * np.sqrt(15)
    assert abs((z**4).mean() - 3) < error * np.sqrt(96)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-4
    for one, other in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1]), (z[:, :, 1:], z[:, :, :-1])):
        assert abs((one * other).mean()) < 1.1 * error  # neighbouring images, draws and pixels


def test_the_tails_are_as_heavy_as_they_should_be():
    z = many()
    for bound in (1.0, 2.0, 3.0, 4.0):
        for beyond in (z > bound, z < -bound):
            expected = z.size * stats.norm.sf(bound)
            assert abs(int(beyond.sum()) - expected) < 5 * np.sqrt(expected)


def test_the_transform_is_that_of_box_and_muller():
    corners = torch.iinfo(torch.int32).min + torch.tensor([0, 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1])
    bits = torch.cartesian_prod(corners, corners).to(torch.int32).T.contiguous()
    u = ((bits[0].long() & 0x7FFFFFFF) + 0.5).double() / 2**31
    r, t = (-2 * u.log()).sqrt(), np.pi * bits[1].double() / 2**31
    expected = torch.cat([r * t.cos(), r * t.sin()])
    torch.testing.assert_close(box_muller(bits).double(), expected, rtol=0, atol=1e-4)


def test_a_block_depends_on_its_address_alone():
    normals = Normals(5, (1, 4, 4), "cpu")
    first = normals.block(3, Stream.SELECT, 2).clone()
    normals.block(4, Stream.ESTIMATE, 0)
    assert torch.equal(normals.block(3, Stream.SELECT, 2), first)
    assert torch.equal(block(5, 3, Stream.SELECT, 2), first)


def test_every_part_of_the_address_matters():
    addresses = [
        (seed, image, stream, number)
        for seed in (0, 1, 2**40)
        for image in (0, 1, 7, 2**31)
        for stream in Stream
        for number in (0, 1, 2**20)
    ]
    blocks = {block(*address).numpy().tobytes() for address in addresses}
    values = np.concatenate([block(*address).numpy().ravel() for address in addresses])
    assert len(blocks) == len(addresses)
    # float32 normals coincide now and then, but no run of them is repeated
    pairs = np.stack([values[:-1], values[1:]], 1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)


@pytest.mark.parametrize("levels", [1, 16, 255])
@pytest.mark.parametrize("sigma", [0.12, 0.5, 2.0])
def test_noisy_images_are_exact_points_of_the_lattice(levels, sigma):
    u = torch.randint(0, levels + 1, (BLOCK, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    z = block()
    y = perturb(u, z, sigma, levels)
    k = (y.double() * levels * REFINEMENT).round()
    assert y.dtype == torch.float32
    assert torch.equal((k / (levels * REFINEMENT)).float(), y)  # the float nearest to k / (L M)
    exact = REFINEMENT * u.double() + levels * REFINEMENT * sigma * z.double()
    assert (k - exact).abs().max() <= 0.501
    assert (y.double() - u.double() / levels - sigma * z.double()).abs().max() <= 0.501 / (levels * REFINEMENT) + 1e-6


@pytest.mark.parametrize("levels", [16, 255])
def test_a_step_of_one_level_shifts_the_noise_by_exactly_one_level(levels):
    z = torch.cat([block(number=n, shape=(8,)) for n in range(8)]).flatten()
    base = torch.zeros(len(z), dtype=torch.uint8)

    def lattice(level: int) -> torch.Tensor:
        y = perturb(base + level, z, 0.5, levels)
        return (y.double() * levels * REFINEMENT).round().long()

    for level in range(levels):
        assert (lattice(level + 1) - lattice(level) == REFINEMENT).all()


def test_on_the_lattice_the_noise_has_the_standard_deviation_that_it_is_said_to_have():
    z = torch.from_numpy(many(50)).flatten()
    noise = perturb(torch.full_like(z, 100, dtype=torch.uint8), z, 0.25, 255).double() - 100 / 255
    assert abs(float(noise.mean())) < 5 * 0.25 / len(z) ** 0.5
    assert float(noise.std()) == pytest.approx(0.25, rel=5 / (2 * len(z)) ** 0.5)


def test_images_in_floats_get_ordinary_noise():
    x, z = torch.rand(BLOCK, 1, 4, 4, generator=torch.Generator().manual_seed(0)), block()
    assert torch.equal(perturb(x, z, 0.5, 255), x + 0.5 * z)
