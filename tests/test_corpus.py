"""Corpora: every kind of source, every sentence a user can get, and a cache that never gives anything but the text."""

import errno
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rnn_plugins.data import corpus as module
from rnn_plugins.data import sources
from rnn_plugins.data.corpus import cache_folder, load_corpus, recall_corpus, split
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError

AWKWARD = "\ufeffone\r\ntwo\n\n\te\u0301 👩🏽\u200d🚀 Привет\n"
CLEAN = "one\ntwo\n\n\te\u0301 👩🏽\u200d🚀 Привет\n"
CLEANED = "in 'a.txt', a byte order mark was left out and the line ends CR LF were read as LF"
BYTES = "; or train with --level byte, which accepts any file"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, and a cache of its own."""
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """Caches the smallest text as well; gives the folder of the cache."""
    monkeypatch.setattr(module, "SMALL", 0)
    return tmp_path / "cache"


def write(name: str, content: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def text_of(corpus):
    return corpus.vocabulary.decode(corpus.tokens)


def error_of(*sources, **options):
    with pytest.raises(UserError) as caught:
        load_corpus(sources, **options)
    return str(caught.value)


# What comes in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["char", "byte", "word"])
def test_a_file_comes_back_but_for_what_is_said(level):
    corpus = load_corpus([write("a.txt", AWKWARD)], level=level, valid_fraction=0)
    text = AWKWARD if level == "byte" else CLEAN
    assert text_of(corpus) == text
    assert corpus.vocabulary == Vocabulary.build([text], level)
    assert corpus.tokens.dtype == np.uint8
    assert corpus.characters == len(text)
    assert corpus.notices == (() if level == "byte" else (CLEANED,))
    assert corpus.bytes == len(AWKWARD.encode())
    assert corpus.digest == hashlib.sha256(AWKWARD.encode()).hexdigest()
    assert corpus.sources == ("a.txt",)


def test_ids_cannot_be_written_to():
    corpus = load_corpus([write("a.txt", "abc")])
    with pytest.raises(ValueError, match="read-only"):
        corpus.tokens[0] = 1


def test_bytes_need_not_be_text():
    data = bytes(range(256)) * 2
    corpus = load_corpus([write("a.bin", data)], level="byte")
    assert corpus.tokens.tobytes() == data
    assert len(corpus.vocabulary) == 256


def test_texts_are_joined_in_the_order_given_with_nothing_between():
    write("a.txt", "one")
    write("b.txt", "two")
    corpus = load_corpus(["b.txt", "a.txt", "b.txt"])
    assert text_of(corpus) == "twoonetwo"
    assert corpus.sources == ("b.txt", "a.txt", "b.txt")
    assert corpus.digest == hashlib.sha256(b"twoonetwo").hexdigest()
    assert corpus.digest != load_corpus(["a.txt", "b.txt", "b.txt"]).digest


def test_words_go_on_from_file_to_file_as_the_joined_text_does():
    write("a.txt", "one t")
    write("b.txt", "wo")
    assert load_corpus(["a.txt", "b.txt"], level="word").vocabulary.symbols == ("<unk>", " ", "one", "two")


def test_a_packed_text_is_the_text():
    write("a.txt", AWKWARD)
    write("b.txt.gz", gzip.compress(AWKWARD.encode(), mtime=0))
    write("C.GZ", gzip.compress(AWKWARD.encode(), mtime=0))
    plain, packed, loud = load_corpus(["a.txt"]), load_corpus(["b.txt.gz"]), load_corpus(["C.GZ"])
    assert text_of(packed) == text_of(loud) == CLEAN
    assert packed.digest == plain.digest
    assert packed.bytes == plain.bytes


def test_a_folder_is_its_texts_at_any_depth_in_the_order_of_their_paths():
    for name in ["d/b.txt", "d/a/z.txt", "d/a/deep/y.md", "d/c", "d/.hidden", "d/.git/config", "d/x.gz"]:
        content = f"<{name}>"
        write(name, gzip.compress(content.encode(), mtime=0) if name.endswith(".gz") else content)
    corpus = load_corpus(["d"], valid_fraction=0)
    assert text_of(corpus) == "<d/a/deep/y.md><d/a/z.txt><d/b.txt><d/c><d/x.gz>"
    assert corpus.notices == ("of the folder 'd', 5 files (2 .txt, 1 .md, 1 without ending and 1 .gz) were read",)


def test_what_is_no_text_in_a_folder_is_left_out_with_a_notice():
    write("d/a.txt", "hello")
    write("d/b.png", b"\x89PNG\r\n")
    write("d/c.tar", b"name\0\0\0")
    write("d/d.gz", b"nothing packed")
    write("d/e.txt.gz", gzip.compress(b"caf\xe9", mtime=0))
    os.symlink("nowhere", "d/f.txt")
    os.mkfifo("d/g.txt")
    corpus = load_corpus(["d"])
    assert text_of(corpus) == "hello"
    assert corpus.notices == (
        "of the folder 'd', 1 file (1 .txt) was read and 6 files (2 .gz, 2 .txt, 1 .png and 1 .tar) were left out: "
        "'d/b.png' is not UTF-8 (0x89 at byte offset 0), 'd/c.tar' has NUL bytes, "
        "'d/d.gz' is not a complete gzip file, 'd/e.txt.gz' is not UTF-8 (0xE9 at byte offset 3), "
        "'d/f.txt' no longer exists and 'd/g.txt' is not a regular file",
    )


def test_as_bytes_a_folder_gives_all_its_files():
    write("d/a.txt", "hello")
    write("d/b.png", b"\x89PNG")
    write("d/c.gz", b"nothing packed")
    corpus = load_corpus(["d"], level="byte")
    assert corpus.tokens.tobytes() == b"hello\x89PNG"
    assert corpus.notices == (
        "of the folder 'd', 2 files (1 .txt and 1 .png) were read and 1 file (1 .gz) was left out: "
        "'d/c.gz' is not a complete gzip file",
    )


def test_a_glob_is_its_matches_in_order():
    for name in ["b.txt", "a.txt", "c.md", "d/e.txt"]:
        write(name, name)
    assert text_of(load_corpus(["*.txt"])) == "a.txtb.txt"
    assert text_of(load_corpus(["**/*.txt"])) == "a.txtb.txtd/e.txt"


def test_a_file_whose_name_looks_like_a_glob_is_that_file():
    write("[ab].txt", "this one")
    write("a.txt", "not this one")
    assert text_of(load_corpus(["[ab].txt"])) == "this one"


def test_standard_input_is_read_to_its_end(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(AWKWARD.encode()), "ascii"))
    corpus = load_corpus(["-", write("a.txt", "more")])
    assert text_of(corpus) == CLEAN + "more"
    assert "in the text of standard input and 1 more, a byte order mark was left out" in corpus.notices[0]
    assert corpus.sources == ("-", "a.txt")


def test_a_pipe_can_be_read_though_only_once():
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("through a pipe",))
    writer.start()
    corpus = load_corpus(["pipe"])
    writer.join()
    assert text_of(corpus) == "through a pipe"


def test_built_in_texts_come_from_their_generator(monkeypatch):
    asked = []

    def builtin(name):
        asked.append(name)
        yield from ["héllo ", "world"]

    monkeypatch.setitem(sys.modules, "rnn_plugins.data.builtin", SimpleNamespace(builtin=builtin))
    assert text_of(load_corpus(["builtin:latex:2000"])) == "héllo world"
    assert asked == ["latex:2000"]


def test_nothing_is_left_in_the_folder_for_temporary_files(monkeypatch, tmp_path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9")))
    assert error_of("-").startswith("standard input is not UTF-8")
    assert list((tmp_path / "tmp").iterdir()) == []


def as_python_reads(text):
    """The text as Python's text files have it, without byte order marks."""
    return io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8").read().replace("\ufeff", "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("level", ["char", "byte", "word"])
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\r\n\ufeff"), min_size=2),
        min_size=1,
        max_size=3,
    ),
    size=st.integers(1, 7),
)
def test_the_size_of_what_is_read_at_a_time_changes_nothing(level, texts, size):
    names = [write(f"{i}.txt", text) for i, text in enumerate(texts)]
    joined = "".join(texts)
    read = as_python_reads(joined)
    assume(read or level == "byte")
    vocabulary = Vocabulary.build([read], level)  # given, so that a text of one symbol is welcome
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK", size)
        small = load_corpus(names, vocabulary=vocabulary, unknown="replace")
        if len(set(read if level == "char" else joined.encode())) > 1 and level != "word":
            assert load_corpus(names, level=level).vocabulary == vocabulary
    whole = load_corpus(names, vocabulary=vocabulary, unknown="replace")
    assert small.tokens.tolist() == whole.tokens.tolist()
    assert (small.digest, small.characters, small.notices) == (whole.digest, whole.characters, whole.notices)
    assert whole.characters == len(joined if level == "byte" else as_python_reads(joined))


