"""What a model from a file may cost while its graph is drawn, before there is an array of its own."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from flaxmodels import initializers
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.pooling import AveragePooling

# What takes time or memory already while a graph is drawn: windows and steps, made one by one.
MOST = {"kernel_size": 2**16, "pool_size": 2**16, "output_size": 2**12, "power_iterations": 2**10}
MAX_UNROLLED = 2**12
RANDOM = (
    initializers.VarianceScaling,
    initializers.RandomNormal,
    initializers.RandomUniform,
    initializers.TruncatedNormal,
    initializers.Orthogonal,
)
MAX_PLACES = 2**24  # an average over windows counts, at each place, what of the window is inside


def bounded(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Calls a method, unless drawing the graph of a layer's code would itself take time or memory without bound.

    For `flax.linen.intercept_methods`, around the making of a model whose description nobody vouches for.

    Raises:
        ValueError: If a layer's sizes are above those in this file.
    """
    layer = context.module
    if isinstance(layer, Layer) and context.method_name == "outputs_and_mask":
        sizes = [size for leaf in jax.tree.leaves(args) for size in jnp.shape(leaf)[1:]]
        for name, most in MOST.items():
            given = getattr(layer, name) if name in type(layer).__dataclass_fields__ else None
            numbers = [n for n in (given if isinstance(given, list | tuple) else [given]) if isinstance(n, int)]
            if math.prod(numbers) > most:
                raise ValueError(f"`{name}` of {layer.label} in a file is up to {most}, got {given}")
        places = math.prod(sizes) // max(min(sizes, default=1), 1)
        if isinstance(layer, AveragePooling) and places > MAX_PLACES:
            raise ValueError(f"{layer.label} in a file has up to {MAX_PLACES} places, got inputs of sizes {sizes}")
        if getattr(layer, "unroll", False) and sizes[:1] > [MAX_UNROLLED]:
            raise ValueError(f"{layer.label} in a file unrolls up to {MAX_UNROLLED} steps, got {sizes[0]}")
    if isinstance(layer, Layer) and context.method_name == "add_weight":
        return _without_numbers(layer, method, *args, **kwargs)
    return method(*args, **kwargs)


def _without_numbers(layer: Layer, method: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Makes a parameter without random numbers: to draw how these are made takes longer than all of the rest."""
    argument = f"{layer.ARGUMENTS.get(name, name)}_initializer"
    given = getattr(layer, argument, None)
    initializer = None if given is None else initializers.get(given)
    shape = args[0] if args else kwargs["shape"]
    chosen_axes = getattr(initializer, "input_axes", None) is not None  # which the shape may not have
    if len(shape) < 2 or chosen_axes or not isinstance(initializer, RANDOM):
        return method(name, *args, **kwargs)
    object.__setattr__(layer, argument, initializers.Zeros())
    try:
        return method(name, *args, **kwargs)
    finally:
        object.__setattr__(layer, argument, given)


# What it takes to infer the shapes of a layer, in units of a Dense layer (4 ms), where it is more than one.
COSTS = {
    **dict.fromkeys(("Bidirectional", "SimpleRNN", "GRU", "LSTM", "RNN", "StackedRNNCells"), 6),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "MultiHeadAttention", "GroupQueryAttention"), 8),
    **dict.fromkeys(("TimeDistributed", "SimpleRNNCell", "GRUCell", "LSTMCell"), 3),
    **dict.fromkeys((f"{kind}Conv{rank}D" for kind in ("Separable", "Depthwise") for rank in (1, 2)), 3),
    **dict.fromkeys((f"Conv{rank}D" for rank in (1, 2, 3)), 3),
    **dict.fromkeys((f"Conv{rank}DTranspose" for rank in (1, 2, 3)), 3),
    **dict.fromkeys(("BatchNormalization", "SpectralNormalization", "EinsumDense"), 2),
}
FREE = 256
BYTES_PER_UNIT = 4096  # of the file: real models are mostly arrays
INPUTS_PER_UNIT = 8


def allowed(size: int) -> int:
    """What a file of a size may cost, so that a hostile one of a megabyte takes less than 2 s."""
    return FREE + size // BYTES_PER_UNIT


class Inferences:
    """Infers the shapes of each layer of a model once for the same arguments and inputs, up to a cost.

    The same layers come up again and again in large models.

    Args:
        limit: The cost that is allowed.
        describe: Gives the description of a layer, plain JSON values.
        cost_of: Gives the cost of a description.
    """

    def __init__(self, limit: int, describe: Callable[[Any], Any], cost_of: Callable[[Any], int]):
        self.limit, self.describe, self.cost_of = limit, describe, cost_of
        self.spent = 0
        self._layers: dict[int, tuple[Any, str, int]] = {}  # the layer is kept, as its id is its own while it lives
        self._known: dict[Any, tuple[Any, Any]] = {}
        self._variables: dict[int, Any] = {}

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Infers the outputs of all calls on symbols in this context."""
        token = symbolic.REMEMBERED.set(self)
        try:
            yield
        finally:
            symbolic.REMEMBERED.reset(token)

    def __call__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None) -> Any:
        """The outputs of a call as a tree of symbols.

        Raises:
            ValueError: If that costs more than is allowed.
        """
        text, cost = self._described(layer)
        leaves, structure = jax.tree.flatten((args, kwargs))
        shapes = [leaf.shape if isinstance(leaf, symbolic.Symbol) else None for leaf in leaves]
        key = text, structure, tuple(map(_identity, leaves))
        if key not in self._known:
            ragged = any(None in (shape or ())[1:] for shape in shapes)
            self.spent += (cost + len(leaves) // INPUTS_PER_UNIT) * (2 if ragged else 1)
            if self.spent > self.limit:
                raise ValueError(
                    f"it has more layers than a file of its size may have, {FREE} and one for {BYTES_PER_UNIT} bytes, "
                    "of which a large layer counts as up to 8 and one that repeats another as none"
                )
            self._known[key] = symbolic.infer_with_variables(layer.clone(name=name or layer.name), args, kwargs)
        outputs, variables = self._known[key]
        self._variables.setdefault(id(layer), variables)
        return outputs

    def _described(self, layer: Any) -> tuple[str, int]:
        if id(layer) not in self._layers:
            description = self.describe(layer)
            text = json.dumps({key: value for key, value in description.items() if key != "name"})
            self._layers[id(layer)] = layer, text, self.cost_of(description)
        return self._layers[id(layer)][1:]

    def variables_of(self, model: Any) -> dict[tuple[str, ...], Any]:
        """The variables of a model whose layers were all called, as shapes and dtypes."""
        found: dict[tuple[str, ...], Any] = {}
        for name, layer in model.children():
            tree: Mapping[str, Any] = self._variables[id(layer)]
            for (collection, *path), value in traverse_util.flatten_dict(dict(tree)).items():
                found[collection, name, *path] = value
        return found


def _identity(leaf: Any) -> Any:
    """What of an argument decides the shapes."""
    if isinstance(leaf, symbolic.Symbol):
        return "symbol", leaf.shape, jnp.dtype(leaf.dtype).name
    if isinstance(leaf, bool | int | float | str):
        return type(leaf).__name__, leaf
    return "object", id(leaf)
