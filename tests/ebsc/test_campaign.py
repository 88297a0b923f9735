"""A campaign as a state machine: the same certificates however its work is cut, ordered or interrupted."""

import copy
import pickle
import re
from dataclasses import replace

import coins
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebsc.budgets import Budget, Fixed, Sequential
from ebsc.campaign import Campaign, Outcome
from ebsc.errors import InputError
from ebsc.noise import BLOCK, Stream

SIGMA = 0.5
P = np.array([0.02, 0.3, 0.5, 0.55, 0.7, 0.84, 0.9, 0.95, 0.999, 1.0])
BUDGETS = [Fixed(n=1000, n0=50), Sequential(radii=(0.0, 0.5, 1.0), n=3000, n0=200)]


def campaign(budget: Budget, rows: int = len(P), seed: int = 0) -> Campaign:
    return Campaign(np.ones(rows, dtype=np.int64), 2, SIGMA, budget=budget, images=7 + 3 * np.arange(rows), seed=seed)


def recorded(budget: Budget) -> tuple[bytes, list[dict]]:
    """Certificates and records of a campaign that nothing disturbs."""
    table, records = coins.recorded(campaign(budget), coins.addressed(P), 1000)
    return table.tobytes(), records


EXPECTED = {budget: recorded(budget) for budget in BUDGETS}