# What is wrong -----------------------------------------------------------------------------------------------


def test_no_source_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match=r"^no source was given; name a text, such as 'builtin:latex'$"):
        load_corpus([])


@pytest.mark.parametrize("name", ["no.txt", "a.txt/b", "bad\0name", ""])
def test_a_missing_file(name):
    write("a.txt", "hello")
    assert error_of(name) == (
        f"there is no file or folder {name!r}; give a text file, a folder, a glob such as 'books/*.txt', "
        "- for standard input, or builtin:latex"
    )


@pytest.mark.parametrize("pattern", ["*.txt", "no[ne]", "*\0"])
def test_a_glob_that_matches_nothing(pattern):
    assert error_of(pattern) == f"no file matches {pattern!r}; check the pattern, and the folder that it starts from"


def test_an_empty_file():
    assert error_of(write("a.txt", "")) == "'a.txt' is empty; give a text of at least two different characters"


def test_several_empty_files():
    assert error_of(write("a.txt", ""), write("b.txt", ""), write("c.gz", "")) == (
        "the text of 'a.txt' and 2 more is empty; give a text of at least two different characters"
    )


def test_an_empty_file_among_others_is_no_mistake():
    assert text_of(load_corpus([write("a.txt", ""), write("b.txt", "hello")])) == "hello"


