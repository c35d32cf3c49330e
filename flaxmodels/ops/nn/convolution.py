"""Keras' operations over windows: convolution, pooling and blocks of images."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels import convolution, pooling
from flaxmodels.layers import adaptive_pooling
from flaxmodels.ops.arguments import is_channels_first, per_axis
from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

Sizes = int | Sequence[int]


def channels_last(function: Callable[[jax.Array], jax.Array], x: jax.Array, data_format: str | None) -> jax.Array:
    """Applies a function of channels-last arrays to an array of any data format."""
    if not is_channels_first(data_format):
        return function(x)
    return jnp.moveaxis(function(jnp.moveaxis(x, 1, -1)), -1, 1)


def _padding(padding: str) -> str:
    if not isinstance(padding, str) or padding.lower() not in ("valid", "same"):
        raise ValueError(f'`padding` must be "valid" or "same", got {padding!r}; choose one.')
    return padding.lower()


# --- convolution


@operation
def conv(
    inputs: Tensor,
    kernel: Tensor,
    strides: Sizes = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> jax.Array:
    """Computes a convolution over one to three spatial axes.

    Args:
        inputs: Inputs, cast to the dtype of the kernel. Their channels may be a multiple of those of the kernel, which
            are then applied to each group of channels.
        kernel: The kernel.
        strides: Stride of the window.
        padding: "valid" or "same".
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the taps of the window.

    Shapes: inputs [B, *S, C], kernel [*K, C / groups, F] -> [B, *S', F].

    Raises:
        ValueError: If an argument is invalid, the channels do not fit, or the window is larger than the inputs.

    Example:
        >>> conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 4))).shape
        (1, 3, 3, 4)
    """
    weights = as_array(kernel)
    x = as_array(inputs).astype(weights.dtype)
    axes = x.ndim - 2
    channels, expected = x.shape[1 if is_channels_first(data_format) else -1], weights.shape[-2]
    if channels % expected:
        raise ValueError(
            f"The channels of the inputs must be a multiple of the channels of the kernel, got {channels} and "
            f"{expected}; change the kernel or `data_format`."
        )
    convolve = partial(
        convolution.conv,
        kernel=weights,
        strides=per_axis("strides", strides, axes),
        padding=_padding(padding),
        dilation=per_axis("dilation_rate", dilation_rate, axes),
        groups=channels // expected,
    )
    out = channels_last(convolve, x, data_format)
    if out.size == 0 and x.size:
        raise ValueError(
            f"The window must fit into the inputs, got inputs of shape {x.shape} and a kernel of shape "
            f'{weights.shape}; use a smaller kernel, stride or dilation, or padding="same".'
        )
    return out


@operation
def depthwise_conv(
    inputs: Tensor,
    kernel: Tensor,
    strides: Sizes = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> jax.Array:
    """Convolves each channel with its own kernels; arguments are those of `conv`.

    Shapes: inputs [B, *S, C], kernel [*K, C, M] -> [B, *S', C * M].

    Raises:
        ValueError: If an argument is invalid or the channels differ.

    Example:
        >>> depthwise_conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 2))).shape
        (1, 3, 3, 6)
    """
    x, weights = as_array(inputs), as_array(kernel)
    axes = x.ndim - 2
    _check_channels(x, weights.shape[-2], data_format)
    convolve = partial(
        convolution.depthwise_conv,
        kernel=weights,
        strides=per_axis("strides", strides, axes),
        padding=_padding(padding),
        dilation=per_axis("dilation_rate", dilation_rate, axes),
    )
    return channels_last(convolve, x, data_format)


@operation
def separable_conv(
    inputs: Tensor,
    depthwise_kernel: Tensor,
    pointwise_kernel: Tensor,
    strides: Sizes = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> jax.Array:
    """Computes a depthwise convolution and then a convolution of window size 1; arguments are those of `conv`.

    Shapes: inputs [B, *S, C], kernels [*K, C, M] and [1, ..., C * M, F] -> [B, *S', F].

    Raises:
        ValueError: If an argument is invalid or the channels differ.

    Example:
        >>> separable_conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 2)), jnp.ones((1, 1, 6, 4))).shape
        (1, 3, 3, 4)
    """
    x = depthwise_conv(inputs, depthwise_kernel, strides, padding, data_format, dilation_rate)
    return conv(x, pointwise_kernel, data_format=data_format)


@operation
def conv_transpose(
    inputs: Tensor,
    kernel: Tensor,
    strides: Sizes = 1,
    padding: str = "valid",
    output_padding: Sizes | None = None,
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> jax.Array:
    """Computes a transposed convolution, also called deconvolution; further arguments are those of `conv`.

    Args:
        inputs: Inputs.
        kernel: The kernel.
        strides: Stride of the window on the output.
        padding: "valid" or "same".
        output_padding: Further output positions beyond the smallest number; None for Keras' sizes: `strides` times the
            inputs with "same".
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the taps of the window.

    Shapes: inputs [B, *S, C], kernel [*K, F, C] -> [B, *S', F].

    Raises:
        ValueError: If an argument is invalid or the channels differ.

    Example:
        >>> conv_transpose(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 4, 3)), strides=2, padding="same").shape
        (1, 10, 10, 4)
    """
    x, weights = as_array(inputs), as_array(kernel)
    axes = x.ndim - 2
    _check_channels(x, weights.shape[-1], data_format)
    convolve = partial(
        convolution.conv_transpose,
        kernel=weights,
        strides=per_axis("strides", strides, axes),
        padding=_padding(padding),
        output_padding=None if output_padding is None else per_axis("output_padding", output_padding, axes),
        dilation=per_axis("dilation_rate", dilation_rate, axes),
    )
    return channels_last(convolve, x, data_format)


def _check_channels(x: jax.Array, expected: int, data_format: str | None) -> None:
    channels = x.shape[1 if is_channels_first(data_format) else -1]
    if channels != expected:
        raise ValueError(
            f"The inputs must have as many channels as the kernel, got {channels} and {expected}; "
            "change the kernel or `data_format`."
        )


# --- pooling


@operation
def max_pool(
    inputs: Tensor,
    pool_size: Sizes,
    strides: Sizes | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    """Returns the maximum of each window.

    Args:
        inputs: Inputs.
        pool_size: Size of the window.
        strides: Stride of the window; None for its size.
        padding: "valid" or "same".
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: inputs [B, *S, C] -> [B, *S', C].

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> max_pool(jnp.arange(6.0).reshape(1, 6, 1), 2).ravel().tolist()
        [1.0, 3.0, 5.0]
    """
    return _pool(pooling.max_pool, inputs, pool_size, strides, padding, data_format)


@operation
def average_pool(
    inputs: Tensor,
    pool_size: Sizes,
    strides: Sizes | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    """Returns the mean of each window without its padding; arguments and errors are those of `max_pool`.

    Example:
        >>> average_pool(jnp.arange(6.0).reshape(1, 6, 1), 2).ravel().tolist()
        [0.5, 2.5, 4.5]
    """
    return _pool(pooling.avg_pool, inputs, pool_size, strides, padding, data_format)


def _pool(
    function: Callable[..., jax.Array],
    inputs: Tensor,
    pool_size: Sizes,
    strides: Sizes | None,
    padding: str,
    data_format: str | None,
) -> jax.Array:
    x = as_array(inputs)
    window = per_axis("pool_size", pool_size, x.ndim - 2)
    steps = window if strides is None else per_axis("strides", strides, x.ndim - 2)
    pool = partial(function, window=window, strides=steps, padding=_padding(padding))
    return channels_last(pool, x, data_format)


@operation
def adaptive_average_pool(inputs: Tensor, output_size: Sizes, data_format: str | None = None) -> jax.Array:
    """Covers each spatial axis with a given number of windows and returns the mean of each.

    Window i of m over n positions covers those from floor(i n / m) up to, but not including, ceil((i + 1) n / m).

    Args:
        inputs: Inputs.
        output_size: Number of windows.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: inputs [B, *S, C] -> [B, *output_size, C].

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> adaptive_average_pool(jnp.array([1.0, 2.0, 3.0, 5.0]).reshape(1, 4, 1), 2).ravel().tolist()
        [1.5, 4.0]
    """
    return _adaptive_pool(adaptive_pooling.mean_of, inputs, output_size, data_format)


@operation
def adaptive_max_pool(inputs: Tensor, output_size: Sizes, data_format: str | None = None) -> jax.Array:
    """Returns the maximum of each window; arguments and errors are those of `adaptive_average_pool`.

    Example:
        >>> adaptive_max_pool(jnp.array([1.0, 2.0, 3.0, 5.0]).reshape(1, 4, 1), 2).ravel().tolist()
        [2.0, 5.0]
    """
    return _adaptive_pool(adaptive_pooling.max_of, inputs, output_size, data_format)


def _adaptive_pool(
    reduce: Callable[[jax.Array, np.ndarray, int], jax.Array],
    inputs: Tensor,
    output_size: Sizes,
    data_format: str | None,
) -> jax.Array:
    x = as_array(inputs)
    first = 2 if is_channels_first(data_format) else 1
    for axis, count in enumerate(per_axis("output_size", output_size, x.ndim - 2), first):
        x = adaptive_pooling.reduce_windows(reduce, x, axis, count)
    return x


# --- blocks of images


@operation
def unfold(x: Tensor, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> jax.Array:
    """Returns the values under each position of a window, channels first (im2col).

    Args:
        x: Images.
        kernel_size: Size of the window.
        dilation: Distance between the taps of the window.
        padding: Number of zeros around the images.
        stride: Stride of the window.

    Shapes: x [B, C, H, W] -> [B, C * kh * kw, positions].

    Raises:
        ValueError: If x does not have 4 axes.

    Example:
        >>> unfold(jnp.ones((1, 3, 4, 4)), 2).shape
        (1, 12, 9)
    """
    images = as_array(x)
    if images.ndim != 4:
        raise ValueError(f"`unfold` takes images of shape [B, C, H, W], got shape {images.shape}; add an axis.")
    return _unfold(images, *(per_axis("window", size, 2) for size in (kernel_size, dilation, padding, stride)))


def _unfold(
    images: jax.Array, window: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> jax.Array:
    pads = [(size, size) for size in padding]
    batch, channels = images.shape[:2]
    patches = convolution.extract_patches(jnp.moveaxis(images, 1, -1), window, stride, pads, dilation)
    split = patches.reshape(batch, -1, math.prod(window), channels)
    return split.transpose(0, 3, 2, 1).reshape(batch, channels * math.prod(window), -1)


@operation
def fold(
    x: Tensor,
    output_size: Sizes,
    kernel_size: Sizes,
    dilation: Sizes = 1,
    padding: Sizes = 0,
    stride: Sizes = 1,
) -> jax.Array:
    """Adds values up at the window positions from which `unfold` took them (col2im).

    Args:
        x: What `unfold` returns.
        output_size: Height and width of the images.
        kernel_size: Size of the window.
        dilation: Distance between the taps of the window.
        padding: Number of zeros around the images.
        stride: Stride of the window.

    Shapes: x [B, C * kh * kw, positions] -> [B, C, *output_size].

    Raises:
        ValueError: If x does not have 3 axes of these sizes.

    Example:
        >>> fold(jnp.ones((1, 12, 4)), 4, 2, stride=2).shape
        (1, 3, 4, 4)
    """
    columns = as_array(x)
    size, window = per_axis("output_size", output_size, 2), per_axis("kernel_size", kernel_size, 2)
    options = [per_axis("window", value, 2) for value in (dilation, padding, stride)]
    if columns.ndim != 3 or columns.shape[1] % math.prod(window):
        raise ValueError(
            f"`fold` takes columns of shape [B, C * {math.prod(window)}, positions], got shape {columns.shape}; "
            "give what `unfold` returns."
        )
    images = jax.ShapeDtypeStruct((columns.shape[0], columns.shape[1] // math.prod(window), *size), columns.dtype)
    gather = partial(_unfold, window=window, dilation=options[0], padding=options[1], stride=options[2])
    expected = jax.eval_shape(gather, images).shape
    if columns.shape != expected:
        raise ValueError(
            f"`fold` takes columns of shape {expected} for these windows, got shape {columns.shape}; "
            "correct `output_size` or the windows."
        )
    return jax.linear_transpose(gather, images)(columns)[0]


@operation
def depth_to_space(x: Tensor, block_size: int, data_format: str | None = "channels_last") -> jax.Array:
    """Moves channels into blocks of pixels (pixel shuffle).

    Args:
        x: Images.
        block_size: Size of a block, at least 2.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: x [B, H, W, N * N * C] -> [B, N * H, N * W, C]; with channels_first the channels are axis 1.

    Raises:
        ValueError: If `block_size` is less than 2.

    Example:
        >>> depth_to_space(jnp.arange(4.0).reshape(1, 1, 1, 4), 2).ravel().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    images, n = as_array(x), _block("depth_to_space", block_size)
    if is_channels_first(data_format):
        batch, channels, height, width = images.shape
        blocks = images.reshape(batch, channels // n**2, n, n, height, width).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(batch, channels // n**2, height * n, width * n)
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, height, width, n, n, channels // n**2).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, height * n, width * n, channels // n**2)


@operation
def space_to_depth(x: Tensor, block_size: int, data_format: str | None = "channels_last") -> jax.Array:
    """Moves blocks of pixels into channels, the inverse of `depth_to_space`; arguments and errors are the same.

    Example:
        >>> space_to_depth(jnp.arange(4.0).reshape(1, 2, 2, 1), 2).ravel().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    images, n = as_array(x), _block("space_to_depth", block_size)
    if is_channels_first(data_format):
        batch, channels, height, width = images.shape
        blocks = images.reshape(batch, channels, height // n, n, width // n, n).transpose(0, 1, 3, 5, 2, 4)
        return blocks.reshape(batch, channels * n**2, height // n, width // n)
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, height // n, n, width // n, n, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, height // n, width // n, channels * n**2)


def _block(name: str, block_size: int) -> int:
    if block_size < 2:
        raise ValueError(f"`block_size` of `{name}` must be at least 2, got {block_size!r}; give a larger one.")
    return block_size
