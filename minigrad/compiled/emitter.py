"""Elementwise mathematics as LLVM text, for kernels that do not use ``llvm`` yet.

Kernel generators insert these lines into their functions. Exponentials and logarithms are polynomials, so that they
stay in vector registers; they are computed here from power series, truncated where the rest is below rounding. Sines
and powers call the C library, lane by lane.
"""

from __future__ import annotations

import decimal
import functools
import itertools
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial import chebyshev

FloatType = Literal["float", "double"]


@dataclass(frozen=True)
class _Format:
    """Properties of a float type."""

    bits: int
    mantissa: int  # stored bits, without the leading 1
    bias: int
    range_bits: int  # enough for every exponent of a rounding to powers of 2
    exp_terms: int  # of the polynomial for exp(r) after 1 + r, for |r| <= log(2) / 2
    log_terms: int  # of the series of atanh(s) after s, for |s| <= 3 - sqrt(8)
    softplus_terms: int  # the same for |s| <= 1/3

    @functools.cached_property
    def ln2_parts(self) -> tuple[float, float]:
        """log(2) as a sum; a power's exponent times the first part is exact, and the second is positive."""
        with decimal.localcontext(prec=60):
            ln2 = decimal.Decimal(2).ln()
            unit = 2 ** (self.mantissa + 1 - self.range_bits)
            high = math.floor(ln2 * unit) / unit
            return high, float(ln2 - decimal.Decimal(high))

    @functools.cached_property
    def exp_tail(self) -> list[float]:
        """The coefficients of t in exp(r) = 1 + r + r**2 * t(r)."""
        # A Chebyshev series can be truncated earlier than a power series.
        h = math.log(2) / 2
        series = chebyshev.poly2cheb([h**k / math.factorial(k + 2) for k in range(2 * self.exp_terms)])
        return list(chebyshev.cheb2poly(series[: self.exp_terms]) / h ** np.arange(self.exp_terms))


_FORMATS: dict[str, _Format] = {
    "float": _Format(bits=32, mantissa=23, bias=127, range_bits=8, exp_terms=5, log_terms=4, softplus_terms=6),
    "double": _Format(bits=64, mantissa=52, bias=1023, range_bits=11, exp_terms=10, log_terms=9, softplus_terms=15),
}


