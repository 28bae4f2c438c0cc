import ctypes
import functools
import itertools
import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given

from minigrad.compiled.llvm import Function, module, vector
from minigrad.compiled.vector_math import FUNCTIONS, apply, as_number, clip
from minigrad.tensor import PRIMITIVES

binding = pytest.importorskip("llvmlite.binding")

TYPES = {"float": np.float32, "double": np.float64}
FEW_VECTORS = [("float", 16), ("double", 1)]
VECTORS = [("float", 16), ("float", 8), ("float", 1), ("double", 8), ("double", 1)]
WIDEST = {"float": 16, "double": 8}
BATCH = 64  # a multiple of every width

EXACT = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "negative": np.negative,
    "square": np.square, "sqrt": np.sqrt, "abs": np.absolute, "maximum": np.maximum, "minimum": np.minimum,
    "relu": lambda x: np.maximum(x, 0), "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "rint": np.rint,
    "where": lambda c, a, b: np.where(c, a, b), "greater": np.greater, "greater_equal": np.greater_equal,
    "less": np.less, "less_equal": np.less_equal, "equal": np.equal, "not_equal": np.not_equal, "isnan": np.isnan,
    "isfinite": np.isfinite, "logical_and": np.logical_and, "logical_or": np.logical_or,
    "logical_not": np.logical_not, "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "invert": np.invert,
}  # fmt: skip
ROUNDED = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sin": np.sin, "cos": np.cos,
    "power": np.power, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}  # fmt: skip
ORACLES = {**EXACT, **ROUNDED}
ULPS = {
    "exp": 1.5, "expm1": 2.5, "log": 1.5, "log1p": 2, "sin": 1, "cos": 1, "power": 1.5, "tanh": 3, "sigmoid": 2.75,
    "softplus": 3,
}  # fmt: skip
"""How far a value may be from the true one, in units of its last place."""
OPERANDS = {"where": 3, "power": 2} | {
    name: function.nin for name, function in EXACT.items() if isinstance(function, np.ufunc)
}
MASK_OPERANDS = {"where": 1, "logical_and": 2, "logical_or": 2, "logical_not": 1, "bitwise_and": 2, "bitwise_or": 2,
                 "invert": 1}  # fmt: skip
ZERO_OF_ANY_SIGN = {"relu", "maximum", "minimum"}

RANGES = {"exp": (0, np.inf), "tanh": (-1, 1), "sigmoid": (0, 1)}


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


class Kernel:
    """``emit(*registers)`` applied to arrays, ``width`` elements at a time, and its assembly."""

    def __init__(self, emit, operands, dtype, width):
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        # The engine takes possession of the machine, so that each kernel needs one of its own.
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
        )
        module = binding.parse_assembly(text(emit, operands, dtype, width))
        module.verify()
        builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        self.assembly = machine.emit_assembly(module)
        self.engine = binding.create_mcjit_compiler(module, machine)
        self.engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (operands + 1))
        self.function = prototype(self.engine.get_function_address("kernel"))

    def __call__(self, *xs):
        """The result on arrays of one length, whatever the length."""
        n = len(xs[0])
        padded = [np.concatenate([x, np.ones(-n % BATCH, x.dtype)]) for x in xs]
        out = np.empty_like(padded[0])
        self.function(len(out), *(a.ctypes.data for a in (out, *padded)))
        return out[:n]


def text(emit, operands, dtype, width):
    parameters = ["i64 n", f"{dtype}* out", *(f"{dtype}* in{i}" for i in range(operands))]
    f = Function("kernel", ", ".join(parameters))
    n, out, *given = f.parameters
    with f.loop(0, n, width) as i:
        result = emit(*((pointer + i).load(width) for pointer in given))
        (out + i).store(as_number(result, vector(dtype, width)))
    return module(f)


@functools.cache
def kernel(name, dtype, width):
    def emit(*registers):
        return apply(name, registers[0].type, registers)

    return Kernel(emit, OPERANDS.get(name, 1), dtype, width)


