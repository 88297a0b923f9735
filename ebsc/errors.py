"""What can go wrong, as types.

::

    EbscError
    ├── InputError   the caller gave something wrong: one line on stderr, exit status 2, nothing written
    └── RunError     a run had to stop although the input was right: one line, exit status 1, the ledger whole
"""

__all__ = ["EbscError", "InputError", "RunError"]


class EbscError(Exception):
    """Base of all errors that carry a message written for the user."""


class InputError(EbscError, ValueError):
    """Something the caller gave is wrong; the message says what, and what is allowed."""


class RunError(EbscError, RuntimeError):
    """A run cannot go on; the message names the cause. What was recorded stays."""
