"""Kernels in C refuse a call that they do not take, before they read any memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.kernels import native
from flaxmodels.kernels.native import Geometry

pytestmark = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")

PLANE = Geometry((5, 6), (3, 2), (2, 1), (1, 2))
GROUPS = PLANE._replace(groups=2)
POOLED = Geometry((5, 6), (2, 2), (1, 1), (1, 1))
# Windows that reach over the edge of the image.
OVER = Geometry((5, 6), (3, 3), (2, 2), (1, 1), pads=((1, 1), (0, 1)))
X, K, Y, Y2 = (2, 5, 6, 4), (3, 2, 4, 8), (2, *PLANE.places(), 8), (2, 2, 2, 8)
T, B, U, F = 3, 2, 5, 7
STATE, STEPS, MASK = (B, U), (T, B, U), (T, B)


def u8(*shape):
    return ("uint8", *shape)


# By kernel and case: shapes of the operands and the results, float32 unless they begin with a dtype, and the numbers.
CALLS = {
    "conv": ([X, K], [Y], PLANE.numbers(4, 8)),
    "conv groups": ([X, (3, 2, 2, 8), (8,)], [Y], GROUPS.numbers(4, 8, relu=True)),
    "conv pooled": ([X, (2, 2, 4, 8), (8,)], [Y2, u8(*Y2)], POOLED.numbers(4, 8, pooled=True)),
    "conv_data": ([Y, K], [X], PLANE.numbers(4, 8)),
    "conv_data relu": ([Y, K, Y], [X], PLANE.numbers(4, 8, relu=True)),
    "conv_data pooled": ([Y2, (2, 2, 4, 8), u8(*Y2)], [X], POOLED.numbers(4, 8, pooled=True)),
    "conv_kernel": ([X, Y], [K], PLANE.numbers(4, 8)),
    "conv_kernel relu": ([X, Y, Y], [K, (8,)], PLANE.numbers(4, 8, relu=True)),
    "conv_kernel pooled": ([X, Y2, u8(*Y2)], [(2, 2, 4, 8), (8,)], POOLED.numbers(4, 8, pooled=True)),
    "depthwise": ([X, (3, 3, 4)], [(2, *OVER.places(), 4)], OVER.numbers(4, 4)),
    "depthwise_data": ([(2, *OVER.places(), 4), (3, 3, 4)], [X], OVER.numbers(4, 4)),
    "depthwise_kernel": ([X, (2, *OVER.places(), 4)], [(3, 3, 4)], OVER.numbers(4, 4)),
    "pool_select": ([X, X], [(2, *OVER.places(), 4)], OVER.numbers(4, 0)),
    "pool_scatter": ([X, (2, *OVER.places(), 4)], [X], OVER.numbers(4, 0)),
    "recurrence lstm": (
        [(T, B, F), (F, 4 * U), (4 * U,), (U, 4 * U), (0,), STATE, STATE, u8(*MASK)],
        [STEPS, STEPS, (T, B, 4 * U)],
        [0, U, F, 1],
    ),
    "recurrence gru": (
        [(T, B, 3 * U), (0,), (3 * U,), (U, 3 * U), (3 * U,), STATE, (0,), u8(0, 0)],
        [STEPS, (0,), (0,)],
        [1, U, 0, 0],
    ),
    "recurrence simple": (
        [(T, B, F), (F, U), (U,), (U, U), (0,), STATE, (0,), u8(0, 0)],
        [STEPS, (0,), (0,)],
        [2, U, F, 1],
    ),
    "recurrence_back lstm": (
        [(T, B, 4 * U), STEPS, STEPS, STATE, STATE, STEPS, STATE, STATE, (U, 4 * U), u8(*MASK)],
        [(T, B, 4 * U), (0,), STATE, STATE],
        [0, U, 0, 1],
    ),
    "recurrence_back gru": (
        [(T, B, 4 * U), STEPS, (0,), STATE, (0,), STEPS, STATE, (0,), (U, 3 * U), u8(0, 0)],
        [(T, B, 3 * U), (T, B, 3 * U), STATE, (0,)],
        [1, U, 0, 1],
    ),
}


def typed(shape):
    dtype, *sizes = shape if shape and isinstance(shape[0], str) else ("float32", *shape)
    return jax.ShapeDtypeStruct(tuple(sizes), dtype)


def call(case, operands, results, **attributes):
    arrays = [jnp.ones(kind.shape, kind.dtype) for kind in operands]
    kernel = jax.ffi.ffi_call(f"{native.prefix()}_{case.split()[0]}", list(results))
    return jax.block_until_ready(kernel(*arrays, **attributes))


def refuses(case, operands, results, **attributes):
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="A kernel of flaxmodels got operands, results or numbers whose"
    ):
        call(case, operands, results, **attributes)


def replaced(kinds, i, kind):
    return [*kinds[:i], kind, *kinds[i + 1 :]]


def others(kind):
    """The same with another type, or with more or fewer elements."""
    bits = {"float32": "int32", "uint8": "int8"}[kind.dtype.name]
    longer = (*kind.shape[:-1], kind.shape[-1] + 1) if kind.size else (1,)
    found = [jax.ShapeDtypeStruct(kind.shape, bits), jax.ShapeDtypeStruct(longer, kind.dtype)]
    return [*found, *([jax.ShapeDtypeStruct((*kind.shape[:-1], kind.shape[-1] - 1), kind.dtype)] if kind.size else [])]


def parts(case):
    """The operands, the results and the numbers of a right call."""
    operands, results, numbers = CALLS[case]
    return list(map(typed, operands)), list(map(typed, results)), np.asarray(numbers, np.int64)


@pytest.mark.spread
@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_does_not_fit_is_refused(case):
    operands, results, numbers = parts(case)
    call(case, operands, results, numbers=numbers)
    refuses(case, operands[:1], results, numbers=numbers)
    refuses(case, operands, results, numbers=numbers[:-1])
    refuses(case, replaced(operands, 1, others(operands[1])[1]), results, numbers=numbers)
    refuses(case, operands, replaced(results, 0, others(results[0])[0]), numbers=numbers)


@pytest.mark.parametrize("case", CALLS)
def test_every_part_of_a_call_is_checked(case):
    operands, results, numbers = parts(case)
    for i, kind in enumerate(operands):
        for other in others(kind):
            refuses(case, replaced(operands, i, other), results, numbers=numbers)
    for i, kind in enumerate(results):
        for other in others(kind):
            refuses(case, operands, replaced(results, i, other), numbers=numbers)
    refuses(case, operands, [*results, typed((1,))] + ([typed((1,))] if "_kernel" in case else []), numbers=numbers)
    refuses(case, [*operands, typed((1,))], results, numbers=numbers)
    refuses(case, [], results, numbers=numbers)
    refuses(case, [jax.ShapeDtypeStruct((), kind.dtype) for kind in operands], results, numbers=numbers)
    refuses(case, operands, results)
    refuses(case, operands, results, numbers=np.append(numbers, 1))
    refuses(case, operands, results, numbers=numbers.astype(np.int32))
    refuses(case, operands, results, numbers=5)
    refuses(case, operands, results, numbers=numbers, more=numbers)


@pytest.mark.parametrize("case", CALLS)
def test_numbers_out_of_bounds_are_refused_and_others_never_read_beyond_memory(case):
    operands, results, right = parts(case)
    for i in range(len(right)):
        numbers = right.copy()
        for outside in (-1, 2**62):
            numbers[i] = outside
            refuses(case, operands, results, numbers=numbers)
        # What belongs together is computed, what does not is refused; neither ends the process.
        for near in (0, 1, 2, 3, 2**30):
            numbers[i] = near
            try:
                call(case, operands, results, numbers=numbers)
            except jax.errors.JaxRuntimeError as error:
                assert "A kernel of flaxmodels got" in str(error)


def test_windows_that_see_no_value_have_no_largest():
    places = 5
    for before in (2, 3):  # the first window of two lies before the image
        numbers = Geometry((1, 6), (1, 2), (1, 1), (1, 1)).numbers(4, 0)
        numbers[14], numbers[17] = places, before
        out = typed((2, 1, places, 4))
        refuses("pool_select", [typed((2, 1, 6, 4))] * 2, [out], numbers=np.asarray(numbers, np.int64))
