"""``ebsc geometry``: distances between classes, shells of noise, and what they predict of a certification."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from ebsc import data, geometry
from ebsc.data import Dataset, Split
from ebsc.errors import InputError
from ebsc.model import check_sigma
from jobs.entries import Entry, read_entry
from jobs.options import DataRoot, parse_images, parse_numbers, parse_radii
from jobs.prints import Format, ceil_percent, check_figure, floor_percent, put, spelled, typeset
from jobs.runs import certification, check_images
from jobs.tables import notes

__all__ = ["Geometry"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Before anything is trained: what do the distances between classes allow at these sigmas, and what not?

    Two tables. For each sigma: the shell that the noise concentrates on, distances from the images to the nearest
    training image of another class, how much of the noise around the two is the same, and how often the Bayes
    classifier of the training images is right under noise. For each radius: what no classifier can exceed (a proof),
    what the Bayes classifier predicts (an estimate), and what runs have certified on the same images.

    Example: ebsc geometry --data mnist --images ::20 --sigmas 0.25,0.5,1 --runs runs/ebsc logs/gaussian_sigma0.50.tsv
    """

    data: str = "digits"
    """Data set: a name, or a path ending in .npz."""
    data_root: DataRoot = None
    split: Split = "test"
    """Split of the images in question. Neighbours are looked for among all other images of the training split."""
    images: str = "::"
    """Which images, as start:stop:step; ::20 is every 20th."""
    sigmas: str = "0.25,0.5,1"
    """Standard deviations of the noise: 0.5, or 0.25,0.5,1, or start:stop:step."""
    radii: str = "0:1.75:0.25"
    """Columns of the second table: 0.5, or 0,0.5,1, or start:stop:step."""
    runs: tuple[Path, ...] = ()
    """Run folders and published logs of this data set to show beside the prediction; those of another sigma are left
    out. Images that one of the rest lacks are left out everywhere."""
    draws: int = 16
    """Draws of noise for each image and sigma, of which the prediction is made; 2 to 128."""
    seed: int = 0
    """Seed of all draws."""
    format: Literal["text", "markdown", "latex", "csv"] = "text"
    """text, markdown, latex (booktabs) or csv (the two tables, with an empty line between them)."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write here instead of to the terminal."""
    plot: Path | None = None
    """Also draw distances beside shells, and overlap against sigma: .png, .svg or .pdf."""

    def run(self) -> None:
        """Print or write the two tables."""
        if self.plot:
            check_figure(self.plot)
        sigmas = tuple(dict.fromkeys(parse_numbers(self.sigmas, "sigmas")))
        radii = parse_radii(self.radii)
        for sigma in sigmas:
            check_sigma(sigma)
        whole, train = (data.load(self.data, split, self.data_root) for split in (self.split, "train"))
        runs = self._runs(sigmas, whole)
        images, references, indices = self._images(runs, whole, train)
        odds = geometry.kernel_margins(images, references, sigmas, indices=indices, draws=self.draws, seed=self.seed)
        other = geometry.nearest(images, references, other=True)
        right = {sigma: float((margins > 0).mean()) for sigma, margins in zip(sigmas, odds, strict=True)}
        shells = _shells(other, right, images, references, self.draws, self.format)
        predicted = [
            _prediction(indices, geometry.predicted_radius(margins, sigma), sigma)
            for margins, sigma in zip(odds, sigmas, strict=True)
        ]
        most = geometry.most_certified(images, radii)
        runs = [run.only(indices) for run in runs]
        put(f"{shells}\n{_accuracies(most, predicted, runs, radii, self.draws, self.format)}", self.out)
        if self.plot:
            from jobs.plots import distances

            same = geometry.nearest(images, references, other=False)
            errors = {sigma: 1 - share for sigma, share in right.items()}
            distances(other, same, errors, int(np.prod(images.shape)), self.plot)

    def _runs(self, sigmas: tuple[float, ...], whole: Dataset) -> list[Entry]:
        """The runs of these sigmas, as rows of a table."""
        rows = [read_entry(path) for path in self.runs]
        for folder, row in zip(self.runs, rows, strict=True):
            if row.published:
                there = row.index.max() < len(whole.labels)
                if row.label is None or not there or (whole.labels[row.index] != row.label).any():
                    raise InputError(f"{folder} is not about {self.data} ({self.split}): its labels are others")
            else:
                question = certification(folder)["question"]
                theirs = question["data"], question["split"]
                if theirs != (self.data, self.split):
                    raise InputError(f"{folder} is about {theirs[0]} ({theirs[1]}), not {self.data} ({self.split})")
                check_images(folder, question, whole)
        return [row for row in rows if row.sigma in sigmas]

    def _images(self, runs: list[Entry], whole: Dataset, train: Dataset) -> tuple[Dataset, Dataset, np.ndarray]:
        """The images in question, all training images that are none of them, and the indices of the former."""
        indices = parse_images(self.images, len(whole.labels))
        for run in runs:
            indices = np.intersect1d(indices, run.index)
        if not len(indices):
            raise InputError("the runs have no image in common among those asked for")
        if self.split == "train":
            rest = np.setdiff1d(np.arange(len(train.labels)), indices)
            if not len(rest):
                raise InputError("no training image is left to compare with: take fewer of them with --images")
            train = train.take(rest)
        images = whole.take(indices)
        if images.on_lattice != train.on_lattice:
            images, train = images.off_lattice(), train.off_lattice()
        return images, train, indices


