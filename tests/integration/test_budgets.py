"""On Ray, too, a run with a tolerance stops with the table of one process."""

import pytest
import tiny


@pytest.mark.usefixtures("local_ray")
def test_the_number_of_workers_does_not_change_where_a_tolerance_stops(model_folder, tmp_path):
    words = ["certify", model_folder, "--images", "::12", "--n", 300, "--batch", 64, "--tolerance", 0.05]
    for workers in (0, 2):
        result = tiny.cli(*words, "-o", tmp_path / str(workers), "--workers", workers)
        assert result.status == 0, result.err
    assert tiny.columns(tmp_path / "0") == tiny.columns(tmp_path / "2")
    assert "stopped" in tiny.columns(tmp_path / "2")["outcome"]
