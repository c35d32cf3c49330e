"""Recurrent layers whose steps are convolutions."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations
from flaxmodels.kernels import convolution, recurrence
from flaxmodels.kernels.recurrence import LSTMState
from flaxmodels.layers.cells import LSTMLike, Steps
from flaxmodels.layers.dense import add_bias
from flaxmodels.layers.recurrent import Sequenced
from flaxmodels.layers.spatial import Spatial


class ConvLSTM(Sequenced, LSTMLike, Spatial):
    """Takes a long short-term memory of images through time: its products are convolutions.

    i, f, g, o = split(kernel * x[t] + recurrent_kernel * h[t-1] + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t]).
    The convolution of h has no strides and pads with zeros, so that h keeps its size.

    A mask keeps or changes whole images; Keras on JAX lays it over the wrong axes, so numbers with a mask differ.

    Args:
        filters: Number of output channels.
        kernel_size: Size of both windows; one integer for all axes, or one per axis.
        strides: Steps of the window over x.
        padding: "valid" keeps windows that lie inside x; "same" pads x with zeros.
        data_format: "channels_last" (also for None) or "channels_first".
        dilation_rate: Distance between the positions of x that a window covers.
        activation: Name or function; None keeps values as they are.
        recurrent_activation: Likewise, for the gates.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        unit_forget_bias: Whether the forget gate's bias begins with ones.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training, the same in each step, anew for each gate.
        recurrent_dropout: Likewise, of the state.
        seed: Makes the dropout repeatable.
        return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask: As `RNN` describes them.

    Raises:
        ValueError: If an argument or a shape is wrong.
    """

    filters: int
    kernel_size: Any
    strides: Any = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Any = 1
    activation: Any = "tanh"
    recurrent_activation: Any = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    recurrent_initializer: Any = "orthogonal"
    bias_initializer: Any = "zeros"
    unit_forget_bias: bool = True
    kernel_regularizer: Any = None
    recurrent_regularizer: Any = None
    bias_regularizer: Any = None

    # No argument here, as in Keras: each gate drops for itself.
    implementation: ClassVar[Any] = 1  # type: ignore[misc]

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
        """Raises unless `filters` is a size."""
        self.check_positive("filters")

    @property
    @nn.nowrap
    def axes(self) -> str:
        """The axes of one step's inputs."""
        positions = "D H W"[-2 * self.RANK + 1 :]
        return f"B C {positions}" if self.channels_first else f"B {positions} C"

    @property
    @nn.nowrap
    def output_size(self) -> int:
        """The number of output channels."""
        return self.filters

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[jax.Array]:
        """Raises: the states are images, whose size is known where inputs are."""
        raise ValueError(
            f"{self.label} has states of the size of its outputs, got a batch size of {batch_size} alone; "
            "leave `initial_state` out to begin with zeros."
        )

    @nn.compact
    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The cell's functions for inputs of which one step has this shape, [B, positions, C] or [B, C, positions]."""
        self.check_window(jax.ShapeDtypeStruct(shape, self.compute_dtype), "kernel_size", self.dilation_rate)
        channels = shape[1] if self.channels_first else shape[-1]
        kernel = self.add_weight("kernel", (*self.kernel_size, channels, 4 * self.filters))
        recurrent_kernel = self.add_weight("recurrent_kernel", (*self.kernel_size, self.filters, 4 * self.filters))
        bias = self.add_weight("bias", (4 * self.filters,)) if self.use_bias else None
        masks = [self.channels_last(m) for m in self.masks("dropout", shape, train)]
        geometry = {"strides": self.strides, "padding": self.padding, "dilation": self.dilation_rate}

        def project(x: jax.Array) -> jax.Array:
            images = self.channels_last(self.cast(x).reshape(-1, *shape[1:]))
            z = convolve(images, kernel, masks, **geometry)
            z = z if bias is None else add_bias(z, bias)
            return z.reshape(*x.shape[: x.ndim - len(shape) + 1], *z.shape[1:])

        *size, _ = jax.eval_shape(project, jax.ShapeDtypeStruct(shape, self.compute_dtype)).shape
        zeros = jnp.zeros((*size, self.filters), self.compute_dtype)
        recurrent_masks = self.masks("recurrent_dropout", zeros.shape, train)
        once = (1,) * self.RANK
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)

        def advance(x: jax.Array, state: LSTMState) -> LSTMState:
            z = x + convolve(state.h, recurrent_kernel, recurrent_masks, strides=once, padding="same", dilation=once)
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = gate(f) * state.c + gate(i) * activation(g)
            return LSTMState(gate(o) * activation(c), c)

        def step(x: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
            state = advance(x, LSTMState(*map(self.channels_last, state)))
            return self.to_data_format(state.h), LSTMState(*map(self.as_given, state))

        def run(xs: jax.Array, state: LSTMState, mask: Any, unroll: bool) -> tuple[jax.Array, LSTMState]:
            hs, state = recurrence.scan(advance, project(xs), LSTMState(*map(self.channels_last, state)), mask, unroll)
            return jax.vmap(self.as_given)(hs), LSTMState(*map(self.as_given, state))

        first = self.to_data_format(zeros)
        return Steps(project, step, run, LSTMState(first, first), first.shape)


def convolve(x: jax.Array, kernel: jax.Array, masks: list[jax.Array], **geometry: Any) -> jax.Array:
    """The convolution of x, channels last; with dropout masks of x, each its own block of the kernel's filters."""
    if not masks:
        return convolution.conv(x, kernel, **geometry)
    steps = x.shape[0] // masks[0].shape[0]
    blocks = zip(masks, jnp.split(kernel, len(masks), axis=-1), strict=True)
    parts = [convolution.conv(x * jnp.tile(m, (steps, *(1,) * (x.ndim - 1))), block, **geometry) for m, block in blocks]
    return jnp.concatenate(parts, axis=-1)


class ConvLSTM1D(ConvLSTM):
    """Takes a convolutional long short-term memory of lines through time; `ConvLSTM` describes the arguments.

    Shapes: x [B, T, W, C], or [B, T, C, W] for "channels_first", mask [B, T], initial_state two arrays of
        the output's shape -> [B, W', filters], or [B, T, ...] if return_sequences; and h, c if return_state.

    References:
        Keras, `keras.layers.ConvLSTM1D`; Shi et al., "Convolutional LSTM network", 2015, https://arxiv.org/abs/1506.04214.

    Example:
        >>> layer, x = ConvLSTM1D(2, kernel_size=3, padding="same"), jnp.ones((5, 7, 6, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 6, 2)
    """

    RANK: ClassVar[int] = 1


class ConvLSTM2D(ConvLSTM):
    """Takes a convolutional long short-term memory of images through time; `ConvLSTM` describes the arguments.

    Shapes: x [B, T, H, W, C], or [B, T, C, H, W] for "channels_first", mask [B, T], initial_state two arrays of
        the output's shape -> [B, H', W', filters], or [B, T, ...] if return_sequences; and h, c if return_state.

    References:
        Keras, `keras.layers.ConvLSTM2D`; Shi et al., "Convolutional LSTM network", 2015, https://arxiv.org/abs/1506.04214.

    Example:
        >>> layer, x = ConvLSTM2D(2, kernel_size=3, padding="same"), jnp.ones((5, 7, 6, 6, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 6, 6, 2)
    """

    RANK: ClassVar[int] = 2


class ConvLSTM3D(ConvLSTM):
    """Takes a convolutional long short-term memory of volumes through time; `ConvLSTM` describes the arguments.

    Shapes: x [B, T, D, H, W, C], or [B, T, C, D, H, W] for "channels_first", mask [B, T], initial_state two arrays of
        the output's shape -> [B, D', H', W', filters], or [B, T, ...] if return_sequences; and h, c if return_state.

    References:
        Keras, `keras.layers.ConvLSTM3D`; Shi et al., "Convolutional LSTM network", 2015, https://arxiv.org/abs/1506.04214.

    Example:
        >>> layer, x = ConvLSTM3D(2, kernel_size=3, padding="same"), jnp.ones((5, 3, 4, 4, 4, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 4, 4, 4, 2)
    """

    RANK: ClassVar[int] = 3
