"""Trees: nested dicts, tuples, lists and named tuples whose leaves are arrays, or anything else.

Parameters, gradients, carries and optimiser states are trees. This module flattens, maps and rebuilds them. Only
`cast`, `count` and `zeros_like` require leaves to be arrays.

`None` is a tree without leaves. A leaf's path is the keys and indices that lead to it, joined by dots: `forget.W`,
`0.h`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

Tree: TypeAlias = Any

_LEAF = "leaf"
_INNER = (dict, tuple, list)


def leaves(tree: Tree) -> list[Any]:
    """The leaves, in the order of the dicts' insertion and the sequences."""
    found: list[Any] = []
    _gather(tree, found)
    return found


def paths(tree: Tree) -> list[str]:
    """The path of every leaf, in the order of `leaves`; a tree that is a leaf has the path ''.

    Raises:
        TypeError: where a dict's key is not a string.
    """
    return [".".join(path) for path, _ in _walk(tree, ())]


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves by path, in the order of `leaves`.

    Raises:
        TypeError: where a dict's key is not a string.
        ValueError: where two leaves have one path, as in `{"a.b": x, "a": {"b": y}}`.
    """
    found: dict[str, Any] = {}
    for path, leaf in _walk(tree, ()):
        name = ".".join(path)
        if name in found:
            raise ValueError(f"two leaves of the tree have the path '{name}'; rename a key that has a dot in it")
        found[name] = leaf
    return found


def unflatten(like: Tree, new_leaves: Iterable[Any]) -> Tree:
    """A tree with the structure of `like` and `new_leaves` (in the order of `leaves`) instead of its own.

    Raises:
        ValueError: where there are more or fewer new leaves than `like` has.
    """
    given = list(new_leaves)
    expected = len(leaves(like))
    if len(given) != expected:
        raise ValueError(f"got {len(given)} leaves for a tree of {expected}; give one for each of its leaves")
    return _rebuild(like, iter(given))


def zip_leaves(*trees: Tree) -> list[tuple[Any, ...]]:
    """The corresponding leaves of several trees, as one tuple per leaf, in the order of the first tree.

    Dicts correspond by key, in any order; a named tuple corresponds to any tuple of its length.

    Raises:
        ValueError: where the trees differ in structure; it names the path.
    """
    rows: list[tuple[Any, ...]] = []
    _gather_rows(trees, (), rows)
    return rows


def map(f: Callable[..., Any], tree: Tree, *more: Tree) -> Tree:
    """A tree like the first whose leaves are `f(leaf, *corresponding_leaves_of_the_others)`.

    Raises:
        ValueError: where the trees differ in structure; it names the path.
    """
    if not more:
        return _rebuild(tree, (f(leaf) for leaf in leaves(tree)))
    return _rebuild(tree, (f(*row) for row in zip_leaves(tree, *more)))


def structure(tree: Tree) -> Any:
    """A JSON description of a tree's structure, without its leaves. A named tuple is described as a tuple.

    `{"W": array, "h": (array, None)}` gives `{"dict": {"W": "leaf", "h": {"tuple": ["leaf", null]}}}`.

    Raises:
        TypeError: where a dict's key is not a string.
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {"dict": {_string(key): structure(child) for key, child in tree.items()}}
    if isinstance(tree, tuple):
        return {"tuple": [structure(child) for child in tree]}
    if isinstance(tree, list):
        return {"list": [structure(child) for child in tree]}
    return _LEAF


def from_structure(structure: Any, leaf_by_path: Mapping[str, Any]) -> Tree:
    """The tree described by `structure(tree)`, with the leaves of `flatten(tree)`.

    Raises:
        ValueError: where the description is malformed, or its leaves are not exactly those given.
    """
    used: set[str] = set()
    tree = _from_structure(structure, (), leaf_by_path, used)
    unused = [path for path in leaf_by_path if path not in used]
    if unused:
        raise ValueError(f"the tree's structure has no leaf '{unused[0]}'; give the leaves that it names")
    return tree


