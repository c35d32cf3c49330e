"""Cells: one step of a recurrence, from inputs and a state to an output and the next state."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations, initializers
from flaxmodels.kernels import recurrence
from flaxmodels.kernels.recurrence import Hidden, LSTMState
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.dense import add_bias
from flaxmodels.layers.regularization import check_rate, dropout, noise_key

Run = Callable[[jax.Array, Any, jax.Array | None, bool], tuple[jax.Array, Any]]


class Steps(NamedTuple):
    """A cell with its weights, as functions.

    Attributes:
        project: What the inputs alone contribute, of one step [B, ...] or of all at once [T, B, ...].
        step: One step, from projected inputs and a state to the output and the next state.
        run: All steps: takes inputs [T, B, ...], a state, a mask [T, B] or None and whether to unroll;
            gives the outputs [T, B, ...] and the last state. A masked step keeps the state and repeats the output.
        zeros: The state to begin with.
        shape: The shape of one step's output.
    """

    project: Callable[[jax.Array], jax.Array]
    step: Callable[[jax.Array, Any], tuple[jax.Array, Any]]
    run: Run
    zeros: Any
    shape: tuple[int, ...]


def steps_from(
    project: Callable[[jax.Array], jax.Array], advance: recurrence.Step, zeros: Any, own: Any = None
) -> Steps:
    """The steps of a cell whose state has its output as the field `h`.

    Args:
        project: As in `Steps`.
        advance: The next state, of one step's projected inputs and the state before.
        zeros: As in `Steps`.
        own: A recurrence for this cell alone, of inputs, state and mask; taken unless unrolled or in float64.
    """

    def step(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        state = advance(x, state)
        return state.h, state

    def run(xs: jax.Array, state: Any, mask: jax.Array | None, unroll: bool) -> tuple[jax.Array, Any]:
        if own is None or unroll or zeros.h.dtype == jnp.float64:
            return recurrence.scan(advance, project(xs), state, mask, unroll)
        return own(xs, state, mask)

    return Steps(project, step, run, zeros, zeros.h.shape)


class Cell(MultiOutputLayer, kw_only=True):
    """What the cells share: the arguments, dropout, and `compute`, which takes one step.

    A cell of a new kind defines `steps`, marked `@nn.compact`.
    """

    kernel_constraint: Any = None
    recurrent_constraint: Any = None
    bias_constraint: Any = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "recurrent_kernel", "bias")
    ARGUMENTS: ClassVar[dict[str, str]] = {"recurrent_kernel": "recurrent"}
    # How many blocks of `units` columns a kernel has.
    GATES: ClassVar[int] = 1
    STATE: ClassVar[type[tuple[Any, ...]]] = Hidden

    def __post_init__(self) -> None:
        self.check_size()
        check_rate(self, "dropout")
        check_rate(self, "recurrent_dropout")
        super().__post_init__()

    @nn.nowrap
    def check_size(self) -> None:
        """Raises unless the argument that gives the cell's size is a size."""
        self.check_positive("units")

    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The cell's functions for inputs of which one step has this shape, [B, ...]."""
        raise TypeError(f"{type(self).__name__} is no cell; use LSTMCell, GRUCell or SimpleRNNCell.")

    def compute(self, inputs: jax.Array, states: Any = None, *, train: bool = False) -> tuple[jax.Array, Any]:
        """Takes one step: the output, and the states in the form they came in, an array or a list."""
        self.check_rank(inputs, self.axes)
        return one_step(self, self.steps(inputs.shape, train), inputs, states)

    @property
    @nn.nowrap
    def axes(self) -> str:
        """The axes of one step's inputs."""
        return "B F"

    @property
    @nn.nowrap
    def state_size(self) -> Any:
        """The size of each state, as in Keras: an integer, or a list for more than one."""
        sizes = [self.output_size] * len(self.STATE._fields)  # type: ignore[attr-defined]
        return sizes[0] if len(sizes) == 1 else sizes

    @property
    @nn.nowrap
    def output_size(self) -> int:
        """The size of the output's last axis."""
        return self.units  # type: ignore[attr-defined]

    @nn.nowrap
    def get_initial_state(self, batch_size: int) -> list[jax.Array]:
        """The states to begin with: zeros [batch_size, units] each."""
        return [jnp.zeros((batch_size, self.output_size), self.compute_dtype) for _ in self.STATE._fields]  # type: ignore[attr-defined]

    def masks(self, argument: str, shape: tuple[int, ...], train: bool) -> list[jax.Array]:
        """Dropout masks for all steps: none, one, or one for each gate where the gates are to differ."""
        rate = getattr(self, argument)
        if not train or rate == 0:
            return []
        apart = self.recurrent_dropout > 0 or getattr(self, "implementation", 2) == 1
        # A seed alone gives the same key at each call, so what is dropped tells the two masks apart.
        key = jax.random.fold_in(noise_key(self, self.seed), int(argument == "recurrent_dropout"))
        keys = jax.random.split(key, self.GATES if apart else 1)
        return [dropout(key, jnp.ones(shape, self.compute_dtype), rate) for key in keys]

    def is_standard(self, recurrent_masks: list[jax.Array]) -> bool:
        """Whether the cell is the one that `kernels.recurrence` knows: tanh, sigmoid, no dropout of the state."""
        activation = activations.get(self.activation)  # type: ignore[attr-defined]
        gate = activations.get(getattr(self, "recurrent_activation", "sigmoid"))
        allowed = getattr(self, "use_cudnn", "auto") is not False
        return allowed and not recurrent_masks and activation in TANH and gate in SIGMOID


