"""Tables: each format, each message word for word, and streams."""

import gzip
import hashlib
import io
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rnn_plugins.data import lines as lines_module
from rnn_plugins.data.house_numbers import read_layouts
from rnn_plugins.data.tables import frames, pairs, records, rows_of_numbers, standardised
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.classify.task import Classify
from rnn_plugins.tasks.forecast.task import Forecast
from rnn_plugins.tasks.tag.task import Tag
from rnn_plugins.tasks.translate.task import Translate

BOTH = ("text", "label")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, content):
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def type_in(monkeypatch, content):
    stdin = SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content.encode())))
    monkeypatch.setattr(sys, "stdin", stdin)


def values(name, content, columns=BOTH, **options):
    return [(r.line, *(r.values.get(c) for c in columns)) for r in records(write(name, content), columns, **options)]


def refused(name, content, columns=BOTH, **options):
    write(name, content)
    with pytest.raises(UserError) as caught:
        list(records(name, columns, **options))
    return str(caught.value)


# Formats ------------------------------------------------------------------------------------------------------

TSV = 'label\ttext\nneg\tdull\npos\t"fine"\n'
CSV = 'label,text\nneg,dull\npos,"""fine"""\n'
JSONL = '\n{"label": "neg", "text": "dull"}\n{"text": "\\"fine\\"", "label": "pos", "stars": 4}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", TSV),
        ("a.TSV", TSV),
        ("a.csv", CSV),
        ("a.csv", CSV.replace(",", ";")),
        ("a.csv", CSV.replace(",", "\t")),
        ("a.jsonl", JSONL),
        ("a.txt", TSV),
        ("a", CSV),
        ("a", CSV.replace(",", ";")),
        ("a.data", JSONL),
        ("a.tsv.gz", gzip.compress(TSV.encode(), mtime=0)),
        ("a.tsv", gzip.compress(TSV.encode(), mtime=0)),  # known by its content
        ("a.tsv", gzip.compress(TSV[:9].encode(), mtime=0) + gzip.compress(TSV[9:].encode(), mtime=0)),
        ("a.csv.gz", CSV),  # not packed, whatever it is called
        ("a.tsv", TSV.replace("\n", "\r\n")),
        ("a.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("a.tsv", TSV.removesuffix("\n")),
        ("a.csv", CSV.replace("label,text", " label , text ")),
    ],
)
def test_each_format_gives_the_same_records(name, content):
    assert values(name, content) == [(2, "dull", "neg"), (3, '"fine"', "pos")]


def test_columns_may_be_optional():
    assert values("a.tsv", TSV, ("text",), optional=("label", "stars")) == [(2, "dull"), (3, '"fine"')]
    assert next(records("a.tsv", ["text"], optional=["label", "stars"])).values == {"text": "dull", "label": "neg"}
    write("a.jsonl", JSONL)
    assert [r.values.get("stars") for r in records("a.jsonl", ["text"], optional=["stars"])] == [None, "4"]


def test_a_field_of_csv_may_have_line_ends_and_be_long():
    long = "word " * 100_000
    assert values("a.csv", f'text,label\n"one\r\n\ntwo",x\n\n"{long}",y\n') == [
        (2, "one\n\ntwo", "x"),
        (6, long, "y"),
    ]


def test_a_plain_text_has_a_text_per_line():
    bare = {"columns": ("text",), "bare": ("text",)}
    assert values("a.txt", "\nfine, really\n\n dull\n\n\n", **bare) == [
        (1, ""),
        (2, "fine, really"),
        (3, ""),
        (4, " dull"),
    ]
    assert values("a.txt", "text\nfine, really\n", **bare) == [(2, "fine, really")]  # a header is one here as well
    assert values("a.txt", '{not JSON}\n"quoted\n', **bare) == [(1, "{not JSON}"), (2, '"quoted')]


