"""Pooling against loops and XLA: values, gradients at ties, infinities and NaN, transformations."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.kernels import native, pooling
from tests.support.spatial_oracle import loop_pool


def reference_avg_pool(x, window, strides, padding):
    ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    counts = pooling.reference_sum_pool(ones, window, strides, padding)
    return pooling.reference_sum_pool(x, window, strides, padding) / jnp.broadcast_to(
        counts, (x.shape[0], *counts.shape[1:-1], x.shape[-1])
    )


REDUCTIONS = {
    "max": (pooling.max_pool, pooling.reference_max_pool, np.max),
    "sum": (pooling.sum_pool, pooling.reference_sum_pool, np.sum),
    "avg": (pooling.avg_pool, reference_avg_pool, np.mean),
}
# Sizes, window, strides, padding: disjoint, overlapping and with gaps, odd sizes, window sizes with one and with several
# factors, windows larger than the inputs.
CASES = [
    ((6, 4), (2, 2), (2, 2), "valid"),
    ((7, 5), (2, 2), (2, 2), "valid"),
    ((7, 5), (2, 2), (2, 2), "same"),
    ((7, 6), (3, 3), (2, 2), "same"),
    ((7, 6), (3, 2), (1, 3), "valid"),
    ((9, 8), (4, 4), (4, 4), "same"),
    ((9, 9), (2, 2), (3, 4), "valid"),
    ((4, 7), (2, 2), (3, 3), "same"),
    ((4, 3), (6, 5), (1, 2), "same"),
    ((11,), (5,), (2,), "same"),
    ((40,), (12,), (4,), "valid"),
    ((25,), (16,), (1,), "same"),
    ((36,), (12,), (12,), "valid"),
    ((23,), (11,), (3,), "same"),
    ((50,), (38,), (2,), "valid"),
    ((4, 5, 4), (2, 2, 2), (2, 2, 2), "same"),
    ((4, 5, 4), (3, 2, 3), (1, 2, 2), "same"),
    ((3, 3), (1, 1), (1, 1), "valid"),
    ((5, 3), (1, 1), (2, 3), "valid"),
]


def with_gradient(op, x, *geometry):
    @jax.jit
    def both(x):
        y, vjp = jax.vjp(lambda x: op(x, *geometry), x)
        weights = np.random.default_rng(1).integers(1, 100, y.shape)
        return y, vjp(jnp.asarray(weights, y.dtype))[0]

    return both(x)


@pytest.mark.parametrize("sizes, window, strides, padding", CASES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_values_equal_the_loop_and_gradients_equal_xla(name, sizes, window, strides, padding):
    op, reference, reduce = REDUCTIONS[name]
    # Few different values, so that maxima are often equal.
    values = np.random.default_rng(0).integers(-2, 3, (2, *sizes, 3))
    with jax.enable_x64(True):
        x = jnp.asarray(values, jnp.float64)
        got = with_gradient(op, x, window, strides, padding)
        np.testing.assert_allclose(got[0], loop_pool(x, window, strides, padding, reduce), rtol=1e-12, atol=1e-12)
        for g, w in zip(got, with_gradient(reference, x, window, strides, padding), strict=True):
            assert g.shape == w.shape and g.dtype == w.dtype
            np.testing.assert_allclose(g, w, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
@pytest.mark.parametrize("channels", [8, 19])
@pytest.mark.parametrize("sizes, window, strides, padding", CASES)
def test_the_kernel_in_c_equals_the_loop_and_its_gradient_equals_xla(sizes, window, strides, padding, channels):
    values = np.random.default_rng(0).integers(-2, 3, (3, *sizes, channels))
    x, geometry = jnp.asarray(values, jnp.float32), (window, strides, padding)
    assert native.prefix() in jax.jit(lambda x: pooling.max_pool(x, *geometry)).lower(x).as_text()
    got = with_gradient(pooling.max_pool, x, *geometry)
    np.testing.assert_array_equal(got[0], loop_pool(x, *geometry, np.max))
    for g, w in zip(got, with_gradient(pooling.reference_max_pool, x, *geometry), strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
def test_the_kernel_in_c_under_transformations_and_with_nan():
    x = jnp.asarray(np.random.default_rng(0).permutation(3 * 2 * 5 * 4 * 8).reshape(3, 2, 5, 4, 8) / 100, jnp.float32)
    op, reference = (lambda x, f=f: jnp.sum(f(x, (2, 2), (2, 1), "same") ** 3) for f in REDUCTIONS["max"][:2])
    same = partial(np.testing.assert_allclose, rtol=1e-5)
    same(jax.vmap(jax.grad(op))(x), jnp.stack([jax.grad(reference)(part) for part in x]))
    same(*(jax.jvp(jax.grad(f), (x[0],), (x[1],))[1] for f in (op, reference)))
    same(*(jnp.stack(jax.jvp(f, (x[0],), (x[1],))) for f in (op, reference)))
    holed = x[0].at[0, 1, 1].set(jnp.nan)
    y = pooling.max_pool(holed, (2, 2), (2, 2), "valid")
    assert jnp.isnan(y[0, 0, 0]).all() and jnp.isnan(y).sum() == 8


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
@pytest.mark.parametrize("window, stride", [(2, 2), (3, 2), (5, 1)])
def test_the_kernel_in_c_with_infinities_and_nan_anywhere(window, stride):
    values = np.random.default_rng(0).choice(
        [0, 1, -2, np.inf, -np.inf, np.nan], (2, 9, 8, 19), p=[0.3, 0.3, 0.28, *[0.04] * 3]
    )
    geometry = (window, window), (stride, stride), "same"
    got = pooling.max_pool(jnp.asarray(values, jnp.float32), *geometry)
    np.testing.assert_array_equal(got, loop_pool(values, *geometry, np.max))


def test_a_huge_window_reaches_over_the_edge():
    values = np.random.default_rng(0).permutation(66 * 3 * 8).reshape(1, 66, 3, 8)
    geometry = (1400, 3), (64, 1), "same"
    got = pooling.max_pool(jnp.asarray(values, jnp.float32), *geometry)
    np.testing.assert_array_equal(got, loop_pool(values, *geometry, np.max))


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = jnp.zeros((1, 4, 4, 1))
    dx = jax.grad(lambda x: pooling.max_pool(x, (2, 2), (2, 2), "valid").sum())(x)
    assert dx[0, ..., 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    dx = jax.grad(lambda x: pooling.max_pool(x, (3, 3), (1, 1), "valid").sum())(x)
    assert dx[0, ..., 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # The ones are at (0, 3) and (2, 0): row by row the first is (0, 3), column by column it would be (2, 0).
    x = jnp.zeros((1, 4, 4, 1)).at[0, [0, 2], [3, 0], 0].set(1)
    dx = jax.grad(lambda x: pooling.max_pool(x, (4, 4), (4, 4), "valid").sum())(x)
    assert dx[0, ..., 0].tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_padding_is_below_every_number_and_not_averaged():
    x = jnp.asarray([-3.0, -1.0, -2.0]).reshape(1, 3, 1)
    assert pooling.max_pool(x, (2,), (2,), "same").ravel().tolist() == [-1, -2]
    assert pooling.avg_pool(x, (2,), (2,), "same").ravel().tolist() == [-2, -2]
    assert pooling.sum_pool(x, (3,), (1,), "same").ravel().tolist() == [-4, -6, -3]
    assert pooling.max_pool(x.astype(jnp.int32), (2,), (2,), "same").ravel().tolist() == [-1, -2]


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_minus_infinity(padding, channels):
    x = jnp.full((1, 7, channels), -jnp.inf)
    got = with_gradient(pooling.max_pool, x, (3,), (1,), padding)
    want = with_gradient(pooling.reference_max_pool, x, (3,), (1,), padding)
    assert [g.tolist() for g in got] == [w.tolist() for w in want]


@pytest.mark.parametrize("window, stride", [(2, 2), (3, 1), (4, 4), (8, 2)])
def test_every_window_with_nan_is_nan(window, stride):
    x = jnp.arange(24.0).at[jnp.asarray([5, 6, 17])].set(jnp.nan).reshape(1, 24, 1)
    got, gradient = with_gradient(pooling.max_pool, x, (window,), (stride,), "same")
    np.testing.assert_array_equal(got, pooling.reference_max_pool(x, (window,), (stride,), "same"))
    # The gradient of a window goes to a NaN if there is one, otherwise to the maximum. No gradient is lost.
    weights = np.random.default_rng(1).integers(1, 100, got.shape).astype(np.float32)
    assert gradient.sum() == weights.sum()
    assert gradient.ravel()[jnp.asarray([5, 6, 17])].sum() == weights[np.isnan(got)].sum()


def test_half_precision_is_summed_in_float32():
    x = jnp.ones((1, 512, 1), jnp.bfloat16)
    assert pooling.avg_pool(x, (512,), (512,), "valid").item() == 1
    assert pooling.sum_pool(x, (512,), (512,), "valid").item() == 512
    for op in (pooling.max_pool, pooling.avg_pool, pooling.sum_pool):
        assert with_gradient(op, x, (4,), (2,), "same")[1].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", REDUCTIONS)
def test_transformations(name):
    op, reference, _ = REDUCTIONS[name]
    geometry = (3, 3), (2, 2), "same"
    rng = np.random.default_rng(0)
    x, along = (jnp.asarray(rng.standard_normal((4, 2, 6, 6, 2)), jnp.float32) for _ in range(2))
    flat = x.reshape(8, 6, 6, 2)
    np.testing.assert_array_equal(jax.vmap(lambda x: op(x, *geometry))(x), op(flat, *geometry).reshape(4, 2, 3, 3, 2))

    def cubes(op):
        gradient = jax.grad(lambda x: jnp.sum(op(x, *geometry) ** 3))
        return jax.jit(lambda x, v: jax.jvp(gradient, (x,), (v,)))(flat, along.reshape(flat.shape))

    for got, want in zip(cubes(op), cubes(reference), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    total = jax.jit(
        lambda x: jax.lax.scan(lambda sum, x: (sum + op(x, *geometry), None), op(x[0], *geometry), x[1:])[0]
    )
    np.testing.assert_allclose(total(x), sum(op(part, *geometry) for part in x), rtol=1e-5, atol=1e-5)
    shape = jax.eval_shape(lambda x: op(x, *geometry), jax.ShapeDtypeStruct((5, 7, 7, 2), jnp.float32))
    assert shape.shape == (5, 4, 4, 2)


def test_empty_batch():
    for op in (pooling.max_pool, pooling.avg_pool, pooling.sum_pool):
        y, dx = with_gradient(op, jnp.ones((0, 6, 6, 2)), (2, 2), (2, 2), "valid")
        assert y.shape == (0, 3, 3, 2) and dx.shape == (0, 6, 6, 2)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("window, strides", [((5, 5), (5, 5)), ((5, 2), (1, 1))])
def test_a_window_larger_than_the_inputs_has_no_outputs(name, window, strides):
    """Keras' operations return the same shape; the layers raise an error."""
    x, (pool, reference, _) = jnp.ones((2, 3, 3, 8)), REDUCTIONS[name]
    assert pool(x, window, strides, "valid").shape == reference(x, window, strides, "valid").shape
    assert 0 in pool(x, window, strides, "valid").shape
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(pool(x, window, strides, "valid")))(x), 0)


def test_gradients_use_select_and_scatter_only_for_large_primes():
    def lowered(window):
        gradient = jax.grad(lambda x: pooling.max_pool(x, (window,), (1,), "valid").sum())
        return jax.jit(gradient).lower(jnp.ones((1, 64, 1))).as_text()

    assert "select_and_scatter" not in lowered(16)
    assert "select_and_scatter" in lowered(17)


def test_unknown_padding():
    message = (
        "Unknown padding 'full'. Known: 'causal', 'same', 'valid'. Or pass a pair (before, after) per spatial axis."
    )
    for op in (pooling.max_pool, pooling.avg_pool, pooling.sum_pool):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            op(jnp.ones((1, 4, 1)), (2,), (2,), "full")
