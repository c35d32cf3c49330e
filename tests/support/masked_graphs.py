"""Random functional models with masks, one for each seed, built equally in both libraries."""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.backend import get_keras_mask, set_keras_mask

T, F, N = 4, 3, 3
KEEPS = [("Dropout", {"rate": 0.1}), ("LayerNormalization", {}), ("BatchNormalization", {}), ("Activation", {"activation": "tanh"}),
         ("Identity", {}), ("Dense", {"units": F}), ("Dense", {"units": F}), ("Dense", {"units": F})]  # fmt: skip
RECURRENT = ["LSTM", "GRU", "SimpleRNN"]
MERGES = [
    "Add",
    "Multiply",
    "Average",
    "Maximum",
    "Concatenate",
    "Concatenate",
    "Concatenate",
    "Attention",
    "MultiHeadAttention",
]


_attend = keras.layers.MultiHeadAttention.call


@functools.wraps(_attend)
def attention_that_keeps_masks(self: Any, query: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls Keras' attention and restores the masks that it removes from its arguments, so that later layers see them.

    `test_attention_does_not_remove_masks` in test_keras_differences.py checks this with hand-computed values.
    """
    masks = [(x, get_keras_mask(x)) for x in (query, value)]
    outputs = _attend(self, query, value, *args, **kwargs)
    for x, mask in masks:
        set_keras_mask(x, mask)
    return outputs


class Library(NamedTuple):
    """The classes and functions of a library that build a graph."""

    layers: Any
    Input: Any
    Model: Any
    Sequential: Any


class Drawing:
    """Draws one random graph.

    Args:
        library: The library that provides layers and models.
        number: The integer that determines the graph.
        any_mask: Whether to also draw models in which Keras computes with other masks than its graph contains: after
            nested models and after calls with initial states. The files of some of these models are rejected.
        dtype: A dtype that is passed to some layers.
    """

    def __init__(self, library: Library, number: int, any_mask: bool = False, dtype: str | None = None):
        self.lib, self.rng = library, np.random.default_rng(number)
        self.any_mask, self.dtype = any_mask, dtype
        self.count = 0
        self.shared: list[Any] = []
        self.sequences: list[Any] = []
        self.ids: list[Any] = []
        self.vectors: list[Any] = []

    def pick(self, things: Any) -> Any:
        return things[int(self.rng.integers(len(things)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def name(self) -> str:
        self.count += 1
        return f"part_{self.count}"

    def layer(self, kind: str, **config: Any) -> Any:
        if self.dtype is not None and self.chance(0.2):
            config["dtype"] = self.dtype
        return getattr(self.lib.layers, kind)(name=self.name(), **config)

    def recurrent(self, sequences: bool) -> Any:
        kind = self.pick(RECURRENT)
        if self.chance(0.2):
            inner = getattr(self.lib.layers, kind)(F, return_sequences=sequences)
            return self.layer("Bidirectional", layer=inner, merge_mode="sum")
        return self.layer(kind, units=F, return_sequences=sequences)

    # ------------------------------------------------------------ sequences [B, T, F] from sequences

    def embedded(self, ids: Any) -> Any:
        return self.layer("Embedding", input_dim=6, output_dim=F, mask_zero=self.chance(0.8))(ids)

    def source(self) -> Any:
        """Returns a new branch or an existing one."""
        if self.ids and (not self.sequences or self.chance(0.3)):
            return self.embedded(self.pick(self.ids))
        return self.pick(self.sequences)

    def kept(self, x: Any) -> Any:
        """Returns a new or shared layer for sequences."""
        if self.shared and self.chance(0.25):
            return self.pick(self.shared)(x)
        kind = self.rng.random()
        if kind < 0.3:
            layer = self.recurrent(True)
        elif kind < 0.45:
            layer = self.layer("Masking")
        elif kind < 0.55:
            layer = self.layer("TimeDistributed", layer=self.lib.layers.Dense(F))
        elif kind < 0.65:
            return self.ended(self.nested()(x))
        else:
            kind, config = self.pick(KEEPS)
            layer = self.layer(kind, **config)
        self.shared.append(layer)
        return layer(x)

    def nested(self) -> Any:
        """Returns a model that maps sequences to sequences."""
        name = self.name()
        inner = Drawing(self.lib, int(self.rng.integers(2**31)), self.any_mask, self.dtype)
        if self.chance(0.4):
            parts = [inner.layer("Masking")] if self.chance(0.5) else []
            parts += [inner.layer("Dense", units=F), inner.recurrent(True)]
            return self.lib.Sequential([self.lib.Input((T, F)), *parts], name=name)
        x = self.lib.Input((T, F))
        inner.sequences = [x]
        return self.lib.Model(x, inner.joined(2), name=name)

    def nested_pair(self, a: Any, b: Any) -> Any:
        """Returns a model of two inputs."""
        name = self.name()
        inner = Drawing(self.lib, int(self.rng.integers(2**31)), self.any_mask, self.dtype)
        inner.sequences = [self.lib.Input((T, F)), self.lib.Input((T, F))]
        inputs = list(inner.sequences)
        y = inner.kept(inner.kept(inputs[1]))
        return self.lib.Model(inputs, inner.merged(inputs[0], y), name=name)([a, b])

    def ended(self, x: Any) -> Any:
        """Returns the symbol, without its mask if Keras would compute other masks on arrays than in its graph."""
        return x if self.any_mask else self.layer("RMSNormalization")(x)

    def merged(self, a: Any, b: Any) -> Any:
        kind = self.pick(MERGES)
        if kind == "MultiHeadAttention":
            return self.layer(kind, num_heads=1, key_dim=2)(a, b)
        if kind != "Concatenate":
            return self.layer(kind)([a, b])
        three = [a, b, self.source()] if self.chance(0.3) else [a, b]
        return self.layer("Dense", units=F)(self.layer(kind)(three))

    def with_state(self, x: Any) -> Any:
        state = self.recurrent_vector(self.source())
        return self.layer("GRU", units=F, return_sequences=True)(x, initial_state=state)

    def recurrent_vector(self, x: Any) -> Any:
        return self.layer(self.pick(RECURRENT), units=F)(x)

    def step(self) -> None:
        """Returns another sequence."""
        x, kind = self.source(), self.rng.random()
        if kind < 0.55:
            x = self.kept(x)
        elif kind < 0.85:
            x = self.merged(x, self.source())
        elif kind < 0.93:
            x = self.ended(self.nested_pair(x, self.source()))
        elif self.any_mask:
            x = self.with_state(x)
        self.sequences.append(x)

    def joined(self, steps: int) -> Any:
        for _ in range(steps):
            self.step()
        return self.merged(self.sequences[-1], self.sequences[-2])

    def model(self) -> Any:
        """Returns the whole model, which uses all inputs."""
        self.ids = [self.lib.Input((T,), dtype="int32") for _ in range(int(self.rng.integers(1, 3)))]
        steps = [self.lib.Input((T, F)) for _ in range(int(self.rng.integers(0, 3)))]
        self.sequences = [self.embedded(x) for x in self.ids] + steps
        start = list(self.sequences)
        y = self.joined(int(self.rng.integers(3, 8)))
        for x in start:
            y = self.layer("Add")([y, self.kept(x)]) if self.chance(0.5) else self.merged(y, self.kept(self.kept(x)))
        heads = [self.recurrent_vector(y)]
        if self.chance(0.4):
            heads.append(self.layer("Dense", units=2)(self.source()))
        if self.chance(0.3):
            heads.append(self.layer("GlobalAveragePooling1D")(self.layer("Dense", units=2)(y)))
        heads = [heads[i] for i in self.rng.permutation(len(heads))]
        inputs = self.ids + steps
        return self.lib.Model(inputs if len(inputs) > 1 else inputs[0], heads if len(heads) > 1 else heads[0])


def data_for(inputs: Any) -> list[np.ndarray]:
    """Returns arrays for the inputs, where each example has an unmasked step."""
    rng = np.random.default_rng(1)
    found = []
    for symbol in inputs:
        keep = rng.random((N, T)) < 0.6
        keep[np.arange(N), rng.integers(0, T, N)] = True
        if len(symbol.shape) == 2:
            found.append(np.where(keep, rng.integers(1, 6, (N, T)), 0).astype("int32"))
        else:
            found.append((rng.normal(size=(N, T, F)) * keep[..., None]).astype("float32"))
    return found
