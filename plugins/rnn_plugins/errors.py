"""The exception for a user's mistakes, suggestions for misspelt names, and other exceptions in one line."""

from collections.abc import Iterable

LONGEST_WORD = 100
"""Characters of a word for which similar ones are looked up."""


class UserError(Exception):
    """A user's mistake: the message says what was given, what was expected and what to do."""


def most_similar(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most similar, ignoring case; None if none is similar."""
    import difflib

    if len(word) > LONGEST_WORD:  # a comparison takes the product of the lengths
        return None
    by_lower = {name.lower(): name for name in known if len(name) <= LONGEST_WORD}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The text " Did you mean 'x'?" if a known word is similar, ignoring case; otherwise empty."""
    similar = most_similar(word, known)
    return "" if similar is None else f" Did you mean {similar!r}?"


def said(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message if it has one."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def why(error: OSError) -> str:
    """The system's reason for an error, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()
