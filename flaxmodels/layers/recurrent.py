"""Recurrent layers, which run a cell over the time steps of a sequence."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.typing import Collection, VariableDict

from flaxmodels.kernels.recurrence import dispatch, expand_mask
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.cells import CellFunctions, GRUCell, LSTMCell, SimpleRNNCell, States, StateSize, state_from
from flaxmodels.layers.stacked_cells import StackedRNNCells, cell_functions_of, check_cell, initial_states

Tree = TypeVar("Tree")


class Recurrent(MultiOutputLayer):
    """Base class of recurrent layers; a subclass has the fields of `RNN` and implements `cell_functions`."""

    if TYPE_CHECKING:
        return_sequences: ClassVar[bool]
        return_state: ClassVar[bool]
        go_backwards: ClassVar[bool]
        stateful: ClassVar[bool]
        unroll: ClassVar[bool]
        zero_output_for_mask: ClassVar[bool]
        cell_functions: ClassVar[Callable[..., CellFunctions]]
        state_size: ClassVar[StateSize]
        axes: ClassVar[str]

    @nn.compact
    def compute(
        self,
        inputs: jax.Array,
        initial_state: States | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array | tuple[States, ...]:
        """Computes the outputs, followed by the final states if `return_state` is True."""
        self.check_sequence(inputs)
        xs, mask = self._time_first(inputs, mask)
        functions = self.cell_functions(xs.shape[1:], train)
        stored = self._stored_states(functions.zeros)
        state = state_from(self, initial_state, functions.zeros if stored is None else stored[0])
        hs, state = functions.run(xs, state, mask, self.unroll)
        if stored is not None:
            store = stored[1]
            store(state)
        outputs = self._select_outputs(hs, mask)
        if not self.return_state:
            return outputs
        return outputs, *jax.tree.map(self.cast, state)

    @nn.nowrap
    def check_sequence(self, inputs: jax.Array) -> None:
        """Raises unless the inputs have the number of axes that the layer takes, and at least one time step."""
        self.check_rank(inputs, self.axes.replace("B ", "B T "))
        check_has_steps(self, inputs)

    def _time_first(self, inputs: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """Returns the inputs [T, B, ...] and the mask [T, B] in the order of processing."""
        xs = jnp.swapaxes(inputs, 0, 1)
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)
            if mask.ndim >= 2 and mask.shape[0] == 1:  # one mask for all examples
                mask = jnp.broadcast_to(mask, (inputs.shape[0], *mask.shape[1:]))
            if mask.ndim < 2 or mask.shape[:2] != inputs.shape[:2]:
                raise ValueError(
                    f"{self.label} takes a mask [B, T] of shape {inputs.shape[:2]}, got {mask.shape}; "
                    "give one boolean for each step of each example."
                )
            mask = jnp.any(mask, axis=tuple(range(2, mask.ndim))).T
        if self.go_backwards:
            xs, mask = xs[::-1], None if mask is None else mask[::-1]
        return xs, mask

    def _stored_states(self, zeros: Tree) -> tuple[Tree, Callable[[Tree], None]] | None:
        """Returns the stored states of a stateful layer and a function that replaces them; None if not stateful."""
        if not self.stateful:
            return None
        leaves, treedef = jax.tree.flatten(zeros)
        variables = [self.variable("batch_stats", f"state_{i}", lambda z=z: z) for i, z in enumerate(leaves)]
        if variables[0].value.shape != leaves[0].shape:
            raise ValueError(
                f"{self.label} is stateful and stores states of {variables[0].value.shape[0]} examples, got a batch of "
                f"{leaves[0].shape[0]}; use one batch size, or create new variables with `init`."
            )

        def store(state: Tree) -> None:
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                for variable, leaf in zip(variables, jax.tree.leaves(state), strict=True):
                    variable.value = leaf

        return jax.tree.unflatten(treedef, [variable.value for variable in variables]), store

    def _select_outputs(self, hs: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns the outputs of the layer, given the output after each step [T, B, ...]."""
        if mask is not None and self.unroll:
            has_started = jax.lax.cummax(mask.astype(jnp.int32)).astype(bool)
            hs = jnp.where(expand_mask(has_started, hs), hs, 0)
        elif mask is not None and self.zero_output_for_mask:
            hs = jnp.where(expand_mask(mask, hs), hs, 0)
        return self.cast(jnp.swapaxes(hs, 0, 1) if self.return_sequences else hs[-1])

    def compute_mask(
        self, inputs: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array | tuple[jax.Array | None, ...] | None:
        """Returns the mask of the inputs if `return_sequences` is True; states have no mask."""
        mask = mask if self.return_sequences else None
        return (mask, *[None] * len(jax.tree.leaves(self.state_size))) if self.return_state else mask


def check_has_steps(layer: Layer, inputs: jax.Array) -> None:
    """Raises unless the inputs [B, T, ...] have at least one time step."""
    if not inputs.shape[1]:
        raise ValueError(
            f"{layer.label} takes inputs with at least 1 time step, got shape {tuple(inputs.shape)}; "
            "leave empty inputs out."
        )


def stateful_scopes(module: nn.Module, scope: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Returns the scopes of all stateful layers in a layer or model.

    Layers inside other kinds of linen modules are not searched.

    Args:
        module: A layer or model.
        scope: Scope of the module itself.

    Example:
        >>> stateful_scopes(LSTM(3, stateful=True)), stateful_scopes(LSTM(3))
        ([()], [])
    """
    scopes = [scope] if isinstance(module, Recurrent) and module.stateful else []
    for name, child in module.children() if isinstance(module, Layer) else []:
        scopes += stateful_scopes(child, (*scope, name))
    return scopes


def reset_states(module: nn.Module, variables: VariableDict) -> dict[str, Collection]:
    """Returns the variables of a layer or model with the states of its stateful layers set to zero.

    Args:
        module: A layer or model.
        variables: The variables of the module; they are not modified.

    Example:
        >>> layer, x = GRU(2, stateful=True), jnp.ones((1, 3, 2))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> _, updated = layer.apply(variables, x, mutable=["batch_stats"])
        >>> reset_states(layer, variables | updated)["batch_stats"]["state_0"].tolist()
        [[0.0, 0.0]]
    """
    flat = traverse_util.flatten_dict(dict(variables.get("batch_stats", {})))
    for scope in stateful_scopes(module):
        for path, leaf in flat.items():
            if path[:-1] == scope and path[-1].startswith("state_"):
                flat[path] = jnp.zeros_like(leaf)
    return dict(variables) | ({"batch_stats": traverse_util.unflatten_dict(flat)} if flat else {})


class RNN(Recurrent):
    """Runs a cell, or a stack of cells, over the time steps of a sequence.

    Args:
        cell: `LSTMCell`, `GRUCell`, `SimpleRNNCell`, or any module with a `state_size` that maps (inputs, states) to
            (output, states); a list of cells is stacked.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call. The states are stored in
            `batch_stats`, for one batch size, and are updated if a call makes that collection mutable. A `Trainer`
            carries them from batch to batch in `fit`, `evaluate` and `predict`, does not shuffle the examples, and
            sets the states to zero by `reset_states`.
        unroll: Whether to write out the time loop step by step instead of using a scan. As in Keras, leading masked
            steps then return zeros, and `zero_output_for_mask` has no effect.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.

    Shapes: x [B, T, F], mask [B, T], initial_state a list of the cell's states -> [B, units], or [B, T, units] if
        return_sequences; with return_state also the states.

    Raises:
        ValueError: If the inputs or states have a wrong shape.
        TypeError: If `cell` is not a cell.

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
                f"`cell` of RNN must compute one step, got the recurrent layer {type(self.cell).__name__}; "
                "give a cell, such as LSTMCell, or use the layer without RNN."
            )
        super().__post_init__()

    @nn.nowrap
    def children(self) -> list[tuple[str, nn.Module]]:
        """Returns the inner layers, keyed by scope name, in the order of Keras' weights."""
        return [("cell", self.cell)]

    def check_sequence(self, inputs: jax.Array) -> None:
        """Raises unless the inputs have at least three axes and one time step; the cell checks the other axes."""
        if inputs.ndim < 3:
            self.check_rank(inputs, "B T F")
        check_has_steps(self, inputs)

    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell for inputs [B, ...] of one step."""
        return cell_functions_of(self.cell, shape, train)

    @property
    @nn.nowrap
    def state_size(self) -> StateSize:
        """The sizes of the cell's states."""
        return self.cell.state_size

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[States]:
        """Returns the initial states of the cell."""
        return initial_states(self.cell, batch_size)


class CellRecurrent(Recurrent, kw_only=True):
    """Base class of recurrent layers that inherit from their cell instead of containing one."""

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False


class SimpleRNN(CellRecurrent, SimpleRNNCell):
    """Runs a `SimpleRNNCell` over the time steps of a sequence; its state is its output.

    h[t] = activation(x[t] @ kernel + h[t-1] @ recurrent_kernel + bias)

    Args:
        units: Size of the output.
        activation: Activation function or its name; None for none.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training, with the same mask at every step.
        recurrent_dropout: Fraction of the state to drop in training, with the same mask at every step.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call; see `RNN`.
        unroll: Whether to write out the time loop step by step instead of using a scan.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.

    Shapes: x [B, T, F], mask [B, T], initial_state [B, units] -> [B, units], or [B, T, units] if return_sequences;
        with return_state also the state [B, units].

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.SimpleRNN`.

    Example:
        >>> layer, x = SimpleRNN(4), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 4)
    """


class CuDNNRecurrent(CellRecurrent, kw_only=True):
    """Base class of recurrent layers that cuDNN may compute: LSTM and GRU."""

    use_cudnn: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.use_cudnn not in ("auto", True, False):
            raise ValueError(
                f"`use_cudnn` of {self.label} must be 'auto', True or False, got {self.use_cudnn!r}; "
                "leave it at 'auto'."
            )
        super().__post_init__()

    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell for inputs [B, F] of one step."""
        functions = super().cell_functions(shape, train)
        if self.use_cudnn is not True:
            return functions
        kind: Literal["LSTM", "GRU"] = "LSTM" if isinstance(self, LSTMCell) else "GRU"
        layer: Any = self  # `Any`, because `units` is declared by the cell class that subclasses also inherit from.
        if dispatch.why_unsupported("cudnn", kind, layer.units, functions.zeros.h.dtype, by_user=True):
            raise ValueError(
                f"{self.label} has no cuDNN implementation on the backend {jax.default_backend()!r}, "
                "got use_cudnn=True; leave it at 'auto' to use the fastest implementation available."
            )

        def run(xs: jax.Array, state: States, mask: jax.Array | None, unroll: bool) -> tuple[jax.Array, States]:
            with dispatch.use_implementation("cudnn"):
                return functions.run(xs, state, mask, unroll)

        return functions._replace(run=run)


class LSTM(CuDNNRecurrent, LSTMCell):
    """Runs a long short-term memory (LSTM) over the time steps of a sequence.

    i, f, g, o = split(x[t] @ kernel + h[t-1] @ recurrent_kernel + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c[t] = f c[t-1] + i g, h[t] = o activation(c[t])

    Args:
        units: Size of the output.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        unit_forget_bias: Whether the forget gate's bias starts at 1; the others use `bias_initializer`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training, with the same mask at every step.
        recurrent_dropout: Fraction of the state to drop in training, with the same mask at every step.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        implementation: 1 draws a dropout mask for each gate, 2 and 0 share one mask; `recurrent_dropout` implies 1.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call; see `RNN`.
        unroll: Whether to write out the time loop step by step instead of using a scan.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.
        use_cudnn: "auto" uses the fastest implementation, which supports reverse-mode differentiation only. False uses
            a scan, which supports forward mode too. True requires cuDNN.

    Shapes: x [B, T, F], mask [B, T], initial_state [[B, units], [B, units]] -> [B, units], or [B, T, units] if
        return_sequences; with return_state also the states h and c, [B, units] each.

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.LSTM`; Hochreiter and Schmidhuber, "Long short-term memory", 1997.

    Example:
        >>> layer, x = LSTM(4, return_sequences=True, return_state=True), jnp.ones((5, 7, 3))
        >>> y, h, c = layer.apply(layer.init(jax.random.key(0), x), x)
        >>> y.shape, h.shape, c.shape
        ((5, 7, 4), (5, 4), (5, 4))
    """


class GRU(CuDNNRecurrent, GRUCell):
    """Runs a gated recurrent unit (GRU) over the time steps of a sequence.

    z, r, g = split(x[t] @ kernel + bias); a, b, d = split(h[t-1] @ recurrent_kernel + recurrent bias);
    z' = recurrent_activation(z + a), r' = recurrent_activation(r + b), g' = activation(g + r' d);
    h[t] = z' h[t-1] + (1 - z') g'.
    Without `reset_after`, d is (r' h[t-1]) @ (the last third of recurrent_kernel), and there is no recurrent bias.

    Args:
        units: Size of the output.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether biases are added; they are one parameter, [2, 3 units] with `reset_after`, else [3 units].
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training, with the same mask at every step.
        recurrent_dropout: Fraction of the state to drop in training, with the same mask at every step.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        reset_after: Whether the reset gate is applied after the matrix product.
        implementation: 1 draws a dropout mask for each gate, 2 and 0 share one mask; `recurrent_dropout` implies 1.
        return_sequences: Whether to return the output of every step instead of the last one.
        return_state: Whether to return the final states too, as (output, *states).
        go_backwards: Whether to process the steps in reverse order; the outputs keep that order.
        stateful: Whether each call starts from the final states of the previous call; see `RNN`.
        unroll: Whether to write out the time loop step by step instead of using a scan.
        zero_output_for_mask: Whether a masked step returns zeros instead of repeating the previous output.
        use_cudnn: "auto" uses the fastest implementation, which supports reverse-mode differentiation only. False uses
            a scan, which supports forward mode too. True requires cuDNN.

    Shapes: x [B, T, F], mask [B, T], initial_state [B, units] -> [B, units], or [B, T, units] if return_sequences;
        with return_state also the state [B, units].

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.GRU`; Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.

    Example:
        >>> layer, x = GRU(4), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 4)
    """
