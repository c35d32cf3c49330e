"""The seed of the whole program, from which layers and trainers take their random keys."""

import dataclasses
import random
from typing import Any

import jax
import numpy as np

from flaxmodels import initializers
from flaxmodels.layers.recurrent import GRU, LSTM, SimpleRNN
from flaxmodels.layers.regularization import AlphaDropout, Dropout, GaussianDropout, GaussianNoise
from flaxmodels.random import set_shared_seed


class _Global:
    """The seed and how many keys were taken from it."""

    seed: int | None = None
    taken = 0


def set_random_seed(seed: int) -> None:
    """Sets the seeds of Python, NumPy, `keras.random` and of the layers and trainers that are made from now on.

    Args:
        seed: An integer from 0 to 2**32 - 1.

    Raises:
        ValueError: If the seed is not such an integer.

    References:
        Keras, `keras.utils.set_random_seed`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be an integer from 0 to 2**32 - 1, got {seed!r}; give another one.")
    random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002 - as Keras does, for programs that use this generator
    set_shared_seed(int(seed))
    _Global.seed, _Global.taken = int(seed), 0


def next_seed() -> int:
    """Returns a new seed, determined by the one that was set and the number of calls since."""
    if _Global.seed is None:
        _Global.seed = int(np.random.default_rng().integers(2**31))
    _Global.taken += 1
    return int(np.random.SeedSequence([_Global.seed, _Global.taken]).generate_state(1)[0] % 2**31)


def next_key() -> jax.Array:
    """Returns a new random key."""
    return jax.random.key(next_seed())


def seeds_of_arguments(layer: Any) -> dict[str, int]:
    """Returns a seed for each argument of a layer that is a random initializer without one.

    Keras draws these seeds from Python's generator when a layer is made. The same draws in the same order give the same
    initial weights, bit for bit, after the same `set_random_seed`.
    """
    drawn: dict[str, int] = {}
    for field in dataclasses.fields(layer):
        value = vars(layer).get(field.name)
        if field.name.endswith("_initializer") and value is not None:
            made = initializers.get(value)
            if getattr(made, "seed", 0) is None:
                drawn[field.name] = _draw()
    # A layer that draws numbers in training gets a seed for them in Keras.
    if isinstance(layer, LSTM | GRU | SimpleRNN):
        _draw()
    elif isinstance(layer, Dropout | GaussianDropout | AlphaDropout) and layer.rate > 0:
        _draw()
    elif isinstance(layer, GaussianNoise) and layer.stddev > 0:
        _draw()
    return drawn


def _draw() -> int:
    return random.randint(1, int(1e9))
