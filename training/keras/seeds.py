"""The seed of the whole program, from which layers and trainers take their random keys."""

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from flaxmodels import initializers
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import builds
from flaxmodels.layers.attention import AdditiveAttention, GroupQueryAttention, MultiHeadAttention, ScoredAttention
from flaxmodels.layers.base import Layer
from flaxmodels.layers.cells import GRUCell, LSTMCell, SimpleRNNCell
from flaxmodels.layers.conv_recurrent import ConvLSTM
from flaxmodels.layers.normalization import SpectralNormalization
from flaxmodels.layers.recurrent import GRU, LSTM, SimpleRNN
from flaxmodels.layers.regularization import (
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout,
    SpatialDropout1D,
)
from flaxmodels.random import set_shared_seed
from training.keras import naming

DROPOUTS = (AlphaDropout, Dropout, GaussianDropout, SpatialDropout, SpatialDropout1D)
BUILT = "built"  # among the seeds of a layer: that those of its build are drawn


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
    set_shared_seed(None)  # Python's generator, whose seed is set, chooses it when it is needed
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


def seeds_of_arguments(layer: Any, is_copied: bool = False) -> dict[str, int]:
    """Returns a seed for each argument of a layer that is a random initializer without one.

    Keras draws these seeds from Python's generator when a layer is made. The same draws in the same order give the same
    initial weights, bit for bit, after the same `set_random_seed`.

    Args:
        layer: The layer.
        is_copied: Whether Keras makes the layer from the configuration of another one, such as a direction of an RNN.
    """
    drawn: dict[str, int] = {}
    if isinstance(layer, SimpleRNN | SimpleRNNCell | ConvLSTM):
        _draw_for_training(layer)
    for field in dataclasses.fields(layer):
        value = vars(layer).get(field.name)
        if field.name.endswith("_initializer") and value is not None:
            draw_for(drawn, field.name, value, is_copied)
    if (
        isinstance(layer, LSTM | GRU | LSTMCell | GRUCell)
        or (isinstance(layer, DROPOUTS) and layer.rate > 0)
        or (isinstance(layer, GaussianNoise) and layer.stddev > 0)
        or (isinstance(layer, ScoredAttention) and layer.dropout > 0)
    ):
        _draw_for_training(layer)
    return drawn


def draw_at_build(layer: object) -> None:
    """Draws the seeds that Keras draws when a layer is built, unless they are drawn: those of projections of attention.

    Args:
        layer: A layer with `_seeds`, which get the new ones.
    """
    drawn = layer.__dict__.get("_seeds")
    if drawn is None or drawn.get(BUILT):
        return
    if isinstance(layer, AdditiveAttention) and layer.use_scale:
        draw_for(drawn, "scale_initializer", layer.scale_initializer)
    elif isinstance(layer, MultiHeadAttention | GroupQueryAttention):
        for name, _ in layer.children():
            if name == "attention_output" and layer.dropout > 0:
                _draw_for_training(layer)
            for argument in ("kernel_initializer", "bias_initializer"):
                draw_for(drawn, f"{name}/{argument}", vars(layer)[argument], is_copied=True)
    elif isinstance(layer, SpectralNormalization):
        draw_for(drawn, "vector_u_initializer", layer.argument("vector_u", "initializer"))
    else:
        return
    drawn[BUILT] = 1


def draw_for(drawn: dict[str, int], argument: str, initializer: InitializerLike, is_copied: bool = False) -> None:
    """Draws the seed of a random initializer that has none.

    Args:
        drawn: The seeds of the layer, which get the new one.
        argument: The name of the argument.
        initializer: The initializer or its name.
        is_copied: Whether Keras makes a copy of the initializer, which draws again if the user gave no seed.
    """
    found = initializers.get(initializer)
    seed: object = getattr(found, "seed", 0)
    if is_copied and hasattr(found, "seed"):
        seed = getattr(found, "given_seed", seed)
    if seed is None:
        drawn[argument] = draw()


def _draw_for_training(layer: Layer) -> None:
    """Draws the seed that Keras draws for the random numbers of a layer in training, if it has none."""
    if getattr(layer, "seed", None) is None:
        draw()


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Undoes the seeds and automatic names that are drawn inside, where a layer is called more often than in Keras."""
    state, taken = random.getstate(), _Global.taken
    try:
        with naming.undone():
            yield
    finally:
        random.setstate(state)
        _Global.taken = taken


builds.undoing_draws[0] = undone


def draw() -> int:
    """Returns a seed as Keras draws it, from Python's generator."""
    return random.randint(1, int(1e9))
