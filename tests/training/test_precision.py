"""Training in half precision: float32 master weights, accuracy, and the loss scale of float16."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Trainer, optimizers
from training.forward import Outputs
from training.objective import Objective
from training.state import Batch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = (X[:, :3] @ np.array([1.0, -2.0, 0.5]) > 0).astype("int32")


def model():
    stack = [layers.Dense(16, activation="relu"), layers.BatchNormalization(), layers.Dense(2, activation="softmax")]
    return Sequential([Input((6,)), *stack])


def trained(precision, **arguments):
    trainer = Trainer(
        model(),
        optimizers.Adam(0.02),
        "sparse_categorical_crossentropy",
        ["accuracy"],
        precision=precision,
        **arguments,
    )
    return trainer, trainer.fit(X, Y, batch_size=16, epochs=8, verbose=0).history


# Float16 starts with a loss scale that overflows, so its first steps are skipped.
@pytest.mark.parametrize(("precision", "first"), [("mixed_bfloat16", 0), ("mixed_float16", 6)])
def test_half_precision_reaches_the_same_accuracy(precision, first):
    _, exact = trained(None)
    trainer, got = trained(precision)
    half = jnp.dtype(precision.removeprefix("mixed_"))
    assert trainer.predict(X).dtype == half  # computed in half precision
    assert {leaf.dtype for leaf in jax.tree.leaves(trainer.variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(got["loss"][first:], exact["loss"][first:], rtol=0.15 if first else 0.05)
    assert got["loss"] != exact["loss"] and got["accuracy"][-1] > 0.9


def test_float16_scales_the_loss():
    trainer, _ = trained("mixed_float16")
    assert optimizers.scales_loss(trainer.state.opt_state)
    trainer, _ = trained("mixed_bfloat16")
    assert not optimizers.scales_loss(trainer.state.opt_state)


def test_losses_and_metrics_are_computed_in_float32():
    """The mean loss has the precision of float32, not the 8 bits of bfloat16."""
    outputs = jnp.asarray(RNG.dirichlet([1, 1], 64), jnp.bfloat16)
    batch = Batch(jnp.asarray(X), jnp.asarray(Y))
    objective = Objective.of(model(), batch, loss="sparse_categorical_crossentropy")
    loss = objective.measure(batch, Outputs(outputs, None, {}, ())).loss
    exact = np.asarray(outputs, np.float64)
    exact /= exact.sum(-1, keepdims=True)
    assert float(loss) == pytest.approx(-np.log(exact[np.arange(64), Y]).mean(), rel=1e-5)


def test_invalid_precisions_are_rejected():
    sentence = "`precision` must be 'mixed_bfloat16', 'mixed_float16' or None, got 'bfloat16'; use one of them."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Trainer(model(), precision="bfloat16")

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    sentence = "`precision` sets the `dtype` of a model, but Own has none; set the dtype of its layers."
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        Trainer(Own(), precision="mixed_bfloat16")
