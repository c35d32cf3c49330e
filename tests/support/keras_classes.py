"""Classes written for Keras, made for the namespace of Keras or of this library, to compare the two."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

import flaxmodels as fm
from flaxmodels import interop
from flaxmodels.variables import Variable


def _on_values(function: Any) -> Any:
    """Returns a function of arrays that also takes variables, as the functions of `keras.ops` do."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*(arg.value if isinstance(arg, Variable) else arg for arg in args), **kwargs)

    return wrapper


OPS = {
    "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "cast": lambda x, dtype: jnp.asarray(x).astype(dtype), "shape": jnp.shape,
} | {
    name: getattr(jnp, name)
    for name in "matmul add mean sum square exp max maximum expand_dims concatenate stack abs ones zeros log tanh".split()
}  # fmt: skip

OURS = types.SimpleNamespace(
    layers=fm.layers,
    Model=fm.Model,
    Sequential=fm.Sequential,
    Input=fm.Input,
    ops=types.SimpleNamespace(**{name: _on_values(function) for name, function in OPS.items()}),
)
THEIRS = keras


def both(make: Any, seed: int = 0) -> tuple[Any, Any, list[np.ndarray]]:
    """Returns a built model of Keras, one of ours and equal weights for them; `make` takes the namespace."""
    theirs, ours = make(THEIRS), make(OURS)
    rng = np.random.default_rng(seed)
    weights = [_like(rng, weight) for weight in theirs.get_weights()]
    theirs.set_weights(weights)
    return theirs, ours, weights


def _like(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    return np.abs(rng.normal(0.1, 0.5, weight.shape)).astype(weight.dtype)


def variables_of(ours: Any, x: Any, weights: list[np.ndarray]) -> dict[str, Any]:
    """Returns the variables of our model with Keras' weights."""
    init = jax.jit(lambda: ours.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x))
    return interop.set_keras_weights(ours, init(), weights)
