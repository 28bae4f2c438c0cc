"""What is saved comes back identical, equal content makes equal files, and a file is never half written."""

import contextlib
import errno
import json
import os
import re
import stat
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from minigrad import trees
from minigrad.checkpoint import CheckpointError, load, load_metadata, save, write_atomically

FLOATS = ["float16", "float32", "float64"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ARRAYS = st.sampled_from(["bool", *FLOATS, *INTEGERS]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
KEYS = st.text(alphabet=st.characters(exclude_characters=".", codec="utf-8"), max_size=4).filter(
    lambda key: key != "__metadata__"
)
TREES = st.recursive(
    st.one_of(ARRAYS, st.none()),
    lambda child: st.one_of(
        st.dictionaries(KEYS, child, max_size=3), st.lists(child, max_size=3), st.lists(child, max_size=3).map(tuple)
    ),
    max_leaves=8,
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec=None)),
    ),
    lambda child: st.one_of(st.lists(child, max_size=3), st.dictionaries(st.text(), child, max_size=3)),
    max_leaves=8,
)
METADATA = st.dictionaries(st.text(), JSON, max_size=3)

# The folder is only a place to write to: that one test's examples share it does no harm.
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def assert_identical(a: Any, b: Any) -> None:
    assert trees.structure(a) == trees.structure(b)
    assert trees.paths(a) == trees.paths(b)
    for x, y in trees.zip_leaves(a, b):
        assert isinstance(x, np.ndarray)
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


