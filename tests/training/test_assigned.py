"""Variables that layers assign outside of training."""

import jax.numpy as jnp
import numpy as np

from flaxmodels import Input, Sequential, layers
from training import Trainer
from training.assigned import changed_by, changes, may_assign, merged


class Total(layers.Layer):
    """Returns the sum of all rows so far."""

    def build(self, shape):
        self.total = self.add_weight(shape=(shape[-1],), initializer="zeros", trainable=False, name="total")

    def call(self, x):
        self.total.assign_add(jnp.sum(x, axis=0))
        return x + self.total[None]


def test_only_custom_classes_and_stateful_layers_may_assign():
    assert [may_assign(layer) for layer in (Total(), layers.BatchNormalization(), layers.LSTM(2))] == [
        True,
        False,
        False,
    ]
    assert may_assign(Sequential([Input((4, 3)), layers.GRU(2, stateful=True)]))


def test_changes_are_the_leaves_that_are_other_arrays():
    a, b = jnp.zeros(2), jnp.ones(2)
    before = {"params": {"dense": {"kernel": a}}, "batch_stats": {"mean": a}}
    after = {"params": {"dense": {"kernel": a}}, "batch_stats": {"mean": b}}
    changed = changes(before, after)
    assert list(changed) == ["batch_stats"] and changed["batch_stats"]["mean"] is b
    assert merged(before, changed)["params"]["dense"]["kernel"] is a
    assert merged(before, {}) is before
    assert list(changed_by(lambda v: merged(v, {"batch_stats": {"mean": v["batch_stats"]["mean"] + 1}}), before)) == [
        "batch_stats"
    ]


def test_a_trainer_keeps_the_state_that_a_custom_layer_assigns():
    x = np.arange(10, dtype="float32").reshape(5, 2)
    trainer = Trainer(Sequential([Input((2,)), Total()]), "sgd", "mse")
    sums = np.cumsum(x, axis=0)[[1, 1, 3, 3, 4]]
    np.testing.assert_array_equal(trainer.predict(x, batch_size=2), x + sums)
    total = trainer.evaluate(x, x, batch_size=5)["loss"]
    np.testing.assert_allclose(total, np.mean((2 * x.sum(axis=0)) ** 2), rtol=1e-6)
    np.testing.assert_array_equal(trainer.variables["batch_stats"]["total"]["total"], 2 * x.sum(axis=0))
