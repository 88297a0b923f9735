"""Interactive charts of a report, by Bokeh: certified accuracy against radius, and how a training went."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import BoxZoomTool, ColumnDataSource, HoverTool, Model, Range1d, ResetTool, SaveTool
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure
from bokeh.resources import Resources

from ebsc.bounds import floor_radius
from jobs import plots
from jobs.attacked import Empirical
from jobs.entries import Entry
from jobs.prints import floor_percent, spelled

__all__ = ["Curve", "certified", "library", "staircase", "style", "training"]

_DASHES = {"-": "solid", "--": "dashed", "-.": "dashdot", ":": "dotted"}
_SCALARS = {"loss": "loss", "acr": "quick certified radius"}
_MOST = 400  # grid radii of a curve, besides those asked for


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One row of the table as a curve; ``under``: the empirical one beside it, where the run was attacked."""

    entry: Entry
    under: Empirical | None = None


def library() -> str:
    """BokehJS, to be inlined: the one module that figures need."""
    script, *_ = Resources(mode="inline", components=["bokeh"]).js_raw  # what follows sets how much it logs
    return script.replace("</script", "<\\/script")


def style(number: int) -> tuple[str, str]:
    """Colour and dash of the row of this number, the same as in ``ebsc table --plot``."""
    look = plots.style(number)
    return look["color"], _DASHES[look["linestyle"]]


def staircase(entry: Entry, radii: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Certified accuracy against radius on a grid of its own, in per cent rounded down as tables print it.

    The accuracy at a grid radius is the exact one there. It falls only at radii of images; of those the grid has all,
    or every k-th. Drawn from each grid radius to the left until the one before, the curve is never above the true one,
    and below it by no more than the share of the k - 1 images that were left out, and a tenth of a point.

    Args:
        entry: the row.
        radii: that the grid must have, where they are not beyond the largest certified one.

    >>> row = Entry(name="", index=np.arange(4), radius=np.array([0.1, 0.5, 0.0, 0.5]), abstained=np.zeros(4, bool))
    >>> [array.tolist() for array in staircase(row, [0.25])]
    [[0.0, 0.1, 0.25, 0.5], [75.0, 75.0, 50.0, 50.0]]
    """
    falls = np.sort(entry.radius[entry.radius > 0])
    kept = falls[:: -1 if len(falls) <= _MOST else -(len(falls) // _MOST + 1)]  # from the end: the last one is there
    asked = [radius for radius in radii if len(falls) and radius <= falls[-1]]
    grid = np.unique([0.0, *kept, *asked])
    left = len(falls) - np.searchsorted(falls, grid)  # how many reach at least this far
    images = len(entry.radius)
    return grid, np.array([float(floor_percent(count / images, images)) for count in left])


def certified(curves: Sequence[Curve], radii: Sequence[float]) -> dict[str, Any]:
    """The curves of all rows, for ``Bokeh.embed.embed_item``; tables' ``radii`` are exact on each.

    Every curve has a source of its own name (``curve-0``, ...) with ``x``, ``y``, and ``at``: the radius up to which
    ``y`` is certified; ``said`` is that radius in print, rounded down.
    """
    grids = [staircase(curve.entry, radii) for curve in curves]
    reach = max([grid[-1] for grid, _ in grids] + [max(curve.under.radii) for curve in curves if curve.under] + [0.1])
    what = "accuracy (%)" if any(curve.under for curve in curves) else "certified accuracy (%)"
    plot = _figure("L2 radius (pixels on [0, 1])", what, height=420)
    plot.x_range, plot.y_range = Range1d(start=0, end=1.02 * reach), Range1d(start=0, end=101)
    steps: list[DataRenderer] = []
    points: list[DataRenderer] = []
    for number, (curve, (grid, shares)) in enumerate(zip(curves, grids, strict=True)):
        colour, dash = style(number)
        source = ColumnDataSource(
            name=f"curve-{number}",
            data={
                "x": np.append(grid[:1], np.repeat(grid, 2)[1:-1]) if len(grid) > 1 else grid,
                "y": np.repeat(shares, 2)[1:].astype(np.float32),
                "at": np.repeat(grid, 2)[1:],
                "said": [floor_radius(radius) for radius in np.repeat(grid, 2)[1:].tolist()],
            },
        )
        look: dict[str, Any] = {"color": colour, "name": curve.entry.name}
        drawn: list[DataRenderer] = [plot.line("x", "y", source=source, line_dash=dash, line_width=2, **look)]
        steps.append(drawn[0])
        if curve.under:
            found = ColumnDataSource(
                data={
                    "x": list(curve.under.radii),
                    "said": [spelled(radius) for radius in curve.under.radii],
                    "y": [float(floor_percent(share, curve.under.images)) for share in curve.under.shares],
                }
            )
            drawn.append(plot.line("x", "y", source=found, line_dash="dotted", **look))
            drawn.append(plot.scatter("x", "y", source=found, marker="inverted_triangle", size=9, **look))
            points.append(drawn[-1])
        for renderer in drawn:
            renderer.tags = [number]  # by which the page shows and hides them
    plot.add_tools(
        HoverTool(
            renderers=steps,
            line_policy="next",
            tooltips=[("run", "$name"), ("certified", "@y{0.0} %"), ("up to r", "@said")],
        ),
        HoverTool(
            renderers=points,
            tooltips=[("run", "$name"), ("under attack (estimate)", "@y{0.0} %"), ("at r", "@said")],
        ),
    )
    return _item(plot, "curves")


def training(lines: Sequence[dict[str, Any]], most: int = 200) -> dict[str, Any] | None:
    """Loss of each part of a training against step, and its quick certificates; None where there is nothing to draw."""
    if not lines:
        return None
    plot = _figure("step", "loss", height=340)
    hover = HoverTool(tooltips=[("", "$name"), ("step", "@x"), ("value", "@y{0.0000}")])
    drawn = 0
    for part in dict.fromkeys(line["part"] for line in lines):
        mine = [line for line in lines if line["part"] == part]
        for name in _SCALARS:
            points = [(line["step"], line[name]) for line in mine if np.isfinite(line.get(name, np.nan))]
            points = points[:: -(-len(points) // most) or 1]
            if not points:
                continue
            colour, dash = style(drawn)
            x, y = zip(*points, strict=True)
            title = f"{part}: {_SCALARS[name]}"
            plot.line(list(x), list(y), name=title, line_color=colour, line_dash=dash, line_width=2, legend_label=title)
            drawn += 1
    if not drawn:
        return None
    plot.add_tools(hover)
    plot.legend.background_fill_alpha = 0.0
    plot.legend.border_line_alpha = 0.0
    plot.legend.label_text_font_size = "13px"
    plot.legend.orientation, plot.legend.location = "horizontal", "left"
    plot.legend.ncols = 2  # so that it fits on a phone
    plot.add_layout(plot.legend[0], "below")
    return _item(plot, "training")


def _figure(x: str, y: str, height: int) -> figure:
    tools = [BoxZoomTool(), ResetTool(), SaveTool()]
    plot = figure(
        height=height, sizing_mode="stretch_width", tools=tools, x_axis_label=x, y_axis_label=y, active_drag=None
    )
    plot.toolbar.logo = None
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    plot.axis.axis_label_text_font_size = plot.axis.major_label_text_font_size = "13px"
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.minor_tick_line_color = None
    return plot


def _item(plot: Model, name: str) -> dict[str, Any]:
    plot.name = name
    return dict(json_item(plot))
