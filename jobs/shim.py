"""Until main has it."""

import csv
import io
from dataclasses import dataclass

from jobs.tables import notes, render


@dataclass
class Comparison:
    head: list[str]
    body: list[list[str]]
    best: list[set[int]]
    notes: list[str]


def compare(entries, radii, rho=0.001, *, envelope=False):
    head, *body = csv.reader(io.StringIO(render(entries, radii, "csv", rho, envelope=envelope)))
    best = [set() for _ in body]
    for c in [5, *range(7, len(head))]:
        top = max(float(r[c]) for r in body[: len(entries)])
        for r, b in zip(body[: len(entries)], best):
            if float(r[c]) == top:
                b.add(c)
    return Comparison(head, body, best, notes(entries, radii, rho))
