"""Elementwise mathematics for kernels: each function takes registers, floats or vectors of floats, and returns one.

Exponentials and logarithms are polynomials, so that they stay in vector registers; they are computed here from power
series, truncated where the rest is below rounding. Sines and powers call the C library, lane by lane.
"""

from __future__ import annotations

import decimal
import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from minigrad.compiled.llvm import Register


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

Function = Callable[..., Register]


def _format(x: Register) -> _Format:
    return _FORMATS[x.element]


def _bits(x: Register) -> Register:
    """The same bits as integers."""
    return x.cast("bitcast", f"i{_format(x).bits}")


def _at_least(x: Register, bound: float) -> Register:
    """The greater of ``x`` and a number; NaN stays NaN. One instruction, as is ``_at_most``."""
    return (x.like(bound) > x).select(bound, x)


def _at_most(x: Register, bound: float) -> Register:
    """The smaller of ``x`` and a number; NaN stays NaN."""
    return (x.like(bound) < x).select(bound, x)


# --- exponentials -----------------------------------------------------------------------------------------------------


def _horner(x: Register, coefficients: Sequence[float]) -> Register:
    """The polynomial with these coefficients, the constant one first."""
    *rest, last = coefficients
    result = x.like(last)
    for c in reversed(rest):
        result = result.fma(x, c)
    return result


def _reduce(x: Register, factor: int, offset: int, ln2_parts: Sequence[float]) -> tuple[Register, Register]:
    """The n and r of exp(factor * x) = 2**n * exp(factor * r), with |factor * r| <= log(2) / 2.

    The factor is folded into the constants, so that it costs no instruction.

    Returns:
        Integers whose low bits, enough for an exponent, are n + offset; and r.
    """
    # Adding this number leaves no bits for a fraction, so the sum is rounded to an integer, in its low bits. A
    # conversion to integers would be undefined for NaN; this gives some n, and r is NaN.
    magic = 1.5 * 2 ** _format(x).mantissa + offset
    shifted = x.fma(factor / math.log(2), magic)
    n = shifted - magic
    r = x
    for part in ln2_parts:
        r = n.fma(-part / factor, r)
    return _bits(shifted), r


def _expm1_of_reduced(r: Register, factor: int) -> Register:
    """(exp(factor * r) - 1) / factor, without cancellation."""
    tail = _horner(r, [c * factor ** (k + 1) for k, c in enumerate(_format(r).exp_tail)])
    return tail.fma(r * r, r)


def _power_of_two(biased: Register, element: str) -> Register:
    """The float whose exponent is in the low bits; higher bits are dropped."""
    return (biased << _FORMATS[element].mantissa).cast("bitcast", element)


def _exp(x: Register) -> Register:
    form = _format(x)
    x = _at_most(x, (form.bias + 2) * math.log(2))
    x = _at_least(x, -(form.bias + form.mantissa + 2) * math.log(2))
    biased, r = _reduce(x, 1, 2 * form.bias, form.ln2_parts)
    # 2**n alone need not be a float where the result is one, or is infinite or denormal: multiply by it in two halves.
    half = biased.binary("lshr", 1)
    first, second = _power_of_two(half, x.element), _power_of_two(biased - half, x.element)
    return first.fma(_expm1_of_reduced(r, 1), first) * second


def _expm1(original: Register) -> Register:
    form = _format(original)
    x = _at_most(original, (form.bias + 1.25) * math.log(2))
    x = _at_least(x, -(form.mantissa + 3) * math.log(2))
    # First half of the result, which is finite whenever the result is.
    biased, r = _reduce(x, 1, form.bias - 1, form.ln2_parts)
    scale = _power_of_two(biased, x.element)
    half = scale.fma(_expm1_of_reduced(r, 1), scale - 0.5)
    return _or_itself_near_zero(original, half + half)


def _or_itself_near_zero(x: Register, y: Register) -> Register:
    """``y``, but ``x`` where f(x) = x + O(x**2) rounds to it: that keeps -0.0 and denormals."""
    near = x.intrinsic("fabs") < 2.0 ** -(_format(x).mantissa + 2)
    return near.select(x, y)


def _tanh(original: Register) -> Register:
    form = _format(original)
    # Where exp(2x) exceeds this power of 2, tanh rounds to 1.
    x = _at_most(original.intrinsic("fabs"), (form.mantissa + 4) / 2 * math.log(2))
    # A rounded log(2) is enough: the error grows with n, and its share in tanh falls faster.
    biased, r = _reduce(x, 2, form.bias, [math.log(2)])
    scale = _power_of_two(biased, x.element)
    # With h = expm1(2x) / 2 = 2**n * expm1(2r) / 2 + (2**n - 1) / 2, tanh(x) = h / (h + 1), which cannot exceed 1.
    h = scale.fma(_expm1_of_reduced(r, 2), scale.fma(0.5, -0.5))
    return (h / (h + 1)).intrinsic("copysign", original)


def _sigmoid(x: Register) -> Register:
    form = _format(x)
    # Above, 1 + exp(-x) rounds to 1; below, the result rounds to 0.
    x = _at_most(x, (form.mantissa + 3) * math.log(2))
    x = _at_least(x, -(form.bias + form.mantissa + 2) * math.log(2))
    # unit / (unit + unit * exp(-x)): so the divisor is finite where the result is a denormal number.
    down = form.mantissa + 9
    biased, r = _reduce(x, -1, form.bias - down, form.ln2_parts)
    exp_r = _horner(r, [1, -1, *(c * (-1) ** k for k, c in enumerate(form.exp_tail))])
    unit = x.like(2.0**-down)
    return unit / _power_of_two(biased, x.element).fma(exp_r, unit)


