"""Cells: one step of a recurrence, which maps inputs and a state to an output and the next state."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels import activations, initializers
from flaxmodels.activations import ActivationLike
from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.kernels import recurrence
from flaxmodels.kernels.recurrence import Hidden, LSTMState
from flaxmodels.kernels.recurrence.types import State
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.dense import add_bias
from flaxmodels.layers.regularization import check_rate, dropout, noise_key
from flaxmodels.regularizers import RegularizerLike

Tree = TypeVar("Tree")
# The states of a cell: an array, or a list of the states of several cells.
States: TypeAlias = jax.Array | Sequence["States"]
# The sizes of these states.
StateSize: TypeAlias = int | Sequence["StateSize"]
Run = Callable[[jax.Array, Any, jax.Array | None, bool], tuple[jax.Array, Any]]


class CellFunctions(NamedTuple):
    """The functions of a cell, with its weights.

    Attributes:
        project: Computes the part of a step that depends on the inputs alone, for one step [B, ...] or all [T, B, ...].
        step: Maps projected inputs and a state to the output and the next state.
        run: Maps inputs [T, B, ...], a state, a mask [T, B] or None, and whether to unroll the loop to the outputs
            [T, B, ...] and the final state. A masked step keeps the state and repeats the output.
        zeros: The initial state.
        shape: Shape of one step's output.
    """

    project: Callable[[jax.Array], jax.Array]
    step: Callable[[jax.Array, Any], tuple[jax.Array, Any]]
    run: Run
    zeros: Any
    shape: tuple[int, ...]


def cell_functions_from(
    project: Callable[[jax.Array], jax.Array],
    advance: recurrence.Step[State],
    zeros: State,
    run_kernel: Callable[[jax.Array, State, jax.Array | None], tuple[jax.Array, State]] | None = None,
) -> CellFunctions:
    """Returns the functions of a cell whose output is the field `h` of its state.

    Args:
        project: As in `CellFunctions`.
        advance: Maps one step's projected inputs and the state to the next state.
        zeros: As in `CellFunctions`.
        run_kernel: Specialized recurrence of this cell, which maps inputs, state and mask to outputs and state. It is
            used unless the loop is unrolled or the dtype is float64.
    """

    def step(x: jax.Array, state: State) -> tuple[jax.Array, State]:
        state = advance(x, state)
        return state.h, state

    def run(xs: jax.Array, state: State, mask: jax.Array | None, unroll: bool) -> tuple[jax.Array, State]:
        if run_kernel is None or unroll or zeros.h.dtype == jnp.float64:
            return recurrence.scan(advance, project(xs), state, mask, unroll)
        return run_kernel(xs, state, mask)

    return CellFunctions(project, step, run, zeros, zeros.h.shape)


class Cell(MultiOutputLayer, kw_only=True):
    """Base class of cells: the common arguments, dropout, and `compute`, which computes one step.

    A subclass implements `cell_functions`, marked `@nn.compact`.
    """

    kernel_constraint: ConstraintLike = None
    recurrent_constraint: ConstraintLike = None
    bias_constraint: ConstraintLike = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "recurrent_kernel", "bias")
    ARGUMENTS: ClassVar[dict[str, str]] = {"recurrent_kernel": "recurrent"}
    # Number of blocks of `units` columns in a kernel.
    GATES: ClassVar[int] = 1
    STATE: ClassVar[type[tuple[Any, ...]]] = Hidden

    def __post_init__(self) -> None:
        self.check_size()
        check_rate(self, "dropout")
        check_rate(self, "recurrent_dropout")
        super().__post_init__()

    @nn.nowrap
    def check_size(self) -> None:
        """Raises unless the argument for the size of the cell is a positive integer."""
        self.check_positive("units")

    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell.

        Args:
            shape: Shape of one step's inputs, [B, ...].
            train: Whether dropout is active.
        """
        raise TypeError(
            f"{type(self).__name__} does not implement `cell_functions`; use LSTMCell, GRUCell or SimpleRNNCell."
        )

    def compute(
        self, inputs: jax.Array, states: States | None = None, *, train: bool = False
    ) -> tuple[jax.Array, States]:
        """Computes one step and returns the output and the next states, in the structure of `states`."""
        self.check_rank(inputs, self.axes)
        return one_step(self, self.cell_functions(inputs.shape, train), inputs, states)

    @property
    @nn.nowrap
    def axes(self) -> str:
        """The names of the axes of one step's inputs, separated by spaces."""
        return "B F"

    @property
    @nn.nowrap
    def state_size(self) -> int | list[int]:
        """The size of each state, as in Keras: an integer, or a list if there are several states."""
        sizes = [self.output_size] * len(self.STATE._fields)  # type: ignore[attr-defined]
        return sizes[0] if len(sizes) == 1 else sizes

    @property
    @nn.nowrap
    def output_size(self) -> int:
        """The size of the output's last axis."""
        return self.units

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[jax.Array]:
        """Returns the initial states, each zeros of shape [batch_size, units]."""
        return [jnp.zeros((batch_size, self.output_size), self.compute_dtype) for _ in self.STATE._fields]  # type: ignore[attr-defined]

    def masks(self, argument: str, shape: tuple[int, ...], train: bool) -> list[jax.Array]:
        """Returns the dropout masks, which are shared by all steps: none, one, or one for each gate.

        Args:
            argument: "dropout" or "recurrent_dropout".
            shape: Shape of the masked array.
            train: Whether dropout is active.
        """
        rate = getattr(self, argument)
        if not train or rate == 0:
            return []
        mask_per_gate = self.recurrent_dropout > 0 or getattr(self, "implementation", 2) == 1
        # Without a "dropout" key, `noise_key` is the same for both arguments; this makes their masks independent.
        key = jax.random.fold_in(noise_key(self, self.seed), int(argument == "recurrent_dropout"))
        keys = jax.random.split(key, self.GATES if mask_per_gate else 1)
        return [dropout(key, jnp.ones(shape, self.compute_dtype), rate) for key in keys]

    def is_standard(self, recurrent_masks: list[jax.Array]) -> bool:
        """Whether `kernels.recurrence` implements the cell: tanh, sigmoid gates, no dropout of the state."""
        activation = activations.get(self.activation)
        gate = activations.get(getattr(self, "recurrent_activation", "sigmoid"))
        is_allowed = getattr(self, "use_cudnn", "auto") is not False
        return is_allowed and not recurrent_masks and activation in TANH and gate in SIGMOID


