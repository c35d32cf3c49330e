"""Layers that normalize: by statistics of the batch, of each example, or of the weights."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import initializers
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, accumulation_dtype
from flaxmodels.layers.checks import checked_axes
from flaxmodels.layers.merge import normalized
from flaxmodels.layers.regularization import check_rate

SMALL = 1e-7  # added to the number of what a mask keeps, as in Keras


class BatchNormalization(Layer):
    """Normalizes each feature by mean and variance over the batch in training, by moving averages else.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

    In training the moving averages take up the batch: moving = momentum moving + (1 - momentum) batch, with the biased
    variance. Neither masked positions nor rows that pad the batch count. Frozen (`trainable=False`, here or in a layer
    around), the layer computes as outside of training. Under `jit` the batch is that of all devices together.

    With `renorm`, training normalizes by slower averages of its own: the normalized x becomes x r + d with
    r = stddev / renorm_stddev and d = (mean - renorm_mean) / renorm_stddev, through which no gradient flows.

    Args:
        axis: The features' axis.
        momentum: How much of the moving averages stays.
        epsilon: Added to the variance.
        center: Whether there is a beta.
        scale: Whether there is a gamma.
        beta_initializer: Name or initializer of `beta`.
        gamma_initializer: Name or initializer of `gamma`.
        moving_mean_initializer: Name or initializer of the means.
        moving_variance_initializer: Name or initializer of the variances.
        beta_regularizer: Adds a loss on `beta`.
        gamma_regularizer: Adds a loss on `gamma`.
        beta_constraint: Applied to `beta` after each update.
        gamma_constraint: Applied to `gamma` after each update.
        renorm: Whether training corrects the batch's statistics by averages.
        renorm_clipping: Bounds by name: `rmin` and `rmax` of r, `dmax` of |d|.
        renorm_momentum: How much of the averages for `renorm` stays.
        synchronized: Whether devices share statistics; under `jit` they always do, so True and False are the same.

    Shapes: x [B, ..., F] -> the same; a mask has all its axes but the last.

    Raises:
        ValueError: If an argument, the axis or the mask's rank is wrong.

    References:
        Ioffe and Szegedy, Batch Normalization, 2015, https://arxiv.org/abs/1502.03167; Ioffe, Batch Renormalization,
        2017, https://arxiv.org/abs/1702.03275; Keras, `keras.layers.BatchNormalization`.

    Example:
        >>> layer, x = BatchNormalization(), jnp.array([[1.0], [3.0]])
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
        >>> print(y[:, 0].round(2), new["batch_stats"]["moving_mean"].round(3))
        [-1.  1.] [0.02]
    """

    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    beta_initializer: Any = "zeros"
    gamma_initializer: Any = "ones"
    moving_mean_initializer: Any = "zeros"
    moving_variance_initializer: Any = "ones"
    beta_regularizer: Any = None
    gamma_regularizer: Any = None
    beta_constraint: Any = None
    gamma_constraint: Any = None
    renorm: bool = False
    renorm_clipping: Any = None
    renorm_momentum: float = 0.99
    synchronized: bool = False

    WEIGHTS: ClassVar[tuple[str, ...]] = (
        *("gamma", "beta", "moving_mean", "moving_variance"),
        *("moving_stddev", "renorm_mean", "renorm_stddev"),
    )
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_numbers()
        super().__post_init__()

    def _check_numbers(self) -> None:
        checks.check_not_negative(self, "epsilon")
        check_rate(self, "momentum")
        check_rate(self, "renorm_momentum")
        given = self.renorm_clipping
        if given is not None and not (isinstance(given, Mapping) and all(map(checks.is_number, given.values()))):
            raise ValueError(
                f"`renorm_clipping` of {self.label} is a dictionary of numbers, got {given!r}; "
                'give one such as {"rmax": 3.0}.'
            )
        clipping = dict(given or {})
        unknown = sorted(set(clipping) - {"rmin", "rmax", "dmax"})
        if unknown or (clipping and not self.renorm):
            raise ValueError(
                f'`renorm_clipping` of {self.label} bounds "rmin", "rmax" and "dmax" where `renorm` is True, got '
                f"{clipping} with `renorm`={self.renorm}; leave out other names, or set `renorm`."
            )
        if clipping.get("rmax", np.inf) < clipping.get("rmin", 0) or clipping.get("dmax", 0) < 0:
            raise ValueError(
                f"`renorm_clipping` of {self.label} has rmin <= rmax and dmax >= 0, got {clipping}; change the bounds."
            )

    @nn.compact
    def compute(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        axis = checked_axes(self, self.axis, inputs)[0]
        if mask is not None and mask.ndim != inputs.ndim - 1:
            raise ValueError(
                f"The mask of {self.label} has one axis less than its inputs, got a mask of shape {mask.shape} for "
                f"inputs of shape {inputs.shape}; expand the mask, or leave it out."
            )
        if mask is not None:
            checks.check_mask(self, mask, inputs.shape)
        x = inputs.astype(accumulation_dtype(inputs.dtype))
        shape = (x.shape[axis],)
        scale = self.add_weight("gamma", shape, x.dtype) if self.scale else None
        offset = self.add_weight("beta", shape, x.dtype) if self.center else None
        averages = self._averages(shape)
        if train and not self.frozen:
            rows = self.valid_rows(x.shape[0]) if axis else None
            keep = _kept(x, mask, rows)
            mean, variance = _moments(x, axis, keep)
            if self.renorm:
                scale, offset = self._renormalizing(mean, variance, averages, scale, offset)
            if not self.is_initializing():
                self._update(averages, mean, variance, rows)
        else:
            mean, variance = (averages[name].value.astype(x.dtype) for name in ("moving_mean", "moving_variance"))
        return self.cast(_normalized(x, mean, variance, axis, self.epsilon, scale, offset))

    def _averages(self, shape: tuple[int, ...]) -> dict[str, nn.Variable]:
        """The moving averages by name, in float32 at least."""
        means = self.moving_mean_initializer or "glorot_uniform"
        variances = self.moving_variance_initializer or "glorot_uniform"
        initial = {"moving_mean": means, "moving_variance": variances}
        if self.renorm:
            initial |= {"moving_stddev": variances, "renorm_mean": means, "renorm_stddev": variances}
        dtype = accumulation_dtype(self.param_dtype)

        def make(name: str) -> jax.Array:
            value = initializers.get(initial[name])(self.make_rng("params"), shape, dtype)
            return jnp.sqrt(value) if name.endswith("stddev") else value

        return {name: self.variable("batch_stats", name, make, name) for name in initial}

    def _renormalizing(
        self, mean: jax.Array, variance: jax.Array, averages: dict[str, nn.Variable], scale: Any, offset: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Scale and offset with r and d worked in: (x r + d) gamma + beta = x (r gamma) + (d gamma + beta)."""
        clipping = self.renorm_clipping or {}
        slow_mean, slow_stddev = (averages[n].value.astype(mean.dtype) for n in ("renorm_mean", "renorm_stddev"))
        slow_stddev = jnp.maximum(slow_stddev, np.sqrt(self.epsilon))
        r = jnp.sqrt(variance + self.epsilon) / slow_stddev
        d = (mean - slow_mean) / slow_stddev
        r = jnp.clip(r, clipping.get("rmin"), clipping.get("rmax"))
        if clipping.get("dmax") is not None:
            d = jnp.clip(d, -clipping["dmax"], clipping["dmax"])
        r, d = jax.lax.stop_gradient((r, d))
        if scale is not None:
            r, d = r * scale, d * scale
        return r, d if offset is None else d + offset

    def _update(self, averages: dict[str, nn.Variable], mean: jax.Array, variance: jax.Array, rows: Any) -> None:
        # A batch of padding alone leaves the averages as they are; one that a mask empties moves them, as in Keras.
        some = True if rows is None else jnp.any(rows)

        def follow(name: str, value: jax.Array, momentum: float) -> jax.Array:
            old = averages[name].value
            new = old * momentum + value.astype(old.dtype) * (1 - momentum)
            averages[name].value = jnp.where(some, new, old)
            return averages[name].value

        follow("moving_mean", mean, self.momentum)
        if not self.renorm:
            follow("moving_variance", variance, self.momentum)
            return
        stddev = jnp.sqrt(variance + self.epsilon)
        follow("renorm_mean", mean, self.renorm_momentum)
        follow("renorm_stddev", stddev, self.renorm_momentum)
        moving_stddev = follow("moving_stddev", stddev, self.momentum)
        old = averages["moving_variance"].value
        averages["moving_variance"].value = jnp.where(some, jax.nn.relu(moving_stddev**2 - self.epsilon), old)