def test_a_file_without_read_permission(monkeypatch):
    def refuse(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    write("d/a.txt", "hello")
    monkeypatch.setattr(sources, "open", refuse, raising=False)
    assert error_of("d/a.txt") == (
        "'d/a.txt' cannot be read (permission denied); make it readable, or give another file"
    )
    assert error_of("d") == (
        "there is no text in the folder 'd' ('d/a.txt' cannot be read (permission denied)); "
        "give a folder with UTF-8 text in it, or take any file with --level byte"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_files_and_folders_closed_by_their_mode():
    write("d/a.txt", "hello")
    os.chmod("d/a.txt", 0)
    assert error_of("d/a.txt") == (
        "'d/a.txt' cannot be read (permission denied); make it readable, or give another file"
    )
    os.chmod("d", 0)
    try:
        assert error_of("d/a.txt") == (
            "'d/a.txt' cannot be read (permission denied); make it readable, or give another file"
        )
        assert error_of("d") == (
            "there is no text in the folder 'd' ('d' cannot be read (permission denied)); "
            "give a folder with UTF-8 text in it, or take any file with --level byte"
        )
    finally:
        os.chmod("d", 0o700)


def test_a_folder_that_cannot_be_listed(monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write("d/a.txt", "hello")
    monkeypatch.setattr(os, "scandir", refuse)
    assert error_of("d", level="byte") == (
        "there is no text in the folder 'd' ('d' cannot be read (permission denied)); "
        "give a folder with UTF-8 text in it"
    )


def test_a_name_that_the_system_refuses():
    name = "a" * 5000
    assert error_of(name) == f"'{name}' cannot be read (file name too long); make it readable, or give another file"


def test_a_folder_without_text():
    write("d/a.png", b"\x89PNG")
    assert error_of("d") == (
        "there is no text in the folder 'd' ('d/a.png' is not UTF-8 (0x89 at byte offset 0)); "
        "give a folder with UTF-8 text in it, or take any file with --level byte"
    )


def test_a_folder_without_files():
    write("d/.hidden", "hello")
    assert error_of("d") == (
        "there is no text in the folder 'd'; give a folder with UTF-8 text in it, or take any file with --level byte"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"caf\xe9", "0xE9 at byte offset 3"),
        (b"caf\xe9 au lait", "0xE9 at byte offset 3"),
        ("😀".encode() + b"\xff", "0xFF at byte offset 4"),
        (b"ab\xed\xa0\x80", "0xED at byte offset 2"),
    ],
)
def test_a_file_that_is_not_utf8_says_at_which_byte(monkeypatch, content, where, size):
    monkeypatch.setattr(sources, "CHUNK", size)
    write("a.txt", "hello")
    assert error_of("a.txt", write("b.txt", content)) == (
        f"'b.txt' is not UTF-8 ({where}); convert it from its encoding, for example: "
        f"iconv -f CP1252 -t UTF-8 b.txt > b.utf-8.txt{BYTES}"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize(
    ("content", "whole"),
    [("€€".encode()[:-1], 3), ("€€".encode()[:-2], 3), ("a€".encode()[:-1], 1), ("é€".encode()[:3], 2)],
)
def test_a_text_that_breaks_off_in_its_last_character(monkeypatch, content, whole, size):
    monkeypatch.setattr(sources, "CHUNK", size)
    assert error_of(write("b.txt", content)) == (
        f"'b.txt' is UTF-8 that ends inside its last character, at byte offset {whole}; get the complete file, "
        f"or cut off the broken character: head -c {whole} b.txt > b.utf-8.txt{BYTES}"
    )


LONG = "Мой дядя самых честных правил,\nand some English.\n" * 50


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE", "UTF-16", "UTF-32", "CP1252"])
@pytest.mark.parametrize("name", ["b.txt", "b.txt.gz", "it's.txt"])
def test_the_command_that_converts_a_text_does(encoding, name):
    text = LONG if encoding != "CP1252" else "Garçon, un café! – Voilà.\n" * 20
    content = text.encode(encoding.lower())
    message = error_of(write(name, gzip.compress(content, mtime=0) if name.endswith("gz") else content))
    start = f"{name!r} is {'not UTF-8' if encoding == 'CP1252' else f'{encoding} and not UTF-8'} ("
    assert message.startswith(start)
    assert message.endswith(BYTES)
    command = message.removesuffix(BYTES).partition(": ")[2]
    assert f"iconv -f {encoding} -t UTF-8" in command
    subprocess.run(["bash", "-c", command], check=True)
    [converted] = [path for path in Path().iterdir() if ".utf-8" in path.name]
    assert text_of(load_corpus([str(converted)])) == text
    converted.unlink()


def test_a_letter_with_nul_bytes_is_refused_in_a_file_as_in_a_folder_a_glob_and_a_pipe(monkeypatch):
    content = "First Citizen:\nBefore we proceed\n".encode("utf-16-le")
    flaw = "is UTF-16LE and not UTF-8 (it has NUL bytes)"
    assert error_of(write("d/a.txt", content)).startswith(f"'d/a.txt' {flaw}; convert it: iconv -f UTF-16LE")
    assert error_of("d/*.txt").startswith(f"'d/a.txt' {flaw}; ")
    assert error_of("d").startswith(f"there is no text in the folder 'd' ('d/a.txt' {flaw}); ")
    assert error_of(write("b.txt", content), level="word").startswith(f"'b.txt' {flaw}; ")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert error_of("-") == (f"standard input {flaw}; convert it: ... | iconv -f UTF-16LE -t UTF-8 | rnn ...{BYTES}")
    assert error_of(write("c.txt", b"name\0\0\0")) == f"'c.txt' has NUL bytes; give a text in UTF-8{BYTES}"
    assert load_corpus(["d/a.txt"], level="byte").tokens.tobytes() == content


@pytest.mark.parametrize(
    ("content", "notices"),
    [
        ("one\rtwo\r", ["in 'a.txt', the line ends CR were read as LF"]),
        ("one\r\ntwo\rthree\n", ["in 'a.txt', the line ends CR LF and CR were read as LF"]),
        ("\ufeffone\n", ["in 'a.txt', a byte order mark was left out"]),
        ("\ufeffone\n\ufefftwo\n", ["in 'a.txt', 2 byte order marks were left out"]),
        ("one\n\ntwo", []),
    ],
)
def test_line_ends_and_byte_order_marks_are_told(cached, content, notices):
    write("a.txt", content)
    for _ in range(2):  # of which the second is from the cache
        corpus = load_corpus(["a.txt"], valid_fraction=0)
        assert list(corpus.notices) == notices
        assert text_of(corpus) == as_python_reads(content)
        assert (corpus.characters, corpus.bytes) == (len(text_of(corpus)), len(content.encode()))
    assert load_corpus(["a.txt"], level="byte", valid_fraction=0).notices == ()


def test_a_model_that_learnt_cr_reads_it_still():
    assert (
        text_of(load_corpus([write("a.txt", "one\r\ntwo")], vocabulary=Vocabulary.build(["entwo\r\n"]))) == "one\r\ntwo"
    )


def test_nothing_but_a_byte_order_mark():
    assert error_of(write("a.txt", "\ufeff")) == (
        "'a.txt' has nothing but byte order marks; give a text of at least two characters"
    )


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
def test_a_device(name):
    assert error_of(name) == (f"{name!r} is a device; give a file, or pipe its output into rnn and read it with -")


def test_a_character_may_not_be_spread_over_two_files():
    euro = "€".encode()
    assert error_of(write("a.txt", euro[:1]), write("b.txt", euro[1:])) == (
        "'a.txt' is not UTF-8 (0xE2 at byte offset 0); "
        f"convert it from its encoding, for example: iconv -f CP1252 -t UTF-8 a.txt > a.utf-8.txt{BYTES}"
    )


def test_a_packed_file_that_is_not_utf8_says_at_which_byte_of_the_content():
    assert error_of(write("a.txt.gz", gzip.compress(b"caf\xe9", mtime=0))) == (
        "'a.txt.gz' is not UTF-8 (0xE9 at byte offset 3); convert it from its encoding, for example: "
        f"gzip -dc a.txt.gz | iconv -f CP1252 -t UTF-8 > a.utf-8.txt{BYTES}"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip file",
        gzip.compress(b"hello world", mtime=0)[:-9],
        gzip.compress(b"hello world", mtime=0) + b"and more",
        gzip.compress(b"hello world", mtime=0)[:-8] + b"12345678",
        gzip.compress(b"hello world", mtime=0)[:10] + b"\xff" * 20,
    ],
    ids=["foreign", "cut", "longer", "checksum", "garbled"],
)
def test_a_broken_packed_file(content):
    assert error_of(write("a.txt.gz", content)) == (
        "'a.txt.gz' is not a complete gzip file; download it again, or unpack it and give the text itself"
    )


@pytest.mark.parametrize(
    ("level", "text", "message"),
    [
        ("char", "aaaa", "'a.txt' has only one character, 'a'; give a text of at least two different ones"),
        ("char", "éé", "'a.txt' has only one character, 'é' (U+00E9); give a text of at least two different ones"),
        ("byte", "aaaa", "'a.txt' has only one byte, 'a'; give a text of at least two different ones"),
        ("word", "hello", "'a.txt' has only one word, 'hello'; give a text of at least two different ones"),
    ],
)
def test_a_text_of_one_symbol(level, text, message):
    assert error_of(write("a.txt", text), level=level) == message


def test_a_text_of_one_symbol_can_be_encoded_by_a_given_vocabulary():
    assert load_corpus([write("a.txt", "bb")], vocabulary=Vocabulary.build(["abc"])).tokens.tolist() == [1, 1]


def test_standard_input_twice():
    assert error_of("-", "-") == "standard input can be read only once; give - only once"


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert error_of("-") == "standard input is closed; pipe a text into it, or name a file"


def test_standard_input_that_cannot_be_read(monkeypatch):
    def read(size):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(read1=read)))
    assert error_of("-") == "standard input cannot be read (is a directory); make it readable, or give another file"


