"""What a run reports reaches Ray's metrics, as Prometheus would read it."""

import re
import time
import urllib.request

import pytest
import tiny

from cluster.driver import Status
from cluster.metrics import RayMetrics


def status(*values):
    names = ("settled", "images", "draws", "rate", "seconds_left", "workers", "resent", "note")
    return Status(**dict(zip(names, values, strict=True)))


def exported(ray):
    """The gauges of this project on Ray's metrics port: (name, run) -> value."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        text = page.read().decode()
    found = re.findall(r'^ray_(ebsc_\w+){.*?\brun="([^"]*)".*?} (\S+)$', text, re.MULTILINE)
    return {(name, run): float(value) for name, run, value in found}


@pytest.fixture(scope="module")
def gauges(local_ray, model_folder, tmp_path_factory):
    """What is exported, at the end of a certification named `whole`, and for two runs that are set by hand.

    Ray exports every ten seconds.
    """
    run = tmp_path_factory.mktemp("metrics") / "whole"
    result = tiny.cli("certify", model_folder, "--images", "::60", "--n", 200, "--workers", 1, "-o", run)
    assert result.status == 0, result.err
    one, other = RayMetrics("one"), RayMetrics("other")
    one(status(2, 7, 100, 10.0, 1.0, 1, 0, ""))
    other(status(1, 2, 3, 4.0, 1.0, 5, 6, ""))
    one(status(3, 7, 12_345, 56.5, 75.0, 2, 4, "worker 0 was lost"))
    seen, deadline = {}, time.monotonic() + 60
    while not {"whole", "one", "other"} <= {run for _, run in seen} and time.monotonic() < deadline:
        time.sleep(0.25)
        seen |= exported(local_ray)
    return run, seen


def of(seen, wanted):
    return {name: value for (name, run), value in seen.items() if run == wanted}


def test_gauges_are_set_to_what_was_reported_last(gauges):
    assert of(gauges[1], "one") == {
        "ebsc_draws_per_second": 56.5,
        "ebsc_images_settled": 3,
        "ebsc_images": 7,
        "ebsc_draws": 12_345,
        "ebsc_units_resent": 4,
        "ebsc_workers": 2,
    }


def test_runs_are_told_apart(gauges):
    assert of(gauges[1], "other") == {
        "ebsc_draws_per_second": 4,
        "ebsc_images_settled": 1,
        "ebsc_images": 2,
        "ebsc_draws": 3,
        "ebsc_units_resent": 6,
        "ebsc_workers": 5,
    }


def test_a_certification_on_ray_exports_where_it_stands(gauges):
    run, seen = gauges
    whole = of(seen, "whole")
    assert whole["ebsc_draws_per_second"] > 0
    assert (whole["ebsc_images_settled"], whole["ebsc_images"], whole["ebsc_workers"]) == (6, 6, 1)
    assert whole["ebsc_draws"] == sum(tiny.columns(run)["draws"])