class LayerNormalization(Layer):
    """Normalizes each example by its own mean and variance along `axis`.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

    Args:
        axis: The axis, or axes, along which each example is normalized.
        epsilon: Added to the variance.
        center: Whether there is a beta.
        scale: Whether there is a gamma.
        beta_initializer: Name or initializer of `beta`.
        gamma_initializer: Name or initializer of `gamma`.
        beta_regularizer: Adds a loss on `beta`.
        gamma_regularizer: Adds a loss on `gamma`.
        beta_constraint: Applied to `beta` after each update.
        gamma_constraint: Applied to `gamma` after each update.
        rms_scaling: Whether x is divided by the root of the variance and scaled, its mean left in and no beta added;
            for models that were trained so. See `RMSNormalization` for the layer of that name.

    Shapes: x [B, ..., F] -> the same.

    Raises:
        ValueError: If an axis is none of x's.

    References:
        Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450; Keras,
        `keras.layers.LayerNormalization`.

    Example:
        >>> layer, x = LayerNormalization(), jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(2).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """

    axis: Any = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    beta_initializer: Any = "zeros"
    gamma_initializer: Any = "ones"
    beta_regularizer: Any = None
    gamma_regularizer: Any = None
    beta_constraint: Any = None
    gamma_constraint: Any = None
    rms_scaling: bool = False

    WEIGHTS: ClassVar[tuple[str, ...]] = ("gamma", "beta")
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.check_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        axes = checked_axes(self, self.axis, inputs)
        x = inputs.astype(accumulation_dtype(inputs.dtype))
        shape, aligned = tuple(x.shape[axis] for axis in axes), _aligned(x.shape, axes)
        gamma = beta = None
        if self.scale or self.rms_scaling:
            gamma = self.add_weight("gamma", shape, x.dtype).reshape(aligned)
        if self.center and not self.rms_scaling:
            beta = self.add_weight("beta", shape, x.dtype).reshape(aligned)
        variance = jnp.var(x, axes, keepdims=True)
        mean = jnp.zeros((), x.dtype) if self.rms_scaling else jnp.mean(x, axes, keepdims=True)
        return self.cast(_scaled(x, mean, variance, self.epsilon, gamma, beta))


