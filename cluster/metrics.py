"""A run's state as Ray metrics, for the Ray dashboard and Prometheus."""

from cluster.driver import Status

__all__ = ["RayMetrics"]

_GAUGES = {
    "draws_per_second": ("rate", "Draws merged per second in this session"),
    "images_settled": ("settled", "Images that need no more draws"),
    "images": ("images", "Images to certify"),
    "draws": ("draws", "Draws merged, in earlier sessions of the run too"),
    "units_resent": ("resent", "Units sent again: their worker was lost, failed, or was slow"),
    "workers": ("workers", "Workers that are ready"),
}


class RayMetrics:
    """Gauges ``ebsc_*``, tagged with the run's name. Needs a connection to Ray.

    Args:
        run: the run's name.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            field: Gauge(f"ebsc_{name}", description=text, tag_keys=("run",)) for name, (field, text) in _GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    def __call__(self, status: Status) -> None:
        """Set the gauges."""
        for field, gauge in self._gauges.items():
            gauge.set(getattr(status, field))