def test_a_file_without_a_header_has_the_columns_that_are_given_or_numbers():
    assert values("a.tsv", "x\tdull\n", bare=("label", "text")) == [(1, "dull", "x")]
    assert values("a.tsv", "x\tdull\n", ("2", "1")) == [(1, "dull", "x")]
    assert values("a.csv", "x,dull\n", ("2",)) == [(1, "dull")]
    assert values("a", "x;dull\n", ("2",)) == [(1, "dull")]
    assert values("a.csv", "1,2\nx,dull\n", ("2",)) == [(2, "dull")]


def test_standard_input(monkeypatch):
    type_in(monkeypatch, JSONL)
    assert [(r.file, r.line) for r in records("-", BOTH)] == [("standard input", 2), ("standard input", 3)]
    type_in(monkeypatch, "text,label\n,\n")
    assert [r.values for r in records("-", BOTH)] == [{"text": "", "label": ""}]


def test_the_digest_is_that_of_the_content_however_it_is_packed():
    expected = hashlib.sha256(TSV.encode()).hexdigest()
    for content in (TSV.encode(), gzip.compress(TSV.encode(), mtime=0)):
        digest = hashlib.sha256()
        list(records(write("a.tsv", content), BOTH, digest=digest))
        assert digest.hexdigest() == expected


def test_a_million_records_need_no_memory(monkeypatch):
    read, write_end = os.pipe()
    row = b"pos\t" + b"a fine film " * 20 + b"\n"

    def feed():
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(b"label\ttext\n")
            for _ in range(100):
                pipe.write(row * 1000)

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(read, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
        tracemalloc.start()
        assert sum(1 for _ in records("-", BOTH)) == 100_000  # 25 MB
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
        tracemalloc.stop()
    thread.join()


@pytest.mark.parametrize("header", [b"text\n", b'{"text": "x"}\n', b"text,label\n"])
def test_a_record_comes_when_its_line_does(monkeypatch, header):
    read, write_end = os.pipe()
    row = header if b"{" in header else b"x\n" if b"," not in header else b"x,y\n"
    with os.fdopen(write_end, "wb", 0) as end, os.fdopen(read, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
        end.write(header)
        found = records("-", ["text"])
        for _ in range(3):
            end.write(row)
            assert next(found).values == {"text": "x"}  # though the pipe is still open


# Messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tsv",
            "Text\tlabel\nx\ty\n",
            "a.tsv, line 1: there is no column 'text'. Did you mean 'Text'? The columns are 'Text' and 'label'",
        ),
        ("a.txt", "dull\n", "a.txt, line 1: there is no column 'text'. The columns are 'dull'"),
        ("a.tsv", TSV + "a\tb\tc\n", "a.tsv, line 4: it has 3 fields where 2 are expected (label and text)"),
        ("a.csv", CSV + "\na\n", "a.csv, line 5: it has 1 field where 2 are expected (label and text)"),
        ("a.csv", CSV + 'a,"b\nc\n', 'a.csv, line 4: a quote (") that opens a field is not closed'),
        (
            "a.csv",
            CSV + 'a,"b" c\n',
            'a.csv, line 4: text follows the quote (") that closes a field; expected \',\' there, and two quotes ("") '
            "for a quote in the field",
        ),
        (
            "a.tsv",
            "text\tlabel\ttext\n",
            "a.tsv, line 1: the column 'text' occurs twice in the header; rename one of them",
        ),
        ("a.tsv", "label\ttext\n\n", "a.tsv has a header and no rows; expected rows with label and text"),
        ("a.tsv", "\n \n", "a.tsv is empty; expected a table, or lines of text"),
        (
            "a.jsonl",
            JSONL + "{'text': 1}\n",
            "a.jsonl, line 4: this is not JSON (Expecting property name enclosed in double quotes at column 2); "
            "expected an object per line",
        ),
        (
            "a.json",
            "[1, 2]\n",
            'a.json, line 1: this is a list; expected a JSON object per line, such as {"text": "...", "label": "..."}',
        ),
        (
            "a.jsonl",
            '{"text": "x", "labels": 1}\n',
            "a.jsonl, line 1: there is no key 'label'. Did you mean 'labels'? The keys are 'text' and 'labels'",
        ),
        ("a.jsonl", "{}", "a.jsonl, line 1: there is no key 'text'. There are no keys"),
        ("a.jsonl", '{"text": null, "label": 1}', "a.jsonl, line 1: the key 'text' has null; expected a text"),
        ("a.jsonl", '{"text": ["x"], "label": 1}', "a.jsonl, line 1: the key 'text' has a list; expected a text"),
        (
            "a.jsonl",
            '{"text": "\\ud83d", "label": 1}',
            "a.jsonl, line 1: the text of 'text' has a lone surrogate, which is not a character; leave it out",
        ),
        (
            "a.jsonl",
            '{"text": "\\u0000", "label": 1}',
            "a.jsonl, line 1: the text of 'text' has a NUL character; leave it out",
        ),
        (
            "a.jsonl",
            "[" * 100_000,
            "a.jsonl, line 1: this JSON is too large to read; expected an object of texts per line",
        ),
        (
            "a.jsonl",
            "1" * 5_000,
            "a.jsonl, line 1: this JSON is too large to read; expected an object of texts per line",
        ),
        ("a.tsv", TSV + "\0" * 9, "'a.tsv' has NUL bytes; give a text in UTF-8"),
        (
            "a.tsv",
            TSV.encode("utf-16"),
            "'a.tsv' is UTF-16 and not UTF-8 (0xFF at byte offset 0); convert it: "
            "iconv -f UTF-16 -t UTF-8 a.tsv > a.utf-8.tsv",
        ),
        (
            "a.tsv",
            (TSV + "neg\tcafé noir\n").encode("latin-1"),
            "'a.tsv' is not UTF-8 (0xE9 at byte offset 38); convert it from its encoding, for example: "
            "iconv -f CP1252 -t UTF-8 a.tsv > a.utf-8.tsv",
        ),
        (
            "a.tsv.gz",
            gzip.compress(TSV.encode(), mtime=0)[:-3],
            "'a.tsv.gz' is not a complete gzip file; download it again, or unpack it and give its content",
        ),
        (
            "a.tsv",
            b"\x1f\x8b no",
            "'a.tsv' is not a complete gzip file; download it again, or unpack it and give its content",
        ),
    ],
)
def test_messages(name, content, message):
    assert refused(name, content) == message


