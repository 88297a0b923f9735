"""Data sets: what comes out of the known names and of a user's own file, and what is refused in one line."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from ebsc import data
from ebsc.data import Dataset
from ebsc.errors import InputError

# -- known names -----------------------------------------------------------------------------------------------------


def test_digits_are_split_once_and_whole():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert train.shape == test.shape == (1, 8, 8)
    assert train.images.max() == train.levels == 16
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))
    assert train.on_lattice


def test_mnist_is_read_from_its_files(mnist):
    test = data.load("mnist", "test", mnist)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert test.images.dtype == np.uint8
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (test.levels, test.n_classes) == (255, 10)


def test_the_environment_names_the_data_root(monkeypatch):
    monkeypatch.setenv("EBSC_DATA", "/somewhere")
    assert data.data_root() == Path("/somewhere")
    assert data.data_root("/else") == Path("/else")
    monkeypatch.delenv("EBSC_DATA")
    assert data.data_root() == Path("~/.cache/ebsc/data").expanduser()


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_mnist_that_is_not_there_is_refused_with_what_to_put_where(tmp_path, monkeypatch, damage):
    def no_network(self):
        raise OSError("<urlopen error [Errno -2]\nName or service not known>")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", no_network)
    if damage == "truncated":
        (tmp_path / "MNIST" / "raw").mkdir(parents=True)
        for split in ("train", "t10k"):
            for name, magic in (("images-idx3", 0x803), ("labels-idx1", 0x801)):
                head = np.array([magic, 10_000, 28, 28], ">i4").tobytes()
                (tmp_path / "MNIST" / "raw" / f"{split}-{name}-ubyte").write_bytes(head + bytes(984))
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte.*--data-root or EBSC_DATA") as error:
        data.load("mnist", "test", tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(error.value)
    assert "\n" not in str(error.value)


def test_processes_that_want_the_same_data_download_it_once(tmp_path, monkeypatch, mnist):
    downloads = []

    def download(self):
        downloads.append(self.root)
        Path(self.raw_folder).mkdir(parents=True)
        for file in (mnist / "MNIST" / "raw").glob("*ubyte"):
            time.sleep(0.02)
            shutil.copy(file, self.raw_folder)

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: data.load("mnist", "test", tmp_path / "new"), range(4)))
    assert [len(part.labels) for part in found] == [10_000] * 4
    assert len(downloads) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]


def test_a_download_that_is_killed_leaves_no_file_that_is_not_whole(tmp_path, monkeypatch):
    def download(self):
        Path(self.raw_folder).mkdir(parents=True)
        Path(self.raw_folder, "train-images-idx3-ubyte").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist", "test", tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_an_unknown_name_is_refused_with_the_known_ones_named():
    with pytest.raises(InputError, match=r"unknown data set 'imagenet'.*digits, mnist.*\.npz"):
        data.load("imagenet", "test")


# -- a user's own file -----------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 3, 1, 0])


def npz(folder: Path, images: np.ndarray = PIXELS, labels: np.ndarray = LABELS, **more: np.ndarray) -> str:
    path = folder / "own.npz"
    np.savez(path, test_images=images, test_labels=labels, **more)
    return str(path)


def test_integers_are_taken_as_they_are(tmp_path):
    own = data.load(npz(tmp_path), "test")
    np.testing.assert_array_equal(own.images, PIXELS)
    np.testing.assert_array_equal(own.labels, LABELS)
    assert (own.shape, own.levels, own.n_classes, own.on_lattice) == ((3, 5, 4), 255, 4, True)


def test_images_without_channels_get_one(tmp_path):
    assert data.load(npz(tmp_path, PIXELS[:, 0]), "test").shape == (1, 5, 4)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint64])
def test_labels_may_be_any_integers(tmp_path, dtype):
    assert data.load(npz(tmp_path, labels=LABELS.astype(dtype)), "test").labels.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [1, 16, 255])
def test_floats_on_the_lattice_become_integers(tmp_path, levels, dtype):
    pixels = np.minimum(PIXELS, levels)
    own = data.load(npz(tmp_path, (pixels / levels).astype(dtype), levels=np.array(levels)), "test")
    assert own.on_lattice
    np.testing.assert_array_equal(own.images, pixels)


def test_other_floats_stay_floats_and_are_marked(tmp_path):
    floats = np.random.default_rng(0).random((6, 1, 4, 4))
    own = data.load(npz(tmp_path, floats), "test")
    assert not own.on_lattice
    np.testing.assert_array_equal(own.images, floats.astype(np.float32))


def test_floats_as_coarse_as_the_lattice_are_not_taken_for_it(tmp_path):
    assert not data.load(npz(tmp_path, (PIXELS / 255).astype(np.float16)), "test").on_lattice


def test_coarse_floats_on_a_coarse_lattice_become_integers(tmp_path):
    pixels = np.minimum(PIXELS, 16)
    own = data.load(npz(tmp_path, (pixels / 16).astype(np.float16), levels=np.array(16)), "test")
    np.testing.assert_array_equal(own.images, pixels)


def test_a_test_split_that_lacks_the_last_class_has_it_all_the_same(tmp_path):
    path = npz(tmp_path, labels=np.zeros(6, np.int64), train_images=PIXELS, train_labels=LABELS)
    assert data.load(path, "test").n_classes == data.load(path, "train").n_classes == 4


REFUSED = {
    "half a level": ({"levels": np.array(16.5)}, "levels is 16.5, no whole number"),
    "infinite floats": ({"images": np.full(PIXELS.shape, np.inf)}, "NaN or infinity"),
    "huge floats": ({"images": np.full(PIXELS.shape, 1e308)}, "NaN or infinity"),
    "no images": ({"images": PIXELS[:0], "labels": LABELS[:0]}, "labels"),
    "no images in floats": ({"images": PIXELS[:0] / 255, "labels": LABELS[:0]}, "labels"),
    "fewer labels": ({"labels": LABELS[:5]}, "6 images but labels"),
    "labels in floats": ({"labels": LABELS / 1.0}, "labels must be integers"),
    "labels one-hot": ({"labels": np.eye(6, dtype=int)}, "labels must be integers"),
    "labels below 0": ({"labels": LABELS - 1}, "labels must lie in"),
    "flat images": ({"images": PIXELS.reshape(6, 60)}, "shape"),
    "wide integers": ({"images": PIXELS.astype(np.int64)}, "uint8"),
    "words": ({"images": PIXELS.astype(str)}, "uint8"),
    "pickled objects": ({"images": PIXELS.astype(object)}, "pickle"),
    "a pixel above white": ({"levels": np.array(16)}, "off the lattice"),
    "levels 0": ({"levels": np.array(0)}, "levels"),
    "levels below 0": ({"levels": np.array(-1)}, "levels"),
    "levels a word": ({"levels": np.array("many")}, "levels|many"),
    "NaN": ({"images": np.full((6, 1, 4, 4), np.nan)}, "NaN"),
    "floats above 1": ({"images": PIXELS.astype(np.float32)}, r"\[0, 1\]"),
    "floats below 0": ({"images": PIXELS / 255 - 0.5}, r"\[0, 1\]"),
}


@pytest.mark.parametrize(("arrays", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_arrays_are_refused_in_one_line_that_names_the_file(tmp_path, arrays, message):
    path = npz(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as error:
        data.load(path, "test")
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def truncated(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def one_array(path):
    with path.open("wb") as file:
        np.save(file, PIXELS)


DAMAGED = {
    "absent": (lambda path: path.unlink(), "No such file"),
    "truncated": (truncated, "not a readable"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable"),
    "not a zip": (lambda path: path.write_text("idx label predict radius"), "not a readable"),
    "one array": (one_array, "not a readable"),
    "other names": (lambda path: np.savez(path, x=PIXELS, y=LABELS), "wanted are test_images and test_labels"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "not a readable"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(tmp_path, damage, message):
    path = npz(tmp_path)
    damage(Path(path))
    with pytest.raises(InputError, match=message) as error:
        data.load(path, "test")
    assert path in str(error.value)
    assert "\n" not in str(error.value)


# -- a data set ------------------------------------------------------------------------------------------------------


def test_off_the_lattice_the_same_images_are_floats():
    digits = data.load("digits", "test")
    floats = digits.off_lattice()
    assert floats.images.dtype == np.float32
    np.testing.assert_array_equal(floats.images, digits.images.astype(np.float32) / 16)
    assert floats.off_lattice() is floats
    assert not floats.on_lattice


def test_some_of_the_images():
    digits = data.load("digits", "test")
    part = digits.take(np.array([5, 3]))
    np.testing.assert_array_equal(part.images, digits.images[[5, 3]])
    assert part.labels.tolist() == digits.labels[[5, 3]].tolist()
    assert part.levels == 16


def test_the_images_of_some_classes():
    digits = data.load("digits", "test")
    part = digits.of([7, 1])
    chosen = [at for at, label in enumerate(digits.labels) if label in (1, 7)]
    np.testing.assert_array_equal(part.images, digits.images[chosen])
    assert part.labels.tolist() == digits.labels[chosen].tolist()
    assert part.n_classes == 10


@pytest.mark.parametrize("classes", [[10], [1, -1]])
def test_a_class_that_is_not_there_is_refused(classes):
    with pytest.raises(InputError, match=f"digits has the classes 0 to 9, not {classes[-1]}"):
        data.load("digits", "test").of(classes)


def test_classes_without_an_image_are_refused():
    with pytest.raises(InputError, match="digits: of 2 images none is of the classes 8, 9"):
        data.load("digits", "test").take(np.array([5, 3])).of([8, 9])


def test_the_checksum_tells_images_labels_and_levels_apart():
    digits = data.load("digits", "test")
    assert digits.checksum == data.load("digits", "test").checksum
    images, labels = digits.images.copy(), digits.labels.copy()
    images[0, 0, 0, 0] += 1
    labels[0] += 1

    def changed(**changes) -> str:
        fields = {"images": digits.images, "labels": digits.labels, "levels": 16} | changes
        return Dataset(name="digits", split="test", n_classes=11, **fields).checksum

    others = {digits.checksum, changed(images=images), changed(labels=labels), changed(levels=17)}
    others |= {changed(images=digits.images.reshape(360, 1, 4, 16)), digits.take(np.arange(359)).checksum}
    assert len(others) == 6