TANH, SIGMOID = (activations.tanh, jnp.tanh), (activations.sigmoid, jax.nn.sigmoid)


def state_from(layer: Layer, given: Any, zeros: Any) -> Any:
    """A caller's states, an array or a list, in the structure and dtype of the zeros; None gives the zeros."""
    if given is None:
        return zeros
    wanted, treedef = jax.tree.flatten(zeros)
    came = jax.tree.leaves(given)
    for state in came:
        checks.check_array(layer, "states", state)
    if [jnp.shape(s) for s in came] != [s.shape for s in wanted]:
        raise ValueError(
            f"{layer.label} takes states of shapes {[s.shape for s in wanted]}, got {[jnp.shape(s) for s in came]}; "
            "give as many arrays, of these shapes, in a list."
        )
    return jax.tree.unflatten(treedef, [jnp.asarray(s).astype(w.dtype) for s, w in zip(came, wanted, strict=True)])


def one_step(layer: Layer, steps: Steps, inputs: jax.Array, states: Any) -> tuple[jax.Array, Any]:
    """Takes one step: the output, and the states in the structure they came in; without any, a list."""
    output, state = steps.step(steps.project(inputs), state_from(layer, states, steps.zeros))
    if states is None:
        return output, list(state)
    return output, jax.tree.unflatten(jax.tree.structure(states), jax.tree.leaves(state))


def product(x: jax.Array, kernel: jax.Array, masks: Sequence[jax.Array] = ()) -> jax.Array:
    """x @ kernel; with a dropout mask x times it, with several each its own block of the kernel's columns."""
    if not masks:
        return recurrence.product(x, kernel)
    blocks = zip(masks, jnp.split(kernel, len(masks), axis=-1), strict=True)
    new_axes = tuple(range(x.ndim - masks[0].ndim))
    return jnp.concatenate([(x * jnp.expand_dims(mask, new_axes)) @ block for mask, block in blocks], axis=-1)


def contribution(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, masks: Sequence[jax.Array]
) -> recurrence.Inputs:
    """What the inputs of all steps [T, B, F] contribute, in the form that a recurrence of its own takes."""
    if len(masks) > 1:
        return recurrence.Inputs(product(x, kernel, masks), None, bias)
    return recurrence.Inputs(x * masks[0][None] if masks else x, kernel, bias)


class SimpleRNNCell(Cell):
    """Takes one step of the simplest recurrence: the output is fed back.

    h' = activation(x @ kernel + h @ recurrent_kernel + bias)

    Args:
        units: Size of the output.
        activation: Name or function; None keeps the sum as it is.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training.
        recurrent_dropout: Share of the state to drop in training.
        seed: Makes the dropout repeatable.

    Shapes: x [B, F], states [B, units] -> (h' [B, units], the same states anew).

    Raises:
        ValueError: If an argument or a shape is wrong.

    References:
        Keras, `keras.layers.SimpleRNNCell`.

    Example:
        >>> cell, x, h = SimpleRNNCell(2), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> output, states = cell.apply(cell.init(jax.random.key(0), x, [h]), x, [h])
        >>> output.shape, len(states)
        ((5, 2), 1)
    """

    units: int
    activation: Any = "tanh"
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    recurrent_initializer: Any = "orthogonal"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    recurrent_regularizer: Any = None
    bias_regularizer: Any = None

    @nn.compact
    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The cell's functions for inputs of which one step has this shape, [B, F]."""
        kernel = self.add_weight("kernel", (shape[-1], self.units))
        recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, self.units))
        bias = self.add_weight("bias", (self.units,)) if self.use_bias else None
        zeros = Hidden(*self.get_initial_state(shape[0]))
        masks = self.masks("dropout", shape, train)
        recurrent_masks = self.masks("recurrent_dropout", zeros.h.shape, train)
        activation = activations.get(self.activation)

        def project(x: jax.Array) -> jax.Array:
            x = product(self.cast(x), kernel, masks)
            return x if bias is None else add_bias(x, bias)

        def advance(x: jax.Array, state: Hidden) -> Hidden:
            return Hidden(activation(x + product(state.h, recurrent_kernel, recurrent_masks)))

        def own(xs: jax.Array, state: Hidden, mask: jax.Array | None) -> tuple[jax.Array, Hidden]:
            inputs = contribution(self.cast(xs), kernel, bias, masks)
            return recurrence.simple_rnn(inputs, recurrent_kernel, state, mask)

        return steps_from(project, advance, zeros, own if self.is_standard(recurrent_masks) else None)