def _shells(
    other: np.ndarray, right: dict[float, float], images: Dataset, references: Dataset, draws: int, form: Format
) -> str:
    """The table of a row a sigma."""
    dimension = int(np.prod(images.shape))
    low, middle = (float(np.quantile(other, share)) for share in (0.05, 0.5))
    head = ["sigma", "shell radius", "thickness", "D: 5%", "D: median", "shared mass", "of shells", "right on y"]
    body = []
    for sigma, share in right.items():
        radius, thickness = geometry.shell(sigma, dimension)
        mass = float(geometry.overlap(other, sigma).mean())
        shells = geometry.shell_overlap(middle, sigma, dimension)
        cells = [f"{100 * mass:.2g}", f"{100 * shells:.2g}", floor_percent(share, len(other) * draws)]
        body.append([f"{sigma:g}", f"{radius:.2f}", f"{thickness:.2f}", f"{low:.2f}", f"{middle:.2f}", *cells])
    notes = [
        f"{len(other)} images of {images.name} ({images.split}), {dimension} dimensions; D: L2 distance (pixels on"
        f" [0, 1]) to the nearest of {len(references.labels)} training images of another class.",
        "Shell: mean and standard deviation of |eps|. Shared mass, per cent: of the noise around an image and around"
        " that neighbour, mean; of shells: the same at the median D where only the distance to the image is seen.",
        f"Right on y, per cent: the Bayes classifier of the training images taken as the density, on {draws} draws of"
        " noise an image. All of this is a diagnosis, no proof.",
    ]
    return typeset(head, body, notes, form)


def _prediction(indices: np.ndarray, radius: np.ndarray, sigma: float) -> Entry:
    return Entry(name="kernel Bayes (estimate)", index=indices, radius=radius, abstained=radius == 0, sigma=sigma)


def _accuracies(
    most: np.ndarray,
    predicted: list[Entry],
    runs: list[Entry],
    radii: tuple[float, ...],
    draws: int,
    form: Format,
) -> str:
    """The table of a column a radius."""
    images = len(predicted[0].index)
    head = ["certified accuracy", "sigma", *(f"r={spelled(radius)}" for radius in radii)]
    # a bound from above, so rounded up
    bound = [ceil_percent(count / images, images) for count in most.tolist()]
    body = [["no classifier exceeds (proof)", "", *bound]]
    for row in [row for guess in predicted for row in (guess, *(run for run in runs if run.sigma == guess.sigma))]:
        shares = [floor_percent(row.accuracy(radius), images) for radius in radii]
        body.append([row.name, f"{row.sigma:g}", *shares])
    words = [
        "No classifier exceeds: of two of these images of different classes at a distance below 2r, at most one can be"
        " certified at r. A proof, whatever sigma, but often far above what is possible, and hardly below one half.",
        f"Kernel Bayes: that classifier with very many draws, its log odds taken as Gaussian from {draws} an image, by"
        f" which each radius errs by some {100 / (2 * draws) ** 0.5:.0f} per cent. An estimate: a classifier that"
        " generalises better exceeds it, and n draws certify only so far (3.8 sigma at n = 100,000, alpha = 0.001).",
    ]
    return typeset(head, body, words + (notes(runs, radii, rho=0.001) if runs else []), form)


if __name__ == "__main__":
    from jobs.cli import start

    start(Geometry)
