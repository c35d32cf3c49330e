"""Layers around another layer: in both directions of time, and at each step of it."""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.recurrent import Recurrent
from flaxmodels.layers.tracing import Lookup, trace


class Bidirectional(MultiOutputLayer):
    """Takes a recurrent layer through time in both directions, and merges the two outputs.

    The outputs of the backward layer are put back into the order of time. With `return_sequences`, masked steps give
    zeros whatever the layer's `zero_output_for_mask` says.

    Args:
        layer: A recurrent layer; its arguments serve both directions.
        merge_mode: How outputs are merged: "concat", "sum", "ave", "mul"; None returns both.
        weights: Not taken; `interop.set_keras_weights` sets weights.
        backward_layer: Another layer for the way back; it has the opposite `go_backwards`.

    Shapes: x [B, T, F], mask [B, T] -> the layer's outputs, twice as wide for "concat"; with return_state also the
        states of the forward and then of the backward layer. `initial_state` lists states in the same order.

    Raises:
        ValueError: If the two layers do not fit each other, `merge_mode` is unknown, or `weights` come.
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

    # Flax then leaves the two layers the names that they are given here.
    preserve_adopted_names: ClassVar[bool] = True

    MERGES: ClassVar[dict[str | None, Any]] = {
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
                    f"`{name}` of Bidirectional is a recurrent layer, got {type(layer).__name__}; "
                    "give an LSTM, a GRU, a SimpleRNN or an RNN of a cell."
                )
        if not isinstance(self.merge_mode, str | None) or self.merge_mode not in self.MERGES:
            raise ValueError(
                f"`merge_mode` of Bidirectional is 'concat', 'sum', 'ave', 'mul' or None, got {self.merge_mode!r}; "
                "give one of these."
            )
        if self.weights is not None:
            raise ValueError(
                "`weights` of Bidirectional is not taken, got some; "
                "use variables = interop.set_keras_weights(layer, variables, weights)."
            )
        if self.layer.name != "forward_layer":
            self._pair()
        super().__post_init__()

    @nn.nowrap
    def _pair(self) -> None:
        """Puts the two layers, named after their direction, in place of those that came."""
        zeros = {"zero_output_for_mask": self.layer.return_sequences}
        backward = self.backward_layer
        backward = self.layer.clone(go_backwards=True) if backward is None else backward
        self._check_fit(self.layer, backward)
        # Copies, so that the cell of an RNN is not one and the same in both.
        object.__setattr__(self, "layer", self.layer.copy(parent=None, name="forward_layer", **zeros))
        object.__setattr__(self, "backward_layer", backward.copy(parent=None, name="backward_layer", **zeros))

    @staticmethod
    def _check_fit(forward: Recurrent, backward: Recurrent) -> None:
        if forward.go_backwards == backward.go_backwards:
            raise ValueError(
                "The two layers of Bidirectional go in opposite directions, got "
                f"go_backwards={forward.go_backwards} for both; give a `backward_layer` with the other one."
            )
        for name in ("stateful", "return_sequences", "return_state"):
            if getattr(forward, name) != getattr(backward, name):
                raise ValueError(
                    f"The two layers of Bidirectional have the same `{name}`, got {getattr(forward, name)} and "
                    f"{getattr(backward, name)}; give both the same."
                )

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return [("forward_layer", self.layer), ("backward_layer", self.backward_layer)]

    def compute(
        self, inputs: jax.Array, initial_state: Any = None, *, mask: jax.Array | None = None, train: bool = False
    ) -> Any:
        """Computes the merged outputs, and the states where they are asked for."""
        of_forward, of_backward = self._halves(initial_state)
        forward = self.layer(inputs, initial_state=of_forward, mask=mask, train=train)
        backward = self.backward_layer(inputs, initial_state=of_backward, mask=mask, train=train)
        states: tuple[Any, ...] = ()
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
    def _halves(self, states: Any) -> tuple[Any, Any]:
        """The states of the forward and of the backward layer."""
        if states is None:
            return None, None
        sizes = [layer.state_size for _, layer in self.children()]
        first, second = (len(size) if isinstance(size, list | tuple) else 1 for size in sizes)
        if not isinstance(states, list | tuple) or len(states) != first + second:
            raise ValueError(
                f"{self.label} takes `initial_state` as a list of {first} for the forward layer and {second} for the "
                f"backward layer, got {len(states) if isinstance(states, list | tuple) else type(states).__name__}; "
                "give as many states."
            )
        return states[:first], states[first:]

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """The inputs' mask for each output, if sequences are returned; the states have none."""
        of_forward, of_backward = (layer.compute_mask(inputs, mask) for _, layer in self.children())
        if not self.layer.return_state:
            return of_forward if self.merge_mode is not None else (of_forward, of_backward)
        outputs = of_forward[:1] if self.merge_mode is not None else of_forward[:1] * 2
        return (*outputs, *of_forward[1:], *of_backward[1:])