def test_names_in_messages_are_short():
    name = "x" * 200_000
    shown = f"{'x' * 40}..."
    assert refused("a.tsv", f"{name}\ty\n", (f"{name}x",)) == (
        f"a.tsv, line 1: there is no column '{shown}'. The columns are '{shown}' and 'y'"
    )


def test_messages_on_columns_by_number():
    assert refused("a.tsv", "x\tdull\n", ("3",)) == "a.tsv, line 1: there is no column 3: the line has 2 fields"


def test_a_line_without_an_end(monkeypatch):
    monkeypatch.setattr(lines_module, "LONGEST", 1000)
    assert refused("a.tsv", TSV + "a" * 1001) == (
        "a.tsv, line 4: it has more than 1,000 characters; expected a text with lines"
    )


def test_a_quote_that_is_not_closed_in_a_large_file(monkeypatch):
    monkeypatch.setattr("rnn_plugins.data.tables.LONGEST", 1000)
    assert refused("a.csv", CSV + '"' + "a line, of text\n" * 1000) == (
        'a.csv, line 4: a field has more than 1,000 characters; is a quote (") not closed?'
    )


def test_what_is_no_file(folder):
    def error(path):
        with pytest.raises(UserError) as caught:
            list(records(path, BOTH))
        return str(caught.value)

    assert error("none.tsv") == "there is no file 'none.tsv'; check the path"
    assert error("no\0ne") == "there is no file 'no\\x00ne'; check the path"
    assert error("") == "a file with an empty name was given; give its path"
    assert error(str(folder)) == f"{str(folder)!r} is a folder; give a file in it"
    assert error("/dev/zero") == "'/dev/zero' is a device; give a file, or pipe its output into rnn and read it with -"