def _softplus(x: Register) -> Register:
    e = _exp(-x.intrinsic("fabs"))
    # max(x, 0) + log(1 + e), where e <= 1, and log(1 + e) = 2 atanh(s) = d + d**3 / 12 + d**5 / 80 + ... with d = 2s
    d = (e + e) / (e + 2)
    z = d * d
    series = _horner(z, [0.25**k / (2 * k + 1) for k in range(1, _format(x).softplus_terms + 1)])
    return _at_least(x, 0) + series.fma(z * d, d)


# --- logarithms -------------------------------------------------------------------------------------------------------


def _log_of(x: Register, scaled: Register, extra: Register | None = None, lost: Register | None = None) -> Register:
    """log(x + lost), where ``scaled`` is x / 2**extra and not denormal, and ``lost`` is below rounding in x."""
    form = _format(x)
    bits = _bits(scaled)
    # scaled = 2**k * m with sqrt(1/2) <= m < sqrt(2)
    k = (bits - _bits(x.like(math.sqrt(0.5)))) >> form.mantissa
    m = (bits - (k << form.mantissa)).cast("bitcast", x.element)
    magic = x.like(1.5 * 2**form.mantissa)
    exponent = (k + _bits(magic)).cast("bitcast", x.element) - magic
    if extra is not None:
        exponent = exponent + extra
    f = m - 1
    if lost is not None:
        f = lost.fma(m / x, f)
    # log(1 + f) = 2 atanh(s) = f - (f**2 / 2 - s * (f**2 / 2 + 2 s**2 / 3 + 2 s**4 / 5 + ...)), the largest term exact
    s = f / (f + 2)
    z = s * s
    series = _horner(z, [2 / (2 * i + 1) for i in range(1, form.log_terms + 1)])
    half_square = f * 0.5 * f
    high, low = form.ln2_parts
    tail = exponent.fma(low, s * series.fma(z, half_square))
    y = exponent.fma(high, f - (half_square - tail))
    y = (x < math.inf).select(y, x)
    y = x.equals(0).select(-math.inf, y)
    return (x < 0).select(math.nan, y)


def _log(x: Register) -> Register:
    form = _format(x)
    # The exponent of a denormal number is not in its bits.
    up = form.mantissa + 1
    denormal = x < 2.0 ** (1 - form.bias)
    return _log_of(x, denormal.select(x * 2.0**up, x), extra=denormal.select(x.like(-up), 0))


def _log1p(x: Register) -> Register:
    total = x + 1
    # Knuth's two-sum: what the addition rounded away.
    of_x = total - 1
    lost = (1 - (total - of_x)) + (x - of_x)
    return _or_itself_near_zero(x, _log_of(total, total, lost=lost))


# --- selections -------------------------------------------------------------------------------------------------------


def _extremum(condition: str) -> Function:
    def extremum(a: Register, b: Register) -> Register:
        # A comparison with NaN is false, which selects b; if only a is NaN, select a.
        y = a.compare(condition, b).select(a, b)
        return a.compare("uno", a).select(a, y)

    return extremum


def _sign(x: Register) -> Register:
    y = x.equals(0).select(0, x)  # NaN stays
    y = (x > 0).select(1, y)
    return (x < 0).select(-1, y)


def clip(x: Register, a_min: float | None = None, a_max: float | None = None) -> Register:
    """As ``np.clip`` with numbers, or None, for bounds."""
    for bound, limited in ((a_min, _at_least), (a_max, _at_most)):
        if bound is not None:
            x = x.like(math.nan) if math.isnan(bound) else limited(x, bound)
    return x


# --- the table --------------------------------------------------------------------------------------------------------


def _intrinsic(name: str) -> Function:
    return lambda *operands: operands[0].intrinsic(name, *operands[1:])


FUNCTIONS: dict[str, Function] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "square": lambda x: x * x,
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
    "relu": lambda x: _at_least(x, 0),
    "maximum": _extremum("ogt"),
    "minimum": _extremum("olt"),
    "where": lambda mask, a, b: mask.select(a, b),
    "sign": _sign,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "rint": _intrinsic("rint"),
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "less": operator.lt,
    "less_equal": operator.le,
    "equal": lambda a, b: a.equals(b),
    "not_equal": lambda a, b: a.compare("une", b),
    "isnan": lambda x: x.compare("uno", x),
    "isfinite": lambda x: x.intrinsic("fabs") < math.inf,
    "logical_and": operator.and_,
    "logical_or": operator.or_,
    "logical_not": operator.invert,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "invert": operator.invert,
}
"""Functions by the name of the engine's primitive or NumPy's ufunc. Comparisons return masks; see ``apply``."""

_OF_MASKS = frozenset({"logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "invert"})


def apply(name: str, kind: str, operands: Sequence[Register], **options: float | None) -> Register:
    """``clip`` or one of ``FUNCTIONS``, with masks converted to numbers of type ``kind``, or the reverse, as needed.

    Raises:
        KeyError: there is no function of this name.
    """
    masks = len(operands) if name in _OF_MASKS else int(name == "where")
    given = [as_mask(x) if i < masks else as_number(x, kind) for i, x in enumerate(operands)]
    return clip(given[0], **options) if name == "clip" else FUNCTIONS[name](*given)


def as_number(x: Register, kind: str) -> Register:
    """1.0 where a mask is true, else 0.0; a number stays."""
    return x.select(x.function.constant(kind, 1), 0) if x.element == "i1" else x


def as_mask(x: Register) -> Register:
    """Whether a number is not 0; a mask stays."""
    return x if x.element == "i1" else x.compare("une", 0)
