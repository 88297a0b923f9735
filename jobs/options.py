"""The command line: its small languages (radii, slices, sweeps), and commands as words and as they were recorded."""

import io
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, fields, is_dataclass, replace
from itertools import product
from math import floor
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
import tyro

from ebsc.errors import InputError

__all__ = [
    "DataRoot",
    "command_line",
    "option_names",
    "parse_images",
    "parse_numbers",
    "parse_radii",
    "parse_sweep",
    "recall",
    "slice_of",
    "sweep_names",
]

MOST_NUMBERS = 10_000
"""Radii, or other numbers, that one option may list."""

DataRoot = Annotated[
    Path | None, tyro.conf.arg(help="Where data sets live. Default: $EBSC_DATA, else ~/.cache/ebsc/data.")
]
"""The option data_root of every command that reads images."""

_Options = TypeVar("_Options")


def parse_radii(text: str) -> tuple[float, ...]:
    """Radii in the form of :func:`parse_numbers`."""
    return parse_numbers(text, "radii")


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers from ``0.5``, ``0,0.5,1`` or ``start:stop:step`` (stop included); ``name`` says what they are.

    >>> parse_numbers("0:1:0.25", "radii")
    (0.0, 0.25, 0.5, 0.75, 1.0)

    Raises:
        InputError: not of that form.
    """
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            count = floor((stop - start) / step + 1e-9) + 1
            if count > MOST_NUMBERS:
                raise InputError(f"{name} {text!r}: these are {count:,} numbers, and {MOST_NUMBERS:,} are enough")
            radii = start + step * np.arange(count)
        else:
            radii = np.array([float(part) for part in text.split(",")])
        if not len(radii) or not ((radii >= 0) & (radii < 1e9)).all():
            raise ValueError
        return tuple(radii.round(9).tolist())
    except (ValueError, ArithmeticError):
        raise InputError(
            f"{name} {text!r}: give numbers >= 0 (and below 1e9) as 0.5, as 0,0.5,1 or as start:stop:step"
        ) from None


def parse_images(text: str, length: int) -> np.ndarray:
    """Indices from ``start:stop:step``, a Python slice of ``length`` images, or from several, joined by commas.

    Those of several are in increasing order, each once.

    >>> parse_images("::40,:3", 100).tolist()
    [0, 1, 2, 40, 80]

    Raises:
        InputError: not of that form, or nothing is selected.
    """
    found = []
    for one in text.split(","):
        try:
            parts = [int(part) if part else None for part in one.split(":")]
            if len(parts) not in (2, 3):
                raise ValueError
            found.append(np.arange(length)[slice(*parts)])
        except ValueError:
            raise InputError(f"images {text!r}: give start:stop:step, for example ::20 for every 20th") from None
    indices = found[0] if len(found) == 1 else np.unique(np.concatenate(found))
    if not len(indices):
        raise InputError(f"images {text!r} selects none of the {length} images")
    return indices


def slice_of(indices: np.ndarray, length: int) -> str | None:
    """The ``start:stop:step`` that selects these increasing indices, the inverse of :func:`parse_images`; or None.

    >>> slice_of(np.arange(0, 100, 20), 100), slice_of(np.arange(10, 50), 100), slice_of(np.array([0, 1, 3]), 100)
    ('::20', '10:50', None)
    """
    start, last = int(indices[0]), int(indices[-1])
    step = int(indices[1]) - start if len(indices) > 1 else length
    if not np.array_equal(indices, np.arange(start, last + 1, step)):
        return None
    bounds = [start, last + 1 if last + step < length else 0, step if step > 1 else 0]
    if any(bounds[:2]) and not bounds[2]:
        bounds.pop()
    return ":".join(str(bound) if bound else "" for bound in bounds)


def option_names(command: Any) -> list[str]:
    """The options of a command that decide its result, those of a group as ``group.option``, of a map ``map.NAME``."""
    names = []
    for item in fields(command):
        value = getattr(command, item.name)
        if item.name in ("slurm", "cluster", "sweep", "token", "given", "out"):
            continue
        if is_dataclass(value):
            names += [f"{item.name}.{name}" for name in option_names(value)]
        elif isinstance(value, dict):
            names.append(f"{item.name}.NAME")
        else:
            names.append(item.name)
    return names


def parse_sweep(
    command: _Options,
    sweep: Sequence[str],
    first: Collection[str] = (),
    then: Callable[[_Options], _Options] | None = None,
) -> dict[str, _Options]:
    """Every combination of ``option=value,value`` as a command of its own, under a label like ``sigma=0.5,epsilon=1``.

    Args:
        command: a dataclass of options, whose other values stay.
        sweep: one word an option; no words give no commands.
        first: options that are set before the others.
        then: what is done in between.

    Raises:
        InputError: not of that form, an unknown option or one given twice, or a value that it does not take.
    """
    known = option_names(command)
    choices: dict[str, list[str]] = {}
    for word in sweep:
        _, equals, values = word.partition("=")
        name = _swept(word)
        option, _, key = name.partition(".")
        if not equals or not all(values.split(",")):
            raise InputError(f"sweep {word!r}: give option=value,value")
        if name not in known and not (key and f"{option}.NAME" in known):
            raise InputError(f"sweep {word!r}: there is no option {name!r}; there are {', '.join(known)}")
        if name in choices:
            raise InputError(f"sweep {word!r}: {name} is given twice; give {name}=value,value")
        choices[name] = values.split(",")
    if not choices:
        return {}
    points = {}
    for chosen in product(*choices.values()):
        point = list(zip(choices, chosen, strict=True))
        label = ",".join(f"{name}={value}" for name, value in point).replace("/", "_")
        if label in points:
            raise InputError(f"sweep: two points would have the folder {label}")
        led = _set(command, [pair for pair in point if pair[0] in first])
        points[label] = _set(then(led) if then else led, [pair for pair in point if pair[0] not in first])
    return points


def sweep_names(sweep: Sequence[str]) -> set[str]:
    """The options that a sweep is over.

    >>> sweep_names(["--held-out=0,5"])
    {'held_out'}
    """
    return {_swept(word) for word in sweep}


def _swept(word: str) -> str:
    return word.partition("=")[0].lstrip("-").replace("-", "_")


def command_line(command: Any) -> str:
    """What one would type for a command, with the options that are not at their defaults.

    >>> from ebsc.walkjump import Walk
    >>> from jobs.sample import Sample
    >>> from pathlib import Path
    >>> command_line(Sample(model=Path("models/my model"), walk=Walk(steps=300)))
    "ebsc sample 'models/my model' --steps 300"
    """
    base = getattr(command, "base", None)  # of a recipe: what it says need not be said
    defaults = {item.name: getattr(base, item.name) for item in fields(base)} if base else {}
    defaults = {name: value for name, value in defaults.items() if name not in ("recipe", "sigma")}
    return shlex.join(["ebsc", type(command).__name__.lower(), *_words(command, defaults, "")])


def recall(kind: type[_Options], recorded: dict[str, Any]) -> _Options:
    """A command from its options as :func:`jobs.provenance.options_of` records them; unknown ones are left out.

    Raises:
        InputError: values that the command does not take.
    """
    hints, values = get_type_hints(kind), {}
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name in recorded:
            value = recorded[item.name]
            if is_dataclass(hints[item.name]):
                value = recall(hints[item.name], value)
            values[item.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _words(command: Any, defaults: dict[str, Any], prefix: str) -> Iterator[str]:
    """Words of a dataclass of options, positional ones as they stand; ``defaults``: of those that its own are not."""
    for item in fields(command):
        value, notes = getattr(command, item.name), getattr(item.type, "__metadata__", ())
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = defaults.get(item.name, default)
        name = next((note.name for note in notes if getattr(note, "name", None)), item.name).replace("_", "-")
        if tyro.conf.Positional in notes:
            yield from _values(value)
        elif is_dataclass(value):
            below = "" if tyro.conf.OmitArgPrefixes in notes else f"{prefix}{name}."
            yield from _words(value, {part.name: getattr(default, part.name) for part in fields(value)}, below)
        elif value != default and tyro.conf.Suppress not in notes:
            if isinstance(value, bool):
                yield f"--{prefix}{'' if value else 'no-'}{name}"
            else:
                yield from (f"--{prefix}{name}", *_values(value))


def _values(value: Any) -> list[str]:
    parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    parts = parts if isinstance(parts, list | tuple) else [parts]
    return [str(part).removesuffix(".0") if isinstance(part, float) else str(part) for part in parts]


def _set(command: _Options, point: Sequence[tuple[str, str]]) -> _Options:
    """The command with options set as its own command line would set them."""
    if not point:
        return command
    words: list[str] = []
    maps: dict[str, dict[str, Any]] = {}
    for name, value in point:
        option, _, key = name.partition(".")
        if isinstance(mapped := getattr(command, option), dict):
            maps.setdefault(option, dict(mapped))[key] = value
            continue
        group, _, option = name.replace("_", "-").rpartition(".")
        prefix = f"--{group}." if group else "--"
        if value in ("true", "false"):
            words.append(f"{prefix}{'' if value == 'true' else 'no-'}{option}")
        else:
            words += [prefix + option, value]
    for option, pairs in maps.items():
        words += [f"--{option}", *_values(pairs)]
    # tyro makes options of what a default maps
    default = replace(command, **{option: {} for option in maps})  # type: ignore[type-var]
    try:
        with redirect_stderr(io.StringIO()):
            return tyro.cli(type(command), args=words, default=default, console_outputs=False)
    except SystemExit:
        raise InputError(f"sweep: {' '.join(words)} is not what these options take") from None
