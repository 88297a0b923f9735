"""On Ray, too, a tolerance and an extension end with the certificates of one process."""

import pytest
import tiny


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("first", "then"),
    [(None, ["--tolerance", 0.05]), ([], ["--extend", "n=600"])],
    ids=["tolerance", "extension"],
)
def test_the_number_of_workers_does_not_change_a_certificate(model_folder, tmp_path, first, then):
    words = ["certify", model_folder, "--images", "::12", "--n", 300, "--batch", 64]
    for workers in (0, 2):
        for more in (first, then):
            if more is not None:
                result = tiny.cli(*words, *more, "-o", tmp_path / str(workers), "--workers", workers)
                assert result.status == 0, result.err
    assert tiny.columns(tmp_path / "0") == tiny.columns(tmp_path / "2")
