"""Normalization layers, with statistics of the batch, of each example, or of the weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import InterceptorContext

from flaxmodels import initializers
from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, accumulation_dtype
from flaxmodels.layers.checks import checked_axes
from flaxmodels.layers.merge import normalize
from flaxmodels.layers.regularization import check_rate
from flaxmodels.regularizers import RegularizerLike

EPSILON = 1e-7  # added to the number of unmasked elements, as in Keras


class BatchNormalization(Layer):
    """Normalizes each feature by its mean and variance over the batch in training, and by moving averages otherwise.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

    Training updates the moving averages: moving = momentum moving + (1 - momentum) batch, with the biased variance.
    Masked positions and padding rows of the batch do not count. If the layer or an enclosing layer is frozen
    (`trainable=False`), it uses the moving averages in training too. Under `jit`, the statistics are those of the
    whole batch on all devices.

    With `renorm` (batch renormalization), the normalized x becomes x r + d in training, with
    r = stddev / renorm_stddev and d = (mean - renorm_mean) / renorm_stddev. No gradient flows through r and d.

    Args:
        axis: Axis of the features.
        momentum: Weight of the old value in the moving averages.
        epsilon: Small number added to the variance.
        center: Whether to add a learned beta.
        scale: Whether to multiply by a learned gamma.
        beta_initializer: Initializer of `beta`, or its name.
        gamma_initializer: Initializer of `gamma`, or its name.
        moving_mean_initializer: Initializer of `moving_mean`, or its name.
        moving_variance_initializer: Initializer of `moving_variance`, or its name.
        beta_regularizer: Regularizer of `beta`, or its name.
        gamma_regularizer: Regularizer of `gamma`, or its name.
        beta_constraint: Constraint on `beta` after each update, or its name.
        gamma_constraint: Constraint on `gamma` after each update, or its name.
        renorm: Whether to apply batch renormalization in training.
        renorm_clipping: Dictionary of bounds: `rmin` and `rmax` for r, and `dmax` for |d|.
        renorm_momentum: Weight of the old value in the averages `renorm_mean` and `renorm_stddev`.
        synchronized: Whether devices share statistics. Under `jit` they always do, so the value has no effect.

    Shapes: x [B, ..., F] -> the same; the mask has all axes of x but the last.

    Raises:
        ValueError: If an argument is invalid, `axis` is not an axis of x, or the mask does not fit.

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
    beta_initializer: InitializerLike = "zeros"
    gamma_initializer: InitializerLike = "ones"
    moving_mean_initializer: InitializerLike = "zeros"
    moving_variance_initializer: InitializerLike = "ones"
    beta_regularizer: RegularizerLike = None
    gamma_regularizer: RegularizerLike = None
    beta_constraint: ConstraintLike = None
    gamma_constraint: ConstraintLike = None
    renorm: bool = False
    renorm_clipping: Mapping[str, float] | None = None
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
        bounds = self.renorm_clipping
        if bounds is not None and not (isinstance(bounds, Mapping) and all(map(checks.is_number, bounds.values()))):
            raise ValueError(
                f"`renorm_clipping` of {self.label} must be a dictionary of numbers, got {bounds!r}; "
                'give, for example, {"rmax": 3.0}.'
            )
        clipping = dict(bounds or {})
        unknown = sorted(set(clipping) - {"rmin", "rmax", "dmax"})
        if unknown or (clipping and not self.renorm):
            raise ValueError(
                f'`renorm_clipping` of {self.label} takes the bounds "rmin", "rmax" and "dmax" and requires '
                f"`renorm`=True, got {clipping} with `renorm`={self.renorm}; leave out other names, or set `renorm`."
            )
        if clipping.get("rmax", np.inf) < clipping.get("rmin", 0) or clipping.get("dmax", 0) < 0:
            raise ValueError(
                f"`renorm_clipping` of {self.label} must have rmin <= rmax and dmax >= 0, got {clipping}; "
                "change the bounds."
            )

    @nn.compact
    def compute(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Normalizes the inputs; in training, also updates the moving averages."""
        axis = checked_axes(self, self.axis, inputs)[0]
        if mask is not None and mask.ndim != inputs.ndim - 1:
            raise ValueError(
                f"The mask of {self.label} must have one axis fewer than its inputs, got a mask of shape {mask.shape} "
                f"for inputs of shape {inputs.shape}; reshape the mask, or leave it out."
            )
        if mask is not None:
            checks.check_mask(self, mask, inputs.shape)
        x = inputs.astype(accumulation_dtype(inputs.dtype))
        shape = (x.shape[axis],)
        scale = self.add_weight("gamma", shape, x.dtype) if self.scale else None
        offset = self.add_weight("beta", shape, x.dtype) if self.center else None
        averages = self._moving_averages(shape)
        if train and not self.frozen:
            rows = self.valid_rows(x.shape[0]) if axis else None
            keep = _valid_elements(x, mask, rows)
            mean, variance = _moments(x, axis, keep)
            if self.renorm:
                scale, offset = self._renormalize(mean, variance, averages, scale, offset)
            if not self.is_initializing():
                self._update_averages(averages, mean, variance, rows)
        else:
            mean, variance = (averages[name].value.astype(x.dtype) for name in ("moving_mean", "moving_variance"))
        return self.cast(_normalize_along(x, mean, variance, axis, self.epsilon, scale, offset))

    def _moving_averages(self, shape: tuple[int, ...]) -> dict[str, nn.Variable]:
        """Returns the moving averages keyed by name, in at least float32."""
        means = self.moving_mean_initializer or "glorot_uniform"
        variances = self.moving_variance_initializer or "glorot_uniform"
        initial = {"moving_mean": means, "moving_variance": variances}
        if self.renorm:
            initial |= {"moving_stddev": variances, "renorm_mean": means, "renorm_stddev": variances}
        dtype = accumulation_dtype(self.param_dtype)

        def make(name: str) -> jax.Array:
            initializer: Any = initializers.get(initial[name])
            value = initializers.key_first(initializer)(self.make_rng("params"), shape, dtype)
            return jnp.sqrt(value) if name.endswith("stddev") else value

        return {name: self.variable("batch_stats", name, make, name) for name in initial}

    def _renormalize(
        self,
        mean: jax.Array,
        variance: jax.Array,
        averages: dict[str, nn.Variable],
        scale: jax.Array | None,
        offset: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns scale and offset combined with r and d: (x r + d) gamma + beta = x (r gamma) + (d gamma + beta)."""
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

    def _update_averages(
        self, averages: dict[str, nn.Variable], mean: jax.Array, variance: jax.Array, rows: jax.Array | None
    ) -> None:
        # A batch of only padding rows leaves the averages unchanged. As in Keras, a fully masked batch updates them.
        has_examples = True if rows is None else jnp.any(rows)

        def update(name: str, value: jax.Array, momentum: float) -> jax.Array:
            old = averages[name].value
            new = old * momentum + value.astype(old.dtype) * (1 - momentum)
            averages[name].value = jnp.where(has_examples, new, old)
            return averages[name].value

        update("moving_mean", mean, self.momentum)
        if not self.renorm:
            update("moving_variance", variance, self.momentum)
            return
        stddev = jnp.sqrt(variance + self.epsilon)
        update("renorm_mean", mean, self.renorm_momentum)
        update("renorm_stddev", stddev, self.renorm_momentum)
        moving_stddev = update("moving_stddev", stddev, self.momentum)
        old = averages["moving_variance"].value
        new = jax.nn.relu(moving_stddev**2 - self.epsilon)
        averages["moving_variance"].value = jnp.where(has_examples, new, old)


class LayerNormalization(Layer):
    """Normalizes each example by its own mean and variance along `axis`.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

    Args:
        axis: Axis or axes along which each example is normalized.
        epsilon: Small number added to the variance.
        center: Whether to add a learned beta.
        scale: Whether to multiply by a learned gamma.
        beta_initializer: Initializer of `beta`, or its name.
        gamma_initializer: Initializer of `gamma`, or its name.
        beta_regularizer: Regularizer of `beta`, or its name.
        gamma_regularizer: Regularizer of `gamma`, or its name.
        beta_constraint: Constraint on `beta` after each update, or its name.
        gamma_constraint: Constraint on `gamma` after each update, or its name.
        rms_scaling: Whether to omit the subtraction of the mean and the beta. It exists for models that were trained
            with it; see `RMSNormalization` for new models.

    Shapes: x [B, ..., F] -> the same.

    Raises:
        ValueError: If `axis` is not an axis of x.

    References:
        Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450; Keras,
        `keras.layers.LayerNormalization`.

    Example:
        >>> layer, x = LayerNormalization(), jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(2).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """

    axis: int | Sequence[int] = -1
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    beta_initializer: InitializerLike = "zeros"
    gamma_initializer: InitializerLike = "ones"
    beta_regularizer: RegularizerLike = None
    gamma_regularizer: RegularizerLike = None
    beta_constraint: ConstraintLike = None
    gamma_constraint: ConstraintLike = None
    rms_scaling: bool = False

    WEIGHTS: ClassVar[tuple[str, ...]] = ("gamma", "beta")
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.check_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Normalizes the inputs."""
        axes = checked_axes(self, self.axis, inputs)
        x = inputs.astype(accumulation_dtype(inputs.dtype))
        shape, aligned = tuple(x.shape[axis] for axis in axes), _broadcast_shape(x.shape, axes)
        gamma = beta = None
        if self.scale or self.rms_scaling:
            gamma = self.add_weight("gamma", shape, x.dtype).reshape(aligned)
        if self.center and not self.rms_scaling:
            beta = self.add_weight("beta", shape, x.dtype).reshape(aligned)
        variance = jnp.var(x, axes, keepdims=True)
        mean = jnp.zeros((), x.dtype) if self.rms_scaling else jnp.mean(x, axes, keepdims=True)
        return self.cast(_scale_and_shift(x, mean, variance, self.epsilon, gamma, beta))


class GroupNormalization(Layer):
    """Normalizes each example by the mean and variance of each group of channels.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta

    Args:
        groups: Number of groups, a divisor of the number of channels; -1 for one channel per group.
        axis: Axis of the channels.
        epsilon: Small number added to the variance.
        center: Whether to add a learned beta.
        scale: Whether to multiply by a learned gamma.
        beta_initializer: Initializer of `beta`, or its name.
        gamma_initializer: Initializer of `gamma`, or its name.
        beta_regularizer: Regularizer of `beta`, or its name.
        gamma_regularizer: Regularizer of `gamma`, or its name.
        beta_constraint: Constraint on `beta` after each update, or its name.
        gamma_constraint: Constraint on `gamma` after each update, or its name.

    Shapes: x [B, ..., C] -> the same.

    Raises:
        ValueError: If `groups` is not -1 or a divisor of the number of channels, or `axis` is not an axis of x.

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
    beta_initializer: InitializerLike = "zeros"
    gamma_initializer: InitializerLike = "ones"
    beta_regularizer: RegularizerLike = None
    gamma_regularizer: RegularizerLike = None
    beta_constraint: ConstraintLike = None
    gamma_constraint: ConstraintLike = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("gamma", "beta")
    SUPPORTS_MASKING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.groups != -1:
            self.check_positive("groups")
        checks.check_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Normalizes the inputs."""
        axis = checked_axes(self, self.axis, inputs)[0]
        channels = inputs.shape[axis]
        groups = channels if self.groups == -1 else self.groups
        if axis == 0 or channels % groups:
            raise ValueError(
                f"`groups` of {self.label} must divide the number of channels, on an axis other than the batch, got "
                f"{groups} for axis {self.axis} of shape {inputs.shape}; give a divisor of {channels}, or another axis."
            )
        x = inputs.astype(accumulation_dtype(inputs.dtype))
        x = x.reshape(*inputs.shape[:axis], groups, channels // groups, *inputs.shape[axis + 1 :])
        aligned = _broadcast_shape(x.shape, (axis, axis + 1))
        gamma = self.add_weight("gamma", (channels,), x.dtype).reshape(aligned) if self.scale else None
        beta = self.add_weight("beta", (channels,), x.dtype).reshape(aligned) if self.center else None
        axes = tuple(i for i in range(1, x.ndim) if i != axis)
        mean, variance = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
        return self.cast(_scale_and_shift(x, mean, variance, self.epsilon, gamma, beta).reshape(inputs.shape))


class RMSNormalization(Layer):
    """Divides each example by its root mean square along `axis`.

    y = scale x / sqrt(mean(x^2) + epsilon), with a learned scale. As in Keras, the mask is not passed on.

    Args:
        axis: Axis or axes along which each example is normalized.
        epsilon: Small number added to the mean square.

    Shapes: x [B, ..., F] -> the same.

    Raises:
        ValueError: If `axis` is not an axis of x.

    References:
        Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, https://arxiv.org/abs/1910.07467; Keras,
        `keras.layers.RMSNormalization`.

    Example:
        >>> layer, x = RMSNormalization(), jnp.array([[3.0, -3.0]])
        >>> layer.apply(layer.init(jax.random.key(0), x), x).round(3).tolist()
        [[1.0, -1.0]]
    """

    axis: int | Sequence[int] = -1
    epsilon: float = 1e-6

    scale_initializer: ClassVar[str] = "ones"
    WEIGHTS: ClassVar[tuple[str, ...]] = ("scale",)

    def __post_init__(self) -> None:
        checks.check_not_negative(self, "epsilon")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Normalizes the inputs."""
        axes = checked_axes(self, self.axis, inputs)
        x = self.cast(inputs).astype(accumulation_dtype(self.compute_dtype))
        scale = self.add_weight("scale", tuple(x.shape[axis] for axis in axes), x.dtype)
        rescaled = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axes, keepdims=True) + self.epsilon)
        return self.cast(rescaled * scale.reshape(_broadcast_shape(x.shape, axes)))


