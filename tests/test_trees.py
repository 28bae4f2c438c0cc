"""Trees come apart, are walked together and built again without losing a leaf or a key."""

import json
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import trees


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


class Carry(NamedTuple):
    h: Any
    c: Any


def nested(leaf: st.SearchStrategy[Any], keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Trees of all kinds of node, empty ones and None among them."""
    return st.recursive(
        st.one_of(leaf, st.none()),
        lambda child: st.one_of(
            st.dictionaries(keys, child, max_size=3),
            st.lists(child, max_size=3),
            st.lists(child, max_size=3).map(tuple),
            st.builds(Carry, child, child),
        ),
        max_leaves=12,
    )


KEYS = st.text(alphabet=st.characters(exclude_characters=".", codec="utf-8"), max_size=4)
TREES = nested(st.integers(), KEYS)


def reordered(tree: Any) -> Any:
    """The same tree with its dicts filled the other way round."""
    if isinstance(tree, dict):
        return {key: reordered(tree[key]) for key in reversed(tree)}
    if isinstance(tree, Carry):
        return Carry(*[reordered(child) for child in tree])
    if isinstance(tree, (tuple, list)):
        return type(tree)(reordered(child) for child in tree)
    return tree


def types(tree: Any) -> Any:
    if isinstance(tree, dict):
        return [dict, *(types(child) for child in tree.values())]
    if isinstance(tree, (tuple, list)):
        return [type(tree), *(types(child) for child in tree)]
    return type(tree)


EXAMPLE = {"forget": {"W": 1, "b": 2}, "carry": (3, [4, None]), "state": Carry(5, ()), "empty": {}}


def test_leaves_and_paths_in_order() -> None:
    assert trees.leaves(EXAMPLE) == [1, 2, 3, 4, 5]
    assert trees.paths(EXAMPLE) == ["forget.W", "forget.b", "carry.0", "carry.1.0", "state.0"]
    assert trees.flatten(EXAMPLE) == {"forget.W": 1, "forget.b": 2, "carry.0": 3, "carry.1.0": 4, "state.0": 5}


def test_a_lone_leaf_has_the_empty_path() -> None:
    assert trees.flatten(7) == {"": 7}
    assert trees.map(str, 7) == "7"


def test_map_keeps_every_kind_of_node() -> None:
    mapped = trees.map(lambda a, b: a + b, EXAMPLE, EXAMPLE)
    assert mapped == {"forget": {"W": 2, "b": 4}, "carry": (6, [8, None]), "state": Carry(10, ()), "empty": {}}
    assert types(mapped) == types(EXAMPLE)


def test_map_calls_in_the_order_of_the_leaves_with_and_without_a_second_tree() -> None:
    alone: list[int] = []
    together: list[int] = []
    trees.map(alone.append, EXAMPLE)
    trees.map(lambda a, b: together.append(a), EXAMPLE, EXAMPLE)
    assert alone == together == [1, 2, 3, 4, 5]


@given(TREES)
def test_leaves_and_unflatten_are_inverse(tree: Any) -> None:
    rebuilt = trees.unflatten(tree, trees.leaves(tree))
    assert rebuilt == tree
    assert types(rebuilt) == types(tree)
    assert list(trees.flatten(rebuilt)) == trees.paths(tree)


@given(TREES)
def test_dicts_correspond_by_key_and_keep_the_first_trees_order(tree: Any) -> None:
    pairs = trees.zip_leaves(tree, reordered(tree))
    assert [a for a, _ in pairs] == trees.leaves(tree)
    assert all(a == b for a, b in pairs)
    assert trees.paths(trees.map(lambda a, b: b, tree, reordered(tree))) == trees.paths(tree)


@given(TREES)
def test_structure_survives_json(tree: Any) -> None:
    described = json.loads(json.dumps(trees.structure(tree)))
    rebuilt = trees.from_structure(described, trees.flatten(tree))
    assert rebuilt == tree
    assert trees.paths(rebuilt) == trees.paths(tree)
    assert trees.structure(rebuilt) == trees.structure(tree)


def test_structure_is_what_its_docstring_shows() -> None:
    assert trees.structure({"W": 1, "h": (2, None)}) == {"dict": {"W": "leaf", "h": {"tuple": ["leaf", None]}}}


def test_a_named_tuple_corresponds_to_its_checkpoint() -> None:
    plain = trees.from_structure(trees.structure(Carry(1, 2)), {"0": 10, "1": 20})
    assert plain == (10, 20)
    assert type(trees.map(lambda a, b: b, Carry(1, 2), plain)) is Carry


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"a": {"W": 1}},
            {"a": {"V": 1}},
            "the trees differ at 'a': a dict with the keys 'W' in the first, a dict with the keys 'V' in tree 2; "
            "give trees of one structure",
        ),
        (
            {"a": {}},
            {"a": [1]},
            "the trees differ at 'a': an empty dict in the first, a list of 1 in tree 2; give trees of one structure",
        ),
        (
            {"h": (1, 2)},
            {"h": (1, 2, 3)},
            "the trees differ at 'h': a tuple of 2 in the first, a tuple of 3 in tree 2; give trees of one structure",
        ),
        (
            [1, (2, 3)],
            [1, [2, 3]],
            "the trees differ at '1': a tuple of 2 in the first, a list of 2 in tree 2; give trees of one structure",
        ),
        (1, None, "the trees differ at the root: a leaf in the first, None in tree 2; give trees of one structure"),
        (None, 1, "the trees differ at the root: None in the first, a leaf in tree 2; give trees of one structure"),
        (
            {"a": {"b": 1}},
            {"a": {"b": {}}},
            "the trees differ at 'a.b': a leaf in the first, an empty dict in tree 2; give trees of one structure",
        ),
    ],
)
def test_trees_that_differ(first: Any, second: Any, message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        trees.map(lambda a, b: a, first, second)


def test_the_tree_that_differs_is_named_by_its_number() -> None:
    with pytest.raises(ValueError, match="a leaf in the first, None in tree 3"):
        trees.zip_leaves(1, 2, None)


@pytest.mark.parametrize("number", [1, 3])
def test_unflatten_wants_as_many_leaves(number: int) -> None:
    with pytest.raises(
        ValueError, match=exactly(f"got {number} leaves for a tree of 2; give one for each of its leaves")
    ):
        trees.unflatten((1, 2), range(number))


def test_two_leaves_of_one_path() -> None:
    with pytest.raises(
        ValueError, match=exactly("two leaves of the tree have the path 'a.b'; rename a key that has a dot in it")
    ):
        trees.flatten({"a.b": 1, "a": {"b": 2}})


@pytest.mark.parametrize("function", [trees.paths, trees.flatten, trees.structure])
def test_keys_must_be_strings(function: Any) -> None:
    with pytest.raises(
        TypeError, match=exactly("a tree has the key 1 of type int; name the entries of a dict by strings")
    ):
        function({"a": {1: 0}})


def test_from_structure_wants_exactly_the_leaves_that_it_names() -> None:
    described = trees.structure({"a": 1, "b": 2})
    with pytest.raises(
        ValueError, match=exactly("the leaf 'b' of the tree's structure is missing; give the leaves that it names")
    ):
        trees.from_structure(described, {"a": 1})
    with pytest.raises(
        ValueError, match=exactly("the tree's structure has no leaf 'c'; give the leaves that it names")
    ):
        trees.from_structure(described, {"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize("malformed", [3, "branch", [], {"set": []}, {"tuple": {}}, {"dict": []}, {}])
def test_malformed_structures(malformed: Any) -> None:
    with pytest.raises(
        ValueError,
        match=exactly(f"the tree's structure is malformed at 'a': {malformed!r}; give what `structure` returned"),
    ):
        trees.from_structure({"dict": {"a": malformed}}, {})


def test_cast_changes_floats_only_and_copies_no_more_than_it_must() -> None:
    tree: dict[str, Any] = {"w": np.ones(3), "same": np.ones(2, np.float32), "n": np.arange(2), "flag": np.array(True)}
    made = trees.cast(tree, np.float32)
    assert {name: leaf.dtype.name for name, leaf in made.items()} == {
        "w": "float32",
        "same": "float32",
        "n": "int64",
        "flag": "bool",
    }
    assert made["same"] is tree["same"]
    assert made["n"] is tree["n"]
    assert tree["w"].dtype == np.float64


def test_count() -> None:
    assert trees.count({"W": np.ones((2, 3)), "b": np.ones(3), "t": np.array(1.0), "none": None}) == 10
    assert trees.count({}) == 0


def test_zeros_like_keeps_shapes_and_dtypes() -> None:
    tree = (np.ones((2, 3), np.float32), [np.array(4), np.ones(0, np.float16)])
    made = trees.zeros_like(tree)
    assert trees.map(lambda a: (a.shape, a.dtype), made) == trees.map(lambda a: (a.shape, a.dtype), tree)
    assert all(isinstance(leaf, np.ndarray) and not leaf.any() for leaf in trees.leaves(made))
