"""``ebsc report``: runs and published logs as one page that opens anywhere, without network."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from cluster import certificates
from cluster.folder import flat, read_config
from ebsc import data
from ebsc.bounds import false_certificates, floor_radius
from ebsc.data import Dataset
from ebsc.errors import InputError
from ebsc.model import Ebsc, ModelSpec
from jobs import attacked
from jobs.attacked import Attacked
from jobs.entries import Entry, side_by_side
from jobs.gallery import Card, affordable, cards, instructive
from jobs.options import command_line, parse_radii
from jobs.prints import all_but, check_rho, floor_percent, put, spelled
from jobs.provenance import provenance
from jobs.record import read_lines
from jobs.runs import certification, data_of_run, model_of_run
from jobs.tables import compare

__all__ = ["Report"]

TOO_LARGE = 5_000_000
"""Bytes of a report above which a word is said."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write runs and published logs as one web page: table, curves, pictures, and what is behind every number.

    The page is one file that needs no network and nothing installed but a browser: a table that sorts, curves that
    tell their numbers, pictures with votes and certified radii, and for every row its configuration, versions, seed
    and draws. It says what is a guarantee and what is an estimate. A run that was attacked (`ebsc attack`) shows its
    empirical curve and adversarial examples too. Rows are those of `ebsc table`.

    Example: ebsc report runs/* logs/gaussian_sigma0.50.tsv -o report.html
    """

    rows: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Run folders and logs."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The file to write."""
    title: str = ""
    """Heading. Default: says the data set."""
    radii: str = "0:1.75:0.25"
    """Columns of the table: 0.5, or 0,0.5,1, or start:stop:step."""
    rho: float = 0.001
    """Error probability of the bound for the whole set."""
    envelope: bool = False
    """Add the best of our rows at each radius, whatever their sigma, and the best of the published logs."""
    gallery: int = 12
    """Images of each run to show, fewer where there are many runs, so that the file stays small. 0: none."""
    allow: tuple[str, ...] = ()
    """Python modules of your own that models may import, as of `ebsc certify`; without them they have no pictures."""
    data_root: Path | None = None
    """Where data sets live, for the pictures. Default: $EBSC_DATA, else ~/.cache/ebsc/data."""

    def run(self) -> None:
        """Write the page."""
        check_rho(self.rho)
        if self.gallery < 0:
            raise InputError(f"a gallery cannot have {self.gallery} images")
        radii = parse_radii(self.radii)
        entries = side_by_side(self.rows)
        load = partial(data_of_run, data_root=self.data_root, load=cache(data.load))
        rows = [
            _Row(number=number, path=path, entry=entry, data=load, allow=self.allow)
            for number, (path, entry) in enumerate(zip(self.rows, entries, strict=True))
        ]
        page = self._page(rows, radii)
        put(page, self.out)
        print(f"written to {self.out} ({len(page.encode()) / 1e6:.1f} MB): open it in any browser")
        if len(page.encode()) > TOO_LARGE:
            print("the report is above 5 MB: name fewer rows, or a smaller --gallery", file=sys.stderr)

    def _page(self, rows: Sequence["_Row"], radii: tuple[float, ...]) -> str:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # with bokeh: not for those who want no report
        from markupsafe import Markup

        from jobs import charts

        entries = [row.entry for row in rows]
        runs = [row for row in rows if row.run]
        pages = Environment(
            loader=PackageLoader("jobs", "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        pages.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh reads a definition before its references
        curves = [charts.Curve(entry=row.entry, under=row.under) for row in rows]
        datas = sorted({row.question["data"] for row in runs})
        return pages.get_template("report.html.j2").render(
            title=self.title or " ".join(["Certified accuracy", *(["on", ", ".join(datas)] if datas else [])]),
            subjects=_subjects(len(runs), len(rows) - len(runs)),
            rows=rows,
            runs=runs,
            images=entries[0].index,
            headlines=list(_headlines(entries, radii, self.rho)),
            comparison=compare(entries, radii, self.rho, envelope=self.envelope),
            radii=radii,
            rho=all_but(self.rho),
            styles=[charts.style(row.number) for row in rows],
            chart=charts.certified(curves, radii),
            trainings={row.number: item for row in runs if (item := charts.training(row.training_lines))},
            galleries={row.number: row.gallery(self.gallery, len(runs)) for row in runs} if self.gallery else {},
            gallery=self.gallery,
            bokeh=Markup(charts.library()),
            made=provenance(),
            command=command_line(self),
        )


@dataclass(frozen=True, kw_only=True)
class _Gallery:
    """Cards of a run, or why there are none; ``note``: what they do not show."""

    cards: Sequence[Card] = ()
    why: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the table, and where it leads back to."""

    number: int
    path: Path
    entry: Entry
    data: Callable[[Path, dict[str, Any]], Dataset]
    allow: Sequence[str]

    @property
    def run(self) -> bool:
        """Whether it is a run with draws of its own, and not somebody's log."""
        return not self.entry.published

    @cached_property
    def config(self) -> dict[str, Any]:
        if self.run:
            return certification(self.path)
        return read_config(self.path) if self.path.is_dir() else {}

    @property
    def question(self) -> dict[str, Any]:
        return self.config["question"]

    @cached_property
    def certificates(self) -> np.ndarray:
        """All of the run, also of images that other rows do not have."""
        return certificates.read(self.path)

    @cached_property
    def _model(self) -> tuple[Ebsc, ModelSpec] | InputError:
        try:
            return model_of_run(self.path, self.config, allow=self.allow)
        except InputError as error:
            return error

    @property
    def spec(self) -> dict[str, Any]:
        """The model's ``model.json``; empty where it cannot be reached."""
        return {} if isinstance(self._model, InputError) else flat(asdict(self._model[1]))

    @property
    def training_lines(self) -> list[dict[str, Any]]:
        """What the training of the model wrote, where it can be reached."""
        return read_lines(Path(self.config["options"]["model"]) / "metrics.jsonl") if self.spec else []

    @cached_property
    def attacks(self) -> dict[Path, Attacked]:
        """What attacks have found, by their folders."""
        return attacked.of_run(self.path)

    @property
    def under(self) -> attacked.Empirical | None:
        """The empirical curve over images of the table, where the run was attacked at radii."""
        return attacked.empirical(self.attacks, self.entry.index)

    @property
    def facts(self) -> dict[str, str]:
        """What one asks first of a run."""
        question, rows, made = self.question, self.certificates, self.config.get("provenance") or {}
        budget = question["budget"]
        spent = certificates.seconds(self.path).sum()
        ends = ", ".join(f"{count:,} {name}" for name, count in certificates.outcomes(rows).items())
        votes = "f(y), without a denoiser" if question["plain"] else "f(x\u0302(y))"
        if "walk" in question:
            votes = f"walk-jump, {question['walk']['steps']} steps"
        return {
            "Images": f"{len(rows):,} of {question['data']} ({question['split']}), {question['images']}",
            "A draw votes by": f"{votes}, sigma {question['sigma']:g}",
            "Budget": f"{budget['kind']}, at most {budget['n']:,} draws an image, alpha {budget['alpha']:g}",
            "Seed": str(question["seed"]),
            "Draws, all": f"{int(rows['draws'].sum()):,}",
            "Worker time": f"{spent:,.0f} s",
            "Outcomes": ends,
            "Made": _made(made),
            **{f"Part {part['run']}": _made(part.get("provenance", {})) for part in self.config.get("merged", [])},
            "Commit": made.get("commit", "unknown"),
        }

    @property
    def configuration(self) -> dict[str, dict[str, str]]:
        """Every value that the run was made with, and what the model says of itself."""
        made = self.config.get("provenance") or {}
        parts = {
            "Question: all that decides the numbers": flat(self.config.get("question", {})),
            "Options": flat(self.config.get("options", {})),
            "Versions": flat(made.get("versions", {})),
            "Model": self.spec if self.run else {},
        }
        return {name: values for name, values in parts.items() if values}

    def gallery(self, wanted: int, runs: int) -> _Gallery:
        """Instructive images of the run, as many as a page of that many runs has room for."""
        if isinstance(self._model, InputError):
            return _Gallery(why=str(self._model))
        net, spec = self._model
        try:
            whole = self.data(self.path, self.question)
        except InputError as error:
            return _Gallery(why=str(error))
        chosen = instructive(self.certificates, affordable(wanted, runs, spec.shape))
        made = cards(self.certificates, chosen, net, whole, self.question, list(self.attacks.values()))
        walked = "A draw of this run votes by a chain of steps; x\u0302(y) is the estimate from its first point."
        return _Gallery(cards=made, note=walked if "walk" in self.question else "")


def _made(made: dict[str, Any]) -> str:
    """When and where, from a provenance."""
    return f"{made.get('time', 'unknown')} on {made.get('host', 'unknown')}, {made.get('device', 'unknown')}"


def _subjects(runs: int, logs: int) -> str:
    """``2 runs and 1 published log``."""
    parts = {"run": runs, "published log": logs}
    return " and ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in parts.items() if count)


def _headlines(entries: Sequence[Entry], radii: Sequence[float], rho: float) -> Iterator[tuple[str, str, str]]:
    """Name, value and what it is of: the best of our sound rows, of the logs where there are only logs."""
    images = len(entries[0].index)
    sound = [entry for entry in entries if entry.sound]
    rows = [entry for entry in sound if not entry.published] or sound
    if not rows:
        return

    def of(entry: Entry) -> str:
        return entry.name if len(rows) == 1 else f"{entry.name}, the best of {len(rows)}"

    best = max(rows, key=lambda entry: entry.acr)
    yield "Average certified radius", floor_radius(best.acr), of(best)
    middle = 0.5 if 0.5 in radii else sorted(radii)[len(radii) // 2]
    for radius in dict.fromkeys((0.0, middle)):
        best = max(rows, key=lambda entry: entry.accuracy(radius))
        name = f"Certified at r = {spelled(radius)}" if radius else "Certified at all, right class"
        yield name, f"{floor_percent(best.accuracy(radius), images)} %", of(best)
    if alphas := {entry.alpha for entry in rows if entry.alpha is not None}:
        false = false_certificates(images, max(alphas), rho)
        yield (
            "Wrong certificates of a run",
            f"at most {false} of {images:,}",
            f"with probability {all_but(len(rows) * rho)}",
        )


if __name__ == "__main__":
    from jobs.cli import start

    start(Report)