class UnitNormalization(Layer):
    """Divides each example by its Euclidean norm along `axis`.

    Args:
        axis: Axis or axes along which the outputs have norm 1.

    Shapes: x [B, ..., F] -> the same.

    Raises:
        ValueError: If `axis` is not an axis of x.

    References:
        Keras, `keras.layers.UnitNormalization`.

    Example:
        >>> UnitNormalization().apply({}, jnp.array([[0.0, 4.0]])).tolist()
        [[0.0, 1.0]]
    """

    axis: int | Sequence[int] = -1

    SUPPORTS_MASKING: ClassVar[bool] = True

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Normalizes the inputs."""
        axes = checked_axes(self, self.axis, inputs)
        x = self.cast(inputs).astype(accumulation_dtype(self.compute_dtype))
        return self.cast(normalize(x, axes, 1e-12))


class SpectralNormalization(Layer):
    """Divides the kernel of a layer by an estimate sigma of its largest singular value.

    Power iteration estimates sigma from the kernel W, reshaped to a matrix [all other axes, last axis]:
    v = u W^T / |u W^T|, u = v W / |v W|, sigma = v W u^T. No gradient flows through u and v.

    Each training step divides the kernel by its sigma and stores sigma. Outside of training, the kernel is divided by
    the stored sigma, which is initially 1. The parameter itself is not changed, whereas Keras overwrites it with the
    divided kernel.

    Args:
        layer: A layer with a `kernel`, such as Dense or Conv2D, or an Embedding.
        power_iterations: Number of power iterations in each training step.

    Shapes: those of the layer. As in Keras, the mask is not passed on.

    Raises:
        TypeError: If `layer` is not a layer.
        ValueError: If the layer has no kernel, or `power_iterations` is not positive.

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

    layer: Layer
    power_iterations: int = 1

    KERNELS: ClassVar[tuple[str, ...]] = ("kernel", "embedding")

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(
                f"`layer` of {self.label} must be a layer, got {self.layer!r} of type {type(self.layer).__name__}; "
                "create an instance, such as layers.Dense(10)."
            )
        if not set(self.KERNELS) & set(self.layer.WEIGHTS):
            raise ValueError(
                f"{self.label} takes a layer with a `kernel` or `embedding`, got {type(self.layer).__name__} with the "
                f"weights {list(self.layer.WEIGHTS)}; give, for example, layers.Dense(10)."
            )
        self.check_positive("power_iterations")
        super().__post_init__()

    @property
    @nn.nowrap
    def WEIGHTS(self) -> tuple[str, ...]:  # noqa: N802
        """The weights of the layer, which has the same scope, with the vector u after the kernel."""
        kernel, *others = self.layer.WEIGHTS
        return (kernel, "vector_u", *others)

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """Returns the argument of a kind for a weight; the initializer of the vector u is fixed, as in Keras."""
        is_fixed = (weight, kind) == ("vector_u", "initializer")
        return initializers.TruncatedNormal(stddev=0.02) if is_fixed else super().argument(weight, kind)

    def setup(self) -> None:
        """Shares the scope with the inner layer."""
        nn.share_scope(self, self.layer)

    @nn.compact
    def compute(self, inputs: object, *, train: bool = False) -> jax.Array:
        """Calls the inner layer with the divided kernel."""

        def divide(
            method: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object], context: InterceptorContext
        ) -> object:
            weight = method(*args, **kwargs)
            is_kernel = context.method_name == "create_weight" and args[0] in self.KERNELS
            return self._divide(weight, train) if is_kernel and context.module is self.layer else weight

        with nn.intercept_methods(divide):
            return self.cast_floats(self.layer(inputs, train=train))

    def _divide(self, kernel: jax.Array, train: bool) -> jax.Array:
        """Returns the kernel divided by sigma; in training, updates u and sigma."""
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(accumulation_dtype(kernel.dtype))
        make_u = initializers.key_first(self.argument("vector_u", "initializer"))
        u = self.variable("batch_stats", "vector_u", lambda: make_u(self.make_rng("params"), (1, matrix.shape[-1])))
        sigma = self.variable("batch_stats", "sigma", jnp.ones, (), jnp.float32)
        if not train or self.is_initializing():
            return (matrix / sigma.value).reshape(kernel.shape).astype(kernel.dtype)
        new_u, new_sigma = self._iterate(matrix, u.value)
        # A kernel of zeros has no singular vectors, so neither the kernel nor u changes.
        is_zero = jnp.all(matrix == 0)
        u.value, divisor = jnp.where(is_zero, u.value, new_u), jnp.where(is_zero, 1, new_sigma)
        sigma.value = jax.lax.stop_gradient(divisor)
        return (matrix / divisor).reshape(kernel.shape).astype(kernel.dtype)

    def _iterate(self, matrix: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the new u and sigma."""
        fixed = jax.lax.stop_gradient(matrix)
        for _ in range(self.power_iterations):
            v = normalize(u @ fixed.T, None)
            u = normalize(v @ fixed, None)
        return u, (v @ matrix @ u.T)[0, 0]


def _broadcast_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape with size 1 on all axes but the given ones."""
    return tuple(n if axis in axes else 1 for axis, n in enumerate(shape))


def _valid_elements(x: jax.Array, mask: jax.Array | None, rows: jax.Array | None) -> jax.Array | None:
    """Returns which elements count in the statistics, as booleans with as many axes as x; None for all.

    Args:
        x: The inputs.
        mask: Mask of the inputs, without their last axis.
        rows: Which rows of the batch are not padding.
    """
    keep = None if mask is None else mask.astype(bool)[..., None]
    if rows is not None:
        rows = jnp.expand_dims(rows, tuple(range(1, x.ndim))).astype(bool)
        keep = rows if keep is None else keep & rows
    return keep


def _moments(x: jax.Array, axis: int, keep: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and biased variance [F] over all axes but one, of the elements where `keep` is true."""
    axes = tuple(i for i in range(x.ndim) if i != axis)
    if keep is None:
        return jnp.mean(x, axes), jnp.var(x, axes)
    count = jnp.sum(jnp.broadcast_to(keep, x.shape), axes, dtype=x.dtype, keepdims=True) + EPSILON
    mean = jnp.sum(jnp.where(keep, x, 0), axes, keepdims=True) / count
    variance = jnp.sum(jnp.square(jnp.where(keep, x - mean, 0)), axes, keepdims=True) / count
    return mean.reshape(-1), variance.reshape(-1)


def _normalize_along(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    axis: int,
    epsilon: float,
    scale: jax.Array | None,
    offset: jax.Array | None,
) -> jax.Array:
    """Normalizes x, given statistics and parameters [F] along one axis."""
    shape = _broadcast_shape(x.shape, (axis,))
    gamma, beta = (None if p is None else p.reshape(shape) for p in (scale, offset))
    return _scale_and_shift(x, mean.reshape(shape), variance.reshape(shape), epsilon, gamma, beta)


def _scale_and_shift(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float,
    gamma: jax.Array | None,
    beta: jax.Array | None,
) -> jax.Array:
    """Returns gamma (x - mean) / sqrt(variance + epsilon) + beta, as one multiplication and addition per element."""
    factor = jax.lax.rsqrt(variance + epsilon)
    factor = factor if gamma is None else factor * gamma
    shift = -mean * factor
    return x * factor + (shift if beta is None else shift + beta)
