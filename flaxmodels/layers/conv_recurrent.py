"""Convolutional recurrent layers."""

from typing import Any, ClassVar, Unpack

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations
from flaxmodels.activations import ActivationLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.kernels import convolution, recurrence
from flaxmodels.kernels.convolution import WindowArguments
from flaxmodels.kernels.recurrence import LSTMState
from flaxmodels.layers.cells import CellFunctions, LSTMBase
from flaxmodels.layers.dense import add_bias
from flaxmodels.layers.recurrent import CellRecurrent
from flaxmodels.layers.spatial import Spatial
from flaxmodels.regularizers import RegularizerLike


class ConvLSTM(CellRecurrent, LSTMBase, Spatial):
    """Base class of ConvLSTM1D, ConvLSTM2D and ConvLSTM3D: LSTMs whose matrix products are convolutions.

    i, f, g, o = split(conv(x[t], kernel) + conv(h[t-1], recurrent_kernel) + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t]).
    The convolution of h has strides 1 and "same" padding, so that h keeps its size.

    A masked step keeps the whole state of an example. Keras' JAX backend broadcasts the mask along the wrong axes, so
    its results with a mask differ.

    A subclass documents the arguments.

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.
    """

    filters: int
    kernel_size: Any
    strides: Any = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Any = 1
    activation: ActivationLike = "tanh"
    recurrent_activation: ActivationLike = "sigmoid"
    use_bias: bool = True
    kernel_initializer: InitializerLike = "glorot_uniform"
    recurrent_initializer: InitializerLike = "orthogonal"
    bias_initializer: InitializerLike = "zeros"
    unit_forget_bias: bool = True
    kernel_regularizer: RegularizerLike = None
    recurrent_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None

    # As in Keras, this is not an argument here: each gate has its own dropout mask.
    implementation: ClassVar[Any] = 1

    def __post_init__(self) -> None:
        for name in ("kernel_size", "strides", "dilation_rate"):
            self.set_sizes(name)
        self.set_choice("padding", ("valid", "same"))
        self.set_data_format()
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{self.label} takes `strides` or `dilation_rate` above 1, not both, got strides={self.strides} "
                f"and dilation_rate={self.dilation_rate}; set one of them to 1."
            )
        super().__post_init__()

    @nn.nowrap
    def check_size(self) -> None:
        """Raises unless `filters` is a positive integer."""
        self.check_positive("filters")

    @property
    @nn.nowrap
    def axes(self) -> str:
        """The names of the axes of one step's inputs, separated by spaces."""
        positions = "D H W"[-2 * self.RANK + 1 :]
        return f"B C {positions}" if self.channels_first else f"B {positions} C"

    @property
    @nn.nowrap
    def output_size(self) -> int:
        """The number of output channels."""
        return self.filters

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[jax.Array]:
        """Raises, because the size of the states depends on the inputs."""
        raise ValueError(
            f"{self.label} cannot infer the size of its states without inputs, got only a batch size of {batch_size}; "
            "leave `initial_state` out to start with zeros."
        )

    @nn.compact
    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell.

        Args:
            shape: Shape of one step's inputs, [B, positions, C] or [B, C, positions].
            train: Whether dropout is active.
        """
        self.check_window(jax.ShapeDtypeStruct(shape, self.compute_dtype), "kernel_size", self.dilation_rate)
        channels = shape[1] if self.channels_first else shape[-1]
        kernel = self.add_weight("kernel", (*self.kernel_size, channels, 4 * self.filters))
        recurrent_kernel = self.add_weight("recurrent_kernel", (*self.kernel_size, self.filters, 4 * self.filters))
        bias = self.add_weight("bias", (4 * self.filters,)) if self.use_bias else None
        masks = [self.channels_last(m) for m in self.masks("dropout", shape, train)]
        geometry: WindowArguments = {
            "strides": self.strides,
            "padding": self.padding,
            "dilation": self.dilation_rate,
        }

        def project(x: jax.Array) -> jax.Array:
            images = self.channels_last(self.cast(x).reshape(-1, *shape[1:]))
            z = convolve(images, kernel, masks, **geometry)
            z = z if bias is None else add_bias(z, bias)
            return z.reshape(*x.shape[: x.ndim - len(shape) + 1], *z.shape[1:])

        *size, _ = jax.eval_shape(project, jax.ShapeDtypeStruct(shape, self.compute_dtype)).shape
        zeros = jnp.zeros((*size, self.filters), self.compute_dtype)
        recurrent_masks = self.masks("recurrent_dropout", zeros.shape, train)
        ones = (1,) * self.RANK
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)

        def advance(x: jax.Array, state: LSTMState) -> LSTMState:
            z = x + convolve(state.h, recurrent_kernel, recurrent_masks, strides=ones, padding="same", dilation=ones)
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = gate(f) * state.c + gate(i) * activation(g)
            return LSTMState(gate(o) * activation(c), c)

        def step(x: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
            state = advance(x, LSTMState(*map(self.channels_last, state)))
            return self.to_data_format(state.h), LSTMState(*map(self.to_data_format, state))

        def run(xs: jax.Array, state: LSTMState, mask: jax.Array | None, unroll: bool) -> tuple[jax.Array, LSTMState]:
            hs, state = recurrence.scan(advance, project(xs), LSTMState(*map(self.channels_last, state)), mask, unroll)
            return jax.vmap(self.to_data_format)(hs), LSTMState(*map(self.to_data_format, state))

        initial = self.to_data_format(zeros)
        return CellFunctions(project, step, run, LSTMState(initial, initial), initial.shape)


def convolve(x: jax.Array, kernel: jax.Array, masks: list[jax.Array], **geometry: Unpack[WindowArguments]) -> jax.Array:
    """Returns the convolution of x (channels last), with dropout of x.

    Args:
        x: Images of one step [B, positions, C], or of all steps [T * B, positions, C].
        kernel: Kernel [window, C, filters].
        masks: No dropout mask, one for all filters, or one for each of len(masks) equal blocks of filters.
        **geometry: Strides, padding and dilation of the convolution.
    """
    if not masks:
        return convolution.conv(x, kernel, **geometry)
    repeats = (x.shape[0] // masks[0].shape[0], *(1,) * (x.ndim - 1))
    blocks = zip(masks, jnp.split(kernel, len(masks), axis=-1), strict=True)
    parts = [convolution.conv(x * jnp.tile(mask, repeats), block, **geometry) for mask, block in blocks]
    return jnp.concatenate(parts, axis=-1)


class ConvLSTM1D(ConvLSTM):
    """Runs a convolutional LSTM over sequences of lines: an LSTM whose matrix products are 1D convolutions.

    i, f, g, o = split(conv(x[t], kernel) + conv(h[t-1], recurrent_kernel) + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t])

    Args:
        filters: Number of output channels.
        kernel_size: Size of both kernels; one integer for all axes, or one per axis.
        strides: Strides of the convolution of x; one integer for all axes, or one per axis.
        padding: "valid" for no padding of x, "same" for padding with zeros.
        data_format: "channels_last" (the default) or "channels_first".
        dilation_rate: Dilation of the convolution of x; one integer for all axes, or one per axis.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        unit_forget_bias: Whether the forget gate's bias starts at 1; the others use `bias_initializer`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training, with one mask per gate for all steps.
        recurrent_dropout: Fraction of the state to drop in training, with one mask per gate for all steps.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call; see `RNN`.
        unroll: Whether to write out the time loop step by step instead of using a scan.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.

    Shapes: x [B, T, W, C], or [B, T, C, W] for "channels_first", mask [B, T], initial_state two arrays of
        the output's shape -> [B, W', filters], or [B, T, ...] if return_sequences; and h, c if return_state.

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.ConvLSTM1D`; Shi et al., "Convolutional LSTM network", 2015, https://arxiv.org/abs/1506.04214.

    Example:
        >>> layer, x = ConvLSTM1D(2, kernel_size=3, padding="same"), jnp.ones((5, 7, 6, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 6, 2)
    """

    RANK: ClassVar[int] = 1


class ConvLSTM2D(ConvLSTM):
    """Runs a convolutional LSTM over sequences of images: an LSTM whose matrix products are 2D convolutions.

    i, f, g, o = split(conv(x[t], kernel) + conv(h[t-1], recurrent_kernel) + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t])

    Args:
        filters: Number of output channels.
        kernel_size: Size of both kernels; one integer for all axes, or one per axis.
        strides: Strides of the convolution of x; one integer for all axes, or one per axis.
        padding: "valid" for no padding of x, "same" for padding with zeros.
        data_format: "channels_last" (the default) or "channels_first".
        dilation_rate: Dilation of the convolution of x; one integer for all axes, or one per axis.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        unit_forget_bias: Whether the forget gate's bias starts at 1; the others use `bias_initializer`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training, with one mask per gate for all steps.
        recurrent_dropout: Fraction of the state to drop in training, with one mask per gate for all steps.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call; see `RNN`.
        unroll: Whether to write out the time loop step by step instead of using a scan.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.

    Shapes: x [B, T, H, W, C], or [B, T, C, H, W] for "channels_first", mask [B, T], initial_state two arrays of
        the output's shape -> [B, H', W', filters], or [B, T, ...] if return_sequences; and h, c if return_state.

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.ConvLSTM2D`; Shi et al., "Convolutional LSTM network", 2015, https://arxiv.org/abs/1506.04214.

    Example:
        >>> layer, x = ConvLSTM2D(2, kernel_size=3, padding="same"), jnp.ones((5, 7, 6, 6, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 6, 6, 2)
    """

    RANK: ClassVar[int] = 2


class ConvLSTM3D(ConvLSTM):
    """Runs a convolutional LSTM over sequences of volumes: an LSTM whose matrix products are 3D convolutions.

    i, f, g, o = split(conv(x[t], kernel) + conv(h[t-1], recurrent_kernel) + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t])

    Args:
        filters: Number of output channels.
        kernel_size: Size of both kernels; one integer for all axes, or one per axis.
        strides: Strides of the convolution of x; one integer for all axes, or one per axis.
        padding: "valid" for no padding of x, "same" for padding with zeros.
        data_format: "channels_last" (the default) or "channels_first".
        dilation_rate: Dilation of the convolution of x; one integer for all axes, or one per axis.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        unit_forget_bias: Whether the forget gate's bias starts at 1; the others use `bias_initializer`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training, with one mask per gate for all steps.
        recurrent_dropout: Fraction of the state to drop in training, with one mask per gate for all steps.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call; see `RNN`.
        unroll: Whether to write out the time loop step by step instead of using a scan.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.

    Shapes: x [B, T, D, H, W, C], or [B, T, C, D, H, W] for "channels_first", mask [B, T], initial_state two arrays of
        the output's shape -> [B, D', H', W', filters], or [B, T, ...] if return_sequences; and h, c if return_state.

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.ConvLSTM3D`; Shi et al., "Convolutional LSTM network", 2015, https://arxiv.org/abs/1506.04214.

    Example:
        >>> layer, x = ConvLSTM3D(2, kernel_size=3, padding="same"), jnp.ones((5, 3, 4, 4, 4, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 4, 4, 4, 2)
    """

    RANK: ClassVar[int] = 3
