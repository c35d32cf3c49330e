"""Convolutions and transposed convolutions: one class for any number of spatial axes, and thin subclasses."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import flax.linen as nn
import jax

from flaxmodels import activations
from flaxmodels.kernels import convolution
from flaxmodels.kernels.biased_convolution import conv_bias
from flaxmodels.kernels.convolution import WindowArguments
from flaxmodels.layers.dense import add_bias
from flaxmodels.layers.spatial import Spatial


class Convolution(Spatial):
    """The base class of all convolutions: arguments of the window, data format, bias and activation."""

    PADDINGS: ClassVar[tuple[str, ...]] = ("valid", "same")

    if TYPE_CHECKING:  # Each subclass declares these fields, because Keras' order of arguments differs.
        kernel_size: ClassVar[Any]
        strides: ClassVar[Any]
        padding: ClassVar[str]
        data_format: ClassVar[str | None]
        dilation_rate: ClassVar[Any]
        activation: ClassVar[Any]
        use_bias: ClassVar[bool]

    def __post_init__(self) -> None:
        self.set_sizes("kernel_size")
        self.set_sizes("strides")
        self.set_sizes("dilation_rate")
        self.set_choice("padding", self.PADDINGS)
        self.set_data_format()
        super().__post_init__()

    @nn.nowrap
    def prepare(self, inputs: jax.Array) -> jax.Array:
        """Returns the checked inputs in the dtype of the computation and with channels last."""
        self.check_axes(inputs)
        return self.channels_last(self.cast(inputs))

    def finish(self, outputs: jax.Array) -> jax.Array:
        """Applies bias, data format and activation to outputs with channels last."""
        if self.use_bias:
            outputs = add_bias(outputs, self.add_weight("bias", outputs.shape[-1:]))
        return self.activate(outputs)

    @nn.nowrap
    def activate(self, outputs: jax.Array) -> jax.Array:
        """Applies data format and activation to outputs with channels last."""
        # The data format comes first, because softmax works on the last axis of the final outputs.
        return activations.get(self.activation)(self.to_data_format(outputs))

    @property
    @nn.nowrap
    def geometry(self) -> WindowArguments:
        """The arguments of the convolution kernels that describe the window."""
        return {"strides": self.strides, "padding": self.padding, "dilation": self.dilation_rate}

    @nn.nowrap
    def check_strides_or_dilation(self) -> None:
        """Raises if both `strides` and `dilation_rate` are above 1."""
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{self.label} takes `strides` or `dilation_rate` above 1, not both, got strides={self.strides} "
                f"and dilation_rate={self.dilation_rate}; set one of them to 1."
            )


class Conv(Convolution):
    """Convolves the inputs with a kernel.

    y[p, f] = activation(sum over k, c of x[p * strides + k * dilation_rate, c] * kernel[k, c, f] + bias[f])

    Args:
        filters: Number of output channels.
        kernel_size: Size of the window; one integer for all axes, or one per axis.
        strides: Steps of the window.
        padding: "valid" uses only windows inside the inputs. "same" pads with zeros, for as many outputs as inputs
            (divided by `strides`). "causal", over time only, pads at the start, so no output depends on later inputs.
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the positions that a window covers.
        groups: Number of groups that the channels are split into; each computes an equal share of the filters.
        activation: Name or function; None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer: Name or initializer of `kernel` [*kernel_size, C / groups, filters].
        bias_initializer: Name or initializer of `bias` [filters].
        kernel_regularizer: Adds a loss on `kernel`.
        bias_regularizer: Adds a loss on `bias`.
        kernel_constraint: Applied to `kernel` after each update.
        bias_constraint: Applied to `bias` after each update.

    Raises:
        ValueError: If a size is not positive, `groups` does not divide filters and channels, `strides` and
            `dilation_rate` are both above 1, or the window does not fit into the inputs.
    """

    filters: int
    kernel_size: Any
    strides: Any = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Any = 1
    groups: int = 1
    activation: Any = None
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    # Keras has `activity_regularizer` at this position, so the arguments after it are keyword-only.
    _: dataclasses.KW_ONLY
    kernel_constraint: Any = None
    bias_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        self.check_positive("filters", "groups")
        if self.filters % self.groups:
            raise ValueError(
                f"`filters` of {self.label} must be a multiple of `groups`, got filters={self.filters} and "
                f"groups={self.groups}; change one of them."
            )
        super().__post_init__()
        self.check_strides_or_dilation()

    def compute(self, inputs: jax.Array) -> jax.Array:
        """Convolves the inputs, then applies bias and activation."""
        operands = self.operands(inputs)
        if not self.use_bias:
            return self.activate(convolution.conv(*operands, **self.geometry, groups=self.groups))
        relu = activations.get(self.activation) is activations.relu
        outputs = conv_bias(*operands, **self.geometry, groups=self.groups, relu=relu)
        return self.to_data_format(outputs) if relu else self.activate(outputs)

    @nn.compact
    def operands(self, inputs: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the inputs, checked and with channels last, the kernel, and the bias if the layer has one."""
        x = self.prepare(inputs)
        self.check_window(inputs, "kernel_size", self.dilation_rate)
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"{self.label} takes inputs whose channels are a multiple of `groups`={self.groups}, got {channels} "
                "channels; change `groups`."
            )
        kernel = self.add_weight("kernel", (*self.kernel_size, channels // self.groups, self.filters))
        return (x, kernel, self.add_weight("bias", (self.filters,))) if self.use_bias else (x, kernel)


class Conv1D(Conv):
    """Convolves over time; arguments and errors as in `Conv`, and `padding` may be "causal".

    Shapes: x [B, T, C] -> [B, T', filters]; channels_first: x [B, C, T] -> [B, filters, T'].

    References:
        Keras, `keras.layers.Conv1D`.
        "causal": van den Oord et al., "WaveNet", 2016, https://arxiv.org/abs/1609.03499.

    Example:
        >>> x = jax.numpy.ones((2, 10, 4))
        >>> Conv1D(8, 3, activation="relu").init_with_output(jax.random.key(0), x)[0].shape
        (2, 8, 8)
    """

    RANK: ClassVar[int] = 1
    PADDINGS: ClassVar[tuple[str, ...]] = ("valid", "same", "causal")


class Conv2D(Conv):
    """Convolves over two spatial axes; arguments and errors as in `Conv`.

    Shapes: x [B, H, W, C] -> [B, H', W', filters]; channels_first: x [B, C, H, W] -> [B, filters, H', W'].

    References:
        Keras, `keras.layers.Conv2D`.

    Example:
        >>> x = jax.numpy.ones((2, 28, 28, 1))
        >>> Conv2D(32, (3, 3), activation="relu").init_with_output(jax.random.key(0), x)[0].shape
        (2, 26, 26, 32)
    """

    RANK: ClassVar[int] = 2


class Conv3D(Conv):
    """Convolves over three spatial axes; arguments and errors as in `Conv`.

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', filters]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.Conv3D`.

    Example:
        >>> x = jax.numpy.ones((2, 4, 6, 6, 1))
        >>> Conv3D(3, 2, padding="same").init_with_output(jax.random.key(0), x)[0].shape
        (2, 4, 6, 6, 3)
    """

    RANK: ClassVar[int] = 3


class ConvTranspose(Convolution):
    """Applies a transposed convolution: the gradient of a convolution with respect to its inputs.

    y[p * strides + k * dilation_rate - crop, f] sums x[p, c] * kernel[k, f, c]; then bias and activation.

    Without `output_padding`, n inputs along an axis give (n - 1) * strides + max(span, strides) outputs for "valid"
    and n * strides for "same", where span = (kernel_size - 1) * dilation_rate + 1. With `output_padding`, there are
    (n - 1) * strides + output_padding outputs, plus the span for "valid", plus 1 for "same" if the span is odd.

    Args:
        filters: Number of output channels.
        kernel_size: Size of the window; one integer for all axes, or one per axis.
        strides: Distance between the windows of neighbouring inputs.
        padding: "valid" keeps all outputs that a window covers; "same" crops them.
        output_padding: Changes the number of outputs as described above.
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the outputs that a window covers.
        activation: Name or function; None for the identity.
        use_bias: Whether a bias is added.
        kernel_initializer: Name or initializer of `kernel` [*kernel_size, filters, C].
        bias_initializer: Name or initializer of `bias` [filters].
        kernel_regularizer: Adds a loss on `kernel`.
        bias_regularizer: Adds a loss on `bias`.
        kernel_constraint: Applied to `kernel` after each update.
        bias_constraint: Applied to `bias` after each update.

    Raises:
        ValueError: If a size is not positive, `output_padding` is not below `strides`, `strides` and
            `dilation_rate` are both above 1, or there would be no output.
    """

    filters: int
    kernel_size: Any
    strides: Any = 1
    padding: str = "valid"
    output_padding: Any = None
    data_format: str | None = None
    dilation_rate: Any = 1
    activation: Any = None
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    # Keras has `activity_regularizer` at this position, so the arguments after it are keyword-only.
    _: dataclasses.KW_ONLY
    kernel_constraint: Any = None
    bias_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        self.check_positive("filters")
        super().__post_init__()
        self.check_strides_or_dilation()
        if self.output_padding is None:
            return
        self.set_sizes("output_padding", lowest=0)
        if any(extra >= step for extra, step in zip(self.output_padding, self.strides, strict=True)):
            raise ValueError(
                f"`output_padding` of {self.label} must be below `strides` on every axis, got "
                f"output_padding={self.output_padding} and strides={self.strides}; make it smaller, or None."
            )

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Applies the transposed convolution, bias and activation."""
        x = self.prepare(inputs)
        self.check_outputs(inputs)
        kernel = self.add_weight("kernel", (*self.kernel_size, self.filters, x.shape[-1]))
        return self.finish(convolution.conv_transpose(x, kernel, **self.geometry, output_padding=self.output_padding))

    @nn.nowrap
    def check_outputs(self, inputs: jax.Array) -> None:
        """Raises if an axis would have no output."""
        self.check_not_empty(inputs)
        if self.padding == "valid" or self.output_padding is None:
            return
        for i, axis in enumerate(self.position_axes):
            span = (self.kernel_size[i] - 1) * self.dilation_rate[i] + 1
            if (inputs.shape[axis] - 1) * self.strides[i] + span % 2 + self.output_padding[i] < 1:
                raise ValueError(
                    f"{self.label} with padding={self.padding!r} and output_padding={self.output_padding} leaves no "
                    f"output on axis {axis} of inputs of shape {tuple(inputs.shape)}; give larger inputs, or "
                    "output_padding=None."
                )


class Conv1DTranspose(ConvTranspose):
    """Applies a transposed convolution over time; arguments, sizes and errors as in `ConvTranspose`.

    Shapes: x [B, T, C] -> [B, T', filters]; channels_first: x [B, C, T] -> [B, filters, T'].

    References:
        Keras, `keras.layers.Conv1DTranspose`.

    Example:
        >>> x = jax.numpy.ones((2, 10, 4))
        >>> Conv1DTranspose(8, 3, strides=2).init_with_output(jax.random.key(0), x)[0].shape
        (2, 21, 8)
    """

    RANK: ClassVar[int] = 1


class Conv2DTranspose(ConvTranspose):
    """Applies a transposed convolution over two spatial axes; arguments, sizes and errors as in `ConvTranspose`.

    Shapes: x [B, H, W, C] -> [B, H', W', filters]; channels_first: x [B, C, H, W] -> [B, filters, H', W'].

    References:
        Keras, `keras.layers.Conv2DTranspose`.

    Example:
        >>> x = jax.numpy.ones((2, 7, 7, 16))
        >>> layer = Conv2DTranspose(8, 3, strides=2, padding="same")
        >>> layer.init_with_output(jax.random.key(0), x)[0].shape
        (2, 14, 14, 8)
    """

    RANK: ClassVar[int] = 2


class Conv3DTranspose(ConvTranspose):
    """Applies a transposed convolution over three spatial axes; arguments, sizes and errors as in `ConvTranspose`.

    Only in this class, Keras has `data_format` before `output_padding`; pass both by name.

    Shapes: x [B, D, H, W, C] -> [B, D', H', W', filters]; with channels_first the channels are axis 1.

    References:
        Keras, `keras.layers.Conv3DTranspose`.

    Example:
        >>> x = jax.numpy.ones((2, 3, 4, 4, 2))
        >>> Conv3DTranspose(1, 2).init_with_output(jax.random.key(0), x)[0].shape
        (2, 4, 5, 5, 1)
    """

    RANK: ClassVar[int] = 3


Convolution1D = Conv1D
Convolution2D = Conv2D
Convolution3D = Conv3D
Convolution1DTranspose = Conv1DTranspose
Convolution2DTranspose = Conv2DTranspose
Convolution3DTranspose = Conv3DTranspose
