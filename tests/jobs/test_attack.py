"""``ebsc attack``: both curves, what is on disk, and whether it would notice a false certificate."""

import shutil
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
from scipy import stats

from cluster import certificates
from ebsc import data
from ebsc.attack import Attacker, distances
from ebsc.votes import Voter
from jobs.attack import Attack, _fooled, _inside
from jobs.attacked import FOUND

QUICK = ["--steps", 3, "--draws", 4, "--n", 500]


def attack(place, *words):
    return tiny.cli("attack", place.run, "--model", place.model, *QUICK, *words)


def found(folder):
    return pq.read_table(folder / "attack.parquet").to_pydict()


@pytest.fixture(scope="module")
def attacked(finished, tmp_path_factory):
    """A run that was attacked, made once."""
    copy = type(finished)(shutil.copytree(finished.folder, tmp_path_factory.mktemp("attacked") / "place"))
    done = attack(copy, "--radii", "0.2,2", "--plot", copy.folder / "curve.png")
    assert done.status == 0, done.err
    return copy, done


def test_it_prints_both_curves(attacked):
    place, done = attacked
    lines = {line.split("  ")[0]: line.split("  ")[1:] for line in done.out.splitlines()}
    certified, robust = (
        [float(word) for word in lines[name] if word] for name in ("certified (guarantee)", "right under attack")
    )
    rows = certificates.read(place.run)
    right = certificates.correct(rows)
    assert certified == [pytest.approx(100 * (right & (rows["radius"] >= r)).mean(), abs=0.1) for r in (0, 0.2, 2)]
    assert robust[0] >= robust[1] >= robust[2]
    upper = [float(word) for word in lines["right or abstaining (upper curve)"] if word]
    assert all(lower <= above for lower, above in zip(robust, upper, strict=True))
    assert all(lower <= above for lower, above in zip(certified, upper, strict=True))
    assert robust[2] == 0  # nothing in 8 x 8 pixels withstands a change of length 2
    assert (place.folder / "curve.png").stat().st_size > 10_000


def test_data_of_fewer_classes_than_the_model_knows_are_attacked(place):
    digits = data.load("digits", "test")
    few = digits.labels < 8
    images, labels = digits.images[few][:4], digits.labels[few][:4]
    path = place.folder / "few.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels, levels=16)
    certified = tiny.cli(*place.certify("--data", path, "--images", "::", out="few"))
    assert certified.status == 0, certified.err
    done = tiny.cli("attack", place.folder / "few", *QUICK, "--radii", 0.1)
    assert done.status == 0, done.err


def test_what_it_found_is_on_disk(attacked):
    place, _ = attacked
    table = found(place.run / "attack")
    kept = np.load(place.run / "attack" / "adversarial.npz")
    digits = data.load("digits", "test")
    index, images = np.array(table["index"]), kept["images"]
    np.testing.assert_array_equal(kept["index"], index)
    np.testing.assert_allclose(distances(digits.images[index], images, 16), table["length"])
    assert (np.array(table["length"]) <= table["radius"]).all()
    assert set(table["radius"]) == {0.0, 0.2, 2.0}


def test_it_goes_on_from_what_it_has_found(attacked, tmp_path):
    place, done = attacked
    copy = type(place)(shutil.copytree(place.folder, tmp_path / "place"))
    folder = copy.run / "attack"
    (folder / "attack.parquet").unlink()
    cut = folder / "batches" / "1-0.npz"
    cut.write_bytes(cut.read_bytes()[:-40])
    calls, genuine = 0, Attacker.attack

    def counting(*words):
        nonlocal calls
        calls += 1
        return genuine(*words)

    with patch.object(Attacker, "attack", counting):
        again = attack(copy, "--radii", "0.2,2")
    assert again.status == 0, again.err
    assert calls == 1
    assert again.out.replace(str(copy.folder), "") == done.out.replace(str(place.folder), "")
    assert found(folder) == found(place.run / "attack")


def test_damaged_pictures_are_one_line(attacked, tmp_path):
    place, _ = attacked
    copy = type(place)(shutil.copytree(place.folder, tmp_path / "place"))
    path = copy.run / "attack" / "adversarial.npz"
    whole = path.read_bytes()
    middle = len(whole) // 2
    for spoilt in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]):
        path.write_bytes(spoilt)
        done = tiny.cli("plot", copy.run, "-o", tmp_path / "curve.png")
        assert (done.status, done.err.count("\n")) == (2, 1)
        assert "is not that of a finished attack: adversarial.npz is damaged" in done.err


