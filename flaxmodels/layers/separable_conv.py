"""Depthwise convolutions, and separable ones, which add a pointwise convolution."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxmodels.kernels import convolution
from flaxmodels.layers.conv import Convolution


class DepthwiseConv(Convolution):
    """Convolves each channel separately, with a separate kernel.

    y[p, c * depth_multiplier + m] sums x[p * strides + k * dilation_rate, c] * kernel[k, c, m]; then bias, activation.

    Args:
        kernel_size: Size of the window; one integer for all axes, or one per axis.
        strides: Steps of the window.
        padding: "valid" uses only windows inside the inputs. "same" pads with zeros, for as many outputs as inputs
            (divided by `strides`).
        depth_multiplier: Number of output channels for each input channel.
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the positions that a window covers.
        activation: Name or function; None for the identity.
        use_bias: Whether a bias is added.
        depthwise_initializer: Name or initializer of `kernel` [*kernel_size, C, depth_multiplier].
        bias_initializer: Name or initializer of `bias` [C * depth_multiplier].
        depthwise_regularizer: Adds a loss on `kernel`.
        bias_regularizer: Adds a loss on `bias`.
        depthwise_constraint: Applied to `kernel` after each update.
        bias_constraint: Applied to `bias` after each update.

    Raises:
        ValueError: If a size is not positive or the window does not fit into the inputs.
    """

    kernel_size: Any
    strides: Any = 1
    padding: str = "valid"
    depth_multiplier: int = 1
    data_format: str | None = None
    dilation_rate: Any = 1
    activation: Any = None
    use_bias: bool = True
    depthwise_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    depthwise_regularizer: Any = None
    bias_regularizer: Any = None
    # Keras has `activity_regularizer` at this position, so the arguments after it are keyword-only.
    _: dataclasses.KW_ONLY
    depthwise_constraint: Any = None
    bias_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"
    ARGUMENTS: ClassVar[dict[str, str]] = {"kernel": "depthwise"}

    def __post_init__(self) -> None:
        self.check_positive("depth_multiplier")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Applies the depthwise convolution, bias and activation."""
        x = self.prepare(inputs)
        self.check_window(inputs, "kernel_size", self.dilation_rate)
        kernel = self.add_weight("kernel", (*self.kernel_size, x.shape[-1], self.depth_multiplier))
        return self.finish(convolution.depthwise_conv(x, kernel, **self.geometry))


class DepthwiseConv1D(DepthwiseConv):
    """Convolves each channel over time; arguments and errors as in `DepthwiseConv`.

    Shapes: x [B, T, C] -> [B, T', C * depth_multiplier]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.DepthwiseConv1D`.

    Example:
        >>> x = jax.numpy.ones((2, 10, 4))
        >>> DepthwiseConv1D(3, depth_multiplier=2).init_with_output(jax.random.key(0), x)[0].shape
        (2, 8, 8)
    """

    RANK: ClassVar[int] = 1


class DepthwiseConv2D(DepthwiseConv):
    """Convolves each channel over two spatial axes; arguments and errors as in `DepthwiseConv`.

    Shapes: x [B, H, W, C] -> [B, H', W', C * depth_multiplier]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.DepthwiseConv2D`.

    Example:
        >>> x = jax.numpy.ones((2, 8, 8, 3))
        >>> DepthwiseConv2D(3, padding="same").init_with_output(jax.random.key(0), x)[0].shape
        (2, 8, 8, 3)
    """

    RANK: ClassVar[int] = 2


class SeparableConv(Convolution):
    """Convolves each channel separately, then mixes the channels at each position.

    y = activation(depthwise(x, depthwise_kernel) @ pointwise_kernel + bias)

    Args:
        filters: Number of output channels.
        kernel_size: Size of the window; one integer for all axes, or one per axis.
        strides: Steps of the window.
        padding: "valid" uses only windows inside the inputs. "same" pads with zeros, for as many outputs as inputs
            (divided by `strides`).
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the positions that a window covers.
        depth_multiplier: Number of intermediate channels for each input channel.
        activation: Name or function; None for the identity.
        use_bias: Whether a bias is added.
        depthwise_initializer: Name or initializer of `depthwise_kernel` [*kernel_size, C, depth_multiplier].
        pointwise_initializer: Name or initializer of `pointwise_kernel` [1, ..., C * depth_multiplier, filters].
        bias_initializer: Name or initializer of `bias` [filters].
        depthwise_regularizer: Adds a loss on `depthwise_kernel`.
        pointwise_regularizer: Adds a loss on `pointwise_kernel`.
        bias_regularizer: Adds a loss on `bias`.
        depthwise_constraint: Applied to `depthwise_kernel` after each update.
        pointwise_constraint: Applied to `pointwise_kernel` after each update.
        bias_constraint: Applied to `bias` after each update.

    Raises:
        ValueError: If a size is not positive or the window does not fit into the inputs.
    """

    filters: int
    kernel_size: Any
    strides: Any = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Any = 1
    depth_multiplier: int = 1
    activation: Any = None
    use_bias: bool = True
    depthwise_initializer: Any = "glorot_uniform"
    pointwise_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    depthwise_regularizer: Any = None
    pointwise_regularizer: Any = None
    bias_regularizer: Any = None
    # Keras has `activity_regularizer` at this position, so the arguments after it are keyword-only.
    _: dataclasses.KW_ONLY
    depthwise_constraint: Any = None
    pointwise_constraint: Any = None
    bias_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("depthwise_kernel", "pointwise_kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"
    ARGUMENTS: ClassVar[dict[str, str]] = {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}

    def __post_init__(self) -> None:
        self.check_positive("filters", "depth_multiplier")
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Applies both convolutions, bias and activation."""
        x = self.prepare(inputs)
        self.check_window(inputs, "kernel_size", self.dilation_rate)
        channels, ones = x.shape[-1], (1,) * self.RANK
        depthwise = self.add_weight("depthwise_kernel", (*self.kernel_size, channels, self.depth_multiplier))
        pointwise = self.add_weight("pointwise_kernel", (*ones, channels * self.depth_multiplier, self.filters))
        x = convolution.depthwise_conv(x, depthwise, **self.geometry)
        return self.finish(convolution.conv(x, pointwise, strides=ones, padding="valid", dilation=ones))


class SeparableConv1D(SeparableConv):
    """Convolves each channel over time, then mixes them; arguments and errors as in `SeparableConv`.

    Shapes: x [B, T, C] -> [B, T', filters]; channels_first: x [B, C, T] -> [B, filters, T'].

    References:
        Keras, `keras.layers.SeparableConv1D`.

    Example:
        >>> x = jax.numpy.ones((2, 10, 4))
        >>> SeparableConv1D(6, 3).init_with_output(jax.random.key(0), x)[0].shape
        (2, 8, 6)
    """

    RANK: ClassVar[int] = 1


class SeparableConv2D(SeparableConv):
    """Convolves each channel over two spatial axes, then mixes them; arguments and errors as in `SeparableConv`.

    Shapes: x [B, H, W, C] -> [B, H', W', filters]; channels_first: x [B, C, H, W] -> [B, filters, H', W'].

    References:
        Keras, `keras.layers.SeparableConv2D`. Chollet, "Xception", 2017, https://arxiv.org/abs/1610.02357.

    Example:
        >>> x = jax.numpy.ones((2, 8, 8, 3))
        >>> SeparableConv2D(16, 3, padding="same").init_with_output(jax.random.key(0), x)[0].shape
        (2, 8, 8, 16)
    """

    RANK: ClassVar[int] = 2


SeparableConvolution1D = SeparableConv1D
SeparableConvolution2D = SeparableConv2D