def cast(tree: Tree, dtype: DTypeLike) -> Tree:
    """The tree with its float arrays as `dtype`; other leaves, and arrays of that dtype, are not copied."""

    def cast_leaf(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return array.astype(dtype, copy=False) if array.dtype.kind == "f" else leaf

    return map(cast_leaf, tree)


def count(tree: Tree) -> int:
    """The number of scalars in all of the tree's arrays: a network's number of parameters."""
    return sum(int(np.size(leaf)) for leaf in leaves(tree))


def zeros_like(tree: Tree) -> Tree:
    """A tree of new arrays of zeros, with the shapes and dtypes of the tree's arrays."""
    return map(np.zeros_like, tree)


def _gather(tree: Tree, found: list[Any]) -> None:
    children: Iterable[Any]
    if isinstance(tree, dict):
        children = tree.values()
    elif isinstance(tree, (tuple, list)):
        children = tree
    else:
        children = (tree,)
    for child in children:
        # A training step gathers dozens of trees, so a call per leaf would be noticeable.
        if isinstance(child, _INNER):
            _gather(child, found)
        elif child is not None:
            found.append(child)


def _walk(tree: Tree, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for key, child in tree.items():
            yield from _walk(child, (*path, _string(key)))
    elif isinstance(tree, (tuple, list)):
        for index, child in enumerate(tree):
            yield from _walk(child, (*path, str(index)))
    elif tree is not None:
        yield path, tree


def _rebuild(like: Tree, new_leaves: Iterator[Any]) -> Tree:
    if isinstance(like, dict):
        return {
            key: _rebuild(child, new_leaves) if isinstance(child, _INNER) or child is None else next(new_leaves)
            for key, child in like.items()
        }
    if isinstance(like, tuple):
        children = [_rebuild(child, new_leaves) for child in like]
        return type(like)(*children) if _is_named(like) else tuple(children)
    if isinstance(like, list):
        return [_rebuild(child, new_leaves) for child in like]
    return None if like is None else next(new_leaves)


def _gather_rows(trees: tuple[Tree, ...], path: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> None:
    first = trees[0]
    for number, other in enumerate(trees[1:], start=2):
        if not _same_node(first, other):
            where = f"at '{'.'.join(str(key) for key in path)}'" if path else "at the root"
            raise ValueError(
                f"the trees differ {where}: {_describe(first)} in the first, {_describe(other)} in tree {number}; "
                "give trees of one structure"
            )
    if isinstance(first, dict):
        for key in first:
            _gather_rows(tuple(tree[key] for tree in trees), (*path, key), rows)
    elif isinstance(first, (tuple, list)):
        for index in range(len(first)):
            _gather_rows(tuple(tree[index] for tree in trees), (*path, index), rows)
    elif first is not None:
        rows.append(trees)


def _same_node(first: Tree, other: Tree) -> bool:
    if isinstance(first, dict):
        return isinstance(other, dict) and first.keys() == other.keys()
    for kind in (tuple, list):
        if isinstance(first, kind):
            return isinstance(other, kind) and len(first) == len(other)
    if first is None:
        return other is None
    return other is not None and not isinstance(other, (dict, tuple, list))


def _describe(node: Tree) -> str:
    if isinstance(node, dict):
        return f"a dict with the keys {', '.join(repr(key) for key in node)}" if node else "an empty dict"
    for kind in (tuple, list):
        if isinstance(node, kind):
            return f"a {kind.__name__} of {len(node)}"
    return "None" if node is None else "a leaf"


def _from_structure(node: Any, path: tuple[str, ...], leaf_by_path: Mapping[str, Any], used: set[str]) -> Tree:
    name = ".".join(path)
    if node is None:
        return None
    if node == _LEAF:
        if name not in leaf_by_path:
            raise ValueError(f"the leaf '{name}' of the tree's structure is missing; give the leaves that it names")
        used.add(name)
        return leaf_by_path[name]

    def build(key: str, child: Any) -> Tree:
        return _from_structure(child, (*path, key), leaf_by_path, used)

    match node:
        case {"dict": dict(children)}:
            return {key: build(key, child) for key, child in children.items()}
        case {"tuple": list(children)}:
            return tuple(build(str(index), child) for index, child in enumerate(children))
        case {"list": list(children)}:
            return [build(str(index), child) for index, child in enumerate(children)]
    raise ValueError(f"the tree's structure is malformed at '{name}': {node!r}; give what `structure` returned")


def _string(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(
            f"a tree has the key {key!r} of type {type(key).__name__}; name the entries of a dict by strings"
        )
    return key


def _is_named(node: tuple[Any, ...]) -> bool:
    return hasattr(node, "_fields")
