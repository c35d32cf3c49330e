"""Limits on the time and memory that an untrusted model description may take while its graph is built."""

import contextlib
import inspect
import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen.module import InterceptorContext

from flaxmodels import initializers
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.pooling import AveragePooling
from flaxmodels.layers.scopes import places_of
from flaxmodels.ops.base import OperationCall, function
from flaxmodels.saving.format import Json
from flaxmodels.trees import Tree

T = TypeVar("T")

# Limits on arguments that affect the time or memory of building a graph.
LIMITS = {"kernel_size": 2**16, "pool_size": 2**16, "output_size": 2**12, "power_iterations": 2**10}
MAX_UNROLLED = 2**12
RANDOM = (
    initializers.VarianceScaling,
    initializers.RandomNormal,
    initializers.RandomUniform,
    initializers.TruncatedNormal,
    initializers.Orthogonal,
)
MAX_PLACES = 2**24  # Average pooling counts, at each position, the inputs that its window covers.


def bounded(method: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], context: InterceptorContext) -> T:
    """Calls a method of a layer, unless building its graph would take too much time or memory.

    An interceptor for `flax.linen.intercept_methods`, used while a model is built from an untrusted description.

    Raises:
        ValueError: If a size of the layer is above the limits in this file.
    """
    layer = context.module
    if isinstance(layer, Layer) and context.method_name == "outputs_and_mask":
        sizes = [size for leaf in jax.tree.leaves(args) for size in jnp.shape(leaf)[1:]]
        for name, limit in LIMITS.items():
            value = getattr(layer, name) if name in type(layer).__dataclass_fields__ else None
            numbers = [n for n in (value if isinstance(value, list | tuple) else [value]) if isinstance(n, int)]
            if math.prod(numbers) > limit:
                raise ValueError(f"`{name}` of {layer.label} in a file must be at most {limit}, got {value}")
        places = math.prod(sizes) // max(min(sizes, default=1), 1)
        if isinstance(layer, AveragePooling) and places > MAX_PLACES:
            raise ValueError(
                f"{layer.label} in a file must have at most {MAX_PLACES} positions, got inputs of sizes {sizes}"
            )
        if getattr(layer, "unroll", False) and sizes[:1] > [MAX_UNROLLED]:
            raise ValueError(f"{layer.label} in a file must unroll at most {MAX_UNROLLED} steps, got {sizes[0]}")
    if isinstance(layer, Layer) and context.method_name == "create_weight":
        return _without_random_numbers(layer, method, *args, **kwargs)
    return method(*args, **kwargs)


def _without_random_numbers(layer: Layer, method: Callable[..., T], name: str, *args: Any, **kwargs: Any) -> T:
    """Makes a parameter of zeros: tracing the generation of random numbers takes longer than the rest of the layer."""
    argument = f"{layer.ARGUMENTS.get(name, name)}_initializer"
    value = getattr(layer, argument, None)
    initializer = None if value is None else initializers.get(value)
    shape = args[0] if args else kwargs["shape"]
    has_axes = getattr(initializer, "input_axes", None) is not None  # It must raise if the shape lacks these axes.
    if len(shape) < 2 or has_axes or not isinstance(initializer, RANDOM):
        return method(name, *args, **kwargs)
    object.__setattr__(layer, argument, initializers.Zeros())
    try:
        return method(name, *args, **kwargs)
    finally:
        object.__setattr__(layer, argument, value)


# The cost of inferring the shapes of a layer, in units of a Dense layer (4 ms); 1 for layers that are not listed.
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
BYTES_PER_UNIT = 4096  # Real files consist mostly of arrays, so a large file may hold many layers.
INPUTS_PER_UNIT = 8