def test_no_room_for_standard_input(monkeypatch):
    def refuse(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.tempfile, "NamedTemporaryFile", refuse)
    assert error_of("-") == (
        "standard input could not be copied to the folder for temporary files (no space left on device); "
        "set TMPDIR to a folder with enough space"
    )


def before_building(monkeypatch, act):
    """Lets something happen to the files after the first time they are read."""
    build = Vocabulary.build

    def late(*arguments):
        act()
        return build(*arguments)

    monkeypatch.setattr(Vocabulary, "build", late)


def test_a_file_that_vanishes(monkeypatch):
    write("a.txt", "hello")
    before_building(monkeypatch, Path("a.txt").unlink)
    assert error_of("a.txt") == "'a.txt' no longer exists; restore it and start again"


@pytest.mark.parametrize("content", ["jelly", "hello, more", "hell"])
def test_a_file_that_changes(monkeypatch, cached, content):
    write("a.txt", "hello")
    before_building(monkeypatch, lambda: write("a.txt", content))
    assert error_of("a.txt") == "'a.txt' changed while it was read; start again when no program writes to it"
    assert not cached.exists() or list(cached.iterdir()) == []


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_a_part_held_out_that_is_no_part(fraction):
    corpus = load_corpus([write("a.txt", "hello")])
    message = f"--valid-fraction is {fraction:g}; it must be at least 0 and below 1"
    assert error_of("a.txt", valid_fraction=fraction) == message
    with pytest.raises(UserError) as caught:
        split(corpus, fraction)
    assert str(caught.value) == message


