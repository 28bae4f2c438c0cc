"""The exception for a user's mistakes, suggestions for misspelt names, and other exceptions in one line."""

from collections.abc import Iterable

LONGEST_WORD = 100
"""Characters of a word for which similar ones are looked up."""


class UserError(Exception):
    """A user's mistake: the message says what was given, what was expected and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The text " Did you mean 'x'?" if a known word is similar, ignoring case; otherwise empty."""
    import difflib

    if len(word) > LONGEST_WORD:  # a comparison takes the product of the lengths
        return ""
    by_lower = {name.lower(): name for name in known if len(name) <= LONGEST_WORD}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def said(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message if it has one."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def why(error: OSError) -> str:
    """The system's reason for an error, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()