@shared_folder
@given(tree=TREES, metadata=METADATA)
def test_round_trip(tmp_path: Path, tree: Any, metadata: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    save(path, tree, metadata)
    loaded, about = load(path)
    assert_identical(loaded, tree)
    assert about == metadata
    assert list(about) == list(metadata)


@shared_folder
@given(tree=TREES, metadata=METADATA)
def test_equal_content_makes_equal_files(tmp_path: Path, tree: Any, metadata: dict[str, Any]) -> None:
    save(tmp_path / "a", tree, metadata)
    save(tmp_path / "b", trees.map(np.copy, tree), json.loads(json.dumps(metadata)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_metadata_nested_and_in_any_script(tmp_path: Path) -> None:
    metadata = {
        "vocabulary": ["\n", "é", "e\u0301", "Ж", "😀", "\u0000", "\ud800", '"\\'],
        "options": {"hidden": 128, "rate": 1e-3, "none": None, "flags": [True, [], {}]},
        "state": 2**128 + 1,
    }
    save(tmp_path / "c", {}, metadata)
    assert load(tmp_path / "c") == ({}, metadata)


def test_loaded_arrays_can_be_written_into(tmp_path: Path) -> None:
    save(tmp_path / "c", {"W": np.zeros(3)}, {})
    tree, _ = load(tmp_path / "c")
    tree["W"] += 1
    np.testing.assert_array_equal(load(tmp_path / "c")[0]["W"], np.zeros(3))


def test_arrays_that_lie_otherwise_in_memory(tmp_path: Path) -> None:
    w = np.arange(24.0).reshape(4, 6)
    odd: list[Any] = [
        w.T,
        w[::2, ::-3],
        np.asfortranarray(w),
        w.astype(">f8"),
        np.broadcast_to(w[0], (2, 6)),
        np.float32(3),
    ]
    save(tmp_path / "c", odd, {})
    loaded, _ = load(tmp_path / "c")
    for a, b in zip(loaded, odd, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype.newbyteorder("=")
    assert loaded[-1].shape == ()


def test_a_named_tuple_comes_back_as_a_tuple(tmp_path: Path) -> None:
    class Carry(NamedTuple):
        h: Any
        c: Any

    save(tmp_path / "c", Carry(np.ones(2), np.zeros(1)), {})
    loaded, _ = load(tmp_path / "c")
    assert type(loaded) is tuple
    assert type(trees.unflatten(Carry(0, 0), trees.leaves(loaded))) is Carry


def test_other_programs_find_the_leaves_under_their_paths(tmp_path: Path) -> None:
    save(tmp_path / "c", {"cell": {"W": np.ones((2, 3), np.float32)}, "h": (np.arange(2),)}, {"task": "any"})
    found = load_file(tmp_path / "c")
    assert {name: (a.shape, a.dtype.name) for name, a in found.items()} == {
        "cell.W": ((2, 3), "float32"),
        "h.0": ((2,), "int64"),
    }


@pytest.mark.parametrize(
    ("leaf", "given_type"),
    [
        (1.5, "float"),
        ("text", "str"),
        (np.array(["text"]), "<U4"),
        (np.array([{}], object), "object"),
        (np.ones(2, complex), "complex128"),
        (np.array("2020-01-01", "M8[D]"), "datetime64[D]"),
    ],
)
def test_leaves_that_no_checkpoint_holds(tmp_path: Path, leaf: Any, given_type: str) -> None:
    message = (
        f"the leaf 'a.0' is of type {given_type}; a checkpoint contains arrays of booleans, integers, and floats of "
        "16 to 64 bits"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        save(tmp_path / "c", {"a": [leaf]}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "kind", "message"),
    [
        ({"a": {1, 2}}, TypeError, "the metadata of a checkpoint must be JSON: Object of type set is not JSON "),
        ({"a": np.float32(1)}, TypeError, "the metadata of a checkpoint must be JSON: Object of type float32 is not "),
        ({"loss": float("nan")}, ValueError, "the metadata of a checkpoint must be JSON: Out of range float values "),
    ],
)
def test_metadata_that_is_not_json(tmp_path: Path, metadata: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + re.escape(message)):
        save(tmp_path / "c", {}, metadata)


def test_a_name_that_safetensors_keeps(tmp_path: Path) -> None:
    message = "a leaf is called '__metadata__', a name that safetensors reserves; rename it"
    with pytest.raises(ValueError, match=exactly(message)):
        save(tmp_path / "c", {"__metadata__": np.ones(1)}, {})


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    with pytest.raises(CheckpointError, match=exactly(f"there is no file '{path}'; give the path of a checkpoint")):
        load(path)


def test_a_folder(tmp_path: Path) -> None:
    message = f"cannot read '{tmp_path}' (Is a directory); give the path of a checkpoint"
    with pytest.raises(CheckpointError, match=exactly(message)):
        load(tmp_path)


def test_a_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"W": np.ones(2)}, path, {"format": "pt"})
    message = f"'{path}' is a safetensors file of another program; give one that was saved here"
    with pytest.raises(CheckpointError, match=exactly(message)):
        load(path)
    save_file({"W": np.ones(2)}, path)
    with pytest.raises(CheckpointError, match=exactly(message)):
        load(path)


def damaged(path: Path) -> str:
    start, end = (
        re.escape(f"'{path}' is not a checkpoint, or it is damaged ("),
        re.escape("); give another, or save it again"),
    )
    return f"^{start}.+{end}$"


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"just some text of a certain length", b"\x80\x04K\x01.", b"\xff" * 64]
)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=damaged(path)):
        load(path)


@shared_folder
@given(data=st.data())
def test_a_file_cut_short(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "c"
    save(path, {"W": np.ones((3, 4)), "b": np.zeros(2)}, {"step": 3})
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=damaged(path)):
        load(path)


