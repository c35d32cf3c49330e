"""Keras' filters of images, and the structural similarity of two images."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.kernels import convolution
from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.image.layout import checked_images, image_operation, on_batches


def filter_channels(images: jax.Array, kernel: jax.Array, padding: str = "same") -> jax.Array:
    """Convolves each channel of images [B, H, W, C] with the same kernel [kh, kw]."""
    weights = jnp.broadcast_to(kernel[:, :, None, None], (*kernel.shape, images.shape[-1], 1))
    return convolution.depthwise_conv(images, weights, strides=(1, 1), padding=padding, dilation=(1, 1))


def gaussian_kernel(sizes: Sequence[int], sigmas: Sequence[ArrayLike] | jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns the kernel [H, W] of a Gaussian blur, whose sum is 1; sizes and sigmas are those along W, then H."""

    def along_axis(size: int, sigma: ArrayLike) -> jax.Array:
        x = jnp.arange(size, dtype=dtype) - jnp.asarray((size - 1) / 2, dtype)
        weights = jnp.exp(-0.5 * (x / sigma) ** 2)
        return weights / jnp.sum(weights)

    return jnp.outer(along_axis(sizes[1], sigmas[1]), along_axis(sizes[0], sigmas[0]))


@image_operation
def gaussian_blur(
    images: Tensor,
    kernel_size: Sequence[int] = (3, 3),
    sigma: Tensor = (1.0, 1.0),
    data_format: str | None = None,
) -> jax.Array:
    """Blurs images by a Gaussian, with zeros around them.

    Args:
        images: One image or a batch.
        kernel_size: Size of the window along W and H, in this order, as in Keras' code; its documentation says H and W.
        sigma: Standard deviations along W and H.
        data_format: "channels_last" or "channels_first". None is "channels_last", as Keras documents it and as it does
            on symbols. On arrays, Keras' JAX backend takes None for "channels_first".

    Shapes: images [..., H, W, C] -> the same.

    Raises:
        ValueError: If the images have other than 3 or 4 axes.

    Example:
        >>> gaussian_blur(jnp.ones((5, 5, 3)))[2, 2, 0].round(3).item()
        1.0
    """
    array = checked_images("gaussian_blur", images)
    kernel = gaussian_kernel(kernel_size, as_array(sigma).astype(array.dtype), array.dtype)
    return on_batches(partial(filter_channels, kernel=kernel), array, data_format)


@image_operation
def sobel_edges(images: Tensor, data_format: str | None = None) -> jax.Array:
    """Returns the vertical and the horizontal derivative of images, with zeros around them.

    Args:
        images: A batch of images.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [B, H, W, C] -> [B, H, W, C, 2].

    Raises:
        ValueError: If the images have other than 4 axes.

    Example:
        >>> sobel_edges(jnp.arange(9.0).reshape(1, 3, 3, 1))[0, 1, 1, 0].tolist()
        [24.0, 8.0]
    """
    array = as_array(images)
    if array.ndim != 4:
        raise ValueError(
            f"`sobel_edges` takes a batch of images with 4 axes, got shape {array.shape}; add an axis for the batch."
        )
    horizontal = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = [
        on_batches(partial(filter_channels, kernel=jnp.asarray(kernel, array.dtype)), array, data_format)
        for kernel in (horizontal.T, horizontal)
    ]
    return jnp.stack(edges, axis=-1)


@image_operation
def ssim(
    image1: Tensor,
    image2: Tensor,
    max_val: float = 1.0,
    filter_size: int = 11,
    filter_sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
    data_format: str | None = None,
) -> jax.Array:
    """Returns the structural similarity of images: 1 for equal ones.

    Args:
        image1: One image or a batch.
        image2: Images of the same shape.
        max_val: Largest possible value of a pixel.
        filter_size: Size of the Gaussian window in which statistics are taken.
        filter_sigma: Its standard deviation.
        k1: Stabilizes the quotient of means.
        k2: Stabilizes the quotient of variances.
        data_format: "channels_last" (also for None) or "channels_first".

    Shapes: images [B, H, W, C] -> [B]; one image -> [].

    Raises:
        ValueError: If the images have other than 3 or 4 axes.

    References:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.

    Example:
        >>> ssim(jnp.ones((1, 16, 16, 3)), jnp.ones((1, 16, 16, 3))).round(3).tolist()
        [1.0]
    """
    first, second = checked_images("ssim", image1), checked_images("ssim", image2)
    dtype = first.dtype if jnp.issubdtype(first.dtype, jnp.floating) else jnp.float32
    kernel = gaussian_kernel((filter_size, filter_size), (filter_sigma, filter_sigma), dtype)
    mean = partial(filter_channels, kernel=kernel, padding="valid")
    c1, c2 = (k1 * max_val) ** 2, (k2 * max_val) ** 2

    def similarity(pair: jax.Array) -> jax.Array:
        x, y = jnp.split(pair, 2, axis=-1)
        mean_x, mean_y = mean(x), mean(y)
        variance_x, variance_y = mean(x * x) - mean_x * mean_x, mean(y * y) - mean_y * mean_y
        covariance = mean(x * y) - mean_x * mean_y
        means = (2.0 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
        return means * (2.0 * covariance + c2) / (variance_x + variance_y + c2)

    channels = -3 if data_format == "channels_first" else -1
    both = jnp.concatenate([first.astype(dtype), second.astype(dtype)], axis=channels)
    return jnp.mean(on_batches(similarity, both, data_format), axis=(-3, -2, -1)).astype(first.dtype)
