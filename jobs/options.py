"""Small languages of the command line: radii, slices."""

from math import floor

import numpy as np

from ebsc.errors import InputError

__all__ = ["parse_images", "parse_radii"]


def parse_radii(text: str) -> tuple[float, ...]:
    """Radii from ``0.5``, ``0,0.5,1`` or ``start:stop:step`` (stop included).

    >>> parse_radii("0:1:0.25")
    (0.0, 0.25, 0.5, 0.75, 1.0)

    Raises:
        InputError: not of that form.
    """
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            radii = start + step * np.arange(floor((stop - start) / step + 1e-9) + 1)
        else:
            radii = np.array([float(part) for part in text.split(",")])
        if not len(radii) or not ((radii >= 0) & np.isfinite(radii)).all():
            raise ValueError
        return tuple(radii.round(9).tolist())
    except (ValueError, ArithmeticError):
        raise InputError(f"radii {text!r}: give numbers >= 0 as 0.5, as 0,0.5,1 or as start:stop:step") from None


def parse_images(text: str, length: int) -> np.ndarray:
    """Indices from ``start:stop:step``, a Python slice of ``length`` images.

    >>> parse_images("::20", 100).tolist()
    [0, 20, 40, 60, 80]

    Raises:
        InputError: not of that form, or nothing is selected.
    """
    try:
        parts = [int(part) if part else None for part in text.split(":")]
        if len(parts) not in (2, 3):
            raise ValueError
        indices = np.arange(length)[slice(*parts)]
    except ValueError:
        raise InputError(f"images {text!r}: give start:stop:step, for example ::20 for every 20th") from None
    if not len(indices):
        raise InputError(f"images {text!r} selects none of the {length} images")
    return indices
