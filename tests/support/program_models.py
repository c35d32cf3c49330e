"""Random models, built by the same random decisions in either library.

The builder runs once with Keras and once with this library. Both runs use generators with the same seed, and each
decision depends only on the generator and on shapes, so both runs build the same model.
"""

import math
from typing import Any, NamedTuple

import numpy as np

ACTIVATIONS = "linear relu tanh sigmoid elu selu silu gelu softplus leaky_relu hard_sigmoid softsign mish".split()
SMOOTH = "tanh sigmoid softplus elu silu softsign gelu".split()
REGULARIZERS = "l1 l2 l1l2".split()
CONSTRAINTS = "non_neg unit_norm max_norm min_max_norm".split()
CLASSES, WORDS = 3, 6


class Library(NamedTuple):
    """The modules of a library; `keras` is True for Keras."""

    layers: Any
    Input: Any
    Model: Any
    Sequential: Any
    losses: Any
    metrics: Any
    optimizers: Any
    schedules: Any
    keras: bool


class Head(NamedTuple):
    """An output: its name, its kind ("classes", "binary" or "number"), its shape, and whether it is masked."""

    name: str
    kind: str
    shape: tuple[int, ...]
    masked: bool


class Builder:
    """Draws a model.

    Args:
        library: The library in which the model is built.
        seed: The seed of all decisions.

    Attributes:
        summary: A short description of each layer.
        rewritten: Why the Keras model is replaced by an equivalent one.
    """

    def __init__(self, library: Library, seed: int):
        self.lib, self.rng = library, np.random.default_rng(seed)
        self.summary: list[str] = []
        self.count = 0
        self.rewritten: set[str] = set()
        self.masked: dict[int, bool] = {}
        self.kept: list[Any] = []  # keeps symbols alive, so that their ids are unique
        self.units = int(self.rng.integers(2, 5))
        self.time = int(self.rng.integers(3, 6))

    # ------------------------------------------------------------ draws

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, *things: Any) -> Any:
        return things[int(self.rng.integers(len(things)))]

    def size(self) -> int:
        return int(self.rng.integers(2, 5))

    def weighted(self, *weights: str, activity: bool = True) -> dict[str, Any]:
        """Draws the common arguments of layers with weights; `weights` are the prefixes of regularizers and constraints."""
        found: dict[str, Any] = {}
        for name in weights:
            if self.chance(0.12):
                found[f"{name}_regularizer"] = self.pick(*REGULARIZERS)
            if self.chance(0.08):
                found[f"{name}_constraint"] = self.pick(*CONSTRAINTS)
        if self.chance(0.1):
            found["trainable"] = False
        if activity and self.chance(0.12):
            found["activity_regularizer"] = self.pick("l1", "l2")
        return found

    def named(self, make: Any, *args: Any, **config: Any) -> Any:
        """Makes a layer or model that has the same name in both libraries."""
        self.count += 1
        return make(*args, **{"name": f"part_{self.count}"} | config)

    def put(self, symbol: Any, name: str, /, masked: bool | None = None, inputs: Any = None, **config: Any) -> Any:
        """Calls a layer by name and records whether its outputs are masked."""
        layer = self.named(getattr(self.lib.layers, name), **config)
        return self.call(symbol, layer, f"{name}({_summary(config)})", masked, inputs)

    def call(self, symbol: Any, layer: Any, summary: str, masked: bool | None = None, inputs: Any = None) -> Any:
        self.summary.append(summary)
        before = self.masked.get(id(symbol), False)
        output = layer(symbol if inputs is None else inputs)
        self.kept.append(output)
        self.masked[id(output)] = before if masked is None else masked
        return output

    def is_masked(self, symbol: Any) -> bool:
        return self.masked.get(id(symbol), False)

    # ------------------------------------------------------------ layers by rank

    def dense_config(self, units: int | None = None) -> dict[str, Any]:
        return {
            "units": units or self.size(),
            "activation": self.pick(*ACTIVATIONS),
            "use_bias": self.chance(0.85),
            **self.weighted("kernel"),
        }

    def layer(self, x: Any) -> Any:
        rank = len(x.shape)
        return {2: self.on_vectors, 3: self.on_sequences, 4: self.on_images}[rank](x)

    def anywhere(self, x: Any) -> Any:
        """Adds a layer that accepts any rank and keeps the shape."""
        kind = self.pick("Activation", "LeakyReLU", "ELU", "PReLU", "Dropout", "BatchNormalization", "LayerNormalization",
                         "ActivityRegularization", "UnitNormalization", "GaussianNoise", "RMSNormalization", "Identity")  # fmt: skip
        config: dict[str, Any] = {}
        if kind == "Activation":
            config = {"activation": self.pick(*ACTIVATIONS)}
        elif kind == "PReLU":
            config = {"alpha_initializer": "ones", **self.weighted("alpha")}
        elif kind == "Dropout":
            config = {"rate": 0.0}
        elif kind == "GaussianNoise":
            config = {"stddev": 0.0}
        elif kind == "BatchNormalization":
            config = {
                "momentum": self.pick(0.5, 0.9, 0.99),
                "center": self.chance(0.8),
                "scale": self.chance(0.8),
                **self.weighted("gamma", "beta"),
            }
        elif kind == "LayerNormalization":
            config = {"center": self.chance(0.8), "scale": self.chance(0.8), "epsilon": 0.01}
        elif kind == "ActivityRegularization":
            config = {"l1": self.pick(0.0, 0.01), "l2": self.pick(0.0, 0.02)}
        return self.put(x, kind, **config)

    def on_vectors(self, x: Any) -> Any:
        kind = self.pick("dense", "dense", "dense", "any", "any", "residual", "nested", "twice", "repeat", "reshape")
        if kind == "dense":
            return self.put(x, "Dense", **self.dense_config())
        if kind == "any":
            return self.anywhere(x)
        if kind == "residual":
            other = self.put(x, "Dense", **self.dense_config(x.shape[-1]))
            return self.merge([x, other])
        if kind == "nested":
            return self.nested(x)
        if kind == "twice":
            return self.twice(x, self.dense_config(x.shape[-1]))
        if kind == "repeat":
            return self.put(x, "RepeatVector", masked=False, n=self.time)
        if x.shape[-1] % 2 == 0:
            return self.put(x, "Reshape", masked=False, target_shape=(x.shape[-1] // 2, 2))
        return self.put(x, "Dense", **self.dense_config())

    def on_sequences(self, x: Any) -> Any:
        kind = self.pick("dense", "any", "recurrent", "recurrent", "both ways", "each step", "conv", "pool", "attend",
                         "twice", "residual", "shape", "nested", "cells")  # fmt: skip
        if kind == "dense":
            return self.put(x, "Dense", **self.dense_config())
        if kind == "any":
            return self.anywhere(x)
        if kind == "recurrent":
            return self.recurrent(x)
        if kind == "both ways":
            return self.both_ways(x)
        if kind == "each step":
            return self.each_step(x)
        if kind == "conv":
            padding = "valid" if x.shape[1] > 2 and self.chance(0.5) else self.pick("same", "causal")
            name = self.pick("Conv1D", "Conv1D", "SeparableConv1D") if padding != "causal" else "Conv1D"
            config = self.weighted(*(["kernel"] if name == "Conv1D" else ["depthwise", "pointwise"]))
            return self.put(
                x, name, masked=False, filters=self.size(), kernel_size=2, padding=padding,
                activation=self.pick(*ACTIVATIONS), **config,
            )  # fmt: skip
        if kind == "pool":
            name = self.pick("MaxPooling1D", "AveragePooling1D")
            return self.put(x, name, masked=False, pool_size=2, strides=1, padding=self.pick("valid", "same"))
        if kind == "attend":
            name = self.pick("Attention", "AdditiveAttention", "MultiHeadAttention")
            if name == "MultiHeadAttention":
                config = self.weighted("kernel")
                trainable = config.pop("trainable", True)
                layer = self.named(self.lib.layers.MultiHeadAttention, num_heads=2, key_dim=2, **config)
                self.summary.append(f"MultiHeadAttention({_summary(config)}){' frozen' * (not trainable)}")
                y = layer(x, x)
                layer.trainable = trainable  # in Keras, the argument does not reach the layers inside
                self.kept.append(y)
                self.masked[id(y)] = self.is_masked(x)
            else:
                config = {"use_scale": self.chance(0.5)} if name == "Attention" else {}
                y = self.put(x, name, inputs=[x, x], **config)
            return self.merge([x, y]) if self.chance(0.5) else y
        if kind == "twice":
            return self.twice(x, self.dense_config(x.shape[-1]))
        if kind == "residual":
            return self.merge([x, self.put(x, "Dense", **self.dense_config(x.shape[-1]))])
        if kind == "nested":
            return self.nested(x)
        if kind == "cells":
            cells = [self.lib.layers.LSTMCell(2), self.lib.layers.GRUCell(self.units)]
            if self.chance(0.5):
                cells.reverse()
            sequences = self.chance(0.5)
            layer = self.named(self.lib.layers.RNN, cells, return_sequences=sequences)
            return self.call(x, layer, f"RNN(cells, {sequences})", self.is_masked(x) and sequences)
        name, config = self.pick(
            ("Permute", {"dims": (2, 1)}), ("ZeroPadding1D", {"padding": 1}), ("UpSampling1D", {"size": 2}),
            ("SpatialDropout1D", {"rate": 0.0}), ("Flatten", {}), ("Cropping1D", {"cropping": (1, 0)}),
        )  # fmt: skip
        if name == "UpSampling1D" and x.shape[1] > 5 or name == "Cropping1D" and x.shape[1] < 2:
            return self.put(x, "Dense", **self.dense_config())
        return self.put(x, name, masked=self.is_masked(x) and name == "SpatialDropout1D", **config)

    def recurrent_config(self, sequences: bool) -> dict[str, Any]:
        return {
            "units": self.size(),
            "return_sequences": sequences,
            "activation": self.pick("tanh", "tanh", "softsign"),
            "use_bias": self.chance(0.9),
            "unroll": self.chance(0.1),
            **self.weighted("kernel", "recurrent", "bias", activity=False),
        }

    def recurrent(self, x: Any) -> Any:
        name, sequences = self.pick("LSTM", "GRU", "SimpleRNN"), self.chance(0.6)
        config = self.recurrent_config(sequences)
        if name == "GRU":
            config["reset_after"] = self.chance(0.7)
        config["go_backwards"] = self.chance(0.15)
        activity = self.pick("l1", "l2") if self.chance(0.12) else None
        masked = self.is_masked(x) and sequences
        if activity and self.lib.keras and name == "SimpleRNN":
            # Keras accepts the argument, but adds no activity loss.
            y = self.put(x, name, masked=masked, **config)
            loss = self.lib.layers.ActivityRegularization(**{activity: 0.01}, name=f"loss_{self.count}")
            return self.call(y, loss, f"ActivityRegularization({activity})")
        if activity:
            self.rewritten |= {"a loss on the outputs of SimpleRNN"} if name == "SimpleRNN" else set()
            config["activity_regularizer"] = activity
        return self.put(x, name, masked=masked, **config)

    def both_ways(self, x: Any) -> Any:
        name, sequences = self.pick("LSTM", "GRU", "SimpleRNN"), self.chance(0.6)
        inner = getattr(self.lib.layers, name)(**self.recurrent_config(sequences))
        mode = self.pick("concat", "sum", "ave", "mul")
        layer = self.named(self.lib.layers.Bidirectional, inner, merge_mode=mode)
        y = self.call(x, layer, f"Bidirectional({name}, {mode}, {sequences})", self.is_masked(x) and sequences)
        if self.chance(0.1):
            layer.trainable = False
        return y

    def each_step(self, x: Any) -> Any:
        config = self.dense_config()
        inner = self.lib.layers.Dense(**config)
        if "activity_regularizer" in config:
            self.rewritten.add("a loss on the outputs of a layer inside TimeDistributed")
            if self.lib.keras:  # Keras only adds the losses of models
                inner = self.lib.Sequential([self.lib.Input((x.shape[-1],)), inner])
        layer = self.named(self.lib.layers.TimeDistributed, inner)
        return self.call(x, layer, f"TimeDistributed(Dense({_summary(config)}))")

    def twice(self, x: Any, config: dict[str, Any]) -> Any:
        """Calls the same layer twice."""
        if "activity_regularizer" in config:
            # Keras adds only the loss of the last call, except inside a nested model.
            self.rewritten.add("a loss on the outputs of a layer that is called twice")
            symbol, layer = self.lib.Input(tuple(x.shape[1:])), self.lib.layers.Dense(**config)
            model = self.named(self.lib.Model, symbol, layer(layer(symbol)))
            return self.call(x, model, f"twice Dense({_summary(config)})")
        layer = self.named(self.lib.layers.Dense, **config)
        return self.call(self.call(x, layer, f"twice Dense({_summary(config)})"), layer, "again")

    def nested(self, x: Any) -> Any:
        """Adds a nested model, Sequential or functional, which may be frozen."""
        first, second = self.dense_config(), self.dense_config(x.shape[-1])
        shape, dense = tuple(x.shape[1:]), self.lib.layers.Dense
        if self.chance(0.5):
            inner = self.named(self.lib.Sequential, [self.lib.Input(shape), dense(**first), dense(**second)])
        else:
            symbol = self.lib.Input(shape)
            output = self.lib.layers.Add()([symbol, dense(**second)(dense(**first)(symbol))])
            inner = self.named(self.lib.Model, symbol, output)
        frozen = self.chance(0.2)
        if frozen:
            inner.trainable = False
        y = self.call(x, inner, f"nested(Dense({_summary(first)}), Dense({_summary(second)})){'frozen' * frozen}")
        return self.call(y, inner, "again") if self.chance(0.15) and not _activity(first, second) else y

    def on_images(self, x: Any) -> Any:
        kind = self.pick("conv", "conv", "conv", "pool", "any", "shape", "global")
        small = min(x.shape[1:3]) < 3
        if kind == "any":
            return self.anywhere(x)
        if kind == "global" or small:
            return self.put(x, self.pick("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten"))
        if kind == "conv":
            name = self.pick("Conv2D", "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose")
            config = {
                "Conv2D": {"filters": self.size(), **self.weighted("kernel")},
                "Conv2DTranspose": {"filters": self.size(), **self.weighted("kernel")},
                "DepthwiseConv2D": {"depth_multiplier": self.pick(1, 2), **self.weighted("depthwise")},
                "SeparableConv2D": {"filters": self.size(), **self.weighted("depthwise", "pointwise")},
            }[name]
            config |= {
                "kernel_size": self.pick(2, 3),
                "padding": self.pick("valid", "same"),
                "strides": self.pick(1, 1, 2) if name != "Conv2DTranspose" else 1,
                "activation": self.pick(*ACTIVATIONS),
                "use_bias": self.chance(0.85),
            }
            return self.put(x, name, **config)
        if kind == "pool":
            name = self.pick("MaxPooling2D", "AveragePooling2D")
            return self.put(x, name, pool_size=2, strides=self.pick(None, 1), padding=self.pick("valid", "same"))
        name, config = self.pick(
            ("ZeroPadding2D", {"padding": 1}), ("UpSampling2D", {"size": 2}), ("SpatialDropout2D", {"rate": 0.0}),
            ("Cropping2D", {"cropping": 1}), ("GroupNormalization", {"groups": 1}), ("sequence", {}),
        )  # fmt: skip
        if name == "sequence" or min(x.shape[1:3]) > 6:
            return self.put(x, "Reshape", target_shape=(x.shape[1], x.shape[2] * x.shape[3]))
        return self.put(x, name, **config)

    # ------------------------------------------------------------ complete models

    def merge(self, symbols: list[Any]) -> Any:
        shapes = {tuple(s.shape[1:]) for s in symbols}
        name = self.pick("Add", "Average", "Multiply", "Maximum", "Concatenate") if len(shapes) == 1 else "Concatenate"
        masks = [self.is_masked(s) for s in symbols]
        # An estimate; `masked_heads` of the fuzz test computes which outputs are masked.
        return self.put(symbols[0], name, masked=any(masks) if name == "Concatenate" else all(masks), inputs=symbols)

    def flat(self, x: Any) -> Any:
        """Reduces any symbol to shape [B, F]."""
        if len(x.shape) == 4:
            return self.put(x, self.pick("Flatten", "GlobalAveragePooling2D"))
        if len(x.shape) == 3:
            if self.is_masked(x) and self.chance(0.6):
                return self.put(x, self.pick("LSTM", "GRU"), masked=False, units=self.size())
            return self.put(x, self.pick("GlobalAveragePooling1D", "GlobalMaxPooling1D", "Flatten"), masked=False)
        return x

    def start(self, kind: str, name: str) -> tuple[Any, Any]:
        """Adds an input, and returns it with the first symbol after it."""
        shapes = {
            "vector": (self.units,), "sequence": (self.time, self.units), "ids": (self.time,), "image": (6, 6, self.pick(1, 2)),
        }  # fmt: skip
        x = self.lib.Input(shapes[kind], dtype="int32" if kind == "ids" else "float32", name=name)
        if kind == "ids":
            config = {f"embeddings_{k}": v for k, v in self.regularized().items()}
            masked = self.chance(0.6)
            return x, self.put(
                x, "Embedding", masked=masked, input_dim=WORDS, output_dim=self.size(), mask_zero=masked, **config
            )
        if kind == "sequence" and self.chance(0.4):
            return x, self.put(x, "Masking", masked=True, mask_value=0.0)
        return x, x

    def regularized(self) -> dict[str, str]:
        return {"regularizer": self.pick(*REGULARIZERS)} if self.chance(0.15) else {}

    def head(self, x: Any, name: str, per_step: bool) -> tuple[Any, Head]:
        x = x if per_step else self.flat(x)
        kind = self.pick("classes", "classes", "binary", "number")
        units = {"classes": CLASSES, "binary": self.pick(1, 1, 2), "number": self.pick(1, 2, 3)}[kind]
        activation = {"classes": "softmax", "binary": "sigmoid", "number": self.pick("linear", "softplus")}[kind]
        config = {"units": units, "activation": activation, **self.weighted("kernel")}
        config.pop("trainable", None)  # at least one layer is trainable
        output = self.put(x, "Dense", name=name, **config)
        return output, Head(name, kind, tuple(output.shape[1:]), self.is_masked(output))

    def build(self) -> tuple[Any, list[str], list[Head]]:
        """Draws the model; returns it with the kinds of its inputs and its heads."""
        if self.chance(0.35):
            return self.stack()
        kinds = [self.pick("vector", "sequence", "sequence", "ids", "image") for _ in range(self.pick(1, 1, 2, 2, 3))]
        inputs, branches = [], []
        for i, kind in enumerate(kinds):
            symbol, x = self.start(kind, f"in_{i}")
            for _ in range(self.pick(1, 2, 2, 3)):
                x = self.layer(x)
            inputs.append(symbol)
            branches.append(x)
        if len(branches) > 1:
            same = {tuple(b.shape[1:-1]) for b in branches}
            x = self.merge(
                branches if len(same) == 1 and len(branches[0].shape) < 4 else [self.flat(b) for b in branches]
            )
        else:
            x = branches[0]
        outputs, heads = [], []
        for i in range(self.pick(1, 1, 1, 2)):
            output, head = self.head(x, f"out_{i}", len(x.shape) == 3 and self.chance(0.7))
            outputs.append(output)
            heads.append(head)
        one_in, one_out = len(inputs) == 1, len(outputs) == 1
        model = self.lib.Model(inputs[0] if one_in else inputs, outputs[0] if one_out else outputs)
        return model, kinds, heads

    def stack(self) -> tuple[Any, list[str], list[Head]]:
        """Draws a model of layers in sequence, optionally nested in a Sequential."""
        kind = self.pick("vector", "sequence", "ids", "image")
        symbol, x = self.start(kind, "in_0")
        for _ in range(self.pick(1, 2, 3)):
            x = self.layer(x)
        output, head = self.head(x, "out_0", len(x.shape) == 3 and self.chance(0.7))
        inner = self.named(self.lib.Model, symbol, output)
        shape = tuple(symbol.shape[1:])
        outer = self.lib.Input(shape, dtype="int32" if kind == "ids" else "float32")
        if self.chance(0.3):
            self.summary.insert(0, "in a Sequential:")
            # The weights of this Sequential have the same order as those of the nested model.
            return self.lib.Sequential([outer, inner]), [kind], [head]
        return inner, [kind], [head]


def _summary(config: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in config.items() if v not in (None,))


def _activity(*configs: dict[str, Any]) -> bool:
    return any("activity_regularizer" in config for config in configs)


def inputs_for(kinds: list[str], model: Any, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """Draws inputs; sequences and ids end with zeros, which are masked."""
    symbols = model.inputs if isinstance(model.inputs, list) else [model.inputs]
    found = []
    for kind, symbol in zip(kinds, symbols, strict=True):
        shape = (n, *symbol.shape[1:])
        if kind == "ids":
            x = rng.integers(1, WORDS, shape).astype("int32")
        else:
            x = rng.normal(size=shape).astype("float32")
        if kind in ("ids", "sequence"):
            for row, length in zip(x, rng.integers(1, shape[1] + 1, n), strict=True):
                row[length:] = 0
        found.append(x)
    return found


def labels_for(head: Head, rng: np.random.Generator, n: int, sparse: bool) -> np.ndarray:
    shape = (n, *head.shape)
    if head.kind == "classes":
        labels = rng.integers(0, CLASSES, shape[:-1])
        return labels.astype("int32") if sparse else np.eye(CLASSES, dtype="float32")[labels]
    if head.kind == "binary":
        return rng.integers(0, 2, shape).astype("float32")
    return np.abs(rng.normal(size=shape)).astype("float32") + np.float32(0.1)


def positions(head: Head) -> int:
    return math.prod(head.shape[:-1])