# What is worth a notice --------------------------------------------------------------------------------------


def test_characters_of_the_held_out_part_only():
    corpus = load_corpus([write("a.txt", "ab" * 45 + "abcabédbab")])
    assert corpus.notices == (
        "the held-out last 10 % of 'a.txt' has 3 characters that training never sees: 'c', 'd' and 'é' (U+00E9)",
    )
    assert load_corpus(["a.txt"], valid_fraction=0.0).notices == ()
    assert text_of(load_corpus(["a.txt"])) == Path("a.txt").read_text()


def test_words_of_the_held_out_part_only():
    corpus = load_corpus([write("a.txt", "to be or not to be " * 9 + "that")], level="word", valid_fraction=0.025)
    assert corpus.notices == ("the held-out last 2.5 % of 'a.txt' has 1 word that training never sees: 'that'",)


def test_a_large_vocabulary():
    corpus = load_corpus([write("a.txt", "".join(map(chr, range(0x4E00, 0x4E00 + 5001))))], valid_fraction=0)
    assert corpus.notices == (
        "'a.txt' has 5,001 different characters; so large a vocabulary makes the model large and slow; "
        "--level byte always has 256 symbols",
    )
    assert corpus.tokens.dtype == np.uint16


def test_rare_words():
    corpus = load_corpus([write("a.txt", "to be or not to be")], level="word", max_words=3, valid_fraction=0)
    assert corpus.notices == ("'a.txt' has 2 words beyond the 3 commonest; 18.2 % of the text is read as <unk>",)
    assert text_of(corpus) == "to be <unk> <unk> to be"