def test_a_record_names_its_place_in_a_mistake():
    record = next(records(write("a.tsv", TSV), BOTH))
    assert str(record.mistake("the text is empty")) == "a.tsv, line 2: the text is empty"


# Pairs --------------------------------------------------------------------------------------------------------

GO = [{"source": "Go.", "target": "Va !"}, {"source": "Run!", "target": "Cours !"}]


@pytest.mark.parametrize(
    "files",
    [
        {"a.tsv": "Go.\tVa !\nRun!\tCours !\n"},
        {"a.txt": "Go.\tVa !\nRun!\tCours !\n"},
        {"a.tsv": "target\tsource\nVa !\tGo.\nCours !\tRun!\n"},
        {"a.csv": "Go.,Va !\nRun!,Cours !\n"},
        {"a.jsonl": "\n".join(map(json.dumps, GO))},
        {"a.en": "Go.\nRun!\n", "a.fr": "Va !\nCours !\n\n"},
        {"a.tsv": "Go.\tVa !\n", "b.en.gz": gzip.compress(b"Run!\n", mtime=0), "b.fr": "Cours !"},
    ],
)
def test_pairs(files):
    assert [r.values for r in pairs([write(*item) for item in files.items()])] == GO


@pytest.mark.parametrize(
    ("columns", "content"),
    [
        (("en", "fr"), "id\ten\tfr\n1\tGo.\tVa !\n2\tRun!\tCours !\n"),
        (("en", "fr"), '{"fr": "Va !", "en": "Go."}\n{"fr": "Cours !", "en": "Run!"}\n'),
        (("2", "1"), "Va !\tGo.\tCC-BY\nCours !\tRun!\tCC-BY\n"),
    ],
)
def test_pairs_of_other_columns(columns, content):
    assert [r.values for r in pairs([write("a.txt", content)], columns)] == GO
    some = [r.values["source"] for r in pairs([write("a.txt", content)], columns, targets=False)]
    assert some == ["Go.", "Run!"]


def test_sources_of_another_column_alone():
    def sources(name, content):
        return [r.values["source"] for r in pairs([write(name, content)], ("en", "fr"), targets=False)]

    assert sources("a.txt", "Go.\nRun!\n") == sources("a.tsv", "en\nGo.\nRun!\n") == ["Go.", "Run!"]
    with pytest.raises(UserError) as caught:
        sources("a.tsv", "Go.\tVa !\n")
    assert str(caught.value) == "a.tsv, line 1: there is no column 'en'. The columns are 'Go.' and 'Va !'"


def test_sources_alone():
    for content in ("Go.\nRun!\n", "Go.\tVa !\nRun!\t\n"):
        assert [r.values["source"] for r in pairs([write("a.txt", content)], targets=False)] == ["Go.", "Run!"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.en": "Go.\nRun!\n", "a.fr": "Va !\n"},
            "a.fr has 1 line and a.en has more; expected parallel texts, in which line n of one is the translation of "
            "line n of the other",
        ),
        (
            {"a.en": "Go.\n"},
            "a.en has one text per line and no file of translations after it; give two such files, the sources first, "
            "or a file with a source, a tab and a target in each line",
        ),
        (
            {"a.en": "Go.\n", "a.tsv": "Va !\tGo."},
            "a.en has one text per line and no file of translations after it; give two such files, the sources first, "
            "or a file with a source, a tab and a target in each line",
        ),
        (
            {"a.tsv": "Go.\tVa !\tCC-BY\n"},
            "a.tsv, line 1: it has 3 fields where 2 are expected (source and target), or a header that has these "
            "columns",
        ),
        (
            {"a.tsv": "Go.\tVa !\nRun!\tCours !\tCC-BY\n"},
            "a.tsv, line 2: it has 3 fields where 2 are expected (source and target)",
        ),
    ],
)
def test_messages_on_pairs(files, message):
    with pytest.raises(UserError) as caught:
        list(pairs([write(*item) for item in files.items()]))
    assert str(caught.value) == message


