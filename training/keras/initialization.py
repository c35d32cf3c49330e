"""Creation of the variables of layers, by arrays or by symbols that describe the inputs."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import initializers
from flaxmodels.container import Container
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import keras_state, symbolic
from flaxmodels.layers.builds import Shape
from flaxmodels.layers.keras_calls import symbols_of
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.layers.wrappers import Bidirectional
from flaxmodels.trees import Tree
from training.assigned import may_assign
from training.keras import naming, paths, seeds
from training.keras.held_values import COLLECTIONS, UNCALLED, has_values, held_layers, scatter, scopes_of, with_held
from training.keras.initializers import to_pure
from training.keras.serialization import Config
from training.keras.variables import Weight

if TYPE_CHECKING:
    from training.keras.stateful import Stateful

drawing = naming.Depth()  # `initialize` creates variables


@functools.cache
def _drawn_at_once(kind: type[initializers.Initializer]) -> type[initializers.Initializer]:
    """Returns a class of initializers that draw at once, also inside a traced function.

    The bits of one fused program would differ from those of Keras, which draws each weight by itself.
    """

    def call(
        self: initializers.Initializer, key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        with jax.ensure_compile_time_eval():
            return kind.__call__(self, key, shape, dtype)

    return type(kind.__name__, (kind,), {"__call__": call})


def with_seed(initializer: InitializerLike, seed: int) -> Callable[..., jax.Array]:
    """Returns a random initializer, or the one of a name, with the seed that it got with its layer."""
    seeded: Any = dataclasses.replace(to_pure(initializers.get(initializer)), seed=seed)  # type: ignore[type-var]
    if drawing.depth:
        kind: type[initializers.Initializer] = type(seeded)
        object.__setattr__(seeded, "__class__", _drawn_at_once(kind))
    return seeded


def put_paths(layer: "Stateful", outer: str = "", name: str | None = None) -> None:
    """Gives a layer and the layers inside it their paths, unless they have one already."""
    path = paths.put(layer, outer, name)
    for scope, child in held_layers(layer):
        is_direction = isinstance(layer, Bidirectional)
        put_paths(child, path, layer.name_of_direction(scope) if is_direction else None)


def build_structure(layer: "Stateful", args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    """Lets layers that are written as Keras classes create their variables and the layers inside them.

    Returns:
        Whether this called the layer.
    """
    if not layer.has_unbuilt_layers():
        return False

    def any_batch(leaf: object) -> object:
        symbol = _as_symbol(leaf)
        if symbol is leaf or not isinstance(symbol, Symbol):
            return leaf
        return Symbol((None, *symbol.shape[1:]), symbol.dtype)

    nodes = list(layer.__dict__.get("_nodes", ()))
    symbolic.record(layer, *jax.tree.map(any_batch, (args, dict(kwargs))))
    object.__setattr__(layer, "_nodes", nodes)  # this call is in no graph
    if layer.BINDS_ATTRIBUTES:
        object.__setattr__(layer, "built", True)
    return True


def known_inputs(layer: "Stateful") -> Tree[Symbol] | None:
    """Returns the symbols of the inputs of a model; None if they are not known, or are several arguments of a call."""
    inputs = getattr(layer, "input_spec", None)
    if isinstance(inputs, Symbol | list | tuple | dict) and symbolic.symbols_in(inputs):
        return inputs
    shapes = keras_state.state_of(layer).shapes if layer.BINDS_ATTRIBUTES else None
    if not shapes or len(shapes) > 1:
        return None
    return symbols_of(tuple(shapes.values()), {})[0][0]


def example_arguments(layer: "Stateful") -> tuple[tuple[object, ...], Mapping[str, object]] | None:
    """Returns arguments of a call, with symbols for arrays: those of a model with known inputs or of the first call."""
    inputs = layer.symbols()[0] if isinstance(layer, Container) else None
    if inputs is not None:
        return (inputs,), {}
    if layer.__dict__.get("_nodes"):
        node = layer.__dict__["_nodes"][0]
        return node.args, node.kwargs
    if layer.BINDS_ATTRIBUTES and (shapes := keras_state.state_of(layer).shapes):
        return symbols_of((), shapes)
    return None


def built_shapes(layer: "Stateful") -> Config | None:
    """Returns the shapes of the inputs for which a layer was built; None if it is not built.

    Returns:
        A dictionary with "input_shape", or with "shapes_dict" for several inputs of a call.
    """
    arguments = example_arguments(layer) or layer.__dict__.get("_first_call")
    if arguments is None or not layer.built:
        return None
    positional, named = arguments
    method = layer.call if layer.BINDS_ATTRIBUTES else getattr(layer, "compute", layer.call)
    try:
        bound = inspect.signature(method).bind_partial(*positional, **named).arguments
    except TypeError:
        bound = {str(i): value for i, value in enumerate(positional)} | dict(named)
    shapes = {
        f"{name.removesuffix('_shape')}_shape": jax.tree.map(lambda leaf: tuple(leaf.shape), value)
        for name, value in bound.items()
        if jax.tree.leaves(value) and all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))
    }
    if not shapes:
        return None
    return {"input_shape": next(iter(shapes.values()))} if len(shapes) == 1 else {"shapes_dict": shapes}


def ensure_initialized(layer: "Stateful") -> None:
    """Creates the variables of a layer that was called on symbols, or of a model with known inputs."""
    if not has_values(layer) and (arguments := example_arguments(layer)) is not None:
        initialize(layer, *arguments[0], **arguments[1])


def initialize(layer: "Stateful", *args: object, **kwargs: object) -> bool:
    """Creates the variables that a layer does not have yet.

    Args:
        layer: The layer.
        *args: Arguments of a call, as arrays or symbols.
        **kwargs: Keyword arguments of a call.

    Returns:
        Whether layers drew names and seeds for a call with these arguments.
    """
    if has_values(layer):
        return False
    if "_first_call" not in layer.__dict__:
        object.__setattr__(layer, "_first_call", jax.tree.map(_as_symbol, (args, kwargs)))
    was_called = build_structure(layer, args, kwargs)
    for inner in with_held(layer):
        seeds.draw_at_build(inner)
    leaves, treedef = jax.tree.flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    shapes = [
        jax.ShapeDtypeStruct(sizes(leaves[i].shape), jax.dtypes.canonicalize_dtype(leaves[i].dtype)) for i in where
    ]

    def init(key: jax.Array) -> Any:
        filled = list(leaves)
        for i, shape in zip(where, shapes, strict=True):
            filled[i] = jnp.zeros(shape.shape, shape.dtype)
        positional, named = jax.tree.unflatten(treedef, filled)
        rngs = {"params": jax.random.fold_in(key, 0), "dropout": jax.random.fold_in(key, 1)}
        made = layer.init(rngs, *positional, **named)
        return {kind: made[kind] for kind in COLLECTIONS if kind in made}

    options: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    with jax.ensure_compile_time_eval():  # also while another function is traced
        key = seeds.next_key()
    called: set[tuple[str, ...]] = set()
    drawing.depth += 1
    try:
        with seeds.undone(), noting_calls(called) if may_assign(layer) else contextlib.nullcontext():
            made = jax.jit(init).lower(key).compile(options)(key)
    finally:
        drawing.depth -= 1
    uncalled = [inner for scope, inner in scopes_of(layer) if called and scope not in called and not has_values(inner)]
    for inner in uncalled:
        object.__setattr__(inner, UNCALLED, True)
    scatter(layer, made, only_missing=True)
    put_paths(layer)
    hold_variables(layer)
    for inner in uncalled:
        ensure_initialized(inner)
    return was_called


@contextlib.contextmanager
def noting_calls(called: set[tuple[str, ...]]) -> Iterator[None]:
    """Adds the scopes of all modules whose methods are called."""

    def note(
        method: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        scope = context.module.scope
        if scope is not None:
            called.add(tuple(scope.path))
        return method(*args, **kwargs)

    with nn.intercept_methods(note):
        yield


def hold_variables(layer: "Stateful") -> None:
    """Lets the variables in the attributes of Keras classes read the values that their layers hold."""
    for inner in with_held(layer):
        if inner.__dict__.get("_values") is None and not inner.__dict__.get(UNCALLED):
            object.__setattr__(inner, "_values", {})
        if inner.BINDS_ATTRIBUTES:
            for variable in keras_state.state_of(inner).variables:
                variable.holder = inner.weight_at((variable.collection, variable.name))


def _as_symbol(leaf: object) -> object:
    if isinstance(leaf, Symbol) or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return leaf
    return Symbol(tuple(leaf.shape), leaf.dtype)


def sizes(shape: Shape) -> tuple[int, ...]:
    """Returns a shape with a size for each unknown one, large enough for several convolutions and poolings."""
    return tuple(1 if n is None and i == 0 else symbolic.UNKNOWN[0][1] if n is None else n for i, n in enumerate(shape))


def as_array(leaf: object) -> object:
    if isinstance(leaf, Weight):
        return leaf.value
    if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64:
        return leaf.astype(np.float32)
    return leaf
