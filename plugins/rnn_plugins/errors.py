"""The one exception that stands for a user's mistake, the guess at what was meant, and other exceptions in a line.

An exception's text is the sentence that the user reads; it is no place for programming errors.
"""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: the message says what came, what was expected and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The text " Did you mean 'x'?" where a known word is close, in whatever case; the empty text otherwise."""
    import difflib

    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def said(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message where it has one."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def why(error: OSError) -> str:
    """What the system says is wrong, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()
