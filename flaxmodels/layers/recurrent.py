"""Recurrent layers: cells taken through time."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from flaxmodels.kernels.recurrence import dispatch, expand_mask
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.cells import GRUCell, LSTMCell, SimpleRNNCell, Steps, state_from
from flaxmodels.layers.stacked_cells import StackedRNNCells, check_cell, initial_states, steps_of


class Recurrent(MultiOutputLayer):
    """Takes a cell through time: what all recurrent layers share. Each has the fields of `RNN`, and `steps`."""

    if TYPE_CHECKING:
        return_sequences: ClassVar[bool]
        return_state: ClassVar[bool]
        go_backwards: ClassVar[bool]
        stateful: ClassVar[bool]
        unroll: ClassVar[bool]
        zero_output_for_mask: ClassVar[bool]
        steps: ClassVar[Callable[..., Steps]]
        state_size: ClassVar[Any]
        axes: ClassVar[str]

    @nn.compact
    def compute(
        self, inputs: jax.Array, initial_state: Any = None, *, mask: jax.Array | None = None, train: bool = False
    ) -> Any:
        """Computes the outputs, and the states where they are asked for."""
        self.check_sequence(inputs)
        xs, mask = self._time_first(inputs, mask)
        steps = self.steps(xs.shape[1:], train)
        memory = self._memory(steps.zeros)
        state = state_from(self, initial_state, steps.zeros if memory is None else memory[0])
        hs, state = steps.run(xs, state, mask, self.unroll)
        if memory is not None:
            memory[1](state)
        outputs = self._outputs(hs, mask)
        if not self.return_state:
            return outputs
        return outputs, *jax.tree.map(self.cast, state)

    @nn.nowrap
    def check_sequence(self, inputs: Any) -> None:
        """Raises unless the inputs are one array with as many axes as the layer takes."""
        self.check_rank(inputs, self.axes.replace("B ", "B T "))
        check_time(self, inputs)

    def _time_first(self, inputs: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """The inputs and the mask with time in front, in the order of processing."""
        xs = jnp.swapaxes(inputs, 0, 1)
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)
            if mask.ndim >= 2 and mask.shape[0] == 1:  # the same steps in each example
                mask = jnp.broadcast_to(mask, (inputs.shape[0], *mask.shape[1:]))
            if mask.ndim < 2 or mask.shape[:2] != inputs.shape[:2]:
                raise ValueError(
                    f"{self.label} takes a mask [B, T] of shape {inputs.shape[:2]}, got {mask.shape}; "
                    "give one truth value for each step of each example."
                )
            mask = jnp.any(mask, axis=tuple(range(2, mask.ndim))).T
        if self.go_backwards:
            xs, mask = xs[::-1], None if mask is None else mask[::-1]
        return xs, mask

    def _memory(self, zeros: Any) -> tuple[Any, Any] | None:
        """The states that a stateful layer keeps, and a function that puts new ones in their place."""
        if not self.stateful:
            return None
        leaves, treedef = jax.tree.flatten(zeros)
        kept = [self.variable("batch_stats", f"state_{i}", lambda z=z: z) for i, z in enumerate(leaves)]
        if kept[0].value.shape != leaves[0].shape:
            raise ValueError(
                f"{self.label} is stateful and keeps states of {kept[0].value.shape[0]} examples, got a batch of "
                f"{leaves[0].shape[0]}; keep to one batch size, or make the variables anew with `init`."
            )

        def keep(state: Any) -> None:
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                for variable, leaf in zip(kept, jax.tree.leaves(state), strict=True):
                    variable.value = leaf

        return jax.tree.unflatten(treedef, [variable.value for variable in kept]), keep

    def _outputs(self, hs: jax.Array, mask: jax.Array | None) -> jax.Array:
        """The outputs to return, of the output after each step [T, B, ...]."""
        if mask is not None and self.unroll:
            begun = jax.lax.cummax(mask.astype(jnp.int32)).astype(bool)
            hs = jnp.where(expand_mask(begun, hs), hs, 0)
        elif mask is not None and self.zero_output_for_mask:
            hs = jnp.where(expand_mask(mask, hs), hs, 0)
        return self.cast(jnp.swapaxes(hs, 0, 1) if self.return_sequences else hs[-1])

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """The inputs' mask, if sequences are returned; the states have none."""
        mask = mask if self.return_sequences else None
        return (mask, *[None] * len(jax.tree.leaves(self.state_size))) if self.return_state else mask


def check_time(layer: Layer, inputs: Any) -> None:
    """Raises unless there is a step."""
    if not inputs.shape[1]:
        raise ValueError(
            f"{layer.label} takes inputs of at least 1 step, got shape {tuple(inputs.shape)}; leave empty inputs out."
        )