# -- the same certificates, whatever happens -------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
@given(size=st.integers(1, 20_000), workers=st.integers(1, 20), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_certificates_depend_neither_on_the_size_of_units_nor_on_the_order_of_arrival(budget, size, workers, seed):
    shuffled = coins.run_shuffled(campaign(budget), coins.addressed(P), size, workers, seed)
    assert shuffled.tobytes() == EXPECTED[budget][0]


@pytest.mark.parametrize("budget", BUDGETS)
@given(data=st.data(), size=st.integers(1, 5000))
@settings(max_examples=25, deadline=None)
def test_a_campaign_goes_on_from_any_prefix_of_its_records(budget, data, size):
    certificates, records = EXPECTED[budget]
    kept = records[: data.draw(st.integers(0, len(records)))]
    resumed = campaign(budget)
    resumed.restore(kept)
    last = {record["image"]: sum(record["votes"].values()) for record in kept if record["look"] > 0}
    selected = {record["image"] for record in kept}
    assert resumed.draws == sum(last.values()) + budget.n0 * len(selected)
    assert coins.run(resumed, coins.addressed(P), size).tobytes() == certificates


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_order_of_records_matters_only_within_an_image(budget):
    certificates, records = EXPECTED[budget]
    resumed = campaign(budget)
    resumed.restore(sorted(records, key=lambda record: (record["image"], record["look"])))
    assert resumed.done
    assert resumed.certificates().tobytes() == certificates


EXTENDED = {
    "fixed": (Fixed(n=1000, n0=50), Fixed(n=3000, n0=50, extends=(1000,))),
    "sequential": (BUDGETS[1], replace(BUDGETS[1], n=9000, extends=(3000,))),
    "twice": (replace(BUDGETS[1], n=9000, extends=(3000,)), replace(BUDGETS[1], n=20_000, extends=(3000, 9000))),
    "radii": (BUDGETS[1], replace(BUDGETS[1], radii=(0.0, 0.25, 0.5, 0.75, 1.0))),
    "two-sided": (replace(BUDGETS[1], two_sided=True), replace(BUDGETS[1], two_sided=True, n=9000, extends=(3000,))),
}


@pytest.mark.parametrize("name", EXTENDED)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_an_extended_run_keeps_every_draw_and_ends_as_if_it_had_been_the_larger_one(name, seed, rows):
    small, large = EXTENDED[name]
    p = np.random.default_rng(seed).beta(5, 1, rows)
    first = campaign(small, rows, seed)
    before, records = coins.recorded(first, coins.addressed(p), 5000)
    extended = campaign(large, rows, seed)
    extended.restore(records)
    assert extended.draws == first.draws
    table = coins.run(extended, coins.addressed(p))
    assert table.tobytes() == coins.run(campaign(large, rows, seed), coins.addressed(p)).tobytes()
    assert (table["draws"] >= before["draws"]).all()


def test_an_extended_fixed_budget_certifies_what_the_larger_one_does():
    extended = coins.run(campaign(Fixed(n=3000, n0=50, extends=(1000,))), coins.addressed(P))
    assert extended.tobytes() == coins.run(campaign(Fixed(n=3000, n0=50)), coins.addressed(P)).tobytes()


def test_another_seed_gives_other_counts():
    assert coins.run(campaign(BUDGETS[0], seed=1), coins.addressed(P)).tobytes() != EXPECTED[BUDGETS[0]][0]


# -- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", BUDGETS)
@given(size=st.integers(1, 4000), limit=st.none() | st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_units_hold_every_address_once_and_are_cut_between_blocks(budget, size, limit):
    run, seen = campaign(budget), {}
    while units := run.next_units(size, limit):
        assert limit is None or len(units) <= limit
        for unit in units:
            assert 0 < unit.draws <= max(size, BLOCK)
            assert unit.seed == 0
            for row, image, stream, start, stop in unit.spans.tolist():
                assert image == 7 + 3 * row
                assert start < stop
                assert start % BLOCK == 0
                seen.setdefault((row, stream), []).append((start, stop))
        for unit in units:
            run.merge(unit, coins.addressed(P)(unit))
    table = run.certificates()
    for (row, stream), spans in seen.items():
        spans.sort()
        assert [start for start, _ in spans] == [0] + [stop for _, stop in spans[:-1]]  # no gap, no overlap
        votes = table["select" if stream == Stream.SELECT else "counts"][row]
        assert spans[-1][1] == votes.sum()
    assert table["draws"].sum() == run.draws


def test_units_are_full_until_the_last():
    units = campaign(Fixed(n=1000, n0=100), rows=100).next_units(1000)
    assert [unit.draws for unit in units] == [1000] * 10
    assert len({unit.number for unit in units}) == 10


def test_nothing_is_given_out_while_everything_planned_is_out():
    run = campaign(BUDGETS[0])
    (unit,) = run.next_units(10**6)
    assert run.next_units(10**6) == []
    assert not run.done
    run.merge(unit, coins.addressed(P)(unit))
    assert run.queued == len(P) * 1000


def test_estimation_uses_none_of_the_draws_that_selected():
    run = campaign(BUDGETS[1])
    table = coins.run(run, coins.addressed(P))
    looks = BUDGETS[1].looks
    assert (table["select"].sum(1) == 200).all()
    assert np.isin(table["counts"].sum(1), looks).all()


REFUSED = {
    "a label that is no class": ({"labels": np.array([0, 2])}, "labels must lie in 0..1, not 0..2"),
    "a negative label": ({"labels": np.array([0, -1])}, "labels must lie in 0..1, not -1..0"),
    "labels in floats": ({"labels": np.array([0.0, 1.0])}, "labels must be a row of integers, not float64"),
    "labels as columns": ({"labels": np.eye(2, dtype=np.int64)}, "not int64 of shape (2, 2)"),
    "images that are too few": ({"images": np.array([4])}, "1 images but 2 labels"),
    "images before the first": ({"images": np.array([-1, 4])}, "images must lie in 0.."),
    "an image twice": ({"images": np.array([4, 4])}, "an image is named twice"),
    "no noise": ({"sigma": 0.0}, "sigma must be a positive number"),
    "a negative seed": ({"seed": -1}, "seed must not be negative"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_certified_is_refused(words, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Campaign(**{"labels": [0, 1], "n_classes": 2, "sigma": SIGMA, "budget": BUDGETS[0], **words})


def test_labels_and_images_may_be_lists_and_tensors():
    for kind in (list, torch.tensor):
        run = Campaign(kind([0, 1]), 2, SIGMA, budget=BUDGETS[0], images=kind([9, 4]))
        assert run.certificates()[["label", "index"]].tolist() == [(0, 9), (1, 4)]


def test_a_campaign_of_no_images_is_done():
    empty = Campaign(np.zeros(0, dtype=np.int64), 2, SIGMA, budget=BUDGETS[0])
    assert empty.done
    assert empty.next_units(1000) == []
    assert len(empty.certificates()) == empty.expected_draws() == 0


# -- what is refused ------------------------------------------------------------------------------------------------


def test_merging_twice_is_refused_and_changes_nothing():
    run = campaign(BUDGETS[0])
    (unit,) = run.next_units(10**6)
    run.merge(unit, coins.addressed(P)(unit))
    before = run.certificates().tobytes()
    with pytest.raises(ValueError, match="not out"):
        run.merge(unit, coins.addressed(P)(unit))
    assert run.certificates().tobytes() == before


def test_a_unit_of_another_campaign_is_refused():
    ours, theirs = campaign(BUDGETS[0]), campaign(BUDGETS[0])
    (unit,), (other,) = ours.next_units(10**6), theirs.next_units(10**6)
    assert unit.number == other.number
    with pytest.raises(ValueError, match="another campaign"):
        ours.merge(other, coins.addressed(P)(other))


def test_a_unit_may_come_back_as_a_copy():
    run = campaign(BUDGETS[0])
    (unit,) = run.next_units(10**6)
    assert len(run.merge(pickle.loads(pickle.dumps(unit)), coins.addressed(P)(unit)))


def shorter(counts):
    return counts[:-1]


def wider(counts):
    return np.pad(counts, ((0, 0), (0, 1)))


def one_more(counts):
    return counts + np.eye(len(counts), 2, dtype=np.int64)


def moved_between_rows(counts):
    return counts + np.array([[1, 0], [-1, 0]] + [[0, 0]] * (len(counts) - 2))


def negative(counts):
    return counts + np.array([[1000, -1000]] * len(counts))


@pytest.mark.parametrize("damage", [shorter, wider, one_more, moved_between_rows, negative])
def test_counts_that_are_not_those_of_the_unit_are_refused_and_the_unit_can_be_counted_again(damage):
    run = campaign(BUDGETS[0])
    (unit,) = run.next_units(10**6)
    counts = coins.addressed(P)(unit)
    with pytest.raises(ValueError, match=r"do not add up|have shape"):
        run.merge(unit, damage(counts))
    assert run.draws == 0
    run.merge(unit, counts)
    assert coins.run(run, coins.addressed(P)).tobytes() == EXPECTED[BUDGETS[0]][0]


def foreign_image(records):
    records[3]["image"] = 8


def twice(records):
    records.append(records[5])


def gap(records):
    del records[next(i for i, record in enumerate(records) if record["look"] == 1 and "outcome" not in record)]


def after_the_last_look(records):
    records[-1]["look"] = 99


def before_the_first_look(records):
    records[0]["look"] = -1


def after_it_was_settled(records):
    settled = next(record for record in records if record["look"] == 1 and "outcome" in record)
    records.append({**settled, "look": 2, "votes": {"1": 256}})


def too_few_votes(records):
    records[-1]["votes"]["1"] -= 1


def unknown_class(records):
    records[0]["votes"] = {"2": 200}


def class_below_zero(records):
    records[0]["votes"] = {"-1": 200}


def class_without_a_number(records):
    records[0]["votes"] = {"cat": 200}


def negative_votes(records):
    records[0]["votes"] = {"0": -100, "1": 300}


def votes_that_disappear(records):
    later = next(record for record in records if record["look"] == 2)
    later["votes"] = {"0": 256}


@pytest.mark.parametrize(
    "damage",
    [
        foreign_image,
        twice,
        gap,
        after_the_last_look,
        before_the_first_look,
        after_it_was_settled,
        too_few_votes,
        unknown_class,
        class_below_zero,
        class_without_a_number,
        negative_votes,
        votes_that_disappear,
    ],
)
def test_records_that_are_not_of_this_campaign_are_refused(damage):
    records = copy.deepcopy(EXPECTED[BUDGETS[1]][1])
    damage(records)
    with pytest.raises(ValueError, match=r"image|look|class|votes|literal"):
        campaign(BUDGETS[1]).restore(records)


# -- what is known --------------------------------------------------------------------------------------------------


def test_every_outcome_has_its_name():
    budget = Sequential(radii=(0.0, 0.5), n=1000, n0=50)
    run = Campaign(np.ones(4, dtype=np.int64), 2, SIGMA, budget=budget)
    p = np.array([0.5, 0.999, 0.84, 0.7])
    assert [Outcome(value) for value in run.certificates()["outcome"]] == [Outcome.PENDING] * 4
    table = coins.run(run, coins.addressed(p))
    assert [Outcome(value).name for value in table["outcome"]] == [
        "ABSTAINED",
        "CERTIFIED",
        "BUDGET_SPENT",
        "CERTIFIED",
    ]
    assert table["radius"][0] == 0 < table["radius"][3] < 0.5 <= table["radius"][1]
    assert run.settled == 4


def test_certificates_tell_candidate_label_and_address():
    table = coins.run(campaign(BUDGETS[0]), coins.addressed(P))
    assert table["index"].tolist() == (7 + 3 * np.arange(len(P))).tolist()
    assert table["label"].tolist() == [1] * len(P)
    assert table["predicted"][[0, 1, -2, -1]].tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(table["predicted"], table["select"].argmax(1))


def test_a_candidate_that_only_the_selecting_draws_favour_is_not_certified():
    run = campaign(BUDGETS[0], rows=1)
    (selecting,) = run.next_units(1000)
    run.merge(selecting, np.array([[30, 20]]))
    (estimating,) = run.next_units(1000)
    run.merge(estimating, np.array([[10, 990]]))
    (row,) = run.certificates()
    assert (row["predicted"], row["outcome"], row["radius"]) == (0, Outcome.ABSTAINED, 0)


def test_expected_draws_of_a_fixed_budget_are_those_to_come():
    run = campaign(BUDGETS[0])
    assert run.expected_draws() == len(P) * 1050
    while units := run.next_units(300, limit=1):
        for unit in units:
            run.merge(unit, coins.addressed(P)(unit))
        assert run.expected_draws() == len(P) * 1050 - run.draws
    assert run.expected_draws() == 0


def test_expected_draws_of_a_sequential_budget_are_about_those_to_come():
    p = np.random.default_rng(0).uniform(0.4, 1.0, 2000)
    run = Campaign(np.ones(2000, dtype=np.int64), 2, SIGMA, budget=Sequential(radii=(0.0, 0.5), n=10_000))
    count, expected, at = coins.fresh(p), [], []
    while units := run.next_units(10**6):
        for unit in units:
            run.merge(unit, count(unit))
        expected.append(run.expected_draws())
        at.append(run.draws)
    assert expected[-1] == 0
    for guess, done in list(zip(expected, at, strict=True))[2:-2]:
        assert guess == pytest.approx(run.draws - done, rel=0.5)
