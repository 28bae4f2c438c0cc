"""Hypothesis strategies for damaged files: one or a few mistakes in the content of a good file."""

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Callable

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], object]

NUMBERS = [
    b"nan",
    b"-inf",
    b"1e999",
    b"1e300",
    b"-1e38",
    b"-1",
    b"0",
    b"",
    b"1_000",
    b"seven",
    b"9" * 5000,
    b"0.1.2",
    b"\xd9\xa3",
]
STRAYS = [
    b"\0",
    b'"',
    b"'",
    b"\t",
    b",",
    b"\n",
    b"\n\n",
    b"\r",
    b"{",
    b"[" * 2000,
    b"\xff",
    b"\xe2\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\x1c",
    b"#",
    b"null",
    b"\\ud800",
    b"\\u0000",
    b"<unk>",
    b"</s>",
]


def mutated(content: bytes, others: list[bytes]) -> st.SearchStrategy[bytes]:
    """The content with one to three mistakes.

    Args:
        content: of a good file.
        others: contents of other good files, which may take its place.
    """

    @st.composite
    def damaged(draw: Draw) -> bytes:
        result = content
        for _ in range(draw(st.integers(1, 3))):
            mistake = draw(st.sampled_from(MISTAKES))
            result = mistake(draw, result, others)
        return result

    return damaged()


def _place(draw: Draw, content: bytes) -> int:
    return draw(st.integers(0, len(content)))


def cut(draw, content, others):
    return content[: _place(draw, content)]


def cut_before(draw, content, others):
    return content[_place(draw, content) :]


def doubled(draw, content, others):
    return content + content


def emptied(draw, content, others):
    return draw(st.sampled_from([b"", b"\n", b" ", b"\n" * 9]))


def replaced(draw, content, others):
    return draw(st.sampled_from(others))


def flipped(draw, content, others):
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4)) if content else 0):
        changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


def header_flipped(draw, content, others):
    """Formats of numbers have their sizes at the beginning."""
    place = draw(st.integers(0, min(len(content), 140)))
    return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]


def strayed(draw, content, others):
    place = _place(draw, content)
    return content[:place] + draw(st.sampled_from(STRAYS)) + content[place:]


def lines_changed(draw, content, others):
    """A line dropped, doubled, swapped with another, or moved to the beginning."""
    lines = content.split(b"\n")
    i, j = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["dropped", "doubled", "swapped", "first", "joined"]))
    if how == "dropped":
        del lines[i]
    elif how == "doubled":
        lines.insert(j, lines[i])
    elif how == "swapped":
        lines[i], lines[j] = lines[j], lines[i]
    elif how == "first":
        lines = lines[i:]
    else:
        lines[i : i + 2] = [b"".join(lines[i : i + 2])]
    return b"\n".join(lines)


def _field(draw, content, change):
    lines = content.split(b"\n")
    i = draw(st.integers(0, len(lines) - 1))
    separator = next((one for one in (b"\t", b",", b" ") if one in lines[i]), b"\t")
    fields = lines[i].split(separator)
    j = draw(st.integers(0, len(fields) - 1))
    fields[j : j + 1] = change(fields[j])
    lines[i] = separator.join(fields)
    return b"\n".join(lines)


def field_changed(draw, content, others):
    """A field dropped, doubled, emptied, made huge, or quoted."""
    size = draw(st.sampled_from([1_000, 200_000]))
    changes = [
        lambda field: [],
        lambda field: [field, field],
        lambda field: [b""],
        lambda field: [b" "],
        lambda field: [(field or b"x") * (size // max(len(field), 1))],
        lambda field: [b"word " * (size // 50)],
        lambda field: [b'"' + field],
        lambda field: [b'"' + field + b'"x'],
        lambda field: [b"never seen"],
    ]
    return _field(draw, content, draw(st.sampled_from(changes)))


def number_changed(draw, content, others):
    found = list(re.finditer(rb"-?\d[\d.e-]*", content))
    if not found:
        return content
    match = found[draw(st.integers(0, len(found) - 1))]
    return content[: match.start()] + draw(st.sampled_from(NUMBERS)) + content[match.end() :]


def encoded_otherwise(draw, content, others):
    text = content.decode("utf-8", "replace")
    encoding = draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp1251", "shift_jis"]))
    return text.encode(encoding, "replace")


def line_ends(draw, content, others):
    return content.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n", b""])))


def packed(draw, content, others):
    """Packed once more, whole or damaged."""
    result = gzip.compress(content, mtime=0)
    return draw(st.sampled_from([lambda c: c, lambda c: c[:-4], lambda c: c + b"x", lambda c: c + c]))(result)


def inside(draw, content, others):
    """A mistake in what is packed: with gzip, or in a member of a ZIP archive, with right checksums."""
    mistake = draw(st.sampled_from([cut, flipped, header_flipped, number_changed, doubled, emptied]))
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.compress(mistake(draw, gzip.decompress(content), others), mtime=0)
        except (OSError, EOFError, zlib.error):
            return content
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # zipfile raises many kinds
        return content
    if not members:
        return content
    name = draw(st.sampled_from(sorted(members)))
    how = draw(st.sampled_from(["mistake", "dropped", "renamed"]))
    damaged = mistake(draw, members.pop(name), others)
    if how != "dropped":
        members[name if how == "mistake" else "x.npy"] = damaged
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for member, value in members.items():
            archive.writestr(member, value)
    return target.getvalue()


MISTAKES = [
    cut,
    cut_before,
    doubled,
    emptied,
    replaced,
    flipped,
    header_flipped,
    strayed,
    strayed,
    lines_changed,
    lines_changed,
    field_changed,
    field_changed,
    number_changed,
    number_changed,
    encoded_otherwise,
    line_ends,
    packed,
    inside,
    inside,
]
