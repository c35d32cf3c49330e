"""Losses and metrics of a model: hand-computed values, names in the logs, and complete error messages."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers
from training.forward import Outputs
from training.objective import Objective
from training.state import Batch


def refuses(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def line():
    return Sequential([layers.Dense(1, input_shape=(1,))])


def two_outputs():
    x = Input((2,))
    return Model(x, [layers.Dense(1, name="a")(x), layers.Dense(3, name="b")(x)])


X, Y = jnp.ones((3, 1)), jnp.array([[0.0], [1.0], [3.0]])


def test_loss_and_metrics_match_hand_computed_values():
    objective = Objective.of(line(), Batch(X, Y), loss="mse", metrics=["mae"])
    outputs = Outputs(jnp.array([[1.0], [1.0], [1.0]]), None, {}, (jnp.float32(0.5),))
    measured = objective.measure(Batch(X, Y), outputs)
    assert float(measured.loss) == pytest.approx((1 + 0 + 4) / 3 + 0.5)  # the penalties of the layers are included
    totals = objective.update(objective.update(objective.empty(), measured), measured)
    logs = objective.logs(totals)
    assert list(logs) == objective.log_names == ["loss", "mae"]
    assert float(logs["loss"]) == pytest.approx(5 / 3 + 0.5)
    assert float(logs["mae"]) == pytest.approx(1.0)


def test_padding_rows_and_weights_match_hand_computed_values():
    batch = Batch(X, Y, jnp.array([1.0, 2.0, 5.0]), jnp.array([True, True, False]))
    objective = Objective.of(line(), batch, loss="mse", weighted_metrics=["mae"])
    measured = objective.measure(batch, Outputs(jnp.array([[2.0], [2.0], [9.0]]), None, {}, (jnp.float32(0),)))
    assert float(measured.loss) == pytest.approx((1 * 4 + 2 * 1) / 2)  # weighted losses, divided by the examples
    assert float(measured.rows) == 2
    logs = objective.logs(objective.update(objective.empty(), measured))
    assert float(logs["mae"]) == pytest.approx((1 * 2 + 2 * 1) / 3)  # a weighted mean


def test_each_output_has_its_own_loss():
    y = {"a": jnp.zeros((2, 1)), "b": jnp.array([0, 2])}
    objective = Objective.of(
        two_outputs(),
        Batch(jnp.ones((2, 2)), y),
        loss={"a": "mse", "b": "sparse_categorical_crossentropy"},
        metrics={"b": ["accuracy"]},
        loss_weights={"a": 2.0},
    )
    assert objective.names == ("a", "b") and objective.shapes == ((1,), (3,))
    assert objective.log_names == ["loss", "a_loss", "b_loss", "b_accuracy"]
    values = [jnp.array([[1.0], [3.0]]), jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])]
    measured = objective.measure(Batch(jnp.ones((2, 2)), y), Outputs(values, None, {}, (jnp.float32(0),)))
    losses = {name: float(loss) for name, loss in measured.per_output_losses.items()}
    assert losses == pytest.approx({"a_loss": 5.0, "b_loss": -np.log(0.5)})
    assert float(measured.loss) == pytest.approx(2 * 5 - np.log(0.5))


def test_objectives_depend_only_on_shapes_and_dtypes():
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), Batch(X, Y))
    assert Objective.of(line(), batch, loss="mse") == Objective.of(line(), Batch(X, Y), loss="mse")


def test_class_indices_become_one_hot_if_the_loss_needs_it():
    model = Sequential([layers.Dense(3, activation="softmax")])
    batch = Batch(jnp.ones((2, 4)), jnp.array([2, 0]))
    objective = Objective.of(model, batch, loss="categorical_crossentropy", num_classes=3)
    assert objective.one_hot == (3,)
    np.testing.assert_array_equal(objective.labels(batch.y)[0], [[0, 0, 1], [1, 0, 0]])


def test_mistakes():
    with refuses(
        "mean_squared_error takes labels and predictions of the same shape, got `y` of shape (3, 2) and the "
        "output of shape (3, 1); reshape the labels, or change the number of units of the last layer."
    ):
        Objective.of(line(), Batch(X, jnp.ones((3, 2))), loss="mse")
    with refuses(
        "The keys of `loss` must be the model's outputs ['a', 'b'], got 'c'; use these names, or give a list in this "
        "order."
    ):
        Objective.of(two_outputs(), Batch(jnp.ones((2, 2)), [jnp.ones((2, 1))] * 2), loss={"c": "mse"})
    with refuses(
        "`y` must have one array for each of the model's outputs ['a', 'b'], got 1; give a list in this order, or a "
        "dictionary keyed by these names."
    ):
        Objective.of(two_outputs(), Batch(jnp.ones((2, 2)), jnp.ones((2, 1))), loss="mse")
