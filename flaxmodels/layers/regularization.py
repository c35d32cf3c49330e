"""Regularization layers: dropout, noise, and losses on activations."""

import math
from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import regularizers
from flaxmodels.layers.base import Arrays, Layer

SELU_LIMIT = -1.7580993408473766  # limit of selu(x) for x -> -infinity


class Dropout(Layer):
    """Sets elements to 0 with probability `rate` in training, and scales the others by 1 / (1 - rate).

    Args:
        rate: Probability of dropping an element, from 0 to 1.
        noise_shape: Shape of the dropout mask, which is broadcast to the inputs: None for the inputs' size, 1 to drop
            or keep all elements along the axis together.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `rate` is not in [0, 1], `noise_shape` does not fit, or there is no "dropout" key in training.

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
    noise_shape: Sequence[int | None] | None = None
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self)
        _check_noise_shape(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the noise in training; otherwise returns the inputs."""
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        shape = inputs.shape if self.noise_shape is None else _resolve_noise_shape(self, self.noise_shape, inputs.shape)
        return dropout(noise_key(self, self.seed), inputs, self.rate, shape)


class SpatialDropout1D(Layer):
    """Drops whole channels of sequences with probability `rate` in training.

    Dropped channels are 0; the others are scaled by 1 / (1 - rate).

    Args:
        rate: Probability of dropping a channel, from 0 to 1.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: x [B, T, C] -> the same.

    Raises:
        ValueError: If `rate` is not in [0, 1], x does not have 3 axes, or there is no "dropout" key in training.

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
        """Applies the noise in training; otherwise returns the inputs."""
        self.check_rank(inputs, "B T C")
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        return dropout(noise_key(self, self.seed), inputs, self.rate, _per_channel(inputs.shape, None))


class SpatialDropout(Layer):
    """Base class of SpatialDropout2D and SpatialDropout3D."""

    rate: float
    data_format: str | None = None
    seed: int | None = None

    AXES: ClassVar[str]
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self)
        if self.data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(
                f'`data_format` of {self.label} must be "channels_last" or "channels_first", got '
                f"{self.data_format!r}; choose one."
            )
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the noise in training; otherwise returns the inputs."""
        self.check_rank(inputs, self.AXES)
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        return dropout(noise_key(self, self.seed), inputs, self.rate, _per_channel(inputs.shape, self.data_format))


class SpatialDropout2D(SpatialDropout):
    """Drops whole channels of images with probability `rate` in training.

    Dropped channels are 0; the others are scaled by 1 / (1 - rate).

    Args:
        rate: Probability of dropping a channel, from 0 to 1.
        data_format: "channels_last" (the default) or "channels_first".
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: x [B, H, W, C], or [B, C, H, W] with channels first -> the same.

    Raises:
        ValueError: If an argument is invalid, x has the wrong number of axes, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.SpatialDropout2D`.

    Example:
        >>> SpatialDropout2D(0.5, seed=1).apply({}, jnp.ones((1, 3, 3, 4)), train=True).shape
        (1, 3, 3, 4)
    """

    AXES: ClassVar[str] = "B H W C"


class SpatialDropout3D(SpatialDropout):
    """Drops whole channels of volumes with probability `rate` in training.

    Dropped channels are 0; the others are scaled by 1 / (1 - rate).

    Args:
        rate: Probability of dropping a channel, from 0 to 1.
        data_format: "channels_last" (the default) or "channels_first".
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: x [B, D, H, W, C], or [B, C, D, H, W] with channels first -> the same.

    Raises:
        ValueError: If an argument is invalid, x has the wrong number of axes, or there is no "dropout" key in training.

    References:
        Keras, `keras.layers.SpatialDropout3D`.

    Example:
        >>> SpatialDropout3D(0.5, seed=1).apply({}, jnp.ones((1, 3, 3, 3, 4)), train=True).shape
        (1, 3, 3, 3, 4)
    """

    AXES: ClassVar[str] = "B D H W C"


