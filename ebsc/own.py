"""Networks of a user's own: a specification names them as ``module:factory``; allowed, they are imported and made."""

import hashlib
import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ebsc.errors import InputError, one_line

__all__ = ["checksum", "is_own", "make", "module_of", "top", "unknown"]

_KIND = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


def is_own(kind: Any) -> bool:
    """Whether a kind names code that is no part of this package.

    >>> is_own("my_networks:resnet18"), is_own("lenet")
    (True, False)
    """
    return isinstance(kind, str) and ":" in kind


def module_of(kind: str) -> str:
    """The module of ``module:factory``.

    >>> module_of("my.networks:resnet18")
    'my.networks'

    Raises:
        InputError: not of that form.
    """
    found = _KIND.fullmatch(kind)
    if not found:
        raise InputError(f"code of your own is named as module:factory, not {kind!r}")
    return found[1]


def unknown(part: str, kind: str, known: Iterable[str]) -> InputError:
    """What is said of a kind that is neither known nor a user's own."""
    return InputError(f"unknown {part} {kind!r}: choose one of {', '.join(known)}, or name your own as module:factory")


def top(name: str) -> str:
    """The package that a module lies in, or the module itself.

    >>> top("my.networks"), top("my_networks")
    ('my', 'my_networks')
    """
    return name.partition(".")[0]


def make(kind: str, allow: Sequence[str], *arguments: Any, **options: Any) -> nn.Module:
    """What the factory returns for these arguments and options.

    A specification may come from anybody. So nothing is imported unless the module, or a package that it lies in, is
    allowed; and the factory must be defined in there, not merely be within its reach.

    Args:
        kind: ``module:factory``; the factory is a function, or a class of modules.
        allow: modules and packages that may be imported.
        *arguments: of the factory.
        **options: of the factory.

    Raises:
        InputError: not allowed, not to be found, or it does not make a module.

    >>> make("os:remove", [], "precious")
    Traceback (most recent call last):
    ebsc.errors.InputError: 'os:remove' is code that is no part of ebsc: if you trust it, allow it with --allow os

    >>> make("ebsc.classifier:Linear", ["ebsc"], (1, 8, 8), n_classes=10)
    Linear(
      (map): Linear(in_features=64, out_features=10, bias=True)
    )
    """
    name = module_of(kind)
    if not _within(name, allow):
        raise InputError(f"{kind!r} is code that is no part of ebsc: if you trust it, allow it with --allow {name}")
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module may raise anything when it is imported
        where = "it is looked for among what is installed, on PYTHONPATH and in the working folder"
        raise InputError(f"cannot import {name}: {one_line(error)} ({where})") from error
    factory = getattr(module, kind.rpartition(":")[2], None)
    if not callable(factory) or not _within(str(getattr(factory, "__module__", "")), allow):
        raise InputError(f"{kind!r}: {module.__file__} defines no such function or class")
    try:
        made = factory(*arguments, **options)
    except (Exception, SystemExit) as error:  # and so may a factory
        raise InputError(f"{kind!r} failed: {one_line(repr(error))}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{kind!r} makes a {type(made).__name__}, not a torch.nn.Module")
    return made


def checksum(name: str) -> str:
    """SHA-256 of all Python files of the package that an imported module lies in; of its file, if it is in none."""
    package = sys.modules[top(name)]
    if hasattr(package, "__path__"):
        found = [(Path(folder), path) for folder in package.__path__ for path in Path(folder).rglob("*.py")]
        files = {path.relative_to(folder).as_posix(): path for folder, path in found}
    else:
        files = {"": Path(str(package.__file__))}
    digest = hashlib.sha256()
    for inside, path in sorted(files.items()):
        digest.update(f"{inside} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
