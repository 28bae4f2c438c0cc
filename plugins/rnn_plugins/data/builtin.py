"""Texts that need no file: ``builtin:latex``, from a grammar, and ``builtin:hello``, the lecture's toy."""

from collections.abc import Iterator

from rnn_plugins.data.latex import excerpt
from rnn_plugins.errors import UserError, did_you_mean

DEFAULT_CHARACTERS = 200_000
"""Of ``builtin:latex``: enough to learn the grammar from, and little enough for two minutes of training."""

# Each word on a line of its own, so that a sample that starts after a line feed starts with a whole word.
HELLO = "hello\n" * 200

NAMES = ("latex", "hello")


def builtin(name: str) -> Iterator[str]:
    """A built-in text, in pieces.

    Args:
        name: ``hello``; or ``latex``, ``latex:CHARACTERS`` or ``latex:CHARACTERS:SEED``.

    Raises:
        UserError: there is no such text, or a number is invalid.
    """
    kind, *numbers = name.split(":")
    if kind not in NAMES:
        raise UserError(
            f"there is no built-in text {kind!r}.{did_you_mean(kind, NAMES)} There are builtin:latex and builtin:hello"
        )
    if kind == "hello" and not numbers:
        return iter([HELLO])
    if kind == "hello" or len(numbers) > 2 or not all(n.isascii() and n.isdigit() for n in numbers):
        raise UserError(
            f"'builtin:{name}' is not understood; it takes builtin:hello, builtin:latex, builtin:latex:CHARACTERS "
            "or builtin:latex:CHARACTERS:SEED, such as builtin:latex:500000"
        )
    characters, seed = [*map(int, numbers), *(DEFAULT_CHARACTERS, 0)[len(numbers) :]]
    return excerpt(characters, seed)
