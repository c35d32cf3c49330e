"""Layers that add noise in training, or a loss on what passes through."""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import regularizers
from flaxmodels.layers.base import Layer

SELU_LIMIT = -1.7580993408473766  # of selu(x) for large negative x


class Dropout(Layer):
    """Sets elements to 0 with probability `rate` in training, and scales the others by 1 / (1 - rate).

    Args:
        rate: The probability, from 0 to 1.
        noise_shape: Shape of the random choice, None where it is the inputs' size; a size of 1 lets one
            choice serve the whole axis.
        seed: Mixed into the "dropout" key; alone, it makes the same choice at every call.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `rate` is not between 0 and 1, `noise_shape` does not fit, or training has no key.

    References:
        Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014,
        https://jmlr.org/papers/v15/srivastava14a.html; Keras, `keras.layers.Dropout`.

    Example:
        >>> layer, x = Dropout(0.5), jnp.ones((1, 1000))
        >>> y = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
        >>> sorted(set(y[0].tolist())), bool(abs(y.mean() - 1) < 0.1)
        ([0.0, 2.0], True)
        >>> bool((layer.apply({}, x) == x).all())
        True
    """

    rate: float
    noise_shape: Any = None
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self)
        _check_noise_shape(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        shape = inputs.shape if self.noise_shape is None else _filled(self, self.noise_shape, inputs.shape)
        return dropout(noise_key(self, self.seed), inputs, self.rate, shape)


class SpatialDropout1D(Layer):
    """Sets whole channels of sequences to 0 with probability `rate` in training, and scales the others up.

    Args:
        rate: The probability, from 0 to 1.
        seed: Mixed into the "dropout" key; alone, it makes the same choice at every call.

    Shapes: x [B, T, C] -> the same.

    Raises:
        ValueError: If `rate` is not between 0 and 1, x has another rank, or training has no key.

    References:
        Tompson et al., Efficient Object Localization Using Convolutional Networks, 2014,
        https://arxiv.org/abs/1411.4280; Keras, `keras.layers.SpatialDropout1D`.

    Example:
        >>> y = SpatialDropout1D(0.5, seed=1).apply({}, jnp.ones((1, 3, 4)), train=True)
        >>> bool((y == y[:, :1]).all())
        True
    """

    rate: float
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        self.check_rank(inputs, "B T C")
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        return dropout(noise_key(self, self.seed), inputs, self.rate, _per_channel(inputs.shape, None))


class SpatialDropout2D(Layer):
    """Sets whole channels of images to 0 with probability `rate` in training, and scales the others up.

    Args:
        rate: The probability, from 0 to 1.
        data_format: "channels_last", the default, or "channels_first".
        seed: Mixed into the "dropout" key; alone, it makes the same choice at every call.

    Shapes: x [B, H, W, C], or [B, C, H, W] with channels first -> the same.

    Raises:
        ValueError: If an argument is wrong, x has another rank, or training has no key.

    References:
        Keras, `keras.layers.SpatialDropout2D`.

    Example:
        >>> SpatialDropout2D(0.5, seed=1).apply({}, jnp.ones((1, 3, 3, 4)), train=True).shape
        (1, 3, 3, 4)
    """

    rate: float
    data_format: str | None = None
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self)
        _check_data_format(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        self.check_rank(inputs, "B H W C")
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        return dropout(noise_key(self, self.seed), inputs, self.rate, _per_channel(inputs.shape, self.data_format))


class SpatialDropout3D(Layer):
    """Sets whole channels of volumes to 0 with probability `rate` in training, and scales the others up.

    Args:
        rate: The probability, from 0 to 1.
        data_format: "channels_last", the default, or "channels_first".
        seed: Mixed into the "dropout" key; alone, it makes the same choice at every call.

    Shapes: x [B, D, H, W, C], or [B, C, D, H, W] with channels first -> the same.

    Raises:
        ValueError: If an argument is wrong, x has another rank, or training has no key.

    References:
        Keras, `keras.layers.SpatialDropout3D`.

    Example:
        >>> SpatialDropout3D(0.5, seed=1).apply({}, jnp.ones((1, 3, 3, 3, 4)), train=True).shape
        (1, 3, 3, 3, 4)
    """

    rate: float
    data_format: str | None = None
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self)
        _check_data_format(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        self.check_rank(inputs, "B D H W C")
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        return dropout(noise_key(self, self.seed), inputs, self.rate, _per_channel(inputs.shape, self.data_format))


class AlphaDropout(Layer):
    """Sets elements to SELU's lower limit with probability `rate` in training, and keeps mean and variance.

    y = a x + b where kept, a alpha' + b elsewhere, with alpha' = -1.7581 and a, b such that inputs of mean 0 and
    variance 1 give outputs of mean 0 and variance 1.

    Args:
        rate: The probability, from 0 to below 1.
        noise_shape: Shape of the random choice, None where it is the inputs' size; a size of 1 lets one
            choice serve the whole axis.
        seed: Mixed into the "dropout" key; alone, it makes the same choice at every call.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `rate` is not from 0 to below 1, `noise_shape` does not fit, or training has no key.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, https://arxiv.org/abs/1706.02515; Keras,
        `keras.layers.AlphaDropout`.

    Example:
        >>> y = AlphaDropout(0.5, seed=1).apply({}, jnp.zeros((1, 1000)), train=True)
        >>> len(set(y[0].tolist()))
        2
    """

    rate: float
    noise_shape: Any = None
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self, below=True)
        _check_noise_shape(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        shape = inputs.shape if self.noise_shape is None else _filled(self, self.noise_shape, inputs.shape)
        keep = _kept(noise_key(self, self.seed), 1 - self.rate, shape)
        a = ((1 - self.rate) * (1 + self.rate * SELU_LIMIT**2)) ** -0.5
        b = -a * SELU_LIMIT * self.rate
        return a * jnp.where(jnp.broadcast_to(keep, inputs.shape), inputs, SELU_LIMIT) + b


class GaussianDropout(Layer):
    """Multiplies in training by normal noise of mean 1 and standard deviation sqrt(rate / (1 - rate)).

    Args:
        rate: Such as that of a `Dropout` whose noise has this deviation, from 0 to below 1.
        seed: Mixed into the "dropout" key; alone, it makes the same noise at every call.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `rate` is not from 0 to below 1, or training has no key.

    References:
        Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014,
        https://jmlr.org/papers/v15/srivastava14a.html; Keras, `keras.layers.GaussianDropout`.

    Example:
        >>> y = GaussianDropout(0.5, seed=1).apply({}, jnp.ones((1, 1000)), train=True)
        >>> bool(abs(y.mean() - 1) < 0.2), bool(abs(y.std() - 1) < 0.2)
        (True, True)
    """

    rate: float
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self, below=True)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        noise = jax.random.normal(noise_key(self, self.seed), inputs.shape, inputs.dtype)
        return inputs * (1 + math.sqrt(self.rate / (1 - self.rate)) * noise)