NUMBER = "a number, below 1e+100 and above -1e+100"

# Numbers ------------------------------------------------------------------------------------------------------


def test_frames():
    table = frames(write("a.csv", "x,time,y,phase\n1,10:00,-2.5e1,Rest\n\n 2 ,10:01,3,Go\n"), label_column="phase")
    assert (table.columns, table.labels, table.lines) == (("x", "y"), ["Rest", "Go"], [2, 4])
    assert table.times == ["10:00", "10:01"]
    np.testing.assert_array_equal(table.values, [[1, -25], [2, 3]])
    assert table.values.dtype == np.float64
    assert str(table.mistake(1, "x")) == "a.csv, line 4: x"


@pytest.mark.parametrize("content", ["1,2,a\n3,4,b\n", "1;2;a\n3;4;b\n", "1\t2\ta\n3\t4\tb\n"])
@pytest.mark.parametrize("name", ["a", "a.csv"])
def test_frames_without_a_header(name, content):
    """A label that is no number makes the first row a header; numbers alone are none."""
    numbers = content.replace("a", "7").replace("b", "8")
    table = frames(write(name, numbers), label_column="3")
    assert (table.columns, table.labels, table.values.tolist()) == (("1", "2"), ["7", "8"], [[1, 2], [3, 4]])
    assert frames(name).values.shape == (2, 3)
    assert frames(name).labels is None


def test_a_label_that_is_not_needed_and_a_time_that_is_a_value():
    write("a.csv", "time,x\n1,2\n")
    assert frames("a.csv", label_column="phase", labelled=False).labels is None
    assert frames("a.csv", time_column="").values.tolist() == [[1, 2]]
    assert frames("a.csv", time_column="x").columns == ("time",)


def test_rows_of_numbers_are_a_stream():
    columns, rows = rows_of_numbers(write("a.csv", "x,y\n1,2\n3,oops\n"))
    assert columns == ("x", "y")
    first = next(rows)
    assert (first.values, first.line, str(first.mistake("m"))) == ([1.0, 2.0], 2, "a.csv, line 2: m")
    with pytest.raises(UserError):
        next(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *[
            (f"x,y\n1,2\n3,{field}\n", f"a.csv, line 3: the column 'y' is {field!r}; expected {NUMBER}")
            for field in ("nan", "inf", "1e999", "-1e100", "word", "1_000", "1.2.3")
        ],
        ("x,y\n1,\n", f"a.csv, line 2: the column 'y' is empty; expected {NUMBER}"),
        (
            "x;y\n1;2,5\n",
            "a.csv, line 2: the column 'y' is '2,5'; expected a number with a decimal point and no comma",
        ),
        (
            "day,x\n2024-01-31,1\n",
            f"a.csv, line 2: the column 'day' is '2024-01-31'; expected {NUMBER}; if these are times, name the column "
            "with --task-option time_column=NAME",
        ),
        ("time,x\n1,2024-01-31\n", f"a.csv, line 2: the column 'x' is '2024-01-31'; expected {NUMBER}"),
        (
            "x,y\n1," + "z" * 99 + "\n",
            f"a.csv, line 2: the column 'y' is '{'z' * 40}...'; expected {NUMBER}",
        ),
        ("x,y\n1,2,3\n", "a.csv, line 2: it has 3 fields where 2 are expected (x and y)"),
        ("x,y\n", "a.csv has a header and no rows; expected rows of numbers"),
        ("x,x\n1,2\n", "a.csv, line 1: the column 'x' occurs twice in the header; rename one of them"),
        ('{"x": 1}\n', "a.csv has JSON; expected numbers in CSV or TSV, with a header"),
    ],
)
def test_messages_on_numbers(content, message):
    write("a.csv", content)
    with pytest.raises(UserError) as caught:
        frames("a.csv")
    assert str(caught.value) == message