class Gated(Cell, kw_only=True):
    """A cell with gates, which may drop inputs anew for each gate."""

    implementation: Literal[0, 1, 2] = 2

    def __post_init__(self) -> None:
        if self.implementation not in (0, 1, 2):
            raise ValueError(
                f"`implementation` of {self.label} is 1, to drop inputs anew for each gate, or 2 or 0, to drop the "
                f"same for all, got {self.implementation!r}; give 1 or 2."
            )
        super().__post_init__()


class LSTMLike(Gated):
    """A cell with the gates i, f, g and o."""

    GATES: ClassVar[int] = 4
    STATE: ClassVar[type[tuple[Any, ...]]] = LSTMState

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """The argument that belongs to a weight; the bias begins with ones for the forget gate where that is asked."""
        found = super().argument(weight, kind)
        if (weight, kind) == ("bias", "initializer") and self.unit_forget_bias:  # type: ignore[attr-defined]
            return forget_bias(initializers.get(found or "glorot_uniform"))
        return found


class LSTMCell(LSTMLike):
    """Takes one step of a long short-term memory.

    i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias), with
    i, f, o = recurrent_activation(i, f, o) and g = activation(g);
    c' = f c + i g, h' = o activation(c')

    Args:
        units: Size of the output.
        activation: Name or function; None keeps values as they are.
        recurrent_activation: Likewise, for the gates.
        use_bias: Whether a bias is added.
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        unit_forget_bias: Whether the forget gate's bias begins with ones.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training.
        recurrent_dropout: Share of the state to drop in training.
        seed: Makes the dropout repeatable.
        implementation: 1 drops inputs anew for each gate, 2 and 0 the same for all; `recurrent_dropout` requires 1.

    Shapes: x [B, F], states [[B, units], [B, units]] -> (h' [B, units], [h', c']).

    Raises:
        ValueError: If an argument or a shape is wrong.

    References:
        Keras, `keras.layers.LSTMCell`; Hochreiter and Schmidhuber, "Long short-term memory", 1997.

    Example:
        >>> cell, x, h = LSTMCell(2), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> output, (h, c) = cell.apply(cell.init(jax.random.key(0), x, [h, h]), x, [h, h])
        >>> output.shape, c.shape
        ((5, 2), (5, 2))
    """

    units: int
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

    @nn.compact
    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The cell's functions for inputs of which one step has this shape, [B, F]."""
        kernel = self.add_weight("kernel", (shape[-1], 4 * self.units))
        recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, 4 * self.units))
        bias = self.add_weight("bias", (4 * self.units,)) if self.use_bias else None
        zeros = LSTMState(*self.get_initial_state(shape[0]))
        masks = self.masks("dropout", shape, train)
        recurrent_masks = self.masks("recurrent_dropout", zeros.h.shape, train)
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)

        def project(x: jax.Array) -> jax.Array:
            x = product(self.cast(x), kernel, masks)
            return x if bias is None else add_bias(x, bias)

        def advance(x: jax.Array, state: LSTMState) -> LSTMState:
            z = x + product(state.h, recurrent_kernel, recurrent_masks)
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = gate(f) * state.c + gate(i) * activation(g)
            return LSTMState(gate(o) * activation(c), c)

        def own(xs: jax.Array, state: LSTMState, mask: jax.Array | None) -> tuple[jax.Array, LSTMState]:
            inputs = contribution(self.cast(xs), kernel, bias, masks)
            return recurrence.lstm(inputs, recurrent_kernel, state, mask)

        return steps_from(project, advance, zeros, own if self.is_standard(recurrent_masks) else None)


