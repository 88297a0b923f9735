"""Pictures for a report: what the network is shown, what it makes of it, how the draws voted, what an attack did."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from cluster.certificates import correct
from ebsc.attack import distances
from ebsc.bounds import floor_radius
from ebsc.data import Dataset
from ebsc.model import Ebsc
from ebsc.noise import Normals, Stream, perturb
from jobs.attacked import Attacked

__all__ = ["Card", "Panel", "Vote", "affordable", "cards", "instructive"]

LARGEST, BETWEEN, SMALLEST, WRONG, ABSTAINS = _KINDS = (
    "largest radius",
    "between",
    "smallest radius",
    "certified, but another class",
    "abstains",
)
_BUDGET = 2_500_000  # bytes of the pictures of a page
_MOST = 6  # classes whose votes are shown each on its own


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: its caption, what it shows in words, and a PNG as a data URI."""

    title: str
    alt: str
    uri: str


@dataclass(frozen=True, kw_only=True)
class Vote:
    """Votes for a class; ``name`` is the class, or says that the rest is taken together."""

    name: str
    count: int
    share: float
    candidate: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """All about one image: ``said`` in words, ``attack`` too where it was attacked."""

    index: int
    label: int
    predicted: int | None
    radius: str
    kind: str
    panels: Sequence[Panel]
    votes: Sequence[Vote]
    attack: str


def affordable(wanted: int, runs: int, shape: tuple[int, ...]) -> int:
    """Images of a run, at least one and at most ``wanted``, for which all pictures stay within a budget in bytes.

    >>> affordable(12, 30, (1, 28, 28)), affordable(12, 30, (3, 32, 32))
    (12, 4)
    """
    card = 4 * np.prod(shape) * 4 / 3 + 2500  # four pictures of noise, in base64, and what is around them
    return max(1, min(wanted, int(_BUDGET / max(runs, 1) / card)))


def instructive(rows: np.ndarray, count: int) -> list[tuple[int, str]]:
    """Rows of certificates that teach most, and why: extremes, failures, and evenly between.

    >>> rows = np.zeros(5, dtype=[("radius", "f8"), ("label", "i8"), ("predicted", "i8")])
    >>> rows["radius"], rows["predicted"] = [0.5, 0, 1.5, 1, 2], [0, 0, 0, 3, 0]
    >>> instructive(rows, 4)
    [(4, 'largest radius'), (0, 'smallest radius'), (3, 'certified, but another class'), (1, 'abstains')]
    """
    descending = np.argsort(-rows["radius"], kind="stable")
    right = descending[correct(rows)[descending]].tolist()
    wrong = descending[((rows["radius"] > 0) & ~correct(rows))[descending]].tolist()
    abstains = np.flatnonzero(rows["radius"] == 0).tolist()
    found: dict[int, str] = {}

    def take(some: Iterable[int], kind: str, most: int) -> None:
        for row in list(some)[: max(min(most, count - len(found)), 0)]:
            found.setdefault(row, kind)

    for most in (1, 2):
        take(right[:1], LARGEST, 1)
        take(right[-1:], SMALLEST, 1)
        take(wrong[:most], WRONG, most)
        take(abstains[:most], ABSTAINS, most)
    left, wanted = right[1:-1], count - len(found)
    if left and wanted > 0:
        places = np.unique(np.linspace(0, len(left) - 1, wanted).round().astype(int))
        take([left[at] for at in places], BETWEEN, wanted)
    take((row for row in wrong if row not in found), WRONG, count)
    take((row for row in abstains if row not in found), ABSTAINS, count)
    return sorted(found.items(), key=lambda item: (_KINDS.index(item[1]), -rows["radius"][item[0]], item[0]))


