"""The identity of a step: its fields, and what its code reads beside them: globals, closures, class attributes.

``Reads.unchanged`` tells whether any of what it reads has changed since it was recorded.
"""

from __future__ import annotations

import collections
import functools
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from itertools import chain
from operator import attrgetter, is_
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np

from minigrad.tensor import Tensor
from minigrad.trees import Tree

MOST = 10_000
"""Objects beyond which comparing them costs more than tracing the step again."""

MOST_BYTES = 1 << 20
"""Bytes of arrays, likewise; a copy of them is kept."""

_TRUSTED = sys.stdlib_module_names | {"numpy", "minigrad"}
"""Packages whose code and objects do not change while a program runs."""

_MAKING = dict.fromkeys(("__new__", "__init__", "__post_init__"))
"""Methods called when code calls a class."""

_NOT_CALLED = frozenset(
    {
        *_MAKING, "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__", "__init_subclass__",
        "__reduce__", "__getstate__", "__setstate__",
    }
)  # fmt: skip
"""Methods of a dataclass that its step never calls."""

_MADE_BY_CODE = 1 << 9
"""The flag of classes created by a class statement (Py_TPFLAGS_HEAPTYPE)."""

_BY_NAME = frozenset({"getattr", "globals", "vars", "__dict__", "attrgetter", "eval"})
"""If code uses one of these, its string constants may be names."""

_SEQUENCES = (list, tuple, set, frozenset, collections.deque)


def identity_of(step: Any) -> Any:
    """A hashable key that is equal only if two steps compute the same.

    It also depends on everything that the step's code reads: globals, closures, class attributes.

    Raises:
        TypeError: there is none, because the step refers to something that may change unnoticed.
    """
    classes: dict[type, None] = {}
    values = _fields_of(step, classes)
    return values, read_by(tuple(classes))


def _fields_of(step: Any, classes: dict[type, None]) -> Any:
    """A hashable key of a step's fields; ``classes`` collects the classes of the steps in it."""
    if is_dataclass(step) and not isinstance(step, type):
        names = {part.name for part in fields(step)}
        if not step.__dataclass_params__.frozen or set(vars(step)) != names:  # type: ignore[attr-defined]
            raise TypeError  # it has more than its fields
        classes[type(step)] = None
        # Not the step itself, since its comparison may ignore a field.
        return (type(step), *(_fields_of(getattr(step, part.name), classes) for part in fields(step)))
    if isinstance(step, tuple):
        return tuple(_fields_of(part, classes) for part in step)
    if isinstance(step, float):
        return type(step), step.hex()  # since 0.0 == -0.0
    if step is None or isinstance(step, str | bool | int):
        return type(step), step
    raise TypeError


def form_of(tree: Tree) -> Any:
    """A hashable key of a tree's structure, types and numbers."""
    if isinstance(tree, dict):
        return (dict, *((key, form_of(child)) for key, child in tree.items()))
    if isinstance(tree, tuple | list):
        return (type(tree), *map(form_of, tree))
    return tree if tree is None or isinstance(tree, int) else "leaf"