TANH, SIGMOID = (activations.tanh, jnp.tanh), (activations.sigmoid, jax.nn.sigmoid)


def state_from(layer: Layer, states: States | None, zeros: Tree) -> Tree:
    """Returns the caller's states (an array or a list) in the structure and dtype of `zeros`, or `zeros` for None."""
    if states is None:
        return zeros
    expected, treedef = jax.tree.flatten(zeros)
    leaves = jax.tree.leaves(states)
    for state in leaves:
        checks.check_array(layer, "states", state)
    if [jnp.shape(s) for s in leaves] != [s.shape for s in expected]:
        raise ValueError(
            f"{layer.label} takes states of shapes {[s.shape for s in expected]}, got shapes "
            f"{[jnp.shape(s) for s in leaves]}; give a list of arrays of these shapes."
        )
    return jax.tree.unflatten(treedef, [jnp.asarray(s).astype(z.dtype) for s, z in zip(leaves, expected, strict=True)])


def one_step(
    layer: Layer, functions: CellFunctions, inputs: jax.Array, states: States | None
) -> tuple[jax.Array, States]:
    """Computes one step; the returned states have the structure of `states`, or form a list if `states` is None."""
    output, state = functions.step(functions.project(inputs), state_from(layer, states, functions.zeros))
    if states is None:
        return output, list(state)
    return output, jax.tree.unflatten(jax.tree.structure(states), jax.tree.leaves(state))


