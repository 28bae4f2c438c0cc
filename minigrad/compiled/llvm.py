"""Write functions as LLVM text, the language that the compiler reads.

A function is written by running Python code once. Every operation appends an instruction: ``x + y`` of two registers
appends an addition and returns the register of its result, and ``with f.loop(0, n) as i:`` appends a loop around what
its block appends. Numbers that change in a loop are variables on the stack; the compiler moves them into registers::

    f = Function("total", "i64 n, float* x", returns="float")
    n, x = f.parameters
    total = f.variable(f.constant("float", 0))
    with f.loop(0, n) as i:
        total.set(total.get() + (x + i).load())
    f.give(total.get())
    text = module(f)

Types are LLVM's: ``i1`` (true or false), ``i32``, ``i64``, ``float``, ``double``, ``<8 x float>`` (a vector of eight),
and ``float*`` for the address of floats (which LLVM writes ``ptr``).
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

SIZES = {"i8": 1, "i32": 4, "i64": 8, "ptr": 8, "float": 4, "double": 8}
"""Bytes of an element."""


@functools.cache
def vector(element: str, lanes: int) -> str:
    """The type of this many elements; of one, the element's own."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


class _Type(NamedTuple):
    """What a type's name says: how LLVM writes it, an element (at an address, of a vector), and how many."""

    spelled: str
    element: str
    lanes: int
    is_float: bool


@functools.cache
def _type(kind: str) -> _Type:
    if kind.endswith("*"):
        return _Type("ptr", kind.removesuffix("*"), 1, False)
    lanes, _, element = kind.strip("<>").rpartition(" x ")
    return _Type(kind, element, int(lanes or 1), element in ("float", "double"))


def _operator(floats: str, integers: str) -> Callable[[Register, Register | float], Register]:
    return lambda x, y: x.binary(floats if x.is_float else integers, y)


def _comparison(floats: str, integers: str) -> Callable[[Register, Register | float], Register]:
    return lambda x, y: x.compare(floats if x.is_float else integers, y)