class AlphaDropout(Layer):
    """Sets elements to the lower limit of SELU with probability `rate` in training, and preserves mean and variance.

    y = a x + b for elements that are not dropped, and a alpha' + b for the others, with alpha' = -1.7581. The factors
    a and b are such that inputs of mean 0 and variance 1 give outputs of mean 0 and variance 1.

    Args:
        rate: Probability of dropping an element, at least 0 and below 1.
        noise_shape: Shape of the dropout mask, which is broadcast to the inputs: None for the inputs' size, 1 to drop
            or keep all elements along the axis together.
        seed: Integer folded into the "dropout" key; without that key, every call drops the same elements.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `rate` is not in [0, 1), `noise_shape` does not fit, or there is no "dropout" key in training.

    References:
        Klambauer et al., Self-Normalizing Neural Networks, 2017, https://arxiv.org/abs/1706.02515; Keras,
        `keras.layers.AlphaDropout`.

    Example:
        >>> y = AlphaDropout(0.5, seed=1).apply({}, jnp.zeros((1, 1000)), train=True)
        >>> len(set(y[0].tolist()))
        2
    """

    rate: float
    noise_shape: Sequence[int | None] | None = None
    seed: int | None = None

    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_rate(self, below=True)
        _check_noise_shape(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies the noise in training; otherwise returns the inputs."""
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        shape = inputs.shape if self.noise_shape is None else _resolve_noise_shape(self, self.noise_shape, inputs.shape)
        keep = _keep_mask(noise_key(self, self.seed), 1 - self.rate, shape)
        a = ((1 - self.rate) * (1 + self.rate * SELU_LIMIT**2)) ** -0.5
        b = -a * SELU_LIMIT * self.rate
        return a * jnp.where(jnp.broadcast_to(keep, inputs.shape), inputs, SELU_LIMIT) + b


class GaussianDropout(Layer):
    """Multiplies by normal noise of mean 1 and standard deviation sqrt(rate / (1 - rate)) in training.

    Args:
        rate: Rate of the `Dropout` layer whose noise has the same standard deviation, at least 0 and below 1.
        seed: Integer folded into the "dropout" key; without that key, every call draws the same noise.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `rate` is not in [0, 1), or there is no "dropout" key in training.

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
        """Applies the noise in training; otherwise returns the inputs."""
        inputs = self.cast(inputs)
        if not train or self.rate == 0:
            return inputs
        noise = jax.random.normal(noise_key(self, self.seed), inputs.shape, inputs.dtype)
        return inputs * (1 + math.sqrt(self.rate / (1 - self.rate)) * noise)


class GaussianNoise(Layer):
    """Adds normal noise of mean 0 in training.

    Args:
        stddev: Standard deviation of the noise, from 0 to 1.
        seed: Integer folded into the "dropout" key; without that key, every call draws the same noise.

    Shapes: x [B, ...] -> the same.

    Raises:
        ValueError: If `stddev` is not in [0, 1], or there is no "dropout" key in training.

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
        """Applies the noise in training; otherwise returns the inputs."""
        inputs = self.cast(inputs)
        if not train or self.stddev == 0:
            return inputs
        return inputs + self.stddev * jax.random.normal(noise_key(self, self.seed), inputs.shape, inputs.dtype)


class ActivityRegularization(Layer):
    """Returns its inputs and adds l1 sum |x| + l2 sum x^2 to the loss.

    Args:
        l1: Factor of the sum of absolute values.
        l2: Factor of the sum of squares.

    Shapes: any -> the same.

    Raises:
        ValueError: If a factor is negative, or `activity_regularizer` is another regularizer.

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
                f"`activity_regularizer` of {self.label} is defined by `l1` and `l2`, got "
                f"{self.activity_regularizer!r}; give only `l1` and `l2`, or use the regularizer in another layer."
            )
        self.activity_regularizer = regularizer
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: Arrays) -> Arrays:
        """Returns the inputs; floats are cast to the compute dtype."""
        return self.cast_floats(inputs)


