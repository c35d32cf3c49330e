"""C kernels refuse calls that do not fit, in Python and again in C before they read any memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.kernels import native
from flaxmodels.kernels.native import Geometry
from flaxmodels.kernels.native.registry import KERNELS

pytestmark = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")

PLANE = Geometry((5, 6), (3, 2), (2, 1), (1, 2))
GROUPS = PLANE._replace(groups=2)
POOLED = Geometry((5, 6), (2, 2), (1, 1), (1, 1))
# Windows that reach beyond the image.
OVER = Geometry((5, 6), (3, 3), (2, 2), (1, 1), pads=((1, 1), (0, 1)))
X, K, Y, Y2 = (2, 5, 6, 4), (3, 2, 4, 8), (2, *PLANE.output_sizes(), 8), (2, 2, 2, 8)
T, B, U, F = 3, 2, 5, 7
STATE, STEPS, MASK = (B, U), (T, B, U), (T, B)


def u8(*shape):
    return ("uint8", *shape)


def recurrent(cell_type, features, keep_residuals):
    return {"cell_type": cell_type, "units": U, "features": features, "keep_residuals": keep_residuals}


# For each kernel and case: shapes of operands and results, float32 unless they start with a dtype, and attributes.
CALLS = {
    "conv": ([X, K], [Y], PLANE.attributes(4, 8)),
    "conv groups": ([X, (3, 2, 2, 8), (8,)], [Y], GROUPS.attributes(4, 8, relu=True)),
    "conv pooled": ([X, (2, 2, 4, 8), (8,)], [Y2, u8(*Y2)], POOLED.attributes(4, 8, pooled=True)),
    "conv_backward_input": ([Y, K], [X], PLANE.attributes(4, 8)),
    "conv_backward_input relu": ([Y, K, Y], [X], PLANE.attributes(4, 8, relu=True)),
    "conv_backward_input pooled": ([Y2, (2, 2, 4, 8), u8(*Y2)], [X], POOLED.attributes(4, 8, pooled=True)),
    "conv_backward_kernel": ([X, Y], [K], PLANE.attributes(4, 8)),
    "conv_backward_kernel relu": ([X, Y, Y], [K, (8,)], PLANE.attributes(4, 8, relu=True)),
    "conv_backward_kernel pooled": ([X, Y2, u8(*Y2)], [(2, 2, 4, 8), (8,)], POOLED.attributes(4, 8, pooled=True)),
    "depthwise": ([X, (3, 3, 4)], [(2, *OVER.output_sizes(), 4)], OVER.attributes(4, 4)),
    "depthwise_backward_input": ([(2, *OVER.output_sizes(), 4), (3, 3, 4)], [X], OVER.attributes(4, 4)),
    "depthwise_backward_kernel": ([X, (2, *OVER.output_sizes(), 4)], [(3, 3, 4)], OVER.attributes(4, 4)),
    "pool_select": ([X, X], [(2, *OVER.output_sizes(), 4)], OVER.attributes(4, 0)),
    "pool_scatter": ([X, (2, *OVER.output_sizes(), 4)], [X], OVER.attributes(4, 0)),
    "recurrence lstm": (
        [(T, B, F), (F, 4 * U), (4 * U,), (U, 4 * U), (0,), STATE, STATE, u8(*MASK)],
        [STEPS, STEPS, (T, B, 4 * U)],
        recurrent(0, F, 1),
    ),
    "recurrence gru": (
        [(T, B, 3 * U), (0,), (3 * U,), (U, 3 * U), (3 * U,), STATE, (0,), u8(0, 0)],
        [STEPS, (0,), (0,)],
        recurrent(1, 0, 0),
    ),
    "recurrence simple": (
        [(T, B, F), (F, U), (U,), (U, U), (0,), STATE, (0,), u8(0, 0)],
        [STEPS, (0,), (0,)],
        recurrent(2, F, 1),
    ),
    "recurrence_backward lstm": (
        [(T, B, 4 * U), STEPS, STEPS, STATE, STATE, STEPS, STATE, STATE, (U, 4 * U), u8(*MASK)],
        [(T, B, 4 * U), (0,), STATE, STATE],
        recurrent(0, 0, 1),
    ),
    "recurrence_backward gru": (
        [(T, B, 4 * U), STEPS, (0,), STATE, (0,), STEPS, STATE, (0,), (U, 3 * U), u8(0, 0)],
        [(T, B, 3 * U), (T, B, 3 * U), STATE, (0,)],
        recurrent(1, 0, 1),
    ),
}


def typed(shape):
    dtype, *sizes = shape if shape and isinstance(shape[0], str) else ("float32", *shape)
    return jax.ShapeDtypeStruct(tuple(sizes), dtype)


def name_of(case):
    return case.split()[0]


def call_c(case, operands, results, **attributes):
    """Calls the C function without the checks in Python."""
    arrays = [jnp.ones(spec.shape, spec.dtype) for spec in operands]
    kernel = jax.ffi.ffi_call(f"{native.prefix()}_{name_of(case)}", list(results))
    return jax.block_until_ready(kernel(*arrays, **attributes))


def refuses(case, operands, results, message=None, **attributes):
    message = message or f"{name_of(case)}'"
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: The .*{message}"):
        call_c(case, operands, results, **attributes)


def replaced(specs, i, spec):
    return [*specs[:i], spec, *specs[i + 1 :]]


def misfits(spec):
    """Returns specs with another dtype, and with more or fewer elements."""
    other = {"float32": "int32", "uint8": "int8"}[spec.dtype.name]
    longer = (*spec.shape[:-1], spec.shape[-1] + 1) if spec.size else (1,)
    found = [jax.ShapeDtypeStruct(spec.shape, other), jax.ShapeDtypeStruct(longer, spec.dtype)]
    return [*found, *([jax.ShapeDtypeStruct((*spec.shape[:-1], spec.shape[-1] - 1), spec.dtype)] if spec.size else [])]


def parts(case):
    """Returns the operands, the results and the packed attributes of a valid call."""
    operands, results, attributes = CALLS[case]
    packed = KERNELS[name_of(case)].pack_attributes(attributes)
    return list(map(typed, operands)), list(map(typed, results)), np.asarray(packed, np.int64)


SIZES = (
    "The kernel 'conv' got operands, results and attributes whose sizes do not fit together; call it through the "
    "functions in flaxmodels.kernels."
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda o, r, a: (o[:1], r, a), "The kernel 'conv' takes 2 to 3 operands, got 1."),
        (lambda o, r, a: (o * 2, r, a), "The kernel 'conv' takes 2 to 3 operands, got 4."),
        (lambda o, r, a: (o, r * 3, a), "The kernel 'conv' takes 1 to 2 results, got 3."),
        (
            lambda o, r, a: ([misfits(o[0])[0], o[1]], r, a),
            "The operand 'x' of the kernel 'conv' must have XLA's data type 11, got type 4.",
        ),
        (
            lambda o, r, a: ([o[0], typed((8,))], r, a),
            "The operand 'kernel' of the kernel 'conv' must have 3 to 5 axes, got 1.",
        ),
        (
            lambda o, r, a: (o, r, a[:-1]),
            "The kernel 'conv' takes one attribute, an array of 23 integers of type int64.",
        ),
        (
            lambda o, r, a: (o, r, np.append(a[:-1], -1)),
            "The attributes of the kernel 'conv' must lie between 0 and 2^30, got -1 at index 22.",
        ),
        (lambda o, r, a: ([misfits(o[0])[1], o[1]], r, a), SIZES),
    ],
)
def test_refusals_in_c_name_the_problem(change, sentence):
    operands, results, attributes = change(*parts("conv"))
    with pytest.raises(jax.errors.JaxRuntimeError) as error:
        call_c("conv", operands, results, attributes=attributes)
    assert sentence in str(error.value)


@pytest.mark.spread
@pytest.mark.parametrize("case", CALLS)
def test_valid_calls_pass_and_misfits_are_refused(case):
    operands, results, attributes = parts(case)
    call_c(case, operands, results, attributes=attributes)
    refuses(case, operands[:1], results, attributes=attributes)
    refuses(case, operands, results, attributes=attributes[:-1])
    refuses(case, replaced(operands, 1, misfits(operands[1])[1]), results, attributes=attributes)
    refuses(case, operands, replaced(results, 0, misfits(results[0])[0]), attributes=attributes)


@pytest.mark.parametrize("case", CALLS)
def test_every_part_of_a_call_is_checked_in_c(case):
    operands, results, attributes = parts(case)
    kernel = KERNELS[name_of(case)]
    for i, spec in enumerate(operands):
        for misfit in misfits(spec):
            refuses(case, replaced(operands, i, misfit), results, attributes=attributes)
    for i, spec in enumerate(results):
        for misfit in misfits(spec):
            refuses(case, operands, replaced(results, i, misfit), attributes=attributes)
    extra = [typed((1,))] * (1 + len(kernel.results) - len(results))
    refuses(case, operands, [*results, *extra], attributes=attributes)
    refuses(case, [*operands, typed((1,))], results, attributes=attributes)
    refuses(case, [], results, attributes=attributes)
    refuses(case, [jax.ShapeDtypeStruct((), spec.dtype) for spec in operands], results, attributes=attributes)
    refuses(case, operands, results)
    refuses(case, operands, results, attributes=np.append(attributes, 1))
    refuses(case, operands, results, attributes=attributes.astype(np.int32))
    refuses(case, operands, results, attributes=5)
    refuses(case, operands, results, attributes=attributes, more=attributes)


@pytest.mark.parametrize("case", CALLS)
def test_attributes_out_of_range_are_refused_and_others_never_read_beyond_memory(case):
    operands, results, valid = parts(case)
    for i in range(len(valid)):
        attributes = valid.copy()
        for outside in (-1, 2**62):
            attributes[i] = outside
            refuses(case, operands, results, attributes=attributes)
        # Values that fit together are computed, others are refused; neither kills the process.
        for candidate in (0, 1, 2, 3, 2**30):
            attributes[i] = candidate
            try:
                call_c(case, operands, results, attributes=attributes)
            except jax.errors.JaxRuntimeError as error:
                assert "whose sizes do not fit together" in str(error)


def test_pooling_windows_without_values_are_refused():
    positions = 5
    for before in (2, 3):  # the first window of two lies before the image
        attributes = Geometry((1, 6), (1, 2), (1, 1), (1, 1)).attributes(4, 0)
        attributes |= {"output_size": (1, 1, positions), "pad_before": (0, 0, before)}
        packed = np.asarray(KERNELS["pool_select"].pack_attributes(attributes), np.int64)
        refuses(
            "pool_select",
            [typed((2, 1, 6, 4))] * 2,
            [typed((2, 1, positions, 4))],
            "whose sizes do not fit together",
            attributes=packed,
        )