class Register:
    """A value inside a function: a number, a vector of numbers, an address, or a constant.

    Operators append instructions. A comparison, or ``equals``, gives ``i1`` in every lane, and is false for NaN;
    ``//`` and ``%`` are for numbers that are not negative. A Python number as operand is a constant of the register's
    type. An address plus an integer is the address so many elements further.
    """

    __slots__ = ("function", "name", "type", "typed")

    def __init__(self, function: Function, kind: str, name: str) -> None:
        self.function, self.type, self.name = function, kind, name
        self.typed = f"{_type(kind).spelled} {name}"  # as in most operands

    def __str__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        raise TypeError("a register has its value when the code runs; use Function.when or Register.select")

    @property
    def lanes(self) -> int:
        """Elements of a vector; 1 of anything else."""
        return _type(self.type).lanes

    @property
    def element(self) -> str:
        """The type of an element of a vector, or at an address."""
        return _type(self.type).element

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point number or a vector of such."""
        return _type(self.type).is_float

    def like(self, number: Register | float) -> Register:
        """An operand for an operation with this register."""
        return number if isinstance(number, Register) else self.function.constant(self.type, number)

    def binary(self, operation: str, other: Register | float) -> Register:
        """An instruction with two operands of one type, such as ``lshr``."""
        return self.function.let(f"{operation} {self.typed}, {self.like(other)}", self.type)

    def compare(self, condition: str, other: Register | float) -> Register:
        """A comparison by LLVM's name; ``oeq`` ... are false for NaN, ``une`` ... true."""
        operation = "fcmp" if self.is_float else "icmp"
        kind = vector("i1", self.lanes)
        return self.function.let(f"{operation} {condition} {self.typed}, {self.like(other)}", kind)

    def __add__(self, other: Register | float) -> Register:
        if self.type.endswith("*"):
            offset = self.function.integer(other)
            return self.function.let(f"getelementptr {self.element}, {self.typed}, {offset.typed}", self.type)
        return self.binary("fadd" if self.is_float else "add", other)

    __sub__, __mul__ = _operator("fsub", "sub"), _operator("fmul", "mul")
    __truediv__, __floordiv__, __mod__ = _operator("fdiv", ""), _operator("", "udiv"), _operator("", "urem")
    __lshift__, __rshift__ = _operator("", "shl"), _operator("", "ashr")
    __and__, __or__ = _operator("", "and"), _operator("", "or")
    __lt__, __le__ = _comparison("olt", "slt"), _comparison("ole", "sle")
    __gt__, __ge__ = _comparison("ogt", "sgt"), _comparison("oge", "sge")
    __radd__, __rmul__ = __add__, __mul__
    equals = _comparison("oeq", "eq")

    def __rsub__(self, other: float) -> Register:
        return self.like(other) - self

    def __neg__(self) -> Register:
        return self.function.let(f"fneg {self.typed}", self.type) if self.is_float else 0 - self

    def __invert__(self) -> Register:
        return self.binary("xor", True if self.element == "i1" else -1)

    def select(self, a: Register | float, b: Register | float) -> Register:
        """``a`` where this mask is true, else ``b``; one of them may be a Python number."""
        like = a if isinstance(a, Register) else b
        assert isinstance(like, Register)
        return self.function.let(f"select {self.typed}, {like.like(a).typed}, {like.like(b).typed}", like.type)

    def intrinsic(self, name: str, *others: Register | float) -> Register:
        """``llvm.<name>`` of this and further operands of its type, with a result of its type: fabs, smin, sqrt ..."""
        operands = (self, *map(self.like, others))
        return self.function.call(self.type, f"llvm.{name}.{_mangled(self.type)}", *operands)

    def fma(self, b: Register | float, c: Register | float) -> Register:
        """This times ``b`` plus ``c``, rounded once."""
        return self.intrinsic("fma", b, c)

    def cast(self, instruction: str, element: str) -> Register:
        """Converted to another type of element: fpext, trunc, zext, bitcast, inttoptr ..."""
        kind = element if element.endswith("*") else vector(element, self.lanes)
        return self.function.let(f"{instruction} {self.typed} to {_type(kind).spelled}", kind)

    def pointing_to(self, element: str) -> Register:
        """The same address, of elements of another type."""
        return Register(self.function, f"{element}*", self.name)

    def splat(self, lanes: int) -> Register:
        """A vector with this number in every lane."""
        if lanes == 1:
            return self
        one = Register(self.function, vector(self.type, lanes), "poison").with_lane(0, self)
        return one.shuffle(one, [0] * lanes)

    def lane(self, number: int) -> Register:
        """An element of a vector."""
        if self.lanes == 1:
            return self
        return self.function.let(f"extractelement {self.typed}, i64 {number}", self.element)

    def with_lane(self, number: int, value: Register) -> Register:
        """The same vector with another element in one lane."""
        if self.lanes == 1:
            return value
        return self.function.let(f"insertelement {self.typed}, {value.typed}, i64 {number}", self.type)

    def shuffle(self, other: Register, order: Sequence[int]) -> Register:
        """Lanes of two vectors: those of this one have the numbers from 0, those of the other follow."""
        indices = ", ".join(f"i32 {i}" for i in order)
        kind = vector(self.element, len(order))
        return self.function.let(f"shufflevector {self.typed}, {other.typed}, <{len(order)} x i32> <{indices}>", kind)

    def total(self) -> Register:
        """The sum of all lanes, in whichever order is fastest."""
        if self.lanes == 1:
            return self
        start = self.function.constant(self.element, -0.0)
        name = f"llvm.vector.reduce.fadd.{_mangled(self.type)}"
        return self.function.call(self.element, name, start, self, flags="reassoc ")

    def largest(self) -> Register:
        """The greatest of all lanes; NaN if one is."""
        if self.lanes == 1:
            return self
        return self.function.call(self.element, f"llvm.vector.reduce.fmaximum.{_mangled(self.type)}", self)

    def opaque(self) -> Register:
        """The same integer; the compiler cannot see how it was computed, so it is not computed again in another way."""
        return self.function.let(f'call {self.type} asm "", "=r,0"({self.typed})', self.type)

    def load(self, lanes: int = 1, mask: Register | None = None) -> Register:
        """What is at this address: an element, or a vector of adjacent ones; 0 in lanes where the mask is false."""
        f, kind, size = self.function, vector(self.element, lanes), SIZES[self.element]
        if mask is None:
            return f.let(f"load {kind}, {self.typed}, align {size}", kind)
        name = f"llvm.masked.load.{_mangled(kind)}.p0"
        return f.call(kind, name, self, f.constant("i32", size), mask, Register(f, kind, "zeroinitializer"))

    def store(self, value: Register | float, mask: Register | None = None) -> None:
        """Store a number, or a vector, at this address; with a mask only the lanes where it is true."""
        f, size = self.function, SIZES[self.element]
        if not isinstance(value, Register):
            value = f.constant(self.element, value)
        if mask is None:
            f.do(f"store {value.typed}, {self.typed}, align {size}")
        else:
            f.call("void", f"llvm.masked.store.{_mangled(value.type)}.p0", value, self, f.constant("i32", size), mask)

    def gather(self, offsets: Register, mask: Register | None = None) -> Register:
        """The elements at these distances from this address; 0 in lanes where the mask is false."""
        f, kind = self.function, vector(self.element, offsets.lanes)
        name = f"llvm.masked.gather.{_mangled(kind)}.v{offsets.lanes}p0"
        return f.call(kind, name, *self._spread(offsets, mask), Register(f, kind, "zeroinitializer"))

    def scatter(self, offsets: Register, value: Register, mask: Register | None = None) -> None:
        """Store the lanes of a vector at these distances from this address; where the mask is false, nothing."""
        name = f"llvm.masked.scatter.{_mangled(value.type)}.v{offsets.lanes}p0"
        self.function.call("void", name, value, *self._spread(offsets, mask))

    def _spread(self, offsets: Register, mask: Register | None) -> tuple[Register, Register, Register]:
        """Addresses, their alignment and a mask, as operands of a gather or scatter."""
        f, lanes = self.function, offsets.lanes
        addresses = f.let(f"getelementptr {self.element}, {self.typed}, {offsets.typed}", f"<{lanes} x ptr>")
        everywhere = f.constant(vector("i1", lanes), True)
        return addresses, f.constant("i32", SIZES[self.element]), everywhere if mask is None else mask

    def prefetch(self) -> None:
        """Load the cache line of an address into the second-level cache; an invalid address is harmless."""
        options = (self.function.constant("i32", number) for number in (0, 2, 1))  # to read, near, data
        self.function.call("void", "llvm.prefetch.p0", self, *options)

    def load_acquire(self) -> Register:
        """Read a word that other threads write: what they wrote before it is visible afterwards."""
        return self.function.let(f"load atomic i64, {self.typed} acquire, align 8", "i64")

    def store_release(self, value: Register | float) -> None:
        """Write a word that other threads read."""
        self.function.do(f"store atomic {self.function.integer(value).typed}, {self.typed} release, align 8")

    def exchange(self, old: Register | float, new: Register | float) -> Register:
        """Write ``new`` to a word if it is ``old``, in one step for all threads; returns whether it was."""
        f = self.function
        old, new = f.integer(old), f.integer(new)
        pair = f.let(f"cmpxchg {self.typed}, {old.typed}, {new.typed} acq_rel acquire", "{i64, i1}")
        return f.let(f"extractvalue {pair.typed}, 1", "i1")


