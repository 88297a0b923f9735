"""Made-up voters for campaigns: a draw of image i is a vote for class 1 with probability p[i], else for class 0."""

import random
from collections.abc import Callable

import numpy as np

from ebsc.campaign import Campaign, Unit
from ebsc.noise import BLOCK

Count = Callable[[Unit], np.ndarray]


def addressed(p: np.ndarray) -> Count:
    """Each draw depends on its address alone, as those of a real voter."""

    def count(unit: Unit) -> np.ndarray:
        heads = []
        for row, image, stream, start, stop in unit.spans.tolist():
            blocks = [
                np.random.default_rng([unit.seed, image, stream, block]).random(BLOCK)
                for block in range(start // BLOCK, -(-stop // BLOCK))
            ]
            first = start // BLOCK * BLOCK
            heads.append(int((np.concatenate(blocks)[start - first : stop - first] < p[row]).sum()))
        return np.stack([unit.spans["stop"] - unit.spans["start"] - heads, heads], axis=1)

    return count


def fresh(p: np.ndarray, seed: int = 0) -> Count:
    """New randomness at every call: fast, for many images."""
    generator = np.random.default_rng(seed)

    def count(unit: Unit) -> np.ndarray:
        draws = unit.spans["stop"] - unit.spans["start"]
        heads = generator.binomial(draws, p[unit.spans["row"]])
        return np.stack([draws - heads, heads], axis=1)

    return count


def run(campaign: Campaign, count: Count, size: int = 10**6) -> np.ndarray:
    """The campaign to its end."""
    while units := campaign.next_units(size):
        for unit in units:
            campaign.merge(unit, count(unit))
    assert campaign.done
    return campaign.certificates()


def run_shuffled(campaign: Campaign, count: Count, size: int, workers: int, seed: int) -> np.ndarray:
    """The campaign to its end with so many workers, whose answers come in any order."""
    out, order = [], random.Random(seed)
    while not campaign.done:
        out += campaign.next_units(size, limit=max(0, workers - len(out)))
        unit = out.pop(order.randrange(len(out)))
        campaign.merge(unit, count(unit))
    return campaign.certificates()


def recorded(campaign: Campaign, count: Count, size: int) -> tuple[np.ndarray, list[dict]]:
    """Certificates and records of a campaign that nothing disturbs."""
    records = []
    while units := campaign.next_units(size, limit=1):
        for unit in units:
            records += campaign.records(campaign.merge(unit, count(unit)))
    return campaign.certificates(), records