def stateful_scopes(module: Any, scope: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The scopes of the stateful layers in a layer or model; none for a linen module, which can't be looked into.

    Example:
        >>> stateful_scopes(LSTM(3, stateful=True)), stateful_scopes(LSTM(3))
        ([()], [])
    """
    own = [scope] if isinstance(module, Recurrent) and module.stateful else []
    inner = module.children() if isinstance(module, Layer) else []
    return own + [found for name, child in inner for found in stateful_scopes(child, (*scope, name))]


def reset_states(module: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a layer or model with the states of its stateful layers set to zero.

    Example:
        >>> layer, x = GRU(2, stateful=True), jnp.ones((1, 3, 2))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> _, moved = layer.apply(variables, x, mutable=["batch_stats"])
        >>> reset_states(layer, variables | moved)["batch_stats"]["state_0"].tolist()
        [[0.0, 0.0]]
    """
    flat = traverse_util.flatten_dict(dict(variables.get("batch_stats", {})))
    for scope in stateful_scopes(module):
        for path, leaf in flat.items():
            if path[:-1] == scope and path[-1].startswith("state_"):
                flat[path] = jnp.zeros_like(leaf)
    return dict(variables) | ({"batch_stats": traverse_util.unflatten_dict(flat)} if flat else {})


class RNN(Recurrent):
    """Takes a cell through time, or a stack of cells.

    Args:
        cell: `LSTMCell`, `GRUCell`, `SimpleRNNCell`, or any module with a `state_size` that maps (inputs, states) to
            (output, states); a list of cells is stacked.
        return_sequences: Whether to return the output after each step, not the last alone.
        return_state: Whether to return the last states too: (output, *states).
        go_backwards: Whether to begin with the last step; the outputs stay in the order of processing.
        stateful: Whether a call starts from the states that the previous call ended with. The states are in
            `batch_stats`, for one batch size, and move on where a call makes that collection mutable. A `Trainer`
            carries them from batch to batch in `fit`, `evaluate` and `predict`, keeps the order of the examples, and
            sets the states to zero by `reset_states`.
        unroll: Whether the steps are written out one by one. As in Keras, leading masked steps then give zeros, and
            `zero_output_for_mask` changes nothing.
        zero_output_for_mask: Whether a masked step gives zeros, not the output of the step before.

    Shapes: x [B, T, F], mask [B, T], initial_state a list of the cell's states -> [B, units], or [B, T, units] if
        return_sequences; with return_state also the states.

    Raises:
        ValueError: If a shape is wrong.
        TypeError: If something else than a cell comes.

    References:
        Keras, `keras.layers.RNN`.

    Example:
        >>> from flaxmodels.layers.cells import LSTMCell
        >>> layer, x = RNN([LSTMCell(4), LSTMCell(2)], return_sequences=True), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 7, 2)
    """

    cell: Any
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.cell, list | tuple):
            object.__setattr__(self, "cell", StackedRNNCells(self.cell))
        check_cell(self.cell)
        if isinstance(self.cell, Recurrent):
            raise TypeError(
                f"`cell` of RNN takes one step, but {type(self.cell).__name__} goes through time by itself; "
                "give a cell, such as LSTMCell, or use the layer alone."
            )
        super().__post_init__()

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return [("cell", self.cell)]

    def check_sequence(self, inputs: Any) -> None:
        """Raises unless the inputs are one array; what axes follow [B, T] is the cell's own."""
        if inputs.ndim < 3:
            self.check_rank(inputs, "B T F")
        check_time(self, inputs)

    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The functions of the cell for inputs of which one step has this shape, [B, ...]."""
        return steps_of(self.cell, shape, train)

    @property
    @nn.nowrap
    def state_size(self) -> Any:
        """The size of each of the cell's states."""
        return self.cell.state_size

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[Any]:
        """The states to begin with."""
        return initial_states(self.cell, batch_size)


class Sequenced(Recurrent, kw_only=True):
    """A recurrent layer that is a cell of its own."""

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False


class SimpleRNN(Sequenced, SimpleRNNCell):
    """Takes a `SimpleRNNCell` through time: the output is fed back.

    h[t] = activation(x[t] @ kernel + h[t-1] @ recurrent_kernel + bias)

    Args:
        units: Size of the output.
        activation: Name or function; None keeps the sum as it is.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training, the same in each step.
        recurrent_dropout: Likewise, of the state.
        seed: Makes the dropout repeatable.
        return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask: As `RNN` describes them.

    Shapes: x [B, T, F], mask [B, T], initial_state [B, units] -> [B, units], or [B, T, units] if return_sequences;
        with return_state also the state [B, units].

    Raises:
        ValueError: If an argument or a shape is wrong.

    References:
        Keras, `keras.layers.SimpleRNN`.

    Example:
        >>> layer, x = SimpleRNN(4), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 4)
    """


