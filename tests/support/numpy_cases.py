"""Example arguments for every operation of `keras.ops.numpy`.

In a case, arrays in positional arguments may become symbols, and float32 arrays may get another dtype. Arrays in keyword
arguments stay as they are.
"""

import numpy as np

_rng = np.random.default_rng(0)


def case(*args, **kwargs):
    """Returns the arguments of one call."""
    return args, kwargs


def floats(*shape):
    """Returns random numbers from -3 to 3, not close to an integer or to each other."""
    size = int(np.prod(shape))
    values = (np.arange(size) + 0.5) / max(size, 1) * 6 - 3 + 0.01
    return _rng.permutation(values).reshape(shape).astype("float32")


def integers(*shape):
    """Returns random integers from 0 to 5."""
    return _rng.integers(0, 6, shape).astype("int32")


def gaps(*shape):
    """Returns random numbers with some NaN."""
    values = floats(*shape)
    values.flat[::4] = np.nan
    return values


V, W = floats(4), floats(4)
A, B, ROW, COLUMN = floats(3, 4), floats(3, 4), floats(4), floats(3, 1)
T, U, SQUARE, SQUARES = floats(2, 3, 4), floats(2, 4, 3), floats(3, 3), floats(2, 3, 3)
I, J, NAN, POSITIVE = integers(3, 4), integers(3, 4), gaps(3, 4), np.abs(floats(3, 4))
TRUTH = A > 0
COMPLEX = (A + 1j * B).astype("complex64")
SPECIAL = np.array([-np.inf, -1.0, -0.0, 0.0, np.nan, 2.5, np.inf, 1e-3], "float32")
MIXED = np.concatenate([SPECIAL, floats(16)]).reshape(6, 4)
OTHERS = np.concatenate([floats(8), SPECIAL[::-1], floats(8)]).reshape(6, 4)

UNARY = (
    "abs absolute angle arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil conj conjugate copy cos cosh deg2rad exp exp2 "
    "expm1 fabs floor i0 imag isfinite isinf isnan isneginf isposinf isreal log log10 log1p log2 logical_not nan_to_num "
    "negative rad2deg real reciprocal round sign signbit sin sinc sinh sqrt square tan tanh trunc"
).split()
UNARY_INTEGER = "bitwise_invert bitwise_not".split()
BINARY = (
    "add arctan2 divide divide_no_nan equal floor_divide fmax fmin fmod greater greater_equal heaviside hypot isclose "
    "allclose less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor maximum minimum mod multiply nextafter "
    "not_equal power subtract true_divide"
).split()
BINARY_INTEGER = (
    "bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor gcd lcm left_shift right_shift"
).split()
REDUCTIONS = "all amax amin any max mean median min prod ptp std sum var".split()
NAN_REDUCTIONS = "nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar".split()
STACKS = "concatenate dstack hstack stack vstack".split()


def _reductions(x):
    return [case(x), case(x, axis=-1, keepdims=True), case(x, axis=(0, 1))]


