"""The state of an optimizer as the variables of Keras' optimizer. Files of models compare the values with Keras."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import optimizers
from training.optimizers import get_keras_variables, set_keras_variables

WEIGHTS = {("b", "kernel"): jnp.ones((3, 2)), ("a", "bias"): jnp.ones(2)}
PARAMS = {"a": {"bias": WEIGHTS["a", "bias"]}, "b": {"kernel": WEIGHTS["b", "kernel"]}}


def decay(step):
    return 0.5 / (1.0 + jnp.float32(step))


MADE = {
    "scheduled": optimizers.SGD(decay, momentum=0.9),
    "averaged": optimizers.Adam(0.1, use_ema=True, gradient_accumulation_steps=2, amsgrad=True),
    "adafactor": optimizers.Adafactor(),
    "nadam": optimizers.Nadam(),
    "muon": optimizers.Muon(),
    "scaled": optimizers.LossScaleOptimizer("adam"),
}
SHAPES = {
    "scheduled": [(), (3, 2), (2,)],
    "averaged": [(), ()] + [(3, 2), (2,)] * 2 + [(3, 2), (3, 2), (2,), (2,)] + [(3, 2), (2,)],
    "adafactor": [(), (), (3,), (2,), (3, 2), (), (), (2,)],
    "nadam": [(), (), (3, 2), (3, 2), (2,), (2,), ()],
    "muon": [(), (), (3, 2), (2,), (2,)],
    "scaled": [(), (), (), (), (), (), (3, 2), (3, 2), (2,), (2,)],
}


@pytest.mark.parametrize("name", MADE)
def test_variables_have_the_order_of_keras_and_restore_the_state(name):
    state = MADE[name].init(PARAMS)
    variables = get_keras_variables(state, WEIGHTS)
    assert [variable.shape for variable in variables] == SHAPES[name]
    changed = [np.full_like(variable, i + 1) for i, variable in enumerate(variables)]
    restored = set_keras_variables(state, WEIGHTS, changed)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for i, (new, given) in enumerate(zip(get_keras_variables(restored, WEIGHTS), changed, strict=True)):
        if (name, i) == ("adafactor", 4):  # the product of rows and columns, which Keras stores as well
            given = changed[2][:, None] / changed[2].mean() * changed[3]
        is_unused = (name, i) in {("adafactor", 5), ("adafactor", 6), ("scaled", 0), ("scaled", 1)}
        np.testing.assert_array_equal(new, np.zeros_like(given) if is_unused else given)
    updates, _ = MADE[name].update(PARAMS, restored, PARAMS)  # the state has the dtypes that the step expects
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (
            lambda: get_keras_variables(optax.adam(0.1).init(PARAMS), WEIGHTS),
            TypeError,
            "Keras has no variables for the state of this optimizer, got tuple; use an optimizer of "
            "training.optimizers.",
        ),
        (
            lambda: set_keras_variables(optimizers.Adam().init(PARAMS), WEIGHTS, [np.int32(1)]),
            ValueError,
            "The optimizer must have 6 variables for the trained weights, got 1; use the optimizer and the layers that "
            "were saved.",
        ),
        (
            lambda: set_keras_variables(optimizers.SGD().init(PARAMS), WEIGHTS, [np.int32(1), np.ones(3)]),
            ValueError,
            "A variable of the optimizer must have shape (), got (3,); use the layers that were saved.",
        ),
    ],
    ids=["optax", "count", "shape"],
)
def test_states_that_do_not_fit_are_refused(call, kind, sentence):
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        call()