class TimeDistributed(MultiOutputLayer):
    """Applies one layer to every step of a sequence.

    Time is folded into the batch, so that the layer runs once on B T examples; a layer with statistics of its batch,
    such as `BatchNormalization`, takes the steps one after the other in training, as in Keras. A loss on the layer's
    outputs (`activity_regularizer`) is the sum over the steps divided by the number of examples B. Keras adds such a
    loss only if the layer is a model.

    Args:
        layer: The layer.

    Shapes: x [B, T, ...], mask [B, T, ...] -> [B, T, ...] with the layer's outputs.

    Raises:
        TypeError: If something else than a layer comes.
        ValueError: If x has fewer than three axes, or the mask's first two sizes are not x's.

    References:
        Keras, `keras.layers.TimeDistributed`.

    Example:
        >>> from flaxmodels.layers.dense import Dense
        >>> layer, x = TimeDistributed(Dense(4)), jnp.ones((5, 7, 3))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 7, 4)
    """

    layer: Any

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(
                f"`layer` of TimeDistributed is a layer, got {self.layer!r} of type {type(self.layer).__name__}; "
                "make an object of a layer's class, such as layers.Dense(10)."
            )
        super().__post_init__()

    @nn.nowrap
    def children(self) -> list[tuple[str, Any]]:
        return [("layer", self.layer)]

    @nn.nowrap
    def trace_inputs(self, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Any:
        """Traces the layer, which takes parts of the inputs."""
        return trace(self.layer, sources, lookups, f"{path}/layer", *args, **kwargs)

    def outputs_and_mask(
        self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False
    ) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        checks.check_call(self, inputs, mask, train)
        self._check(inputs, mask)
        passed_on = mask if self._passes_on(inputs, mask) else None
        if self.is_initializing():
            self.layer(inputs[:, 0], mask=None if passed_on is None else passed_on[:, 0], train=train)
        if train and "batch_stats" in self.layer.variables:
            outputs, new_mask = self._one_by_one(inputs, passed_on)
        else:
            outputs, new_mask = self._at_once(inputs, passed_on, train)
        if self.activity_regularizer is not None:
            self._add_activity_loss(outputs)
        if new_mask is None and mask is not None:
            new_mask = jnp.any(mask, axis=tuple(range(2, mask.ndim)))
        return outputs, new_mask

    @nn.nowrap
    def _check(self, inputs: jax.Array, mask: jax.Array | None) -> None:
        if inputs.ndim < 3:
            self.check_rank(inputs, "B T F")
        if mask is not None and mask.shape[:2] != inputs.shape[:2]:
            raise ValueError(
                f"{self.label} takes a mask that begins with {inputs.shape[:2]}, the sizes of batch and time, "
                f"got shape {mask.shape}; give one truth value for each step of each example."
            )

    @nn.nowrap
    def _passes_on(self, inputs: jax.Array, mask: jax.Array | None) -> bool:
        """Whether the layer receives the mask: it computes with one, or keeps one that fits its inputs."""
        if mask is None or checks.computes_with_mask(self.layer):
            return mask is not None
        return mask.ndim <= inputs.ndim and all(
            m in (1, n) for m, n in zip(mask.shape[2:], inputs.shape[2:], strict=False)
        )

    def _at_once(self, inputs: jax.Array, mask: jax.Array | None, train: bool) -> tuple[Any, Any]:
        """The layer on all steps as one batch."""
        sizes = inputs.shape[:2]
        folded = [None if x is None else x.reshape(-1, *x.shape[2:]) for x in (inputs, mask)]
        object.__setattr__(self, "rows_per_example", sizes[1])  # what the layer reads while it computes
        results = self.layer.call_with_mask(folded[0], mask=folded[1], train=train)
        object.__setattr__(self, "rows_per_example", 1)
        return jax.tree.map(lambda x: x.reshape(*sizes, *x.shape[1:]), results)

    def _one_by_one(self, inputs: jax.Array, mask: jax.Array | None) -> tuple[Any, Any]:
        """The layer in training on one step after the other, its statistics moving on with each."""
        results = [
            self.layer.call_with_mask(inputs[:, t], mask=None if mask is None else mask[:, t], train=True)
            for t in range(inputs.shape[1])
        ]
        return jax.tree.map(lambda *steps: jnp.stack(steps, axis=1), *results)