class GaussianNoise(Layer):
    """Adds in training normal noise of mean 0.

    Args:
        stddev: The noise's standard deviation, from 0 to 1.
        seed: Mixed into the "dropout" key; alone, it makes the same noise at every call.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `stddev` is not between 0 and 1, or training has no key.

    References:
        Keras, `keras.layers.GaussianNoise`.

    Example:
        >>> y = GaussianNoise(0.5, seed=1).apply({}, jnp.ones((1, 1000)), train=True)
        >>> bool(abs(y.mean() - 1) < 0.1), bool(abs(y.std() - 0.5) < 0.1)
        (True, True)
    """

    stddev: float
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self, "stddev")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        inputs = self.cast(inputs)
        if not train or self.stddev == 0:
            return inputs
        return inputs + self.stddev * jax.random.normal(noise_key(self, self.seed), inputs.shape, inputs.dtype)


class ActivityRegularization(Layer):
    """Returns its inputs and adds l1 sum |x| + l2 sum x^2 to the loss.

    Args:
        l1: Factor of the absolute values.
        l2: Factor of the squares.

    Shapes: any -> the same.

    Raises:
        ValueError: If a factor is negative, or another `activity_regularizer` comes.

    References:
        Keras, `keras.layers.ActivityRegularization`.

    Example:
        >>> layer = ActivityRegularization(l1=0.5, l2=2.0)
        >>> _, state = layer.apply({}, jnp.array([[3.0, -1.0]]), mutable=["losses"])
        >>> float(state["losses"]["activity"])
        22.0
    """

    l1: float = 0.0
    l2: float = 0.0

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        regularizer = regularizers.L1L2(self.l1, self.l2)
        if self.activity_regularizer not in (None, regularizer):
            raise ValueError(
                f"{self.label} makes its `activity_regularizer` of `l1` and `l2`, got {self.activity_regularizer!r}; "
                "give `l1` and `l2` alone, or that regularizer to another layer."
            )
        self.activity_regularizer = regularizer
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: Any) -> Any:
        return self.cast_floats(inputs)