def cards(
    rows: np.ndarray,
    chosen: Sequence[tuple[int, str]],
    net: Ebsc,
    whole: Dataset,
    question: dict[str, Any],
    attacks: Sequence[Attacked] = (),
) -> list[Card]:
    """Cards of some of a run's images.

    The noise is draw 0 of those that estimate, at the run's own address, as a CPU draws it.

    Args:
        rows: certificates of the run.
        chosen: rows, and why.
        net: what the run voted over.
        whole: the data set.
        question: of the run.
        attacks: on the run.
    """
    seed = int(np.atleast_1d(question["seed"])[0])
    normals = Normals(seed, whole.shape, "cpu")
    some = rows[[number for number, _ in chosen]]
    with torch.no_grad():
        z = torch.cat([normals.block(int(index), Stream.ESTIMATE, 0)[:1] for index in some["index"]])
        noisy = perturb(torch.from_numpy(whole.images[some["index"]]), z, question["sigma"], whole.levels)
        estimates = net.denoiser(noisy)
    made = []
    for row, (_, kind), y, estimate in zip(some, chosen, noisy.numpy(), estimates.numpy(), strict=True):
        index = int(row["index"])
        scale = whole.levels if whole.on_lattice else 1
        pictures = {"clean x": (whole.images[index] / scale, f"image {index} as it is, class {row['label']}")}
        pictures["noisy y"] = y, f"image {index} under Gaussian noise, sigma {question['sigma']:g}"
        if not isinstance(net.denoiser, nn.Identity):
            pictures["x\u0302(y)"] = estimate, f"estimate of image {index} from the noisy one"
        said = ""
        if (worst := _worst(attacks, index)) is not None:
            line, adversarial = worst
            length = float(distances(whole.images[index : index + 1], adversarial[None], whole.levels)[0])
            said = _said(row, line, length)
            title = f"attacked, {floor_radius(length)}"
            pictures[title] = adversarial / whole.levels, f"image {index} after an attack of L2 length {length:.3f}"
        made.append(
            Card(
                index=index,
                label=int(row["label"]),
                predicted=int(row["predicted"]) if row["radius"] > 0 else None,
                radius=floor_radius(float(row["radius"])),
                kind=kind,
                panels=[Panel(title=title, alt=alt, uri=_uri(image)) for title, (image, alt) in pictures.items()],
                votes=_votes(row),
                attack=said,
            )
        )
    return made


def _votes(row: np.void) -> list[Vote]:
    """Votes that estimate, by count; classes beyond the first few are taken together."""
    counts = row["counts"]
    total = max(int(counts.sum()), 1)
    order = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c]]
    votes = [
        Vote(name=str(c), count=int(counts[c]), share=counts[c] / total, candidate=c == row["predicted"])
        for c in order[:_MOST]
    ]
    if rest := order[_MOST:]:
        count = int(counts[rest].sum())
        votes.append(Vote(name=f"{len(rest)} more", count=count, share=count / total))
    return votes


def _worst(attacks: Sequence[Attacked], index: int) -> tuple[np.void, np.ndarray] | None:
    """The shortest attack on an image that fooled, else the longest that did not."""
    fooled: list[tuple[np.void, np.ndarray]] = []
    other: list[tuple[np.void, np.ndarray]] = []
    for attack in attacks:
        for line in np.flatnonzero((attack.lines["index"] == index) & (attack.lines["length"] > 0)):
            (fooled if attack.fooled[line] else other).append((attack.lines[line], attack.images[line]))
    if fooled:
        return min(fooled, key=lambda pair: pair[0]["length"])
    return max(other, key=lambda pair: pair[0]["length"], default=None)


def _said(row: np.void, line: np.void, length: float) -> str:
    """What an attack came to, and on which side of the certificate."""
    if not row["radius"]:
        where = "no certificate here"
    else:
        where = f"{'inside' if length <= row['radius'] else 'outside'} the certified radius"
    answer = f"predicted {line['predicted']}" if line["certain"] else "the classifier abstains"
    return f"Attacked over L2 length {floor_radius(length)} ({where}): {answer} there."


def _uri(image: np.ndarray) -> str:
    """Channels, height, width on [0, 1], cut to that range, as a PNG."""
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    picture = Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])
    sink = io.BytesIO()
    picture.save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
