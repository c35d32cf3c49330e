"""Tests that the program checked by pyright also runs."""

import jax
import jax.numpy as jnp

from tests.typing import user_program


def test_user_program(tmp_path):
    assert user_program.layers_on_arrays().shape == (2, 3)
    assert user_program.sequences().shape == (2, 4)
    model = user_program.layers_on_symbols()
    x = jnp.ones((2, 8, 8, 1))
    outputs, _ = model.init_with_output(jax.random.key(0), [x, x])
    assert outputs.shape == (2, 1)
    assert set(user_program.train(str(tmp_path))) == {"loss", "accuracy", "sparse_top_k_categorical_accuracy"}
