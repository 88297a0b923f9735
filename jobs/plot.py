"""``ebsc plot``: runs, logs and trainings as figures for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ebsc.errors import InputError
from jobs.attacked import Empirical, empirical, of_run
from jobs.entries import Entry, distinct, folder_name, side_by_side
from jobs.record import read_lines

__all__ = ["Plot"]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw runs, published logs or trainings: certified accuracy against radius, and what is behind it.

    curves: certified accuracy against radius, with the accuracy under attack beside it where RUN/attack holds one.
    radii: a histogram of certified radii. draws: how many draws the images of each run took. training: loss, or another
    quantity, of model folders against the step. Colour-blind readers can tell the colours apart, and line styles tell
    them apart in grey.

    Example: ebsc plot runs/ebsc logs/gaussian_sigma0.50.tsv -o curve.pdf --width 3.3

    Example: ebsc plot runs/* logs/*.tsv --envelope -o envelope.pdf

    Example: ebsc plot models/* --kind training --quantity acr -o training.svg
    """

    rows: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders and logs; model folders with --kind training."""
    kind: Literal["curves", "radii", "draws", "training"] = "curves"
    """What to draw."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write: .png, .svg or .pdf. Default: KIND.png."""
    width: float = 5.0
    """Inches; 3.3 is a column of a paper. Letters keep their size."""
    attacks: bool = True
    """Draw accuracy under attack beside certified curves, where there is one."""
    envelope: bool = False
    """Curves: draw the best of our rows, and of the published logs, at each radius, over the rows themselves."""
    quantity: str = "loss"
    """Quantity to plot with --kind training, as named in metrics.jsonl: loss, acr, accuracy, images_per_second, ...;
    another is answered with the list."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 40:
            raise InputError(f"width must be 1 to 40 inches, not {self.width:g}")

    def run(self) -> None:
        """Draw it."""
        from jobs import plots  # matplotlib takes a second

        out = self.out or Path(f"{self.kind}.png")
        if self.kind == "training":
            plots.training(self._courses(), self.quantity, out, self.width)
        else:
            for row in self.rows:
                if (row / "model.json").exists() and not (row / "certificates.parquet").exists():
                    raise InputError(f"{row} is a model folder, not a run: --kind training plots how it was trained")
            entries = side_by_side(self.rows)
            if self.kind == "curves":
                plots.curves(entries, out, self._attacked(entries), self.width, envelope=self.envelope)
            else:
                {"radii": plots.radii, "draws": plots.draws}[self.kind](entries, out, self.width)
        print(f"written to {out}")

    def _attacked(self, entries: Sequence[Entry]) -> dict[str, Empirical]:
        """What attacks left standing of the rows that were attacked, by name."""
        found = {}
        for path, entry in zip(self.rows if self.attacks and not self.envelope else (), entries, strict=False):
            if under := empirical(of_run(path), entry.index):
                found[entry.name] = under
        return found

    def _courses(self) -> dict[str, list[tuple[int, float]]]:
        """Steps and values of the quantity, by model folder and part of its training."""
        courses: dict[str, list[tuple[int, float]]] = {}
        if not self.rows:
            raise InputError("name at least one model folder")
        names: set[str] = set()
        called = distinct([folder_name(folder) for folder in self.rows], self.rows)
        for folder, name in zip(self.rows, called, strict=True):
            lines = read_lines(folder / "metrics.jsonl")
            if not lines:
                raise InputError(f"{folder} holds no metrics.jsonl: not a folder of `ebsc train`")
            names |= {key for line in lines for key in line} - {"part", "step", "steps"}
            for part in dict.fromkeys(line["part"] for line in lines):
                mine = [line for line in lines if line["part"] == part and self.quantity in line]
                if mine:
                    courses[f"{name}, {part}"] = [(line["step"], line[self.quantity]) for line in mine]
        if not courses:
            raise InputError(f"no {self.quantity!r} in these trainings: there are {', '.join(sorted(names))}")
        return courses


if __name__ == "__main__":
    from jobs.cli import start

    start(Plot)