CASES = {
    **{name: [case(MIXED)] for name in UNARY},
    **{name: [case(I)] for name in UNARY_INTEGER},
    **{name: [case(MIXED, OTHERS), case(2.5, MIXED)] for name in BINARY},
    **{name: [case(I, J), case(I, 2)] for name in BINARY_INTEGER},
    **{name: _reductions(A) for name in REDUCTIONS},
    **{name: _reductions(NAN) for name in NAN_REDUCTIONS},
    **{name: [case([A, B]), case([V, W, V])] for name in STACKS},
    "add": [case(A, B), case(T, ROW), case(A, 2.5), case(2.5, A), case(I, 2), case(A, [1, 2, 3, 4]), case(A, I)],
    "append": [case(A, B), case(A, B, axis=0), case(T, T, axis=-1)],
    "arange": [case(5), case(1.0, 3.0), case(1, 8, 2), case(0, 1, 0.25), case(5, dtype="float16"), case(np.int16(4))],
    "argmax": [case(A), case(A, axis=0), case(T, axis=-1, keepdims=True)],
    "argmin": [case(A), case(A, axis=0), case(T, axis=-1, keepdims=True)],
    "argpartition": [case(V, 2), case(A, 1), case(A, 2, axis=0), case(A, 5, axis=None)],
    "argsort": [case(V), case(A), case(A, axis=0), case(np.float32(3.0))],
    "array": [case([1, 2]), case([[1.0, 2.0]]), case(A, dtype="int32"), case(True), case(2.5), case(A)],
    "array_split": [case(A, 2), case(A, 3, axis=1), case(T, 2, axis=-1)],
    "average": [case(A), case(A, axis=1), case(A, axis=0, weights=np.float32([1, 2, 3])), case(A, weights=POSITIVE)],
    "bartlett": [case(7), case(1)],
    "bincount": [
        case(np.int32([1, 1, 3])), case(np.int32([[1, 2], [0, 2]])), case(np.int32([1, 3]), minlength=6),
        case(np.int32([1, 3, 1]), weights=np.float32([0.5, 1.0, 2.0])),
        case(np.int32([[1, 3], [0, 1]]), weights=np.float32([[0.5, 1.0], [2.0, 3.0]]), minlength=5),
    ],
    "blackman": [case(7), case(1)],
    "broadcast_to": [case(ROW, (3, 4)), case(COLUMN, (2, 3, 4)), case(A, (3, 4))],
    "clip": [case(A, -1.0, 1.0), case(A, None, 1.0), case(I, 1, 3), case(I, 0.5, 3), case(A, V, 2.0), case(TRUTH, 0, 1)],
    "concatenate": [case([A, B]), case([A, COLUMN], axis=1), case([V, V, W], axis=-1), case([A, I]), case((T, T), axis=1)],
    "corrcoef": [case(A), case(V)],
    "correlate": [case(V, W), case(floats(6), V, mode="full"), case(floats(6), V, mode="same")],
    "count_nonzero": [case(I), case(I, axis=0), case(I, axis=(0, 1))],
    "cross": [case(U, U), case(floats(4, 2), floats(4, 2)), case(A, B, axis=0), case(A, B, axisa=0, axisb=0, axisc=0)],
    "cumprod": [case(A), case(A, axis=1), case(I, axis=0, dtype="float32")],
    "cumsum": [case(A), case(A, axis=1), case(I, axis=0, dtype="float32")],
    "diag": [case(A), case(V), case(V, k=1), case(A, k=-1)],
    "diagflat": [case(V), case(A, k=1)],
    "diagonal": [case(A), case(T, offset=1, axis1=1, axis2=2), case(T, 0, -1, 0)],
    "diff": [case(V), case(T, n=2), case(A, axis=0), case(TRUTH)],
    "digitize": [case(A, np.float32([-1, 0, 2]))],
    "dot": [case(V, W), case(A, ROW), case(A, U), case(A, 2.0), case(SQUARE, SQUARE)],
    "dsplit": [case(T, 2), case(T, [1, 3])],
    "einsum": [
        case("ij,kj->ik", A, B), case("bij,bjk->bik", T, U), case("...i,i", T, ROW), case("ii", SQUARE), case("ij->j", I),
        case("i,i->", np.int8([100, 100]), np.int8([100, 100])),
    ],
    "empty": [case((2, 3)), case(4, dtype="int32")],
    "empty_like": [case(A), case(I), case(A, dtype="int32")],
    "expand_dims": [case(A, 0), case(A, -1), case(A, (0, 2))],
    "eye": [case(3), case(3, 4), case(3, k=1, dtype="int32"), case(2, M=3, k=-1)],
    "flip": [case(A), case(A, axis=0), case(T, axis=(0, 2))],
    "fliplr": [case(A), case(T)],
    "flipud": [case(A), case(V)],
    "full": [case((2, 3), 2), case((2, 3), 2, dtype="int32"), case(4, 2.5), case((3, 4), ROW)],
    "full_like": [case(A, 2), case(A, 2.5, dtype="int32"), case(A, ROW)],
    "geomspace": [case(1.0, 8.0, num=4), case(1, 1000, num=4, dtype="int32"), case(POSITIVE, POSITIVE + 1, num=3, endpoint=False, axis=-1)],
    "get_item": [
        case(T, 1), case(T, (slice(None), 0)), case(T, (Ellipsis, None, -1)), case(T, slice(None, None, -1)),
        case(T, (slice(None), np.int32([0, 2]))), case(T, (0, slice(1), None, slice(0, 4, 2))), case(T, np.int32([1, 0, 1])),
    ],
    "hamming": [case(7), case(1)],
    "hanning": [case(7), case(1)],
    "histogram": [case(V), case(floats(9), bins=4), case(floats(9), bins=3, range=(-1.0, 2.0)), case(integers(9), bins=3)],
    "hsplit": [case(A, 2), case(V, 4), case(T, [1])],
    "identity": [case(3), case(2, dtype="int32")],
    "inner": [case(V, W), case(A, B), case(A, 2.0)],
    "power": [case(POSITIVE, B), case(A, 2), case(A, 3.0), case(I, 2), case(2, I), case(A, I)],
    "isclose": [case(A, A + 1e-6), case(A, B, rtol=1.0), case(NAN, NAN, equal_nan=True), case(A, B, atol=2.0)],
    "allclose": [case(A, A + 1e-6), case(A, B, rtol=1.0), case(NAN, NAN, equal_nan=True), case(A, B, atol=9.0)],
    "isin": [case(I, J), case(I, np.int32([1, 2]), invert=True), case(V, W, assume_unique=True)],
    "kaiser": [case(7, 2.0), case(5, 14)],
    "kron": [case(A, SQUARE), case(V, A)],
    "ldexp": [case(A, I), case(V, np.int32(3))],
    "linspace": [
        case(0.0, 1.0, num=5), case(0, 10, num=4, endpoint=False), case(0, 10, num=5, dtype="int32"),
        case(A, B, num=3, axis=1), case(V, W, num=3, retstep=True), case(0, 1),
    ],
    "logspace": [case(0.0, 2.0, num=3), case(0, 3, num=4, base=2, dtype="int32"), case(V, W, num=3, axis=1, endpoint=False)],
    "matmul": [
        case(A, U), case(A, ROW), case(V, W), case(T, U), case(np.int8([[100, 100]]), np.int8([[100], [100]])),
    ],
    "max": [*_reductions(A), case(A, initial=5.0, axis=0)],
    "meshgrid": [case(V, floats(3)), case(V, floats(3), floats(2), indexing="ij")],
    "min": [*_reductions(A), case(A, initial=-5.0, axis=0)],
    "moveaxis": [case(T, 0, -1), case(T, (0, 1), (2, 0))],
    "nan_to_num": [case(SPECIAL), case(SPECIAL, nan=1.0, posinf=2.0, neginf=-2.0)],
    "nanargmax": [case(NAN), case(NAN, axis=1), case(NAN, axis=0, keepdims=True)],
    "nanargmin": [case(NAN), case(NAN, axis=1), case(NAN, axis=0, keepdims=True)],
    "nancumprod": [case(NAN), case(NAN, axis=1), case(I, axis=0, dtype="float32")],
    "nancumsum": [case(NAN), case(NAN, axis=1), case(I, axis=0, dtype="float32")],
    "nanpercentile": [case(NAN, 30.0), case(NAN, 50, axis=0), case(NAN, 20.0, axis=1, method="nearest", keepdims=True)],
    "nanquantile": [case(NAN, 0.3), case(NAN, 0.5, axis=0), case(NAN, 0.2, axis=1, method="lower", keepdims=True)],
    "ndim": [case(A), case(2.0), case([[1, 2]])],
    "nonzero": [case(I), case(V)],
    "ones": [case((2, 3)), case(4, dtype="int32")],
    "ones_like": [case(A), case(I), case(A, dtype="int32")],
    "outer": [case(V, W), case(A, V)],
    "pad": [
        case(A, 1), case(A, (1, 2)), case(A, ((1, 0), (0, 2))), case(A, [[1], [2]]), case(A, 1, constant_values=2.5),
        case(A, ((1, 1), (2, 2)), mode="reflect"), case(A, 1, mode="edge"),
    ],
    "percentile": [case(A, 30.0), case(A, 50, axis=0), case(A, np.float32([20, 80]), axis=1, keepdims=True)],
    "prod": [*_reductions(A), case(I, axis=0, dtype="float32")],
    "quantile": [
        case(A, 0.3), case(A, 0.5, axis=0), case(A, np.float32([0.2, 0.8]), axis=1, keepdims=True), case(T, 0.4, axis=(0, 1)),
        *(case(A, 0.3, axis=1, method=method) for method in ("lower", "higher", "midpoint", "nearest")),
    ],
    "ravel": [case(A), case(T)],
    "repeat": [case(A, 2), case(A, 2, axis=1), case(A, repeats=np.int32([1, 2, 0]), axis=0)],
    "reshape": [case(A, (4, 3)), case(A, (2, -1)), case(A, -1), case(T, (2, 12)), case(A, 12)],
    "roll": [case(A, 1), case(A, -2, axis=1), case(T, (1, 2), axis=(0, 2))],
    "rot90": [case(A), case(A, k=3), case(T, axes=(1, 2))],
    "round": [case(A), case(A, 1), case(A, decimals=-1), case(I * 17, -1), case(I, 1), case(SPECIAL)],
    "searchsorted": [case(np.sort(V), A), case(np.sort(V), W, side="right")],
    "select": [case([A > 1, A < -1], [A, B]), case([TRUTH], [A], default=2.5), case([TRUTH, A > 9], [I, J], default=7)],
    "size": [case(A), case(2.0)],
    "slogdet": [case(SQUARE), case(SQUARES)],
    "sort": [case(V), case(A), case(A, axis=0)],
    "split": [case(A, 2, axis=1), case(A, 3), case(T, [1, 3], axis=-1)],
    "squeeze": [case(COLUMN), case(floats(1, 3, 1)), case(floats(1, 3, 1), axis=0), case(floats(1, 3, 1), axis=(0, 2))],
    "stack": [case([A, B]), case([A, B], axis=1), case([V, W, V], axis=-1), case([A, I])],
    "swapaxes": [case(T, 0, 2), case(A, -1, 0)],
    "take": [case(A, np.int32([0, 5])), case(A, np.int32([[0, 2]]), axis=1), case(A, 1, axis=0)],
    "take_along_axis": [case(A, np.int32([[1], [0], [3]]), axis=1), case(A, np.int32([3, 7])), case(A, np.int32([[0, 1, 2, 0]]), axis=0)],
    "tensordot": [case(A, floats(4, 2), axes=1), case(T, U, axes=([1, 2], [2, 1])), case(A, B), case(V, A, axes=0)],
    "tile": [case(A, 2), case(A, (2, 1)), case(V, (3, 1, 2))],
    "trace": [case(A), case(A, offset=1), case(T, axis1=1, axis2=2)],
    "transpose": [case(A), case(T), case(T, (1, 0, 2)), case(T, axes=(2, 0, 1))],
    "trapezoid": [case(A), case(A, dx=0.5, axis=0), case(A, x=np.float32([0, 1, 3, 4]))],
    "tri": [case(3), case(3, 4), case(3, k=1, dtype="int32"), case(2, M=3, k=-1)],
    "tril": [case(A), case(T, k=1), case(A, -1)],
    "triu": [case(A), case(T, k=1), case(A, -1)],
    "unique": [
        case(I), case(I, axis=0), case(I, return_index=True, return_inverse=True, return_counts=True), case(NAN),
        case(I, size=7, fill_value=-1), case(I, size=2),
    ],
    "unravel_index": [case(np.int32([1, 5, 11]), (3, 4)), case(7, (2, 3, 4))],
    "vander": [case(V), case(V, N=3), case(V, 2, increasing=True)],
    "vdot": [case(V, W), case(A, B), case(COMPLEX, COMPLEX)],
    "vectorize": [case(lambda x, y: x + 2 * y), case(np.vdot, signature="(n),(n)->()")],
    "view": [case(A, dtype="int32"), case(A, dtype="int16"), case(I, dtype="float32"), case(A, dtype="uint8")],
    "vsplit": [case(A, 3), case(U, [1])],
    "where": [case(TRUTH, A, B), case(TRUTH, 2.5, A), case(TRUTH, I, 0), case(COLUMN > 0, A, 1), case(I), case(TRUTH, A, J)],
    "zeros": [case((2, 3)), case(4, dtype="int32")],
    "zeros_like": [case(A), case(I), case(A, dtype="int32")],
}  # fmt: skip

for _name in ("abs", "absolute", "angle", "conj", "conjugate", "imag", "isreal", "real", "exp", "square", "sqrt"):
    CASES[_name].append(case(COMPLEX))
for _name in ("add", "multiply", "divide", "power", "matmul"):
    CASES[_name].append(case(COMPLEX, COMPLEX.T if _name == "matmul" else COMPLEX))