class Emitter:
    """Builds the body of one LLVM function.

    Args:
        dtype: the type of an element.
        width: lanes of a vector; 1 means plain scalars.
    """

    def __init__(self, dtype: FloatType, width: int) -> None:
        self.dtype = dtype
        self.width = width
        self.format = _FORMATS[dtype]
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        """Lines that the module must contain, once each."""
        self.type = self._vector(dtype)
        self.mask_type = self._vector("i1")
        self.integer_type = self._vector(f"i{self.format.bits}")
        self._count = itertools.count()

    def _vector(self, element: str) -> str:
        return element if self.width == 1 else f"<{self.width} x {element}>"

    def _constant(self, element: str, text: str) -> str:
        return text if self.width == 1 else f"splat ({element} {text})"

    def line(self, text: str) -> None:
        """Append an instruction."""
        self.lines.append(text)

    def fresh(self) -> str:
        """An unused register name."""
        return f"%v{next(self._count)}"

    def assign(self, instruction: str) -> str:
        """Append an instruction, and return the register of its result."""
        register = self.fresh()
        self.line(f"{register} = {instruction}")
        return register

    def constant(self, x: float) -> str:
        """An operand with this value in every lane, rounded to the element's type."""
        if self.dtype == "float":
            with np.errstate(over="ignore"):
                x = float(np.float32(x))
        # LLVM writes a float constant as the bits of the double of the same value.
        return self._constant(self.dtype, f"0x{struct.pack('>d', x).hex().upper()}")

    def integer(self, n: int) -> str:
        """An operand with this integer, as wide as the element, in every lane."""
        return self._constant(f"i{self.format.bits}", str(n))

    def mask(self, value: bool) -> str:
        """A mask that is true, or false, in every lane."""
        return self._constant("i1", "true" if value else "false")

    def splat(self, scalar: str) -> str:
        """The vector with a scalar register's value in every lane."""
        if self.width == 1:
            return scalar
        one = self.assign(f"insertelement {self.type} poison, {self.dtype} {scalar}, i64 0")
        return self.assign(f"shufflevector {self.type} {one}, {self.type} poison, <{self.width} x i32> zeroinitializer")

    def binary(self, operation: str, a: str, b: str) -> str:
        """An instruction on two vectors of floats: fadd, fsub, fmul, fdiv."""
        return self.assign(f"{operation} {self.type} {a}, {b}")

    def integer_binary(self, operation: str, a: str, b: str) -> str:
        """An instruction on two vectors of integers: add, sub, shl, ashr."""
        return self.assign(f"{operation} {self.integer_type} {a}, {b}")

    def intrinsic(self, name: str, *operands: str) -> str:
        """A call of ``llvm.<name>``, whose operands and result are vectors of floats."""
        suffix = f"f{self.format.bits}" if self.width == 1 else f"v{self.width}f{self.format.bits}"
        function = f"{self.type} @llvm.{name}.{suffix}"
        self.declarations.add(f"declare {function}({', '.join([self.type] * len(operands))})")
        return self.assign(f"call {function}({', '.join(f'{self.type} {x}' for x in operands)})")

    def fma(self, a: str, b: str, c: str) -> str:
        """The sum a * b + c, rounded once."""
        return self.intrinsic("fma", a, b, c)

    def compare(self, condition: str, a: str, b: str) -> str:
        """The mask of a comparison: oeq, ogt ... are false for NaN; une, ugt ... true."""
        return self.assign(f"fcmp {condition} {self.type} {a}, {b}")

    def select(self, mask: str, a: str, b: str) -> str:
        """``a`` where the mask is true, else ``b``."""
        return self.assign(f"select {self.mask_type} {mask}, {self.type} {a}, {self.type} {b}")

    def bits_of(self, x: str) -> str:
        """The same bits as integers."""
        return self.assign(f"bitcast {self.type} {x} to {self.integer_type}")

    def float_of(self, bits: str) -> str:
        """The same bits as floats."""
        return self.assign(f"bitcast {self.integer_type} {bits} to {self.type}")

    def at_least(self, x: str, bound: float) -> str:
        """The greater of ``x`` and a number; NaN stays NaN. One instruction, as is ``at_most``."""
        return self.select(self.compare("ogt", self.constant(bound), x), self.constant(bound), x)

    def at_most(self, x: str, bound: float) -> str:
        """The smaller of ``x`` and a number; NaN stays NaN."""
        return self.select(self.compare("olt", self.constant(bound), x), self.constant(bound), x)


Function = Callable[[Emitter, Sequence[str]], str]

# --- exponentials -----------------------------------------------------------------------------------------------------


def _horner(em: Emitter, x: str, coefficients: Sequence[float]) -> str:
    """The polynomial with these coefficients, the constant one first."""
    *rest, result = [em.constant(c) for c in coefficients]
    for c in reversed(rest):
        result = em.fma(result, x, c)
    return result


def _reduce(em: Emitter, x: str, factor: int, offset: int, ln2_parts: Sequence[float]) -> tuple[str, str]:
    """The n and r of exp(factor * x) = 2**n * exp(factor * r), with |factor * r| <= log(2) / 2.

    The factor is folded into the constants, so that it costs no instruction.

    Returns:
        Integers whose low bits, enough for an exponent, are n + offset; and r.
    """
    # Adding this number leaves no bits for a fraction, so the sum is rounded to an integer, in its low bits. A
    # conversion to integers would be undefined for NaN; this gives some n, and r is NaN.
    magic = em.constant(1.5 * 2**em.format.mantissa + offset)
    shifted = em.fma(x, em.constant(factor / math.log(2)), magic)
    n = em.binary("fsub", shifted, magic)
    r = x
    for part in ln2_parts:
        r = em.fma(n, em.constant(-part / factor), r)
    return em.bits_of(shifted), r