def masked_matmul(x: jax.Array, kernel: jax.Array, masks: Sequence[jax.Array] = ()) -> jax.Array:
    """Returns x @ kernel, with dropout of x.

    Args:
        x: Array [..., F].
        kernel: Matrix [F, columns].
        masks: No dropout mask, one for all columns, or one for each of len(masks) equal blocks of columns.
    """
    if not masks:
        return recurrence.product(x, kernel)
    blocks = zip(masks, jnp.split(kernel, len(masks), axis=-1), strict=True)
    new_axes = tuple(range(x.ndim - masks[0].ndim))
    return jnp.concatenate([(x * jnp.expand_dims(mask, new_axes)) @ block for mask, block in blocks], axis=-1)


def recurrence_inputs(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, masks: Sequence[jax.Array]
) -> recurrence.Inputs:
    """Returns the inputs of all steps [T, B, F], with dropout, in the form that `kernels.recurrence` takes."""
    if len(masks) > 1:
        return recurrence.Inputs(masked_matmul(x, kernel, masks), None, bias)
    return recurrence.Inputs(x * masks[0][None] if masks else x, kernel, bias)


class SimpleRNNCell(Cell):
    """Computes one step of a simple recurrent layer, whose state is its output.

    h' = activation(x @ kernel + h @ recurrent_kernel + bias)

    Args:
        units: Size of the output.
        activation: Activation function or its name; None for none.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training.
        recurrent_dropout: Fraction of the state to drop in training.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.

    Shapes: x [B, F], states [B, units] -> (h' [B, units], the next states [B, units]).

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.SimpleRNNCell`.

    Example:
        >>> cell, x, h = SimpleRNNCell(2), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> output, states = cell.apply(cell.init(jax.random.key(0), x, [h]), x, [h])
        >>> output.shape, len(states)
        ((5, 2), 1)
    """

    units: int
    activation: ActivationLike = "tanh"
    use_bias: bool = True
    kernel_initializer: InitializerLike = "glorot_uniform"
    recurrent_initializer: InitializerLike = "orthogonal"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike = None
    recurrent_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None

    @nn.compact
    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell for inputs [B, F] of one step."""
        kernel = self.add_weight("kernel", (shape[-1], self.units))
        recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, self.units))
        bias = self.add_weight("bias", (self.units,)) if self.use_bias else None
        zeros = Hidden(*self.get_initial_state(shape[0]))
        masks = self.masks("dropout", shape, train)
        recurrent_masks = self.masks("recurrent_dropout", zeros.h.shape, train)
        activation = activations.get(self.activation)

        def project(x: jax.Array) -> jax.Array:
            x = masked_matmul(self.cast(x), kernel, masks)
            return x if bias is None else add_bias(x, bias)

        def advance(x: jax.Array, state: Hidden) -> Hidden:
            return Hidden(activation(x + masked_matmul(state.h, recurrent_kernel, recurrent_masks)))

        def run_kernel(xs: jax.Array, state: Hidden, mask: jax.Array | None) -> tuple[jax.Array, Hidden]:
            inputs = recurrence_inputs(self.cast(xs), kernel, bias, masks)
            return recurrence.simple_rnn(inputs, recurrent_kernel, state, mask)

        return cell_functions_from(project, advance, zeros, run_kernel if self.is_standard(recurrent_masks) else None)


class GatedCell(Cell, kw_only=True):
    """Base class of cells with gates, whose dropout masks may differ for each gate."""

    implementation: Literal[0, 1, 2] = 2

    def __post_init__(self) -> None:
        if self.implementation not in (0, 1, 2):
            raise ValueError(
                f"`implementation` of {self.label} must be 1, for a dropout mask for each gate, or 2 or 0, for a "
                f"shared mask, got {self.implementation!r}; give 1 or 2."
            )
        super().__post_init__()


class LSTMBase(GatedCell):
    """Base class of cells with the gates i, f, g and o."""

    GATES: ClassVar[int] = 4
    STATE: ClassVar[type[tuple[Any, ...]]] = LSTMState

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> InitializerLike | RegularizerLike | ConstraintLike:
        """Returns an argument of a weight; with `unit_forget_bias`, the bias initializer sets the forget gate to 1."""
        value = super().argument(weight, kind)
        if (weight, kind) == ("bias", "initializer") and self.unit_forget_bias:
            initializer: Any = initializers.get(value or "glorot_uniform")
            return forget_bias(initializers.key_first(initializer))
        return value


class LSTMCell(LSTMBase):
    """Computes one step of a long short-term memory (LSTM).

    i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c' = f c + i g, h' = o activation(c')

    Args:
        units: Size of the output.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        unit_forget_bias: Whether the forget gate's bias starts at 1; the others use `bias_initializer`.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training.
        recurrent_dropout: Fraction of the state to drop in training.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        implementation: 1 draws a dropout mask for each gate, 2 and 0 share one mask; `recurrent_dropout` implies 1.

    Shapes: x [B, F], states [[B, units], [B, units]] -> (h' [B, units], [h', c']).

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.LSTMCell`; Hochreiter and Schmidhuber, "Long short-term memory", 1997.

    Example:
        >>> cell, x, h = LSTMCell(2), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> output, (h, c) = cell.apply(cell.init(jax.random.key(0), x, [h, h]), x, [h, h])
        >>> output.shape, c.shape
        ((5, 2), (5, 2))
    """

    units: int
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

    @nn.compact
    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell for inputs [B, F] of one step."""
        kernel = self.add_weight("kernel", (shape[-1], 4 * self.units))
        recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, 4 * self.units))
        bias = self.add_weight("bias", (4 * self.units,)) if self.use_bias else None
        zeros = LSTMState(*self.get_initial_state(shape[0]))
        masks = self.masks("dropout", shape, train)
        recurrent_masks = self.masks("recurrent_dropout", zeros.h.shape, train)
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)

        def project(x: jax.Array) -> jax.Array:
            x = masked_matmul(self.cast(x), kernel, masks)
            return x if bias is None else add_bias(x, bias)

        def advance(x: jax.Array, state: LSTMState) -> LSTMState:
            z = x + masked_matmul(state.h, recurrent_kernel, recurrent_masks)
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = gate(f) * state.c + gate(i) * activation(g)
            return LSTMState(gate(o) * activation(c), c)

        def run_kernel(xs: jax.Array, state: LSTMState, mask: jax.Array | None) -> tuple[jax.Array, LSTMState]:
            inputs = recurrence_inputs(self.cast(xs), kernel, bias, masks)
            return recurrence.lstm(inputs, recurrent_kernel, state, mask)

        return cell_functions_from(project, advance, zeros, run_kernel if self.is_standard(recurrent_masks) else None)


def forget_bias(initializer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns an initializer of the biases [i, f, g, o] that sets f to 1 and uses `initializer` for the others."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        units = shape[0] // 4
        first, rest = jax.random.split(key)
        parts = [initializer(first, (units,), dtype), jnp.ones(units, dtype), initializer(rest, (2 * units,), dtype)]
        return jnp.concatenate(parts)

    return initialize


class GRUCell(GatedCell):
    """Computes one step of a gated recurrent unit (GRU).

    z, r, g = split(x @ kernel + bias); a, b, d = split(h @ recurrent_kernel + recurrent bias);
    z' = recurrent_activation(z + a), r' = recurrent_activation(r + b), g' = activation(g + r' d);
    h' = z' h + (1 - z') g'.
    Without `reset_after`, d is (r' h) @ (the last third of recurrent_kernel), and there is no recurrent bias.

    Args:
        units: Size of the output.
        activation: Activation function or its name; None for none.
        recurrent_activation: Activation function of the gates, or its name.
        use_bias: Whether biases are added; they are one parameter, [2, 3 units] with `reset_after`, else [3 units].
        kernel_initializer, recurrent_initializer, bias_initializer: Initializers of the weights, or their names.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Regularizers of the weights, or their names.
        kernel_constraint, recurrent_constraint, bias_constraint: Constraints on the weights, or their names.
        dropout: Fraction of the inputs to drop in training.
        recurrent_dropout: Fraction of the state to drop in training.
        reset_after: Whether the reset gate is applied after the matrix product.
        seed: Integer folded into the "dropout" key; without that key, the seed alone determines the dropout masks.
        implementation: 1 draws a dropout mask for each gate, 2 and 0 share one mask; `recurrent_dropout` implies 1.

    Shapes: x [B, F], states [B, units] -> (h' [B, units], the next states [B, units]).

    Raises:
        ValueError: If an argument is invalid or the inputs have a wrong shape.

    References:
        Keras, `keras.layers.GRUCell`; Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.

    Example:
        >>> cell, x, h = GRUCell(2), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> output, states = cell.apply(cell.init(jax.random.key(0), x, h), x, h)
        >>> output.shape, states.shape
        ((5, 2), (5, 2))
    """

    units: int
    activation: ActivationLike = "tanh"
    recurrent_activation: ActivationLike = "sigmoid"
    use_bias: bool = True
    kernel_initializer: InitializerLike = "glorot_uniform"
    recurrent_initializer: InitializerLike = "orthogonal"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike = None
    recurrent_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None
    reset_after: bool = dataclasses.field(default=True, kw_only=True)

    GATES: ClassVar[int] = 3

    @nn.compact
    def cell_functions(self, shape: tuple[int, ...], train: bool) -> CellFunctions:
        """Creates the weights and returns the functions of the cell for inputs [B, F] of one step."""
        units = self.units
        kernel = self.add_weight("kernel", (shape[-1], 3 * units))
        recurrent_kernel = self.add_weight("recurrent_kernel", (units, 3 * units))
        bias, recurrent_bias = self._biases()
        zeros = Hidden(*self.get_initial_state(shape[0]))
        masks = self.masks("dropout", shape, train)
        recurrent_masks = self.masks("recurrent_dropout", zeros.h.shape, train)
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)

        def project(x: jax.Array) -> jax.Array:
            x = masked_matmul(self.cast(x), kernel, masks)
            return x if bias is None else add_bias(x, bias)

        def advance_reset_after(x: jax.Array, state: Hidden) -> Hidden:
            inner = masked_matmul(state.h, recurrent_kernel, recurrent_masks)
            if recurrent_bias is not None:
                inner = add_bias(inner, recurrent_bias)
            z, r = jnp.split(gate(x[:, : 2 * units] + inner[:, : 2 * units]), 2, axis=-1)
            g = activation(x[:, 2 * units :] + r * inner[:, 2 * units :])
            return Hidden(z * state.h + (1 - z) * g)

        def advance_reset_before(x: jax.Array, state: Hidden) -> Hidden:
            inner = masked_matmul(state.h, recurrent_kernel[:, : 2 * units], recurrent_masks[:2])
            z, r = jnp.split(gate(x[:, : 2 * units] + inner), 2, axis=-1)
            d = masked_matmul(r * state.h, recurrent_kernel[:, 2 * units :], recurrent_masks[-1:])
            g = activation(x[:, 2 * units :] + d)
            return Hidden(z * state.h + (1 - z) * g)

        if not self.reset_after:
            return cell_functions_from(project, advance_reset_before, zeros)

        def run_kernel(xs: jax.Array, state: Hidden, mask: jax.Array | None) -> tuple[jax.Array, Hidden]:
            b = jnp.zeros(3 * units, kernel.dtype) if recurrent_bias is None else recurrent_bias
            inputs = recurrence_inputs(self.cast(xs), kernel, bias, masks)
            return recurrence.gru(inputs, recurrent_kernel, b, state, mask)

        return cell_functions_from(
            project, advance_reset_after, zeros, run_kernel if self.is_standard(recurrent_masks) else None
        )

    def _biases(self) -> tuple[jax.Array | None, jax.Array | None]:
        """Returns the bias of the inputs and the bias of the state, each None if there is none."""
        if not self.use_bias:
            return None, None
        if not self.reset_after:
            return self.add_weight("bias", (3 * self.units,)), None
        both = self.add_weight("bias", (2, 3 * self.units))
        return both[0], both[1]