def test_characters_that_a_given_vocabulary_has_not():
    write("a.txt", "hello wxrld!")
    vocabulary = Vocabulary.build(["heowrd "])
    assert error_of("a.txt", vocabulary=vocabulary) == (
        "'a.txt' has 3 characters that the model has never seen: 'l', 'x' and '!'; "
        "--unknown skip leaves them out, --unknown replace puts ' ' in their place"
    )
    skipped = load_corpus(["a.txt"], vocabulary=vocabulary, unknown="skip")
    assert text_of(skipped) == "heo wrd"
    assert skipped.notices == (
        "'a.txt' has 3 characters that the model has never seen, left out at 5 positions: 'l', 'x' and '!'",
    )
    replaced = load_corpus(["a.txt"], vocabulary=vocabulary, unknown="replace")
    assert text_of(replaced) == "he  o w r d "
    assert replaced.notices == (
        "'a.txt' has 3 characters that the model has never seen, read as ' ' at 5 positions: 'l', 'x' and '!'",
    )
    assert skipped.characters == replaced.characters == 12


def test_of_many_unknown_characters_the_commonest_are_named():
    write("a.txt", "a" + "".join(chr(ord("b") + i) * (20 - i) for i in range(20)))
    corpus = load_corpus(["a.txt"], vocabulary=Vocabulary.build(["a"]), unknown="skip")
    assert corpus.notices == (
        "'a.txt' has 20 characters that the model has never seen, left out at 210 positions: "
        "'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i' and 12 more",
    )


def test_words_that_a_given_vocabulary_has_not_are_read_as_unknown_words():
    write("a.txt", "the dog sat")
    vocabulary = Vocabulary.build(["the cat sat"], "word")
    corpus = load_corpus(["a.txt"], vocabulary=vocabulary)
    assert text_of(corpus) == "the <unk> sat"
    assert corpus.notices == ("'a.txt' has 1 word that the model has never seen, read as '<unk>' at 1 position: 'dog'",)
    assert text_of(load_corpus(["a.txt"], vocabulary=vocabulary, unknown="skip")) == "the  sat"


def test_a_text_of_which_nothing_is_known():
    assert error_of(write("a.txt", "Привет"), vocabulary=Vocabulary.build(["hello"]), unknown="skip") == (
        "the model knows no character of 'a.txt'; give a text like the one that it was trained on"
    )


def test_several_texts_are_called_by_the_first_of_them():
    assert error_of(write("a.txt", "aa"), write("b.txt", "a")) == (
        "the text of 'a.txt' and 1 more has only one character, 'a'; give a text of at least two different ones"
    )


# Splitting ---------------------------------------------------------------------------------------------------


@given(length=st.integers(2, 2000), fraction=st.floats(0, 1, exclude_max=True))
def test_a_split_loses_nothing_and_holds_out_no_more_than_was_asked(length, fraction):
    corpus = SimpleNamespace(tokens=np.arange(length), vocabulary=Vocabulary.build([], "byte"))
    train, valid = split(corpus, fraction)
    assert np.concatenate([train, valid]).tolist() == list(range(length))
    assert len(train) >= 1
    assert len(valid) <= length * fraction < len(valid) + 1


def test_the_last_tenth_is_held_out():
    train, valid = split(load_corpus([write("a.txt", "0123456789" * 2)]), 0.1)
    assert train.tolist() == [*range(10), *range(8)]
    assert valid.tolist() == [8, 9]


# The cache ---------------------------------------------------------------------------------------------------