def forget_bias(initializer: Any) -> Callable[..., jax.Array]:
    """An initializer of the biases [i, f, g, o] that gives ones to f."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        units = shape[0] // 4
        first, rest = jax.random.split(key)
        parts = [initializer(first, (units,), dtype), jnp.ones(units, dtype), initializer(rest, (2 * units,), dtype)]
        return jnp.concatenate(parts)

    return initialize


class GRUCell(Gated):
    """Takes one step of a gated recurrent unit.

    z, r, g = split(x @ kernel + bias); a, b, d = split(h @ recurrent_kernel + recurrent bias);
    z' = recurrent_activation(z + a), r' = recurrent_activation(r + b), g' = activation(g + r' d);
    h' = z' h + (1 - z') g'.
    Without `reset_after`, d is (r' h) @ its columns of recurrent_kernel, and there is no recurrent bias.

    Args:
        units: Size of the output.
        activation: Name or function; None keeps values as they are.
        recurrent_activation: Likewise, for the gates.
        use_bias: Whether biases are added; they are one parameter, [2, 3 units] with `reset_after`, else [3 units].
        kernel_initializer, recurrent_initializer, bias_initializer: Names or initializers of the weights.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: Add losses on the weights.
        kernel_constraint, recurrent_constraint, bias_constraint: Applied to the weights after each update.
        dropout: Share of the inputs to drop in training.
        recurrent_dropout: Share of the state to drop in training.
        reset_after: Whether the reset gate is applied after the matrix product.
        seed: Makes the dropout repeatable.
        implementation: 1 drops inputs anew for each gate, 2 and 0 the same for all; `recurrent_dropout` requires 1.

    Shapes: x [B, F], states [B, units] -> (h' [B, units], the same states anew).

    Raises:
        ValueError: If an argument or a shape is wrong.

    References:
        Keras, `keras.layers.GRUCell`; Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014.

    Example:
        >>> cell, x, h = GRUCell(2), jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> output, states = cell.apply(cell.init(jax.random.key(0), x, h), x, h)
        >>> output.shape, states.shape
        ((5, 2), (5, 2))
    """

    units: int
    activation: Any = "tanh"
    recurrent_activation: Any = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Any = "glorot_uniform"
    recurrent_initializer: Any = "orthogonal"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    recurrent_regularizer: Any = None
    bias_regularizer: Any = None
    reset_after: bool = dataclasses.field(default=True, kw_only=True)

    GATES: ClassVar[int] = 3

    @nn.compact
    def steps(self, shape: tuple[int, ...], train: bool) -> Steps:
        """The cell's functions for inputs of which one step has this shape, [B, F]."""
        units = self.units
        kernel = self.add_weight("kernel", (shape[-1], 3 * units))
        recurrent_kernel = self.add_weight("recurrent_kernel", (units, 3 * units))
        bias, recurrent_bias = self._biases()
        zeros = Hidden(*self.get_initial_state(shape[0]))
        masks = self.masks("dropout", shape, train)
        recurrent_masks = self.masks("recurrent_dropout", zeros.h.shape, train)
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)

        def project(x: jax.Array) -> jax.Array:
            x = product(self.cast(x), kernel, masks)
            return x if bias is None else add_bias(x, bias)

        def after(x: jax.Array, state: Hidden) -> Hidden:
            inner = product(state.h, recurrent_kernel, recurrent_masks)
            if recurrent_bias is not None:
                inner = add_bias(inner, recurrent_bias)
            z, r = jnp.split(gate(x[:, : 2 * units] + inner[:, : 2 * units]), 2, axis=-1)
            g = activation(x[:, 2 * units :] + r * inner[:, 2 * units :])
            return Hidden(z * state.h + (1 - z) * g)

        def before(x: jax.Array, state: Hidden) -> Hidden:
            inner = product(state.h, recurrent_kernel[:, : 2 * units], recurrent_masks[:2])
            z, r = jnp.split(gate(x[:, : 2 * units] + inner), 2, axis=-1)
            d = product(r * state.h, recurrent_kernel[:, 2 * units :], recurrent_masks[-1:])
            g = activation(x[:, 2 * units :] + d)
            return Hidden(z * state.h + (1 - z) * g)

        if not self.reset_after:
            return steps_from(project, before, zeros)

        def own(xs: jax.Array, state: Hidden, mask: jax.Array | None) -> tuple[jax.Array, Hidden]:
            b = jnp.zeros(3 * units, kernel.dtype) if recurrent_bias is None else recurrent_bias
            inputs = contribution(self.cast(xs), kernel, bias, masks)
            return recurrence.gru(inputs, recurrent_kernel, b, state, mask)

        return steps_from(project, after, zeros, own if self.is_standard(recurrent_masks) else None)

    def _biases(self) -> tuple[jax.Array | None, jax.Array | None]:
        """The bias of the inputs and the bias of the state."""
        if not self.use_bias:
            return None, None
        if not self.reset_after:
            return self.add_weight("bias", (3 * self.units,)), None
        both = self.add_weight("bias", (2, 3 * self.units))
        return both[0], both[1]