@functools.cache
def _mangled(kind: str) -> str:
    """A type in the name of a function of LLVM's: f32, v16f32, i64."""
    element = {"float": "f32", "double": "f64"}.get(_type(kind).element, _type(kind).element)
    return element if _type(kind).lanes == 1 else f"v{_type(kind).lanes}{element}"


def transposed(block: Sequence[Register]) -> list[Register]:
    """The columns of a square block, whose rows are vectors: as many lanes as vectors, a power of two."""
    rows = list(block)
    half = len(rows) // 2
    while half:  # exchange the off-diagonal quarters of smaller and smaller squares
        for i in range(len(rows)):
            if not i & half:
                rows[i], rows[i + half] = _halves(rows[i], rows[i + half], half)
        half //= 2
    return rows


def totals(vectors: Sequence[Register]) -> Register:
    """A vector whose lane i is the sum of all lanes of vector i; the number of vectors is a power of two."""
    parts = list(vectors)
    if len(parts) == 1:
        return parts[0].total()
    while (lanes := parts[0].lanes) > len(parts):
        low, high = range(lanes // 2), range(lanes // 2, lanes)
        parts = [x.shuffle(x, low) + x.shuffle(x, high) for x in parts]
    while len(parts) > 1:
        half = len(parts) // 2
        pairs = [_halves(parts[i], parts[i + half], half) for i in range(half)]
        parts = [low + high for low, high in pairs]
    return parts[0]


def _halves(a: Register, b: Register, half: int) -> tuple[Register, Register]:
    """Of every group of 2 * half lanes the first half of ``a``, then that of ``b``; and the second halves likewise."""
    low = [c if not c & half else a.lanes + c - half for c in range(a.lanes)]
    high = [c + half if not c & half else a.lanes + c for c in range(a.lanes)]
    return a.shuffle(b, low), a.shuffle(b, high)


class Variable:
    """A value that changes, on the stack of its function; created by ``Function.variable``."""

    def __init__(self, function: Function, kind: str) -> None:
        self._function, self._kind = function, kind
        self._name = function.fresh("%s")
        function.stack.append(f"  {self._name} = alloca {_type(kind).spelled}")

    def get(self) -> Register:
        """The present value."""
        return self._function.let(f"load {_type(self._kind).spelled}, ptr {self._name}", self._kind)

    def set(self, value: Register) -> None:
        """Give it another value of its type."""
        self._function.do(f"store {value.typed}, ptr {self._name}")


class Function:
    """Writes one function.

    Args:
        name: without ``@``.
        parameters: types and names, with LLVM's attributes between: "i64 n, float* noalias a".
        returns: the type of the result.
        linkage: "internal" for functions that only others of the module call.
        attributes: LLVM's.

    Attributes:
        name: of the function.
        parameters: their registers, in order.
        lines: the instructions after those of ``stack``, which reserve memory.
        declarations: of functions that it calls, by name.
    """

    def __init__(
        self, name: str, parameters: str, returns: str = "void", linkage: str = "", attributes: str = "nounwind"
    ) -> None:
        self.name = name
        self.parameters: list[Register] = []
        self.stack: list[str] = []
        self.lines: list[str] = []
        self.declarations: dict[str, str] = {}
        self._returns = returns
        self._count = 0
        self._ends: list[str] = []
        self.rolled = False  # whether a loop must not be unrolled
        spelled = []
        for parameter in filter(None, parameters.split(", ")):
            kind, *options, register = parameter.split(" ")
            spelled.append(" ".join([_type(kind).spelled, *options, f"%{register}"]))
            self.parameters.append(Register(self, kind, f"%{register}"))
        self._head = f"define {linkage} {_type(returns).spelled} @{name}({', '.join(spelled)}) {attributes} {{"

    def text(self) -> str:
        """The whole function."""
        last = "  ret void" if self._returns == "void" else "  unreachable"
        return "\n".join([self._head, "entry:", *self.stack, *self.lines, last, "}\n"])

    def fresh(self, stem: str) -> str:
        """An unused name."""
        self._count += 1
        return f"{stem}{self._count}"

    def do(self, instruction: str) -> None:
        """Append an instruction without a result."""
        self.lines.append(f"  {instruction}")

    def let(self, instruction: str, kind: str) -> Register:
        """Append an instruction whose result has this type."""
        name = self.fresh("%v")
        self.lines.append(f"  {name} = {instruction}")
        return Register(self, kind, name)

    def constant(self, kind: str, number: float) -> Register:
        """A number, in every lane of a vector; rounded to the type."""
        element = _type(kind).element
        if element == "i1":
            text = "true" if number else "false"
        elif _type(kind).is_float:
            number = ctypes.c_float(number).value if element == "float" else number
            text = f"0x{struct.pack('>d', number).hex().upper()}"  # of a float, the bits of the same double
        else:
            text = str(int(number))
        return Register(self, kind, text if kind == element else f"splat ({element} {text})")

    def integer(self, number: Register | float) -> Register:
        """An ``i64``."""
        return number if isinstance(number, Register) else self.constant("i64", number)

    def ramp(self, kind: str) -> Register:
        """The vector of integers 0, 1, 2 ..."""
        vector = Register(self, kind, "")
        numbers = ", ".join(f"{vector.element} {lane}" for lane in range(vector.lanes))
        return Register(self, kind, f"<{numbers}>" if vector.lanes > 1 else "0")

    def first_lanes(self, lanes: int, count: Register | int) -> Register:
        """A mask that is true in the first ``count`` lanes."""
        if isinstance(count, int):
            values = ", ".join(f"i1 {'true' if lane < count else 'false'}" for lane in range(lanes))
            return Register(self, vector("i1", lanes), f"<{values}>")
        return self.ramp(vector("i32", lanes)).compare("ult", count.cast("trunc", "i32").splat(lanes))

    def address_of(self, name: str, element: str) -> Register:
        """The address of a function or a global variable of the module."""
        return Register(self, f"{element}*", f"@{name}")

    def call(self, returns: str, callee: str | Register, *operands: Register | float, flags: str = "") -> Register:
        """Call a function, by name or by address; Python integers are ``i64``. One by name declares itself."""
        given = [self.integer(operand) for operand in operands]
        if isinstance(callee, str):
            types = ", ".join(_type(operand.type).spelled for operand in given)
            self.declarations[callee] = f"declare {_type(returns).spelled} @{callee}({types})"
            callee = Register(self, "ptr", f"@{callee}")
        text = f"call {flags}{_type(returns).spelled} {callee}({', '.join(operand.typed for operand in given)})"
        if returns != "void":
            return self.let(text, returns)
        self.do(text)
        return Register(self, "void", "")

    def variable(self, value: Register | int) -> Variable:
        """A value that changes, at first this one; a Python number is an ``i64``."""
        value = self.integer(value)
        variable = Variable(self, value.type)
        variable.set(value)
        return variable

    def memory(self, element: str, count: int) -> Register:
        """The address of memory for so many elements, on the stack."""
        name = self.fresh("%s")
        self.stack.append(f"  {name} = alloca [{count} x {element}], align 64")
        return Register(self, f"{element}*", name)

    @contextmanager
    def loop(
        self, start: Register | int, stop: Register | int, step: int = 1, unroll: bool = True
    ) -> Iterator[Register]:
        """Repeat for i = start, start + step, ... as long as i + step <= stop; yields i.

        Args:
            start: the first i.
            stop: the end.
            step: the distance.
            unroll: whether the compiler may write the block several times, which takes it long if loops are nested.
        """
        counter = self.variable(start)
        with self.forever(unroll):
            i = counter.get()
            after = i + step
            with self.when(after > stop):
                self.leave()
            yield i
            counter.set(after)

    @contextmanager
    def forever(self, unroll: bool = True) -> Iterator[None]:
        """Repeat until ``leave`` or ``give`` is reached; ``unroll`` as in ``loop``."""
        head, end = self.fresh("head"), self.fresh("end")
        self._ends.append(end)
        self._go_to(head, then=head)
        yield
        self._ends.pop()
        self.rolled |= not unroll
        self._go_to(head + ", !llvm.loop !0" * (not unroll), then=end)

    @contextmanager
    def when(self, condition: Register) -> Iterator[None]:
        """Run what follows only if the condition is true."""
        then, end = self.fresh("then"), self.fresh("end")
        self.do(f"br {condition.typed}, label %{then}, label %{end}")
        self.lines.append(f"{then}:")
        yield
        self._go_to(end, then=end)

    def leave(self) -> None:
        """Leave the innermost loop."""
        self._go_to(self._ends[-1], then=self.fresh("never"))

    def give(self, value: Register | int | None = None) -> None:
        """Return from the function, with a value or without one."""
        self.do("ret void" if value is None else f"ret {self.integer(value).typed}")
        self.lines.append(f"{self.fresh('never')}:")

    def _go_to(self, label: str, then: str) -> None:
        """End a block by a jump; the next one begins."""
        self.do(f"br label %{label}")
        self.lines.append(f"{then}:")


def words(name: str, count: int = 1) -> str:
    """The text of a global variable: integers of 64 bits, at first 0, on cache lines of their own."""
    return f"@{name} = internal global [{count} x i64] zeroinitializer, align 64"


def addresses(name: str, functions: Sequence[str]) -> str:
    """The text of a global constant: the addresses of functions."""
    listed = ", ".join(f"ptr @{function}" for function in functions)
    return f"@{name} = internal unnamed_addr constant [{len(functions)} x ptr] [{listed}]"


def table(name: str, numbers: Iterable[int]) -> str:
    """The text of a global constant: integers of 64 bits."""
    listed = [f"i64 {number}" for number in numbers]
    return f"@{name} = private constant [{len(listed)} x i64] [{', '.join(listed)}]"


_ROLLED = """!0 = distinct !{!0, !1}
!1 = !{!"llvm.loop.unroll.disable"}"""


def module(*parts: Function | str) -> str:
    """A module of functions and of other text, with declarations of the functions that it calls but does not define."""
    functions = [part for part in parts if isinstance(part, Function)]
    declared = {name: line for f in functions for name, line in f.declarations.items()}
    for f in functions:
        declared.pop(f.name, None)
    texts = [p if isinstance(p, str) else p.text() for p in parts]
    return "\n".join([*sorted(declared.values()), *texts, *([_ROLLED] if any(f.rolled for f in functions) else [])])