def forbid_encoding(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the text was encoded though it is in the cache")

    monkeypatch.setattr(module, "_encode", refuse)
    monkeypatch.setattr(Vocabulary, "build", refuse)


@pytest.mark.parametrize("level", ["char", "word"])
def test_a_text_is_encoded_once(monkeypatch, cached, level):
    write("a.txt", AWKWARD * 3)
    first = load_corpus(["a.txt"], level=level, max_words=3)
    forbid_encoding(monkeypatch)
    write("b.gz", gzip.compress((AWKWARD * 3).encode(), mtime=0))
    again = load_corpus(["b.gz"], level=level, max_words=3)
    assert not isinstance(again.tokens.base, np.memmap)
    assert again.tokens.tolist() == first.tokens.tolist()
    assert again.vocabulary == first.vocabulary
    assert [notice.replace("b.gz", "a.txt") for notice in again.notices] == list(first.notices)
    with pytest.raises(ValueError, match="read-only"):
        again.tokens[0] = 1


def test_the_same_vocabulary_given_takes_the_same_ids(monkeypatch, cached):
    made = load_corpus([write("a.txt", "hello")])
    forbid_encoding(monkeypatch)
    assert load_corpus(["a.txt"], vocabulary=made.vocabulary).tokens.tolist() == made.tokens.tolist()


def test_a_changed_text_level_or_vocabulary_is_encoded_anew(cached):
    hello, jelly = load_corpus([write("a.txt", "hello")]), load_corpus([write("a.txt", "jelly!")])
    assert text_of(hello) == "hello"
    assert text_of(jelly) == "jelly!"
    assert load_corpus(["a.txt"], level="byte").tokens.tobytes() == b"jelly!"
    assert load_corpus(["a.txt"], level="word").vocabulary.symbols == ("<unk>", "!", "jelly")
    assert load_corpus(["a.txt"], level="word", max_words=1).vocabulary.symbols == ("<unk>", "!")
    assert text_of(load_corpus(["a.txt"], vocabulary=hello.vocabulary, unknown="skip")) == "ell"
    assert text_of(load_corpus(["a.txt"], vocabulary=hello.vocabulary, unknown="replace")) == "eellee"


def empty(path):
    path.write_bytes(b"")


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def foreign(path):
    path.write_bytes(b'{"level": "char", "symbols": ["x", "x"]}')


def no_object(path):
    path.write_bytes(b"7")


@pytest.mark.parametrize("harm", [empty, cut_short, foreign, no_object, Path.unlink])
@pytest.mark.parametrize("ending", [".ids", ".json"])
def test_a_damaged_cache_is_as_if_absent(cached, harm, ending):
    expected = load_corpus([write("a.txt", "hello world")]).tokens.tolist()
    for path in cached.glob(f"*{ending}"):
        harm(path)
    for _ in range(2):
        assert load_corpus(["a.txt"]).tokens.tolist() == expected


def halves_changed(path):
    data = bytearray(path.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    path.write_bytes(data)


@pytest.mark.parametrize("in_memory", [1 << 20, 0])
@pytest.mark.parametrize("harm", [halves_changed, cut_short, empty])
def test_ids_that_have_changed_are_encoded_anew(monkeypatch, cached, harm, in_memory):
    monkeypatch.setattr(module, "IN_MEMORY", in_memory)
    write("a.txt", "to be, or not to be: that is the question.\n" * 20)
    expected = load_corpus(["a.txt"]).tokens.tolist()
    for path in cached.glob("*.ids"):
        harm(path)
    assert load_corpus(["a.txt"]).tokens.tolist() == expected
    forbid_encoding(monkeypatch)  # for it was put right
    assert load_corpus(["a.txt"]).tokens.tolist() == expected


def test_a_vocabulary_that_has_changed_is_made_anew(cached):
    write("a.txt", "hello world")
    expected = load_corpus(["a.txt"]).vocabulary
    for path in cached.glob("*.json"):
        if b"symbols" in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(b'"h", "l"', b'"l", "h"'))
    assert load_corpus(["a.txt"]).vocabulary == expected


def test_the_ids_of_another_text_are_not_taken_for_those_of_this_one(cached):
    hello = load_corpus([write("a.txt", "hello world")])
    mine = {path.suffix: path for path in cached.iterdir() if b"symbols" not in path.read_bytes()}
    load_corpus([write("b.txt", "low hero dell")], vocabulary=hello.vocabulary)
    others = {p.suffix: p for p in cached.iterdir() if b"symbols" not in p.read_bytes() and p not in mine.values()}
    assert mine.keys() == others.keys() == {".ids", ".json"}
    for suffix, path in mine.items():
        path.write_bytes(others[suffix].read_bytes())
    assert text_of(load_corpus(["a.txt"])) == "hello world"


@pytest.mark.parametrize("in_memory", [1 << 20, 0])
def test_a_cache_that_is_cut_while_it_is_used_changes_nothing(monkeypatch, cached, in_memory):
    monkeypatch.setattr(module, "IN_MEMORY", in_memory)
    text = "to be, or not to be\n" * 10_000  # several pages of memory
    load_corpus([write("a.txt", text)])
    corpus = load_corpus(["a.txt"])
    assert isinstance(corpus.tokens.base, np.memmap) == (in_memory == 0)
    for path in cached.glob("*.ids"):
        os.truncate(path, 0)
    assert text_of(corpus) == text
    assert sorted(path.suffix for path in cached.iterdir()) == [".ids", ".json", ".json"]


def test_what_came_through_a_pipe_is_kept_however_small(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\r\nworld")))
    corpus = load_corpus(["-"], valid_fraction=0)
    again = recall_corpus(corpus.digest, corpus.vocabulary, sources=("-",))
    assert text_of(again) == "hello\nworld"
    assert (again.characters, again.bytes) == (corpus.characters, corpus.bytes) == (11, 12)
    assert recall_corpus("0" * 64, corpus.vocabulary) is None


@pytest.mark.parametrize("level", ["char", "byte", "word"])
def test_a_cache_that_cannot_be_written_costs_a_notice_only(monkeypatch, level):
    monkeypatch.setattr(module, "SMALL", 0)
    write("a.txt", "hello world")
    write("file", "")
    corpus = load_corpus(["a.txt"], level=level, cache_dir=Path("file"), valid_fraction=0)
    assert text_of(corpus) == "hello world"
    assert corpus.notices == (
        "the encoded text could not be cached in 'file' (file exists), so it stays in memory and is encoded again next "
        "time; set RNN_LAB_CACHE to another folder",
    )
    with pytest.raises(ValueError, match="read-only"):
        corpus.tokens[0] = 1


def test_a_disk_that_fills_up_leaves_nothing_half_written(monkeypatch, cached):
    def refuse(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    corpus = load_corpus([write("a.txt", "hello world")], valid_fraction=0)
    assert text_of(corpus) == "hello world"
    assert corpus.notices == (
        f"the encoded text could not be cached in {str(cached)!r} (no space left on device), so it stays in memory and "
        "is encoded again next time; set RNN_LAB_CACHE to another folder",
    )
    assert list(cached.iterdir()) == []


def test_what_a_killed_process_left_in_the_cache_is_cleared(cached):
    cached.mkdir()
    for name, age in ((".new-old", 7200), (".new-young", 60)):
        (cached / name).write_bytes(b"ids")
        os.utime(cached / name, (time.time() - age,) * 2)
    load_corpus([write("a.txt", "hello")])
    assert sorted(path.name for path in cached.glob(".*")) == [".new-young"]


def test_small_texts_leave_nothing_behind():
    load_corpus([write("a.txt", "hello")])
    assert not cache_folder().exists()


def test_the_cache_is_where_the_environment_or_the_caller_says(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SMALL", 0)
    load_corpus([write("a.txt", "hello")], cache_dir=tmp_path / "here")
    assert sorted(path.suffix for path in (tmp_path / "here").iterdir()) == [".ids", ".json", ".json"]
    assert not cache_folder().exists()
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("RNN_LAB_CACHE")
    assert cache_folder().name == "rnn-lab"


def test_what_the_cache_holds_is_json_and_bare_ids(cached):
    load_corpus([write("a.txt", "hello")], valid_fraction=0)
    values = [json.loads(path.read_bytes()) for path in cached.glob("*.json")]
    assert {"level": "char", "symbols": ["e", "h", "l", "o"]} in [value["value"] for value in values]
    facts = next(value["value"] for value in values if "first" in value["value"])
    del facts["checksum"]
    assert facts == {
        "length": 5, "first": [1, 0, 2, 4], "unseen": 0, "distinct": 0, "commonest": [], "characters": 5, "bytes": 5,
        "marks": 0, "line_ends": [],
    }  # fmt: skip
    assert [path.read_bytes() for path in cached.glob("*.ids")] == [bytes([1, 0, 2, 2, 3])]


@pytest.mark.parametrize("level", ["char", "byte"])
def test_a_large_text_is_never_held_whole(monkeypatch, cached, level):
    monkeypatch.setattr(sources, "CHUNK", 1 << 14)
    monkeypatch.setattr(module, "CHUNK", 1 << 14)
    monkeypatch.setattr(module, "IN_MEMORY", 1 << 20)
    write("a.txt", "hello wörld\n" * 500_000)  # 6.5 MB
    tracemalloc.start()
    try:
        corpus = load_corpus(["a.txt"], level=level)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert corpus.bytes == 6_500_000
    assert peak < 3_000_000


def test_real_texts_come_back(data):
    corpus = load_corpus([str(data / "onegin.txt")])
    assert text_of(corpus) == (data / "onegin.txt").read_bytes().decode()
    assert load_corpus([str(data / "tinyshakespeare.txt")]).vocabulary.symbols[:3] == ("\n", " ", "!")