def dropout(key: jax.Array, x: jax.Array, rate: float, shape: tuple[int, ...] | None = None) -> jax.Array:
    """x with elements set to 0 by a choice of the given shape (by default x's), the others scaled up."""
    if rate == 1:
        return jnp.zeros_like(x)
    keep = _kept(key, 1 - rate, x.shape if shape is None else shape)
    return jnp.where(jnp.broadcast_to(keep, x.shape), x / (1 - rate), 0)


def _kept(key: jax.Array, probability: float, shape: tuple[int, ...]) -> jax.Array:
    """True with a probability, of each element by itself."""
    limit = round(probability * 2**16)
    apart = abs(limit / 2**16 - probability)
    # Random words are what dropout takes time for, so one serves two elements where 16 bits are fine enough.
    if not shape or shape[-1] % 2 or apart > 1e-4 * min(probability, 1 - probability):
        return jax.random.bernoulli(key, probability, shape)
    words = jax.random.bits(key, (*shape[:-1], shape[-1] // 2))
    return jnp.concatenate([words & (2**16 - 1), words >> 16], axis=-1) < limit


def noise_key(layer: Layer, seed: int | None) -> jax.Array:
    """The key for a layer's noise: the "dropout" stream's, with the seed mixed in; else the seed's alone.

    Raises:
        ValueError: If there is neither a stream nor a seed.
    """
    if layer.has_rng("dropout") or layer.has_rng("params"):
        key = layer.make_rng("dropout")
        return key if seed is None else jax.random.fold_in(key, seed & 0xFFFFFFFF)
    if seed is None:
        raise ValueError(
            f"{layer.label} draws random numbers in training and got no key for them; "
            'give `rngs={"dropout": key}` to `apply`, or the layer a `seed`.'
        )
    return jax.random.key(seed)


def check_rate(layer: Layer, name: str = "rate", below: bool = False) -> None:
    """Raises unless the argument is a number from 0 to 1, or `below` 1; called at construction."""
    rate = getattr(layer, name)
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not 0 <= rate <= 1 or (below and rate == 1):
        raise ValueError(
            f"`{name}` of {layer.label} is a number from 0 to {'below ' if below else ''}1, got {rate!r}; "
            "give 0 for none."
        )


def _per_channel(shape: tuple[int, ...], data_format: str | None) -> tuple[int, ...]:
    """The shape with 1 for all sizes but the batch and the channels."""
    channels = 1 if data_format == "channels_first" else len(shape) - 1
    return tuple(n if axis in (0, channels) else 1 for axis, n in enumerate(shape))


def _check_data_format(layer: Any) -> None:
    if layer.data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(
            f'`data_format` of {layer.label} is "channels_last" or "channels_first", got {layer.data_format!r}; '
            "choose one."
        )


def _check_noise_shape(layer: Any) -> None:
    shape = layer.noise_shape
    fits = shape is None or (
        isinstance(shape, tuple | list) and all(n is None or (type(n) is int and n > 0) for n in shape)
    )
    if not fits:
        raise ValueError(
            f"`noise_shape` of {layer.label} is a tuple of positive integers or None, got {shape!r}; "
            "give None for the inputs' size and 1 for one choice along an axis."
        )


def _filled(layer: Layer, noise_shape: tuple[int | None, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The noise's shape with the inputs' sizes for None."""
    sizes = tuple(n if given is None else given for given, n in zip(noise_shape, shape, strict=False))
    if len(noise_shape) != len(shape) or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
        raise ValueError(
            f"`noise_shape` of {layer.label} has 1 or the inputs' size on each axis, got {tuple(noise_shape)} for "
            f"inputs of shape {shape}; give None for the inputs' size and 1 for one choice along an axis."
        )
    return sizes
