import json
import os
import platform

import pytest
import tiny

from cluster.folder import RunFolder, clear, read_config
from ebsc.errors import InputError

CONFIG = {"question": {"sigma": 0.5, "energy": {"steps": 9, "seed": 0}, "hyper": {}}, "options": {"workers": 1}}


def opened(path, **question):
    return RunFolder(path, CONFIG | {"question": CONFIG["question"] | question}, "model.json")


def test_a_new_folder_holds_the_configuration_and_who_has_it(tmp_path):
    with opened(tmp_path / "a" / "b") as folder:
        assert folder.path == tmp_path / "a" / "b"
        assert read_config(folder.path) == CONFIG
        who = json.loads((folder.path / "driver.json").read_text())
        assert (who["host"], who["pid"]) == (platform.node(), os.getpid())
    assert sorted(tiny.files(tmp_path / "a" / "b")) == ["config.json", "lock"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": 0.25}, "sigma is 0.5 there, 0.25 here"),
        ({"energy": {"steps": 9, "seed": 1}}, "energy.seed is 0 there, 1 here"),
        ({"energy": {"steps": 9}}, "energy.seed is 0 there, None here"),
        ({"hyper": {"weight": 2.0}}, "hyper.weight is None there, 2.0 here"),
        ({"energy": {"steps": 3, "seed": True}}, "energy.seed is 0 there, true here; energy.steps is 9 there, 3 here"),
        ({"data": "digits"}, 'data is None there, "digits" here'),
        ({"sigma": "0.5"}, 'sigma is 0.5 there, "0.5" here'),
    ],
)
def test_another_question_is_refused_with_the_difference_named(tmp_path, change, said):
    opened(tmp_path).release()
    before = tiny.files(tmp_path)
    with pytest.raises(InputError) as error:
        opened(tmp_path, **change)
    assert str(error.value) == f"{tmp_path} holds a run of another configuration: {said} (-o names another folder)"
    assert tiny.files(tmp_path) == before
    opened(tmp_path).release()


def test_the_first_configuration_stays_when_the_rest_changes(tmp_path):
    opened(tmp_path).release()
    with RunFolder(tmp_path, CONFIG | {"options": {"workers": 64}}, "model.json"):
        assert read_config(tmp_path) == CONFIG


def test_it_is_counted_on_one_kind_of_device_alone(tmp_path):
    with opened(tmp_path) as folder:
        folder.pin("cuda", begun=False)
    assert read_config(tmp_path) == CONFIG | {"device": "cuda"}
    with opened(tmp_path) as folder:
        folder.pin("cuda")
        with pytest.raises(InputError, match=r"counted on cuda so far, .* go on with --device cuda"):
            folder.pin("cpu")


def test_what_was_counted_before_devices_were_recorded_was_counted_on_cpus(tmp_path):
    with opened(tmp_path) as folder:
        with pytest.raises(InputError, match="counted on cpu so far"):
            folder.pin("cuda")
        folder.pin("cuda", begun=False)
    assert read_config(tmp_path) == CONFIG | {"device": "cuda"}


def test_what_makes_no_sense_without_a_configuration_is_refused_and_left(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds model\.json but no config\.json"):
        opened(tmp_path)
    assert (tmp_path / "model.json").read_text() == "{}"
    assert not (tmp_path / "driver.json").exists()


def test_clearing_removes_what_is_named_and_nothing_else(tmp_path):
    opened(tmp_path).release()
    (tmp_path / "checkpoint" / "deep").mkdir(parents=True)
    for name in ("checkpoint/deep/a", "model.json", "notes.txt"):
        (tmp_path / name).write_text("x")
    clear(tmp_path, ["checkpoint", "model.json", "config.json", "absent"])
    assert sorted(tiny.files(tmp_path)) == ["lock", "notes.txt"]
    assert not (tmp_path / "checkpoint").exists()
    with opened(tmp_path, sigma=1.0):  # anything may be made there now
        pass


def test_a_folder_that_is_held_is_not_cleared(tmp_path):
    with opened(tmp_path):
        before = tiny.files(tmp_path)
        with pytest.raises(InputError, match=f"in use by another process .process {os.getpid()} on "):
            clear(tmp_path, ["config.json"])
        assert tiny.files(tmp_path) == before


def test_clearing_a_folder_that_is_not_there_makes_none(tmp_path):
    clear(tmp_path / "a", ["config.json"])
    assert not (tmp_path / "a").exists()
