"""Comparison of random values bit for bit."""

import jax
import numpy as np


def assert_same_draws(value, expected):
    """Checks that the bits are equal.

    Without XLA's usual optimizations, normal values depend on the shape they are computed in, by a few units in the
    last place.
    """
    value, expected = np.asarray(value), np.asarray(expected)
    if jax.config.read("jax_disable_most_optimizations") and value.dtype == np.float32:
        np.testing.assert_array_max_ulp(value, expected, 8)
    else:
        np.testing.assert_array_equal(value, expected)
