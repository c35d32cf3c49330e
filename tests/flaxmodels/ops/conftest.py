"""The tests of operations mix dtypes and ranks, as users do."""

import warnings

import jax
import pytest


@pytest.fixture(autouse=True)
def _jax_as_users_have_it():
    """Turns off the strict promotion of the other tests, and warnings of invalid values."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