class Reads:
    """Everything that the methods of some classes read when one of them is called as a step, as of now.

    Names that code mentions are looked up in its globals and in every class, module and object reachable by them.
    Not covered are names computed at run time, and changes within the standard library, NumPy or minigrad.

    Args:
        classes: of the step, and of the objects in its fields.

    Raises:
        TypeError: it is too much, or contains something that may change unnoticed.
    """

    def __init__(self, classes: Iterable[type]) -> None:
        self._reads: list[Callable[[], Iterable[Any]]] = []
        self._arrays: list[tuple[Any, Any]] = []
        self._bytes = 0
        self._functions: list[FunctionType] = []
        self._cells: list[CellType] = []
        self._globals: dict[int, tuple[dict[str, Any], dict[str, None]]] = {}
        self._names: dict[str, None] = {}
        self._spaces: list[Any] = []  # the contents of classes and modules, by name
        self._classes: set[type] = set()
        self._seen: dict[int, Any] = {}
        self._todo: list[Any] = []
        for each in classes:
            self._look_at_class(each)
        found: set[tuple[int, str]] = set()
        while True:
            for number, space in enumerate(self._spaces):
                for name in self._names:
                    if name in space and (number, name) not in found:
                        found.add((number, name))
                        self._todo.append(space[name])
            if not self._todo:
                break
            while self._todo:
                self._look_at(self._todo.pop())
        for attribute in ("__code__", "__defaults__", "__kwdefaults__"):
            self._reads.append(functools.partial(map, attrgetter(attribute), self._functions))
        self._reads.append(functools.partial(map, _held, self._cells))
        self._reads += [functools.partial(map, space.get, tuple(names)) for space, names in self._globals.values()]
        self._reads += [functools.partial(map, space.get, tuple(self._names)) for space in self._spaces]
        self._expected = self._now()
        del self._seen, self._todo, self._spaces, self._classes, self._globals

    def unchanged(self) -> bool:
        """Whether nothing has changed."""
        found = self._now()
        same = len(found) == len(self._expected) and all(map(is_, found, self._expected))
        return same and all(_content(array) == before for array, before in self._arrays)

    def _now(self) -> tuple[Any, ...]:
        return tuple(chain.from_iterable(read() for read in self._reads))

    def _follow(self, read: Callable[[], Iterable[Any]]) -> None:
        """Inspect what is read, and record it for comparison by identity."""
        self._reads.append(read)
        self._todo += read()

    def _look_at(self, x: Any) -> None:
        if x is None or isinstance(x, bool | int | float | complex | str | bytes | np.generic) or id(x) in self._seen:
            return
        self._seen[id(x)] = x  # keeping x keeps its id unique
        if len(self._seen) > MOST:
            raise TypeError
        if isinstance(x, FunctionType):
            self._look_at_function(x)
        elif isinstance(x, type):
            self._names |= _MAKING
            self._look_at_class(x)
            self._look_at_class(type(x))
        elif isinstance(x, ModuleType):
            if not _is_trusted(x.__name__):
                self._spaces.append(vars(x))
        elif isinstance(x, np.ndarray):
            self._bytes += x.nbytes
            if x.dtype.hasobject or self._bytes > MOST_BYTES:
                raise TypeError
            self._arrays.append((x, _content(x)))
        elif isinstance(x, Tensor):
            self._todo.append(x.value)
        elif isinstance(x, bytearray | array):
            raise TypeError
        elif isinstance(x, dict | MappingProxyType):
            self._reads.append(lambda: x)  # a key, which cannot change
            self._follow(x.values)
        elif isinstance(x, _SEQUENCES):
            self._follow(lambda: x)
        elif isinstance(x, MethodType | BuiltinMethodType | staticmethod | classmethod):
            self._todo += [getattr(x, "__func__", None), getattr(x, "__self__", None)]
        elif isinstance(x, property):
            self._todo.append(x.fget)
        elif isinstance(x, functools.partial | functools.partialmethod):
            self._todo += [x.func, x.args, x.keywords]
        elif isinstance(x, ContextVar):
            self._follow(lambda: (x.get(None),))
        elif isinstance(x, SimpleNamespace | Mapping) or not _is_trusted(_module_of(type(x))):
            self._look_at_object(x)
        elif _is_trusted(type(x).__module__, sys.stdlib_module_names) and hasattr(x, "__dict__"):
            self._todo.append(getattr(x, "__wrapped__", None))
            self._spaces.append(vars(x))  # only names mentioned, since an object such as a logger may reach far

    def _look_at_function(self, f: FunctionType) -> None:
        # A function wrapped by the standard library belongs to the step.
        self._cells += f.__closure__ or ()
        self._todo += [getattr(f, "__wrapped__", None), *map(_held, f.__closure__ or ())]
        if _is_trusted(f.__globals__.get("__name__")):
            return
        self._functions.append(f)
        self._todo += [f.__defaults__, f.__kwdefaults__]
        names = dict.fromkeys(_names_in(f.__code__))
        self._names |= names
        _, known = self._globals.setdefault(id(f.__globals__), (f.__globals__, {}))
        known |= names
        self._todo += map(f.__globals__.get, names)
        self._todo += [sys.modules[name] for name in names if name in sys.modules]  # for imports inside the function

    def _look_at_class(self, cls: type) -> None:
        for each in cls.__mro__:
            if each not in self._classes and not _is_trusted(_module_of(each)):
                self._classes.add(each)
                self._names |= {name: None for name, x in vars(each).items() if _is_called(name, x)}
                self._spaces.append(vars(each))

    def _look_at_object(self, x: Any) -> None:
        self._look_at_class(type(x))
        if hasattr(x, "__dict__"):
            self._todo.append(vars(x))
        slots = [slot for each in type(x).__mro__ for slot in _slots_of(each)]
        if slots:
            self._follow(lambda: [getattr(x, slot, None) for slot in slots])


_known: dict[tuple[type, ...], Reads | None] = {}  # None: unknown, and not tried again
_KEPT = 256


def read_by(classes: Sequence[type]) -> Reads:
    """What the code of these classes reads: the same object as long as nothing has changed.

    Raises:
        TypeError: it cannot be determined.
    """
    key = tuple(classes)
    found = _known.get(key)
    if found is not None and found.unchanged():
        return found
    if found is None and key in _known:
        raise TypeError
    if len(_known) >= _KEPT:
        _known.clear()
    try:
        found = _known[key] = Reads(key)
    except Exception as error:  # inspecting a foreign object may raise anything
        _known[key] = None
        raise TypeError from error
    return found


def _is_trusted(module: Any, names: Set[str] = _TRUSTED) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in names


def _module_of(cls: type) -> str | None:
    """The module of a class; None for a class from code without a name, which claims the module builtins."""
    return None if cls.__module__ == "builtins" and cls.__flags__ & _MADE_BY_CODE else cls.__module__


def _is_called(name: str, x: Any) -> bool:
    """Whether Python calls a method of a class implicitly, as for operators."""
    return name.startswith("__") and (callable(x) or hasattr(type(x), "__get__")) and name not in _NOT_CALLED


def _content(array: Any) -> Any:
    return array.shape, array.dtype.str, array.tobytes()


def _held(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


def _names_in(code: CodeType) -> Iterable[str]:
    """All names that code, and the functions within it, look up in globals or as attributes."""
    yield from code.co_names
    by_name = not _BY_NAME.isdisjoint(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
        elif by_name and isinstance(constant, str | tuple):
            yield from re.findall(r"[^\W\d]\w*", str(constant))


def _slots_of(cls: type) -> Iterable[str]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