def _expm1_of_reduced(em: Emitter, r: str, factor: int) -> str:
    """(exp(factor * r) - 1) / factor, without cancellation."""
    tail = _horner(em, r, [c * factor ** (k + 1) for k, c in enumerate(em.format.exp_tail)])
    return em.fma(tail, em.binary("fmul", r, r), r)


def _power_of_two(em: Emitter, biased: str) -> str:
    """The float whose exponent is in the low bits; higher bits are dropped."""
    return em.float_of(em.integer_binary("shl", biased, em.integer(em.format.mantissa)))


def _exp(em: Emitter, operands: Sequence[str]) -> str:
    form = em.format
    x = em.at_most(operands[0], (form.bias + 2) * math.log(2))
    x = em.at_least(x, -(form.bias + form.mantissa + 2) * math.log(2))
    biased, r = _reduce(em, x, 1, 2 * form.bias, form.ln2_parts)
    # 2**n alone need not be a float where the result is one, or is infinite or denormal: multiply by it in two halves.
    half = em.integer_binary("lshr", biased, em.integer(1))
    first, second = _power_of_two(em, half), _power_of_two(em, em.integer_binary("sub", biased, half))
    return em.binary("fmul", em.fma(first, _expm1_of_reduced(em, r, 1), first), second)


def _expm1(em: Emitter, operands: Sequence[str]) -> str:
    form = em.format
    (original,) = operands
    x = em.at_most(original, (form.bias + 1.25) * math.log(2))
    x = em.at_least(x, -(form.mantissa + 3) * math.log(2))
    # First half of the result, which is finite whenever the result is.
    biased, r = _reduce(em, x, 1, form.bias - 1, form.ln2_parts)
    scale = _power_of_two(em, biased)
    half = em.fma(scale, _expm1_of_reduced(em, r, 1), em.binary("fsub", scale, em.constant(0.5)))
    return _or_itself_near_zero(em, original, em.binary("fadd", half, half))


def _or_itself_near_zero(em: Emitter, x: str, y: str) -> str:
    """``y``, but ``x`` where f(x) = x + O(x**2) rounds to it: that keeps -0.0 and denormals."""
    near = em.compare("olt", em.intrinsic("fabs", x), em.constant(2.0 ** -(em.format.mantissa + 2)))
    return em.select(near, x, y)


def _tanh(em: Emitter, operands: Sequence[str]) -> str:
    form = em.format
    # Where exp(2x) exceeds this power of 2, tanh rounds to 1.
    x = em.at_most(em.intrinsic("fabs", operands[0]), (form.mantissa + 4) / 2 * math.log(2))
    # A rounded log(2) is enough: the error grows with n, and its share in tanh falls faster.
    biased, r = _reduce(em, x, 2, form.bias, [math.log(2)])
    scale = _power_of_two(em, biased)
    # With h = expm1(2x) / 2 = 2**n * expm1(2r) / 2 + (2**n - 1) / 2, tanh(x) = h / (h + 1), which cannot exceed 1.
    h = em.fma(scale, _expm1_of_reduced(em, r, 2), em.fma(scale, em.constant(0.5), em.constant(-0.5)))
    y = em.binary("fdiv", h, em.binary("fadd", h, em.constant(1)))
    return em.intrinsic("copysign", y, operands[0])


def _sigmoid(em: Emitter, operands: Sequence[str]) -> str:
    form = em.format
    # Above, 1 + exp(-x) rounds to 1; below, the result rounds to 0.
    x = em.at_most(operands[0], (form.mantissa + 3) * math.log(2))
    x = em.at_least(x, -(form.bias + form.mantissa + 2) * math.log(2))
    # unit / (unit + unit * exp(-x)): so the divisor is finite where the result is a denormal number.
    down = form.mantissa + 9
    biased, r = _reduce(em, x, -1, form.bias - down, form.ln2_parts)
    exp_r = _horner(em, r, [1, -1, *(c * (-1) ** k for k, c in enumerate(form.exp_tail))])
    unit = em.constant(2.0**-down)
    return em.binary("fdiv", unit, em.fma(_power_of_two(em, biased), exp_r, unit))