class GroupNormalization(Layer):
    """Normalizes each example by mean and variance of each group of channels.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

    Args:
        groups: Number of groups, which divides the number of channels; -1 for one channel per group.
        axis: The channels' axis.
        epsilon: Added to the variance.
        center: Whether there is a beta.
        scale: Whether there is a gamma.
        beta_initializer: Name or initializer of `beta`.
        gamma_initializer: Name or initializer of `gamma`.
        beta_regularizer: Adds a loss on `beta`.
        gamma_regularizer: Adds a loss on `gamma`.
        beta_constraint: Applied to `beta` after each update.
        gamma_constraint: Applied to `gamma` after each update.

    Shapes: x [B, ..., C] -> the same.

    Raises:
        ValueError: If `groups` is not positive or -1 or does not divide the channels, or the axis is none of x's.

    References:
        Wu and He, Group Normalization, 2018, https://arxiv.org/abs/1803.08494; Keras,
        `keras.layers.GroupNormalization`.

    Example:
        >>> layer, x = GroupNormalization(groups=2), jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(2).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """

    groups: int = 32
    axis: int = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    beta_initializer: Any = "zeros"
    gamma_initializer: Any = "ones"
    beta_regularizer: Any = None
    gamma_regularizer: Any = None
    beta_constraint: Any = None
    gamma_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("gamma", "beta")
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.groups != -1:
            self.check_positive("groups")
        checks.check_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        axis = checked_axes(self, self.axis, inputs)[0]
        channels = inputs.shape[axis]
        groups = channels if self.groups == -1 else self.groups
        if axis == 0 or channels % groups:
            raise ValueError(
                f"`groups` of {self.label} divides the number of channels, which are not the batch's axis, got "
                f"{groups} for axis {self.axis} of shape {inputs.shape}; give a divisor of {channels}, or another axis."
            )
        x = inputs.astype(accumulation_dtype(inputs.dtype))
        x = x.reshape(*inputs.shape[:axis], groups, channels // groups, *inputs.shape[axis + 1 :])
        aligned = _aligned(x.shape, (axis, axis + 1))
        gamma = self.add_weight("gamma", (channels,), x.dtype).reshape(aligned) if self.scale else None
        beta = self.add_weight("beta", (channels,), x.dtype).reshape(aligned) if self.center else None
        axes = tuple(i for i in range(1, x.ndim) if i != axis)
        mean, variance = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
        return self.cast(_scaled(x, mean, variance, self.epsilon, gamma, beta).reshape(inputs.shape))


class RMSNormalization(Layer):
    """Divides each example by its root mean square along `axis`; a mask ends here, as in Keras.

    y = scale x / sqrt(mean(x^2) + epsilon)

    Args:
        axis: The axis, or axes, along which each example is normalized.
        epsilon: Added to the mean square.

    Shapes: x [B, ..., F] -> the same.

    Raises:
        ValueError: If an axis is none of x's.

    References:
        Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, https://arxiv.org/abs/1910.07467; Keras,
        `keras.layers.RMSNormalization`.

    Example:
        >>> layer, x = RMSNormalization(), jnp.array([[3.0, -3.0]])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(3).tolist()
        [[1.0, -1.0]]
    """

    axis: Any = -1
    epsilon: float = 1e-6

    scale_initializer: ClassVar[str] = "ones"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("scale",)

    def __post_init__(self) -> None:
        checks.check_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        axes = checked_axes(self, self.axis, inputs)
        x = self.cast(inputs).astype(accumulation_dtype(self.compute_dtype))
        scale = self.add_weight("scale", tuple(x.shape[axis] for axis in axes), x.dtype)
        rescaled = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axes, keepdims=True) + self.epsilon)
        return self.cast(rescaled * scale.reshape(_aligned(x.shape, axes)))