# Limits on the arguments of operations that affect the time or memory of inferring shapes. A list counts as a product.
OPERATION_LIMITS = {
    "N": 2**12, "beam_width": 2**10, "bins": 2**16, "fft_length": 2**20, "filter_size": 2**10,
    "indices_or_sections": 2**12, "kernel_size": 2**16, "n": 2**6, "num": 2**16, "output_size": 2**12,
    "pool_size": 2**16, "sequence_length": 2**20, "size": 2**26, "top_paths": 2**10,
}  # fmt: skip
MAX_OPERANDS = 16  # The search for the order of the products of an `einsum` takes long for more.
MAX_AXES = 64
MAX_PARTS = 2**12  # the outputs of `unstack`


def check_operation(operation: str, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Raises if inferring the outputs of an operation would take too much time or memory.

    Args:
        operation: Name of the operation.
        args: Its arguments, with symbols for arrays.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: If an argument is above the limits in this file.
    """
    given = inspect.signature(function(operation)).bind(*args, **kwargs).arguments
    for name, limit in OPERATION_LIMITS.items():
        value = given.get(name)
        numbers = value if isinstance(value, list | tuple) else [value]
        largest = math.prod(n for n in numbers if isinstance(n, int))
        if largest > limit and not (name == "indices_or_sections" and isinstance(value, list | tuple)):
            raise ValueError(f"`{name}` of {operation!r} in a file must be at most {limit}, got {value}")
    symbols = symbolic.symbols_in((args, kwargs))
    if operation == "einsum" and len(symbols) > MAX_OPERANDS:
        raise ValueError(f"'einsum' in a file must have at most {MAX_OPERANDS} operands, got {len(symbols)}")
    axes = max(symbol.ndim for symbol in symbols)
    lengths = [len(value) for value in given.values() if isinstance(value, list | tuple)]
    if axes > MAX_AXES or (operation in SHAPING and max(lengths, default=0) > MAX_AXES):
        raise ValueError(f"{operation!r} in a file must have arrays of at most {MAX_AXES} axes, got more")
    axis = given.get("axis", 0)
    if operation == "unstack" and isinstance(axis, int) and -axes <= axis < axes:
        if (symbols[0].shape[axis] or 0) > MAX_PARTS:
            raise ValueError(
                f"'unstack' in a file must return at most {MAX_PARTS} arrays, got {symbols[0].shape[axis]}"
            )


# Operations with an argument that gives the axes of the output.
SHAPING = ("broadcast_to", "expand_dims", "full", "get_item", "reshape", "scatter", "slice", "tile", "transpose")
# The cost of inferring the shapes of an operation, in the same units; 1 for operations that are not listed.
OPERATION_COSTS = {
    **dict.fromkeys(("ctc_decode", "ctc_loss", "istft", "stft", "image.ssim", "image.perspective_transform"), 8),
    **dict.fromkeys(("eig", "eigh", "lstsq", "lu_factor", "norm", "pinv", "qr", "svd", "solve", "matrix_rank"), 4),
    **dict.fromkeys(("conv", "conv_transpose", "depthwise_conv", "separable_conv", "dot_product_attention"), 3),
    **dict.fromkeys(("image.affine_transform", "image.gaussian_blur", "image.map_coordinates", "image.resize"), 4),
    **dict.fromkeys(("median", "nanmedian", "nanpercentile", "nanquantile", "percentile", "quantile", "unique"), 4),
}


def allowed(size: int) -> int:
    """Returns the cost that is allowed for a file of `size` bytes; a hostile file of 1 MB then takes less than 2 s."""
    return FREE + size // BYTES_PER_UNIT


class Inferences:
    """Infers the shapes of layers up to a total cost, once for layers with the same arguments and inputs.

    Large models repeat the same layers many times.

    Args:
        limit: The cost that is allowed.
        describe: Returns the description of a layer as JSON values.
        cost_of: Returns the cost of a description.
    """

    def __init__(self, limit: int, describe: Callable[[Layer], dict[str, Json]], cost_of: Callable[[Json], int]):
        self.limit, self.describe, self.cost_of = limit, describe, cost_of
        self.spent = 0
        self._layers: dict[int, tuple[Layer, str, int]] = {}  # Keeps each layer alive, so that its id stays unique.
        self._inferred: dict[Hashable, tuple[Any, Any]] = {}
        self._variables: dict[int, Any] = {}

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Makes all calls on symbols in this context use this object."""
        token = symbolic.CACHED_INFERENCE.set(self)
        try:
            yield
        finally:
            symbolic.CACHED_INFERENCE.reset(token)

    def __call__(
        self, layer: Layer, args: tuple[object, ...], kwargs: dict[str, object], name: str | None
    ) -> Tree[symbolic.Symbol]:
        """Returns the outputs of a call as a tree of symbols.

        Raises:
            ValueError: If the inference exceeds the allowed cost.
        """
        text, cost = self._description(layer)
        if isinstance(layer, OperationCall):
            check_operation(layer.operation, args, kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        shapes = [leaf.shape if isinstance(leaf, symbolic.Symbol) else None for leaf in leaves]
        key = text, structure, tuple(map(_identity, leaves))
        if key not in self._inferred:
            ragged = any(None in (shape or ())[1:] for shape in shapes)
            self.spend((cost + len(leaves) // INPUTS_PER_UNIT) * (2 if ragged else 1))
            if _needs_build(layer):
                symbolic.infer_and_build(layer, args, kwargs, name)
            self._inferred[key] = symbolic.infer_with_variables(layer.clone(name=name or layer.name), args, kwargs)
        outputs, variables = self._inferred[key]
        self._variables.setdefault(id(layer), variables)
        return outputs

    def spend(self, cost: int) -> None:
        """Adds to the cost, also for further attempts to infer the same call.

        Raises:
            ValueError: If the total exceeds the allowed cost.
        """
        self.spent += cost
        if self.spent > self.limit:
            raise ValueError(
                f"it has more layers than a file of its size may have: {FREE} and one per {BYTES_PER_UNIT} bytes, "
                "where a large layer counts as up to 8 layers and a repeated layer as none"
            )

    def _description(self, layer: Layer) -> tuple[str, int]:
        """Returns the description of a layer without its name, as JSON, and its cost."""
        if id(layer) not in self._layers:
            description = self.describe(layer)
            text = json.dumps({key: value for key, value in description.items() if key != "name"})
            self._layers[id(layer)] = layer, text, self.cost_of(description)
        return self._layers[id(layer)][1:]

    def variables_of(self, model: Layer) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a model's variables, keyed by path; all layers must have been called."""
        variables: dict[tuple[str, ...], jax.ShapeDtypeStruct] = {}
        places = places_of(model)
        shared = {place.path for place in places if place.path != place.scope}
        for name, layer in model.children():
            tree: Mapping[str, Any] = self._variables[id(layer)]
            for (collection, *path), value in traverse_util.flatten_dict(dict(tree)).items():
                inside = (name, *path)
                if not any(inside[:n] in shared for n in range(1, len(inside))):
                    variables[collection, *inside] = value
        return variables


def _needs_build(layer: Layer) -> bool:
    """Returns whether a layer, or one inside it, is written as a Keras class and does not know its variables yet."""
    if not isinstance(layer, Layer) or isinstance(layer, OperationCall):
        return False
    return (layer.BINDS_ATTRIBUTES and not layer.built) or any(
        isinstance(child, Layer) and _needs_build(child) for _, child in layer.children()
    )


def _identity(leaf: object) -> tuple[Hashable, ...]:
    """Returns the part of an argument that determines the shapes of the outputs."""
    if isinstance(leaf, symbolic.Symbol):
        return "symbol", leaf.shape, jnp.dtype(leaf.dtype).name
    if isinstance(leaf, bool | int | float | str):
        return type(leaf).__name__, leaf
    if isinstance(leaf, slice):
        return "slice", leaf.start, leaf.stop, leaf.step
    if isinstance(leaf, np.ndarray):
        return "array", leaf.shape, leaf.dtype.name, leaf.tobytes()
    if isinstance(leaf, np.dtype):
        return "dtype", leaf.name
    return "object", id(leaf)
