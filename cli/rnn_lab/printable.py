"""Make text safe to print on a terminal or a page."""

import re

NEWLINE, TAB, OTHER = "↵", "⇥", "·"
"""Marks for a line feed, a tab, and any other character that is not printed as itself."""

CONTROLS = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
"""Characters that control a terminal or reorder a line: C0, DEL, C1, separators, bidirectional overrides and isolates;
and lone surrogates."""


def printable(text: str, keep: str = "") -> str:
    """Text without characters that control a terminal.

    Args:
        text: any text.
        keep: characters that stay as they are, such as a line feed in text of several lines.

    Returns:
        The text, with a mark in place of each character that could move the cursor, start a control sequence or change
        the direction of writing.
    """
    marks = {"\n": NEWLINE, "\t": TAB}
    return re.sub(CONTROLS, lambda found: found[0] if found[0] in keep else marks.get(found[0], OTHER), text)


def visible(text: str) -> str:
    """Text in one line without control characters, direction marks or invisible characters."""
    return "".join(c if c.isprintable() else OTHER for c in printable(text))