@shared_folder
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_tree_or_a_sentence(tmp_path: Path, position: int, byte: int) -> None:
    path = tmp_path / "c"
    save(path, {"W": np.ones((2, 2)), "h": (np.zeros(2), None)}, {"step": 3})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        load(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes"),
        ("[]", "list indices must be integers"),
        ('{"metadata": {}}', "'structure'"),
        ('{"structure": {"dict": {"W": "leaf"}}}', "'metadata'"),
        ('{"structure": {"dict": {}}, "metadata": {}}', "the tree's structure has no leaf 'W'"),
        ('{"structure": {"list": ["leaf"]}, "metadata": {}}', "the leaf '0' of the tree's structure is missing"),
        ('{"structure": {"dict": {"W": "leaf"}}, "metadata": 0, "dighest": ""}', "its header has an entry 'dighest'"),
        ('{"structure": {"set": []}, "metadata": {}}', "the tree's structure is malformed at ''"),
        ('{"structure": ' + "[" * 200_000, "maximum recursion depth exceeded"),
    ],
    ids=str,
)
def test_a_corrupt_header(tmp_path: Path, header: str, reason: str) -> None:
    path = tmp_path / "c"
    save_file({"W": np.ones(2)}, path, {"minigrad": header})
    with pytest.raises(CheckpointError, match=damaged(path)) as error:
        load(path)
    assert reason in str(error.value)


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    path = tmp_path / "c"
    header = json.dumps({"W": {"dtype": "F64", "shape": [1000], "data_offsets": [0, 8000]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match=damaged(path)):
        load(path)


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_killed_half_way_the_old_file_stays_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "model.safetensors"
    save(path, {"W": np.ones(3)}, {"step": 1})
    old = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(type(error)):
            save(path, {"W": np.zeros(3)}, {"step": 2})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_disk_before_it_gets_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def spy(name: str) -> Any:
        real = getattr(os, name)

        def called(*arguments: Any) -> Any:
            calls.append(
                name if name == "replace" or not stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "fsync folder"
            )
            return real(*arguments)

        return called

    monkeypatch.setattr(os, "fsync", spy("fsync"))
    monkeypatch.setattr(os, "replace", spy("replace"))
    write_atomically(tmp_path / "run.json", "{}")
    assert calls == ["fsync", "replace", "fsync folder"]


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    write_atomically(path, "Ж\r\né\n")
    assert path.read_bytes() == "Ж\r\né\n".encode()
    write_atomically(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "file")
    write_atomically(link, "x")
    assert link.is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "x"


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", "x")


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "a.json", "{}")
    assert caught.value.filename == str(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path, rng = tmp_path / "c", np.random.default_rng(0)
    tree = {"W": rng.normal(size=(9, 16)).astype("f4"), "n": np.int64(3), "empty": np.zeros((0, 2)), "flag": np.True_}
    save(path, tree, {"step": 30, "text": "é", "nothing": None})
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 13):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded, about = load(path)
        except CheckpointError:
            continue
        assert_identical(loaded, tree)  # such as a blank that only fills the header up
        assert about == {"step": 30, "text": "é", "nothing": None}


def test_a_changed_number_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save(path, {"W": np.ones(2)}, {})
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert str(error.value) == (
        f"'{path}' is not a checkpoint, or it is damaged (its content is not what was saved: its SHA-256 differs); "
        "give another, or save it again"
    )


def test_a_checkpoint_of_a_version_without_digests_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c"
    header = json.dumps({"structure": {"dict": {"W": "leaf"}}, "metadata": {"step": 3}})
    save_file({"W": np.ones(2)}, path, {"minigrad": header})
    tree, about = load(path)
    np.testing.assert_array_equal(tree["W"], np.ones(2))
    assert about == {"step": 3}


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_what_a_file_system_cannot_sync_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (what == "folder"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    expected = pytest.raises(OSError, match=os.strerror(number)) if number == errno.EIO else contextlib.nullcontext()
    with expected:
        write_atomically(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ([] if (what, number) == ("file", errno.EIO) else ["file"])


def test_metadata_is_read_without_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(path, {"W": np.ones(1000)}, {"step": 3, "best": None})
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # a changed number, which is not looked at
    assert load_metadata(path) == {"step": 3, "best": None}
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not a checkpoint, or it is damaged"):
        load_metadata(path)
    save_file({"W": np.ones(3)}, path)
    with pytest.raises(CheckpointError, match="of another program"):
        load_metadata(path)
