"""A run's state as Ray metrics, for the Ray dashboard and Prometheus."""

from cluster.driver import Status

__all__ = ["RayMetrics"]


class RayMetrics:
    """Gauges ``ebsc_*``, tagged with the run's name. Needs a connection to Ray.

    Args:
        run: the run's name.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        about = {
            "draws_per_second": "Draws merged per second in this session",
            "images_settled": "Images that need no more draws",
            "images": "Images to certify",
            "draws": "Draws merged, in earlier sessions of the run too",
            "units_resent": "Units sent again: their worker was lost, failed, or was slow",
            "workers": "Workers that are ready",
        }
        self._gauges = {
            name: Gauge(f"ebsc_{name}", description=text, tag_keys=("run",)) for name, text in about.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def __call__(self, status: Status) -> None:
        """Set the gauges."""
        values = {
            "draws_per_second": status.rate,
            "images_settled": status.settled,
            "images": status.images,
            "draws": status.draws,
            "units_resent": status.resent,
            "workers": status.workers,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