def dropout(key: jax.Array, x: jax.Array, rate: float, shape: tuple[int, ...] | None = None) -> jax.Array:
    """Returns x with elements set to 0 with probability `rate`, and the others scaled by 1 / (1 - rate).

    Args:
        key: Random key.
        x: Any array.
        rate: Probability of dropping an element.
        shape: Shape of the dropout mask, which is broadcast to x; by default the shape of x.
    """
    if rate == 1:
        return jnp.zeros_like(x)
    keep = _keep_mask(key, 1 - rate, x.shape if shape is None else shape)
    return jnp.where(jnp.broadcast_to(keep, x.shape), x / (1 - rate), 0)


def _keep_mask(key: jax.Array, probability: float, shape: tuple[int, ...]) -> jax.Array:
    """Returns independent booleans that are True with the given probability."""
    limit = round(probability * 2**16)
    rounding_error = abs(limit / 2**16 - probability)
    # Generating random words dominates the time of dropout, so one 32-bit word serves two elements if 16 bits are
    # precise enough.
    if not shape or shape[-1] % 2 or rounding_error > 1e-4 * min(probability, 1 - probability):
        return jax.random.bernoulli(key, probability, shape)
    words = jax.random.bits(key, (*shape[:-1], shape[-1] // 2))
    return jnp.concatenate([words & (2**16 - 1), words >> 16], axis=-1) < limit


def noise_key(layer: Layer, seed: int | None) -> jax.Array:
    """Returns the random key of a layer's noise: the "dropout" key, with the seed folded in, or the key of the seed.

    Raises:
        ValueError: If there is neither a "dropout" key nor a seed.
    """
    if layer.has_rng("dropout") or layer.has_rng("params"):
        key = layer.make_rng("dropout")
        return key if seed is None else jax.random.fold_in(key, seed & 0xFFFFFFFF)
    if seed is None:
        raise ValueError(
            f"{layer.label} needs a random key in training, got none; "
            'pass `rngs={"dropout": key}` to `apply`, or give the layer a `seed`.'
        )
    return jax.random.key(seed)


def check_rate(layer: Layer, name: str = "rate", below: bool = False) -> None:
    """Raises unless the argument is a number in [0, 1], or in [0, 1) with `below`; called at construction."""
    rate = getattr(layer, name)
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not 0 <= rate <= 1 or (below and rate == 1):
        raise ValueError(
            f"`{name}` of {layer.label} must be a number in [0, 1{')' if below else ']'}, got {rate!r}; "
            "give, for example, 0."
        )


def _per_channel(shape: tuple[int, ...], data_format: str | None) -> tuple[int, ...]:
    """Returns the shape with size 1 on all axes but the batch and the channels."""
    channels = 1 if data_format == "channels_first" else len(shape) - 1
    return tuple(n if axis in (0, channels) else 1 for axis, n in enumerate(shape))


def _check_noise_shape(layer: Dropout | AlphaDropout) -> None:
    shape = layer.noise_shape
    fits = shape is None or (
        isinstance(shape, tuple | list) and all(n is None or (type(n) is int and n > 0) for n in shape)
    )
    if not fits:
        raise ValueError(
            f"`noise_shape` of {layer.label} must be a tuple of positive integers or None, got {shape!r}; "
            "give None for the inputs' size, and 1 to share the mask along an axis."
        )


def _resolve_noise_shape(layer: Layer, noise_shape: Sequence[int | None], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the noise shape with the inputs' sizes in place of None."""
    sizes = tuple(n if given is None else given for given, n in zip(noise_shape, shape, strict=False))
    if len(noise_shape) != len(shape) or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
        raise ValueError(
            f"`noise_shape` of {layer.label} must have 1 or the inputs' size on each axis, got {tuple(noise_shape)} "
            f"for inputs of shape {shape}; give None for the inputs' size, and 1 to share the mask along an axis."
        )
    return sizes
