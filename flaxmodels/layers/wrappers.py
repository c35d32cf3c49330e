"""Wrappers that apply a layer in both directions of time, or at each time step."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.recurrent import Recurrent
from flaxmodels.layers.tracing import Lookup, Sources, trace
from flaxmodels.trees import ArrayTree, MaskTree


class Bidirectional(MultiOutputLayer):
    """Runs a recurrent layer forward and backward over time and merges the two outputs.

    The outputs of the backward layer are reversed into the order of the inputs. With `return_sequences`, masked steps
    return zeros, regardless of the layer's `zero_output_for_mask`.

    Args:
        layer: A recurrent layer; both directions use its arguments.
        merge_mode: How the outputs are merged: "concat", "sum", "ave" or "mul"; None returns both.
        weights: Not supported; use `interop.set_keras_weights`.
        backward_layer: Recurrent layer for the backward direction, with the opposite `go_backwards`; by default a copy
            of `layer`.

    Shapes: x [B, T, F], mask [B, T] -> the layer's outputs, twice as wide for "concat"; with return_state also the
        states of the forward layer and then those of the backward layer. `initial_state` lists states in this order.

    Raises:
        ValueError: If the arguments of the two layers do not match, `merge_mode` is unknown, or `weights` is given.
        TypeError: If a layer is not recurrent.

    References:
        Keras, `keras.layers.Bidirectional`; Schuster and Paliwal, "Bidirectional recurrent neural networks", 1997.

    Example:
        >>> from flaxmodels.layers.recurrent import LSTM
        >>> layer, x = Bidirectional(LSTM(4)), jnp.ones((5, 7, 3))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> layer.apply(variables, x).shape, sorted(variables["params"])
        ((5, 8), ['backward_layer', 'forward_layer'])
    """

    layer: Any
    merge_mode: Literal["concat", "sum", "ave", "mul"] | None = "concat"
    weights: Any = None
    backward_layer: Any = None

    # Makes flax keep the names that `_make_directions` gives to the two layers.
    preserve_adopted_names: ClassVar[bool] = True

    MERGES: ClassVar[dict[str | None, Callable[[jax.Array, jax.Array], Any]]] = {
        "concat": lambda a, b: jnp.concatenate([a, b], axis=-1),
        "sum": lambda a, b: a + b,
        "ave": lambda a, b: (a + b) / 2,
        "mul": lambda a, b: a * b,
        None: lambda a, b: (a, b),
    }

    def __post_init__(self) -> None:
        for name, layer in (("layer", self.layer), ("backward_layer", self.backward_layer)):
            if not isinstance(layer, Recurrent) and (name == "layer" or layer is not None):
                raise TypeError(
                    f"`{name}` of Bidirectional must be a recurrent layer, got {type(layer).__name__}; "
                    "give an LSTM, a GRU, a SimpleRNN or an RNN of a cell."
                )
        if not isinstance(self.merge_mode, str | None) or self.merge_mode not in self.MERGES:
            raise ValueError(
                "`merge_mode` of Bidirectional must be 'concat', 'sum', 'ave', 'mul' or None, got "
                f"{self.merge_mode!r}; choose one."
            )
        if self.weights is not None:
            raise ValueError(
                "`weights` of Bidirectional is not supported, got a value; "
                "use variables = interop.set_keras_weights(layer, variables, weights)."
            )
        if self.layer.name != "forward_layer":
            self._make_directions()
        super().__post_init__()

    @nn.nowrap
    def _make_directions(self) -> None:
        """Replaces the two layers by copies that are named after their direction."""
        zeros = {"zero_output_for_mask": self.layer.return_sequences}
        backward = self.backward_layer
        backward = self.layer.clone(go_backwards=True) if backward is None else backward
        self._check_match(self.layer, backward)
        # Both are copied, because the two directions must not share the cell of an RNN.
        object.__setattr__(self, "layer", self.layer.copy(parent=None, name="forward_layer", **zeros))
        object.__setattr__(self, "backward_layer", backward.copy(parent=None, name="backward_layer", **zeros))

    @staticmethod
    def _check_match(forward: Recurrent, backward: Recurrent) -> None:
        if forward.go_backwards == backward.go_backwards:
            raise ValueError(
                "The two layers of Bidirectional must run in opposite directions, got "
                f"go_backwards={forward.go_backwards} for both; change it in `backward_layer`."
            )
        for name in ("stateful", "return_sequences", "return_state"):
            if getattr(forward, name) != getattr(backward, name):
                raise ValueError(
                    f"The two layers of Bidirectional must have the same `{name}`, got {getattr(forward, name)} and "
                    f"{getattr(backward, name)}; give both the same value."
                )

    @nn.nowrap
    def children(self) -> Sequence[tuple[str, Layer]]:
        """Returns the inner layers, keyed by scope name, in the order of Keras' weights."""
        return [("forward_layer", self.layer), ("backward_layer", self.backward_layer)]

    def compute(
        self,
        inputs: jax.Array,
        initial_state: Sequence[jax.Array] | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array | tuple[jax.Array, ...]:
        """Computes the merged outputs, followed by the final states if the layer has `return_state`."""
        forward_state, backward_state = self._split_states(initial_state)
        forward = self.layer(inputs, initial_state=forward_state, mask=mask, train=train)
        backward = self.backward_layer(inputs, initial_state=backward_state, mask=mask, train=train)
        states: tuple[jax.Array, ...] = ()
        if self.layer.return_state:
            states = (*forward[1:], *backward[1:])
            forward, backward = forward[0], backward[0]
        if self.layer.return_sequences:
            backward = jnp.flip(backward, axis=1)
        merged = self.MERGES[self.merge_mode](forward, backward)
        if not states:
            return merged
        return (*(merged if self.merge_mode is None else (merged,)), *states)

    @nn.nowrap
    def _split_states(
        self, states: Sequence[jax.Array] | None
    ) -> tuple[Sequence[jax.Array] | None, Sequence[jax.Array] | None]:
        """Returns the states of the forward layer and those of the backward layer."""
        if states is None:
            return None, None
        sizes = [layer.state_size for _, layer in self.children()]
        first, second = (len(size) if isinstance(size, list | tuple) else 1 for size in sizes)
        if not isinstance(states, list | tuple) or len(states) != first + second:
            raise ValueError(
                f"{self.label} takes `initial_state` as a list of arrays, {first} for the forward layer and {second} "
                "for the backward layer, got "
                f"{len(states) if isinstance(states, list | tuple) else type(states).__name__}; "
                "give this number of states."
            )
        return states[:first], states[first:]

    def compute_mask(self, inputs: jax.Array, mask: jax.Array | None = None) -> MaskTree:
        """Returns the mask of the inputs for each output if sequences are returned; states have no mask."""
        forward, backward = self.layer.compute_mask(inputs, mask), self.backward_layer.compute_mask(inputs, mask)
        if not self.layer.return_state:
            return forward if self.merge_mode is not None else (forward, backward)
        outputs = forward[:1] if self.merge_mode is not None else forward[:1] * 2
        return (*outputs, *forward[1:], *backward[1:])


class TimeDistributed(MultiOutputLayer):
    """Applies a layer to every step of a sequence.

    Time is folded into the batch, so that the layer runs once on B T examples. In training, a layer with batch
    statistics, such as `BatchNormalization`, processes the steps one by one, as in Keras. A loss on the layer's
    outputs (`activity_regularizer`) is the sum over the steps divided by the number of examples B. Keras adds such a
    loss only if the layer is a model.

    Args:
        layer: Layer that is applied to each step.

    Shapes: x [B, T, ...], mask [B, T, ...] -> [B, T, ...], where the last axes are those of the layer's outputs.

    Raises:
        TypeError: If `layer` is not a layer.
        ValueError: If x has fewer than three axes, or the first two sizes of the mask differ from those of x.

    References:
        Keras, `keras.layers.TimeDistributed`.

    Example:
        >>> from flaxmodels.layers.dense import Dense
        >>> layer, x = TimeDistributed(Dense(4)), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 7, 4)
    """

    layer: Layer

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(
                f"`layer` of TimeDistributed must be a layer, got {self.layer!r} of type {type(self.layer).__name__}; "
                "create an instance, such as layers.Dense(10)."
            )
        super().__post_init__()

    @nn.nowrap
    def children(self) -> Sequence[tuple[str, Layer]]:
        """Returns the inner layers, keyed by scope name, in the order of Keras' weights."""
        return [("layer", self.layer)]

    @nn.nowrap
    def trace_inputs(
        self, sources: Sources, lookups: list[Lookup], path: str, *args: object, **kwargs: object
    ) -> Sources:
        """Traces the inner layer, whose inputs are slices of this layer's inputs."""
        return trace(self.layer, sources, lookups, f"{path}/layer", *args, **kwargs)

    def outputs_and_mask(
        self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False
    ) -> tuple[ArrayTree, MaskTree]:
        """Computes the outputs and their mask."""
        checks.check_call(self, inputs, mask, train)
        self._check_shapes(inputs, mask)
        inner_mask = mask if self._passes_mask(inputs, mask) else None
        if self.is_initializing():
            self.layer(inputs[:, 0], mask=None if inner_mask is None else inner_mask[:, 0], train=train)
        if train and "batch_stats" in self.layer.variables:
            outputs, new_mask = self._apply_step_by_step(inputs, inner_mask)
        else:
            outputs, new_mask = self._apply_folded(inputs, inner_mask, train)
        if self.activity_regularizer is not None:
            self._add_activity_loss(outputs)
        if new_mask is None and mask is not None:
            new_mask = jnp.any(mask, axis=tuple(range(2, mask.ndim)))
        return outputs, new_mask

    @nn.nowrap
    def _check_shapes(self, inputs: jax.Array, mask: jax.Array | None) -> None:
        if inputs.ndim < 3:
            self.check_rank(inputs, "B T F")
        if mask is not None and mask.shape[:2] != inputs.shape[:2]:
            raise ValueError(
                f"{self.label} takes a mask whose first sizes are {inputs.shape[:2]} for batch and time, "
                f"got shape {mask.shape}; give one boolean for each step of each example."
            )

    @nn.nowrap
    def _passes_mask(self, inputs: jax.Array, mask: jax.Array | None) -> bool:
        """Returns whether the inner layer receives the mask: it computes with masks, or the mask fits its inputs."""
        if mask is None or checks.computes_with_mask(self.layer):
            return mask is not None
        return mask.ndim <= inputs.ndim and all(
            m in (1, n) for m, n in zip(mask.shape[2:], inputs.shape[2:], strict=False)
        )

    def _apply_folded(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> tuple[ArrayTree, MaskTree]:
        """Applies the inner layer to all steps as one batch."""
        sizes = inputs.shape[:2]
        folded = inputs.reshape(-1, *inputs.shape[2:])
        folded_mask = None if mask is None else mask.reshape(-1, *mask.shape[2:])
        object.__setattr__(self, "rows_per_example", sizes[1])  # read by the inner layer while it computes
        results = self.layer.call_with_mask(folded, mask=folded_mask, train=train)
        object.__setattr__(self, "rows_per_example", 1)
        return jax.tree.map(lambda x: x.reshape(*sizes, *x.shape[1:]), results)

    def _apply_step_by_step(self, inputs: jax.Array, mask: jax.Array | None) -> tuple[ArrayTree, MaskTree]:
        """Applies the inner layer in training to the steps one by one; each step updates its statistics."""
        results = [
            self.layer.call_with_mask(inputs[:, t], mask=None if mask is None else mask[:, t], train=True)
            for t in range(inputs.shape[1])
        ]
        return jax.tree.map(lambda *steps: jnp.stack(steps, axis=1), *results)