def specials(dtype):
    info = np.finfo(dtype)
    smallest = info.smallest_subnormal
    small = [0.0, smallest, 3 * smallest, info.tiny / 2, info.tiny, info.eps / 4, info.eps]
    middle = [1e-3, 0.25, math.log(2) / 2, 0.5, math.sqrt(0.5), 1, 1 + info.eps, math.sqrt(2), 1.5, 2, 2.5, 3, 9, 20]
    bends = [87.3, 88, 88.72, 89, 103.9, 104, 709.7, 710, 745, 746]
    large = [2**24, info.max / 2, info.max, np.inf, np.nan]
    magnitudes = [*small, *middle, *bends, *large]
    return np.array([*magnitudes, *(-m for m in magnitudes)], dtype)


def grid(dtype, size):
    """Special numbers, numbers of every magnitude, and numbers where functions bend."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2 ** (8 * dtype().itemsize), size=size // 4, dtype=f"u{dtype().itemsize}")
    largest = math.log(np.finfo(dtype).max) * 1.2
    parts = [specials(dtype), bits.view(dtype)]
    parts += [rng.uniform(-top, top, size // 4).astype(dtype) for top in (1, 10, largest)]
    return np.concatenate(parts)


def operands(name, dtype, size):
    """A row of arguments for each operand; of several, special numbers meet one another."""
    xs = grid(dtype, size)
    count = OPERANDS.get(name, 1)
    if count == 1:
        return [xs]
    rng = np.random.default_rng(1)
    met = np.array(list(itertools.product(specials(dtype), repeat=2)), dtype).T
    columns = [*met, rng.choice(specials(dtype), met.shape[1])][:count]
    return [np.concatenate([column, rng.permutation(xs)]) for column in columns]


def expected(name, xs):
    xs = [x != 0 if i < MASK_OPERANDS.get(name, 0) else x for i, x in enumerate(xs)]
    return ORACLES[name](*(x.astype(np.longdouble) if name in ROUNDED else x for x in xs))


def ulps(actual, true):
    """The distance from a value of more digits, in units of the last place; infinite where only one is a number."""
    rounded = true.astype(actual.dtype)
    distance = np.abs(actual.astype(np.longdouble) - true) / np.spacing(np.abs(rounded))
    same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
    both = np.isfinite(actual) & np.isfinite(rounded)
    return np.where(both, distance, np.where(same, 0, np.inf))


def check(name, actual, xs):
    true = expected(name, xs)
    if name in ROUNDED:
        error = ulps(actual, true)
        worst = int(error.argmax())
        at = [x[worst] for x in xs]
        assert error[worst] <= ULPS[name], f"{name}{at}: {actual[worst]!r} is {error[worst]:.2f} ulps off"
    else:
        np.testing.assert_array_equal(actual, true.astype(actual.dtype))
    if name not in ZERO_OF_ANY_SIGN:
        zero = actual == 0
        np.testing.assert_array_equal(np.signbit(actual[zero]), np.signbit(true.astype(actual.dtype)[zero]))


@pytest.mark.parametrize(("dtype", "width"), VECTORS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_numpys_values(name, dtype, width):
    xs = operands(name, TYPES[dtype], 20_000)
    check(name, kernel(name, dtype, width)(*xs), xs)


def test_every_function_has_an_oracle_and_no_oracle_is_left_over():
    assert set(ORACLES) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_masks_are_what_numpy_answers_with_booleans(name):
    xs = operands(name, np.float32, 100)
    f = Function("f", ", ".join(f"float x{i}" for i in range(len(xs))))
    result = apply(name, "float", f.parameters)
    assert (expected(name, xs).dtype == np.bool_) == (result.type == "i1")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) & set(PRIMITIVES) - {"where"}))
def test_values_are_those_of_the_engines_primitives(name, dtype):
    xs = [np.linspace(low, 4, 4096).astype(TYPES[dtype]) for low in (0.01, -3)[: OPERANDS.get(name, 1)]]
    actual = kernel(name, dtype, WIDEST[dtype])(*xs)
    np.testing.assert_allclose(actual, PRIMITIVES[name](*xs), rtol=4 * np.finfo(actual.dtype).eps)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", RANGES)
def test_exponentials_are_accurate_and_in_range_on_a_million_numbers(name, dtype):
    x = grid(TYPES[dtype], 1_000_000)
    y = kernel(name, dtype, WIDEST[dtype])(x)
    check(name, y, [x])
    low, high = RANGES[name]
    assert np.all((y >= low) & (y <= high) | np.isnan(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", RANGES)
def test_exponentials_are_accurate_and_in_range_wherever_hypothesis_looks(name, dtype):
    @given(hnp.arrays(TYPES[dtype], BATCH))
    def search(x):
        with np.errstate(all="ignore"):
            y = kernel(name, dtype, WIDEST[dtype])(x)
            check(name, y, [x])
        low, high = RANGES[name]
        assert np.all((y >= low) & (y <= high) | np.isnan(x))

    search()


@pytest.mark.parametrize("dtype", TYPES)
def test_tanh_is_odd(dtype):
    x = grid(TYPES[dtype], 10_000)
    tanh = kernel("tanh", dtype, WIDEST[dtype])
    np.testing.assert_array_equal(tanh(-x), -tanh(x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exp", "expm1", "log", "log1p", "softplus"])
def test_polynomials_stay_in_the_widest_vector_registers(name, dtype):
    features = binding.get_host_cpu_features()
    if not features.get("avx2"):
        pytest.skip("the registers are named here for AVX2 and AVX-512 only")
    bits, register = (512, "zmm") if features.get("avx512f") else (256, "ymm")
    loop = kernel(name, dtype, bits // (8 * TYPES[dtype]().itemsize)).assembly.split("kernel:")[1]
    assert register in loop
    assert "call" not in loop
    assert loop.count("div") == {"log1p": 2}.get(name, name in {"tanh", "sigmoid", "log", "softplus"})


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (None, 0.5), (-0.5, None), (1, -1), (None, None), (np.nan, 1),
                                           (0, np.nan), (-np.inf, np.inf), (0.1, 0.7)])  # fmt: skip
@pytest.mark.parametrize(("dtype", "width"), FEW_VECTORS)
def test_clip_is_numpys(low, high, dtype, width):
    x = grid(TYPES[dtype], 1000)
    clipped = Kernel(lambda x: clip(x, low, high), 1, dtype, width)
    np.testing.assert_array_equal(clipped(x), np.clip(x, low, high))


@pytest.mark.parametrize(("dtype", "width"), FEW_VECTORS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1, 0.1, -math.pi, 1e-45, 1e39, -np.inf, np.nan])
def test_a_constant_is_rounded_to_the_element(value, dtype, width):
    constant = Kernel(lambda x: x.like(value) + -0.0, 1, dtype, width)
    expected = np.full(3, value, TYPES[dtype])
    actual = constant(np.zeros_like(expected))
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual), np.signbit(expected))


def test_constants_are_spelled_by_their_bits():
    spelled = {("float", 0.1): "0x3FB99999A0000000", ("double", 0.1): "0x3FB999999999999A", ("i64", -3): "-3",
               ("<16 x float>", 1): "splat (float 0x3FF0000000000000)", ("<8 x i64>", -3): "splat (i64 -3)",
               ("<4 x i1>", True): "splat (i1 true)", ("i1", False): "false"}  # fmt: skip
    for (kind, number), name in spelled.items():
        assert Function("f", "").constant(kind, number).name == name


@pytest.mark.parametrize(("dtype", "width"), VECTORS)
def test_a_scalar_is_splat_over_the_lanes(dtype, width):
    def emit(x):
        return x + x.function.parameters[2].load().splat(width)

    x = np.arange(1, 49, dtype=TYPES[dtype])
    np.testing.assert_array_equal(Kernel(emit, 1, dtype, width)(x), x + 1)


@pytest.mark.parametrize(("dtype", "width"), VECTORS)
def test_lanes_are_summed_and_compared(dtype, width):
    x = np.random.default_rng(0).integers(-9, 9, BATCH).astype(TYPES[dtype])
    for reduce, oracle in (("total", np.sum), ("largest", np.max)):
        actual = Kernel(lambda x, reduce=reduce: getattr(x, reduce)().splat(width), 1, dtype, width)(x)
        np.testing.assert_array_equal(actual, np.repeat(oracle(x.reshape(-1, width), axis=1), width))