def test_messages_on_labels():
    def error(content, **options):
        with pytest.raises(UserError) as caught:
            frames(write("a.csv", content), label_column="phase", **options)
        return str(caught.value)

    assert error("x,fase\n1,2\n") == (
        "a.csv, line 1: there is no column 'phase'. Did you mean 'fase'? The columns are 'x' and 'fase'; name another "
        "one with --task-option label_column=NAME"
    )
    assert error("x,phase\n1,\n") == "a.csv, line 2: the column 'phase' is empty; expected a label"
    assert error("x,phase\n1," + "a" * 201) == (
        "a.csv, line 2: the column 'phase' has 201 characters; expected a label"
    )
    assert error("phase\na\n") == "a.csv, line 1: there is no column of numbers"
    assert error("phase,x\na,1\n", time_column="when").startswith("a.csv, line 1: there is no column 'when'.")


def test_standardised():
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(standardised(values, [1, 2], [2, 2], "a.csv"), [[0, 0], [1, 1]])
    for mean, deviation, shown in ((0.0, 1e-15, "4e+15"), (0.0, 1e-310, "inf"), (-1e16, 1.0, "1e+16")):
        with pytest.raises(UserError) as caught:
            standardised(values, mean, deviation, "a.csv, line 2")
        assert str(caught.value) == (
            f"a.csv, line 2: a number is {shown} deviations from the mean of the training data; expected at most 1e+15"
        )


# The page -----------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "files.md").read_text(encoding="utf-8")


def test_the_program_of_the_page_runs():
    write("reviews.tsv", TSV)
    write("en.txt", "Go.\n")
    write("de.txt", "Geh.\n")
    write("tags.tsv", "Go\tVERB\n.\tPUNCT\n")
    write("frames.csv", "x,phase\n1,Rest\n2,Go\n")
    names: dict = {}
    exec(PAGE.split("```python\n")[1].split("```")[0], names)
    assert names["translations"] == [("Go.", "Geh.")]
    assert names["tagged"] == [(["Go", "."], ["VERB", "PUNCT"])]
    assert len(names["ids"]) == 1
    assert names["table"].labels == ["Rest", "Go"]


def test_the_messages_of_the_page_are_the_program_s():
    def reviews(file):
        return Classify().read([file])

    six = "label\ttext\n" + "a\tb\n" * 5
    good = '{"text": "a", "label": "b"}\n'
    layouts = "number\tboxes_left_top_width_height\n7\t1,2,3,4\n"
    cases = [
        ("reviews.tsv", "label\ttexts\n", reviews),
        ("reviews.tsv", six + "a\tb\tc\n", reviews),
        ("reviews.csv", CSV + 'a,"b\n', reviews),
        ("reviews.jsonl", good + '{"text": "a", "labels": "b"}\n', reviews),
        ("frames.csv", "x,y\n1,2\n1,nan\n", lambda file: Forecast().read([file])),
        ("tags.tsv", "a\tb\na\tb\tc\n", lambda file: Tag().read([file])),
        ("layouts.tsv", layouts + "123456\t1,2,3,4\n", read_layouts),
        ("layouts.tsv", layouts + "1\t1,2,3,4\n12\t1,2,3,4\n", read_layouts),
        ("de.txt", "a\nb\n", lambda file: Translate().read([write("en.txt", "a\nb\nc\n"), file])),
        ("reviews.tsv", "label\ttext\npos\tun cin\xe9ma\n".encode("latin-1"), reviews),
        ("reviews.tsv.gz", gzip.compress(six.encode(), mtime=0)[:-4], reviews),
    ]
    messages = []
    for name, content, read in cases:
        with pytest.raises(UserError) as caught:
            read(write(name, content))
        messages.append(str(caught.value))
    assert messages == PAGE.split("```\n")[1].splitlines()