class UnitNormalization(Layer):
    """Divides each example by its Euclidean norm along `axis`.

    Args:
        axis: The axis, or axes, along which the outputs have norm 1.

    Shapes: x [B, ..., F] -> the same.

    Raises:
        ValueError: If an axis is none of x's.

    References:
        Keras, `keras.layers.UnitNormalization`.

    Example:
        >>> UnitNormalization().apply({}, jnp.array([[0.0, 4.0]])).tolist()
        [[0.0, 1.0]]
    """

    axis: Any = -1

    SUPPORTS_MASKING: ClassVar[bool] = True

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        axes = checked_axes(self, self.axis, inputs)
        x = self.cast(inputs).astype(accumulation_dtype(self.compute_dtype))
        return self.cast(normalized(x, axes, 1e-12))


class SpectralNormalization(Layer):
    """Divides the kernel of a layer by an estimate of its largest singular value sigma in training.

    u and v follow the kernel W, as a matrix of as many columns as its last axis has, by power iteration:
    v = u W^T / |u W^T|, u = v W / |v W|, sigma = v W u^T; no gradient flows through u and v.

    Each training step divides by its sigma and keeps it; outside of training, the kernel is divided by the last sigma
    kept, which is 1 before training. The stored kernel stays as it is, where Keras overwrites it with the divided one.

    Args:
        layer: A layer with a `kernel`, such as Dense or Conv2D, or an Embedding.
        power_iterations: Number of iterations in each training step.

    Shapes: those of the layer; a mask ends here, as in Keras.

    Raises:
        TypeError: If `layer` is none.
        ValueError: If it has no kernel, or `power_iterations` is not positive.

    References:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018,
        https://arxiv.org/abs/1802.05957; Keras, `keras.layers.SpectralNormalization`.

    Example:
        >>> from flaxmodels.layers.dense import Dense
        >>> layer, x = SpectralNormalization(Dense(2, kernel_initializer="ones"), power_iterations=5), jnp.ones((1, 2))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
        >>> float(new["batch_stats"]["sigma"].round(3))
        2.0
    """

    layer: Any
    power_iterations: int = 1

    KERNELS: ClassVar[tuple[str, ...]] = ("kernel", "embedding")

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(
                f"`layer` of {self.label} is a layer, got {self.layer!r} of type {type(self.layer).__name__}; make an "
                "object of a layer's class, such as layers.Dense(10)."
            )
        if not set(self.KERNELS) & set(self.layer.WEIGHTS):
            raise ValueError(
                f"{self.label} divides a layer's `kernel` or `embedding`, got {type(self.layer).__name__} with the "
                f"weights {list(self.layer.WEIGHTS)}; give a layer with a kernel, such as layers.Dense(10)."
            )
        self.check_positive("power_iterations")
        super().__post_init__()

    @property
    @nn.nowrap
    def WEIGHTS(self) -> tuple[str, ...]:  # type: ignore[override] # noqa: N802
        """The layer's weights, which share the scope, and after its kernel the vector u."""
        kernel, *others = self.layer.WEIGHTS
        return (kernel, "vector_u", *others)

    def setup(self) -> None:
        nn.share_scope(self, self.layer)

    @nn.compact
    def compute(self, inputs: Any, *, train: bool = False) -> Any:
        def divide(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
            weight = method(*args, **kwargs)
            is_kernel = context.method_name == "add_weight" and args[0] in self.KERNELS
            return self._divided(weight, train) if is_kernel and context.module is self.layer else weight

        with nn.intercept_methods(divide):
            return self.cast_floats(self.layer(inputs, train=train))

    def _divided(self, kernel: jax.Array, train: bool) -> jax.Array:
        """The kernel over sigma; in training both u and sigma move on."""
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(accumulation_dtype(kernel.dtype))
        make_u = initializers.TruncatedNormal(stddev=0.02)
        u = self.variable("batch_stats", "vector_u", lambda: make_u(self.make_rng("params"), (1, matrix.shape[-1])))
        sigma = self.variable("batch_stats", "sigma", jnp.ones, (), jnp.float32)
        if not train or self.is_initializing():
            return (matrix / sigma.value).reshape(kernel.shape).astype(kernel.dtype)
        new_u, new_sigma = self._iterated(matrix, u.value)
        # A kernel of zeros has no direction: it stays, and so does u.
        zero = jnp.all(matrix == 0)
        u.value, divisor = jnp.where(zero, u.value, new_u), jnp.where(zero, 1, new_sigma)
        sigma.value = jax.lax.stop_gradient(divisor)
        return (matrix / divisor).reshape(kernel.shape).astype(kernel.dtype)

    def _iterated(self, matrix: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        fixed = jax.lax.stop_gradient(matrix)
        for _ in range(self.power_iterations):
            v = normalized(u @ fixed.T, None)
            u = normalized(v @ fixed, None)
        return u, (v @ matrix @ u.T)[0, 0]


def _aligned(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with 1 for all sizes but those of the axes."""
    return tuple(n if axis in axes else 1 for axis, n in enumerate(shape))


def _kept(x: jax.Array, mask: jax.Array | None, rows: jax.Array | None) -> jax.Array | None:
    """What the statistics are of, as truth values of x's rank; None for all."""
    keep = None if mask is None else mask.astype(bool)[..., None]
    if rows is not None:
        rows = jnp.expand_dims(rows, tuple(range(1, x.ndim))).astype(bool)
        keep = rows if keep is None else keep & rows
    return keep


def _moments(x: jax.Array, axis: int, keep: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance, [F], of all but one axis, over what is kept."""
    axes = tuple(i for i in range(x.ndim) if i != axis)
    if keep is None:
        return jnp.mean(x, axes), jnp.var(x, axes)
    count = jnp.sum(jnp.broadcast_to(keep, x.shape), axes, dtype=x.dtype, keepdims=True) + SMALL
    mean = jnp.sum(jnp.where(keep, x, 0), axes, keepdims=True) / count
    variance = jnp.sum(jnp.square(jnp.where(keep, x - mean, 0)), axes, keepdims=True) / count
    return mean.reshape(-1), variance.reshape(-1)


def _normalized(
    x: jax.Array, mean: jax.Array, variance: jax.Array, axis: int, epsilon: float, scale: Any, offset: Any
) -> jax.Array:
    """x normalized by statistics [F] of one axis."""
    aligned = _aligned(x.shape, (axis,))
    gamma, beta = (None if p is None else p.reshape(aligned) for p in (scale, offset))
    return _scaled(x, mean.reshape(aligned), variance.reshape(aligned), epsilon, gamma, beta)


def _scaled(x: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float, gamma: Any, beta: Any) -> jax.Array:
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, as one multiplication and one addition for each element."""
    factor = jax.lax.rsqrt(variance + epsilon)
    factor = factor if gamma is None else factor * gamma
    shift = -mean * factor
    return x * factor + (shift if beta is None else shift + beta)
