"""What can go wrong, as types.

::

    EbscError
    ├── InputError   the caller gave something wrong: one line on stderr, exit status 2, nothing written
    └── RunError     a run had to stop although the input was right: one line, exit status 1, the ledger whole
"""

__all__ = ["EbscError", "InputError", "RunError", "one_line"]


class EbscError(Exception):
    """Base of all errors that carry a message written for the user."""


class InputError(EbscError):
    """Something the caller gave is wrong; the message says what, and what is allowed.

    Deliberately not a ValueError: the option parser would catch it and print it in a box of its own.
    """


class RunError(EbscError):
    """A run cannot go on; the message names the cause. What was recorded stays."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """Somebody else's error on one line of at most ``limit`` characters, to be quoted in ours.

    >>> one_line(ValueError("bad     data"))
    'bad data'
    """
    return " ".join(str(error).split())[:limit]