def test_every_certified_image_is_attacked_at_its_own_radius(place):
    done = attack(place, "--radii", "certified", "--restarts", 2)
    assert done.status == 0, done.err
    rows, table = certificates.read(place.run), found(place.run / "attack-certified")
    certified = rows["radius"] > 0
    np.testing.assert_array_equal(table["index"], rows["index"][certified])
    np.testing.assert_array_equal(table["radius"], rows["radius"][certified])
    assert (np.array(table["length"]) > 0.5 * rows["radius"][certified]).mean() > 0.5
    assert "0 predicted as another class" in done.out


def test_a_run_by_walk_jump_is_predicted_by_walk_jump(place):
    assert tiny.cli(*place.certify("--vote", "walk-jump", "--steps", 1)).status == 0
    done = tiny.cli("attack", place.folder / "new", *QUICK, "--radii", "certified")
    assert done.status == 0, done.err
    assert "0 predicted as another class" in done.out


def test_a_false_certificate_would_be_noticed(place):
    path = place.run / "certificates.parquet"
    rows = certificates.read(place.run)
    rows["radius"][rows["radius"] > 0] = 3.0
    certificates.write(place.run, rows, certificates.seconds(place.run))
    assert path.exists()
    done = attack(place, "--radii", "certified")
    assert done.status == 0, done.err
    tried = int((rows["radius"] > 0).sum())
    assert f"{tried} certified images attacked" in done.out
    fooled = int(done.out.split("radius: ")[1].split()[0])
    assert fooled > tried / 2


def test_what_counts_as_inside_and_as_fallen(place):
    rows = np.zeros(3, dtype=[("label", "i8"), ("predicted", "i8"), ("radius", "f8")])
    rows["label"], rows["predicted"], rows["radius"] = [1, 2, 3], [1, 2, 4], [0.5, 0.0, 1.0]
    lines = np.array(
        [
            (0, 0.4, 0.39, 1, True),
            (0, 0.5, 0.5, 7, True),
            (0, 0.6, 0.6, 7, True),
            (1, 0.4, 0.4, 7, True),
            (2, 1, 0.9, 9, False),
        ],
        dtype=FOUND,
    )
    assert _inside(rows, lines) == (2, 1)
    assert _inside(rows, lines[[0, 2, 3]]) == (1, 0)
    np.testing.assert_array_equal(_fooled(lines, rows["label"]), [False, True, True, True, False])
    right, upper = Attack(run_folder=place.run, radii="0.4,0.5,1")._standing(rows, lines[[0, 3, 1, 4]])
    assert right == [1, pytest.approx(2 / 3), pytest.approx(1 / 3), 0]
    assert upper == [1, pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3)]


def test_predictions_take_the_micro_batch_of_the_run(place, monkeypatch):
    asked = []

    class Watched(Voter):
        def __init__(self, *words, **options):
            asked.append(options["batch"])
            super().__init__(*words, **options)

    monkeypatch.setattr("jobs.attack.Voter", Watched)
    place.reconfigure(lambda config: config["options"].update(batch=3))
    assert tiny.cli("attack", place.run, "--radii", "0.25", "--steps", 1, "--n", 200).status == 0
    assert asked == [3]


def test_radii_may_come_in_any_order(attacked, tmp_path):
    place, done = attacked
    folder = tmp_path / "attack"
    again = attack(place, "--radii", "2,0.2", "-o", folder)
    assert again.status == 0, again.err
    assert again.out.splitlines()[:5] == done.out.splitlines()[:5]


def test_what_may_err_by_chance_counts_both_alphas_and_every_prediction(place):
    words = ["--budget", "fixed", "--alpha", 0.05]
    assert tiny.cli(*place.certify(*words)).status == 0
    done = tiny.cli("attack", place.folder / "new", *QUICK, "--alpha", 0.01, "--radii", "0.01,0.02")
    assert done.status == 0, done.err
    limit = stats.binom.ppf(0.999, 6, 0.05 + 3 * 0.01)
    assert f"may err allows {limit:.0f})" in done.out