class Fused(Sequenced, kw_only=True):
    """A recurrent layer of which the platform may have an implementation of its own."""

    if TYPE_CHECKING:
        units: ClassVar[int]

    use_cudnn: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.use_cudnn not in ("auto", True, False):
            raise ValueError(
                f"`use_cudnn` of {self.label} is 'auto', True or False, got {self.use_cudnn!r}; leave it at 'auto'."
            )
        super().__post_init__()

    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The functions of the cell for inputs of which one step has this shape, [B, F]."""
        steps = super().steps(shape, train)
        if self.use_cudnn is not True:
            return steps
        kind = "LSTM" if isinstance(self, LSTMCell) else "GRU"
        if dispatch.why_unsupported("cudnn", kind, self.units, steps.zeros.h.dtype, by_user=True):
            raise ValueError(
                f"{self.label} has no implementation by cuDNN on the backend {jax.default_backend()!r}, "
                "got use_cudnn=True; leave it at 'auto' to have the fastest there is."
            )

        def run(*arguments: Any) -> tuple[jax.Array, Any]:
            with dispatch.use_implementation("cudnn"):
                return steps.run(*arguments)

        return steps._replace(run=run)


class LSTM(Fused, LSTMCell):
    """Takes an `LSTMCell` through time: a long short-term memory.

    i, f, g, o = split(x[t] @ kernel + h[t-1] @ recurrent_kernel + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t])

    Args:
        units: Size of the output.
        activation: Name or function; None keeps values as they are.
        recurrent_activation: Likewise, for the gates.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        unit_forget_bias: Whether the forget gate's bias begins with ones.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training, the same in each step.
        recurrent_dropout: Likewise, of the state.
        seed: Makes the dropout repeatable.
        implementation: 1 drops inputs anew for each gate, 2 and 0 the same for all; `recurrent_dropout` requires 1.
        return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask: As `RNN` describes them.
        use_cudnn: "auto" takes the fastest implementation, with a gradient of its own, for reverse mode alone;
            False the plain loop, which has forward mode too; True asks for cuDNN.

    Shapes: x [B, T, F], mask [B, T], initial_state [[B, units], [B, units]] -> [B, units], or [B, T, units] if
        return_sequences; with return_state also the states h and c, [B, units] each.

    Raises:
        ValueError: If an argument or a shape is wrong.

    References:
        Keras, `keras.layers.LSTM`; Hochreiter and Schmidhuber, "Long short-term memory", 1997.

    Example:
        >>> layer, x = LSTM(4, return_sequences=True, return_state=True), jnp.ones((5, 7, 3))
        >>> y, h, c = layer.apply(layer.init(jax.random.key(0), x), x)
        >>> y.shape, h.shape, c.shape
        ((5, 7, 4), (5, 4), (5, 4))
    """


class GRU(Fused, GRUCell):
    """Takes a `GRUCell` through time: a gated recurrent unit.

    z, r, g = split(x[t] @ kernel + bias); a, b, d = split(h[t-1] @ recurrent_kernel + recurrent bias);
    z' = recurrent_activation(z + a), r' = recurrent_activation(r + b), g' = activation(g + r' d);
    h[t] = z' h[t-1] + (1 - z') g'.
    Without `reset_after`, d is (r' h[t-1]) @ its columns of recurrent_kernel, and there is no recurrent bias.

    Args:
        units: Size of the output.
        activation: Name or function; None keeps values as they are.
        recurrent_activation: Likewise, for the gates.
        use_bias: Whether biases are added; they are one parameter, [2, 3 units] with `reset_after`, else [3 units].
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training, the same in each step.
        recurrent_dropout: Likewise, of the state.
        seed: Makes the dropout repeatable.
        reset_after: Whether the reset gate is applied after the matrix product.
        implementation: 1 drops inputs anew for each gate, 2 and 0 the same for all; `recurrent_dropout` requires 1.
        return_sequences, return_state, go_backwards, stateful, unroll, zero_output_for_mask: As `RNN` describes them.
        use_cudnn: "auto" takes the fastest implementation, with a gradient of its own, for reverse mode alone;
            False the plain loop, which has forward mode too; True asks for cuDNN.

    Shapes: x [B, T, F], mask [B, T], initial_state [B, units] -> [B, units], or [B, T, units] if return_sequences;
        with return_state also the state [B, units].

    Raises:
        ValueError: If an argument or a shape is wrong.

    References:
        Keras, `keras.layers.GRU`; Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.

    Example:
        >>> layer, x = GRU(4), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 4)
    """