def _softplus(em: Emitter, operands: Sequence[str]) -> str:
    (x,) = operands
    e = _exp(em, [em.assign(f"fneg {em.type} {em.intrinsic('fabs', x)}")])
    # max(x, 0) + log(1 + e), where e <= 1, and log(1 + e) = 2 atanh(s) = d + d**3 / 12 + d**5 / 80 + ... with d = 2s
    d = em.binary("fdiv", em.binary("fadd", e, e), em.binary("fadd", e, em.constant(2)))
    z = em.binary("fmul", d, d)
    series = _horner(em, z, [0.25**k / (2 * k + 1) for k in range(1, em.format.softplus_terms + 1)])
    log1p_e = em.fma(series, em.binary("fmul", z, d), d)
    return em.binary("fadd", em.at_least(x, 0), log1p_e)


# --- logarithms -------------------------------------------------------------------------------------------------------


def _log_of(em: Emitter, x: str, scaled: str, extra: str | None = None, lost: str | None = None) -> str:
    """log(x + lost), where ``scaled`` is x / 2**extra and not denormal, and ``lost`` is below rounding in x."""
    form = em.format
    bits = em.bits_of(scaled)
    # scaled = 2**k * m with sqrt(1/2) <= m < sqrt(2)
    start = em.bits_of(em.constant(math.sqrt(0.5)))
    k = em.integer_binary("ashr", em.integer_binary("sub", bits, start), em.integer(form.mantissa))
    m = em.float_of(em.integer_binary("sub", bits, em.integer_binary("shl", k, em.integer(form.mantissa))))
    magic = em.constant(1.5 * 2**form.mantissa)
    exponent = em.binary("fsub", em.float_of(em.integer_binary("add", k, em.bits_of(magic))), magic)
    if extra is not None:
        exponent = em.binary("fadd", exponent, extra)
    f = em.binary("fsub", m, em.constant(1))
    if lost is not None:
        f = em.fma(lost, em.binary("fdiv", m, x), f)
    # log(1 + f) = 2 atanh(s) = f - (f**2 / 2 - s * (f**2 / 2 + 2 s**2 / 3 + 2 s**4 / 5 + ...)), the largest term exact
    s = em.binary("fdiv", f, em.binary("fadd", f, em.constant(2)))
    z = em.binary("fmul", s, s)
    series = _horner(em, z, [2 / (2 * i + 1) for i in range(1, form.log_terms + 1)])
    half_square = em.binary("fmul", em.binary("fmul", f, em.constant(0.5)), f)
    high, low = form.ln2_parts
    tail = em.fma(exponent, em.constant(low), em.binary("fmul", s, em.fma(series, z, half_square)))
    y = em.fma(exponent, em.constant(high), em.binary("fsub", f, em.binary("fsub", half_square, tail)))
    y = em.select(em.compare("olt", x, em.constant(math.inf)), y, x)
    y = em.select(em.compare("oeq", x, em.constant(0)), em.constant(-math.inf), y)
    return em.select(em.compare("olt", x, em.constant(0)), em.constant(math.nan), y)


def _log(em: Emitter, operands: Sequence[str]) -> str:
    (x,) = operands
    form = em.format
    # The exponent of a denormal number is not in its bits.
    up = form.mantissa + 1
    denormal = em.compare("olt", x, em.constant(2.0 ** (1 - form.bias)))
    scaled = em.select(denormal, em.binary("fmul", x, em.constant(2.0**up)), x)
    extra = em.select(denormal, em.constant(-up), em.constant(0))
    return _log_of(em, x, scaled, extra=extra)


def _log1p(em: Emitter, operands: Sequence[str]) -> str:
    (x,) = operands
    one = em.constant(1)
    total = em.binary("fadd", x, one)
    # Knuth's two-sum: what the addition rounded away.
    of_x = em.binary("fsub", total, one)
    lost_of_one = em.binary("fsub", one, em.binary("fsub", total, of_x))
    lost = em.binary("fadd", lost_of_one, em.binary("fsub", x, of_x))
    return _or_itself_near_zero(em, x, _log_of(em, total, total, lost=lost))


