"""Helpers of the model tests: small layers that reveal their inputs, shapes, and error matching."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.layers.base import Layer

KEY = jax.random.key(0)


def raises(kind, sentence):
    """Expects an error with exactly this sentence; notes, which are on separate lines, are ignored."""
    return pytest.raises(kind, match=f"^{re.escape(sentence)}(\n|$)")


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def abstract(module, *args):
    """Returns the shapes of a module's parameters."""
    return shapes(jax.eval_shape(module.init, KEY, *args).get("params", {}))


DENSE = {"bias": (2,), "kernel": (3, 2)}
X = jnp.arange(6.0).reshape(2, 3)


class Mode(Layer):
    """Adds `step` in training."""

    step: float = 1.0

    def compute(self, inputs, *, train=False):
        return inputs + self.step if train else inputs


class Steps(Layer):
    """Counts the unmasked steps, or returns -1 without a mask; passes the mask on."""

    SUPPORTS_MASKING = True

    def compute(self, inputs, *, mask=None):
        count = -jnp.ones(inputs.shape[:1]) if mask is None else mask.sum(1).astype(jnp.float32)
        return jnp.broadcast_to(jnp.expand_dims(count, range(1, inputs.ndim)), inputs.shape)


class Forget(Layer):
    """Returns the inputs without their mask."""

    def compute(self, inputs):
        return inputs


class SetUp(nn.Module):
    def setup(self):
        self.body = Sequential([Input((3,)), layers.Dense(2), Mode()])
        symbol, shared = Input((2,)), layers.Dense(2)
        self.head = Model(symbol, shared(shared(symbol)))

    def __call__(self, x, train=False):
        return self.head(self.body(x, train=train))
