"""Random numbers of known keys, bit for bit those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import threefry
from tests.support.random_bits import assert_same_draws

KEYS = [jax.random.key(0), jax.random.key(2**32 - 1), jax.random.split(jax.random.key(7))[1]]
SHAPES = [(), (0, 3), (1,), (5, 7), (threefry.BLOCK + 1,)]


def truncated(key, shape):
    return jax.random.truncated_normal(key, -2.0, 2.0, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("ours", "of_jax"),
    [
        (threefry.uniform, jax.random.uniform),
        (threefry.normal, jax.random.normal),
        (threefry.truncated_normal, truncated),
    ],
)
def test_values_are_those_of_jax(ours, of_jax, shape):
    for key in KEYS:
        value = ours(key, shape)
        assert isinstance(value, jax.Array) and value.dtype == jnp.float32 and value.shape == shape
        assert_same_draws(value, of_jax(key, shape))


@pytest.mark.parametrize(("minval", "maxval"), [(-0.1, 0.1), (0.3, 0.30001), (-7, 1e6), (2.0, 2.0)])
def test_bounds_round_like_those_of_jax(minval, maxval):
    for key in KEYS:
        expected = jax.random.uniform(key, (1000,), minval=minval, maxval=maxval)
        np.testing.assert_array_equal(threefry.uniform(key, (1000,), jnp.float32, minval, maxval), expected)


@pytest.mark.parametrize("n", [0, 1, 2, 30, threefry.BLOCK + 5])
def test_permutations_are_those_of_jax(n):
    for key in KEYS:
        np.testing.assert_array_equal(threefry.permutation(key, n), jax.random.permutation(key, n))


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_keys_are_those_of_jax(number):
    for key in KEYS:
        assert threefry.fold_in(key, number) == jax.random.fold_in(key, np.uint32(number))


def test_equal_bits_keep_their_order_in_a_round(monkeypatch):
    monkeypatch.setattr(threefry, "_bits", lambda words, size: np.zeros(size, np.uint32))
    assert threefry.permutation(KEYS[0], 50).tolist() == list(range(50))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_keys_and_dtypes_are_drawn_by_jax(impl):
    key = jax.random.key(3, impl=impl)
    np.testing.assert_array_equal(threefry.normal(key, (3,)), jax.random.normal(key, (3,)))
    np.testing.assert_array_equal(threefry.permutation(key, 9), jax.random.permutation(key, 9))
    assert threefry.fold_in(key, 2) == jax.random.fold_in(key, 2)
    half = threefry.uniform(KEYS[0], (3,), jnp.bfloat16)
    np.testing.assert_array_equal(half, jax.random.uniform(KEYS[0], (3,), jnp.bfloat16))
    raw = jax.random.PRNGKey(5)
    np.testing.assert_array_equal(threefry.truncated_normal(raw, (4,)), truncated(raw, (4,)))
    np.testing.assert_array_equal(threefry.fold_in(raw, 1), jax.random.fold_in(raw, 1))


def test_bits_that_are_not_partitioned_are_drawn_by_jax():
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(threefry.uniform(KEYS[0], (5,)), jax.random.uniform(KEYS[0], (5,)))
        np.testing.assert_array_equal(threefry.permutation(KEYS[0], 5), jax.random.permutation(KEYS[0], 5))


def test_traced_keys_give_the_same_values():
    for function in (threefry.uniform, threefry.normal, threefry.truncated_normal):
        traced = jax.jit(lambda key, f=function: f(key, (6,)))(KEYS[0])
        np.testing.assert_array_equal(traced, function(KEYS[0], (6,)))
    many = jax.vmap(lambda key: threefry.uniform(key, (2,)))(jax.random.split(KEYS[0], 3))
    np.testing.assert_array_equal(many[1], threefry.uniform(jax.random.split(KEYS[0], 3)[1], (2,)))
    assert jax.jit(lambda key: threefry.fold_in(key, 4))(KEYS[0]) == threefry.fold_in(KEYS[0], 4)
    np.testing.assert_array_equal(
        jax.jit(threefry.permutation, static_argnums=1)(KEYS[0], 9), threefry.permutation(KEYS[0], 9)
    )