# --- selections -------------------------------------------------------------------------------------------------------


def _extremum(condition: str) -> Function:
    def emit(em: Emitter, operands: Sequence[str]) -> str:
        a, b = operands
        # A comparison with NaN is false, which selects b; if only a is NaN, select a.
        y = em.select(em.compare(condition, a, b), a, b)
        return em.select(em.compare("uno", a, a), a, y)

    return emit


def _sign(em: Emitter, operands: Sequence[str]) -> str:
    (x,) = operands
    zero = em.constant(0)
    y = em.select(em.compare("oeq", x, zero), zero, x)  # NaN stays
    y = em.select(em.compare("ogt", x, zero), em.constant(1), y)
    return em.select(em.compare("olt", x, zero), em.constant(-1), y)


def emit_clip(em: Emitter, operands: Sequence[str], a_min: float | None = None, a_max: float | None = None) -> str:
    """As ``np.clip`` with numbers, or None, for bounds."""
    (x,) = operands
    for bound, limited in ((a_min, em.at_least), (a_max, em.at_most)):
        if bound is not None:
            x = em.constant(math.nan) if math.isnan(bound) else limited(x, bound)
    return x


def emit_number(em: Emitter, mask: str) -> str:
    """1.0 where a mask is true, else 0.0."""
    return em.select(mask, em.constant(1), em.constant(0))


# --- the table --------------------------------------------------------------------------------------------------------


def _binary(operation: str) -> Function:
    return lambda em, operands: em.binary(operation, *operands)


def _intrinsic(name: str) -> Function:
    return lambda em, operands: em.intrinsic(name, *operands)


def _comparison(condition: str) -> Function:
    return lambda em, operands: em.compare(condition, *operands)


def _mask_binary(operation: str) -> Function:
    return lambda em, operands: em.assign(f"{operation} {em.mask_type} {operands[0]}, {operands[1]}")


def _mask_not(em: Emitter, operands: Sequence[str]) -> str:
    return em.assign(f"xor {em.mask_type} {operands[0]}, {em.mask(True)}")


_MASKS: dict[str, Function] = {
    "greater": _comparison("ogt"),
    "greater_equal": _comparison("oge"),
    "less": _comparison("olt"),
    "less_equal": _comparison("ole"),
    "equal": _comparison("oeq"),
    "not_equal": _comparison("une"),
    "isnan": lambda em, operands: em.compare("uno", operands[0], operands[0]),
    "isfinite": lambda em, operands: em.compare("olt", em.intrinsic("fabs", operands[0]), em.constant(math.inf)),
    "logical_and": _mask_binary("and"),
    "logical_or": _mask_binary("or"),
    "logical_not": _mask_not,
    "bitwise_and": _mask_binary("and"),
    "bitwise_or": _mask_binary("or"),
    "invert": _mask_not,
}

FUNCTIONS: dict[str, Function] = {
    "add": _binary("fadd"),
    "subtract": _binary("fsub"),
    "multiply": _binary("fmul"),
    "divide": _binary("fdiv"),
    "negative": lambda em, operands: em.assign(f"fneg {em.type} {operands[0]}"),
    "square": lambda em, operands: em.binary("fmul", operands[0], operands[0]),
    "sqrt": _intrinsic("sqrt"),
    "abs": _intrinsic("fabs"),
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "sin": _intrinsic("sin"),
    "cos": _intrinsic("cos"),
    "power": _intrinsic("pow"),
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": lambda em, operands: em.at_least(operands[0], 0),
    "maximum": _extremum("ogt"),
    "minimum": _extremum("olt"),
    "where": lambda em, operands: em.select(*operands),
    "sign": _sign,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "rint": _intrinsic("rint"),
    **_MASKS,
}
"""Emitters by the name of the engine's primitive or NumPy's ufunc."""

RESULT_IS_MASK: frozenset[str] = frozenset(_MASKS)
"""Functions that return masks. The logical and bitwise ones also take masks, and ``where`` as its first operand."""
