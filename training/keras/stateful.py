"""Layers that hold the values of their variables, as in Keras: a mixin in front of the pure layers.

A pure layer is a description; its variables are a separate tree. A stateful layer keeps its part of that tree, so a
layer that is used in two models has the same values in both. `gather` collects the variables of a model from its
layers, pure functions compute with them, and `scatter` gives the results back to the layers.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import module as linen_module
from jax.typing import DTypeLike

import flaxmodels as fm
from flaxmodels import initializers
from flaxmodels.container import Container
from flaxmodels.interop.keras_weights import weight_paths
from flaxmodels.layers import keras_state, symbolic
from flaxmodels.layers.attention import GroupQueryAttention, MultiHeadAttention
from flaxmodels.layers.base import Layer
from flaxmodels.layers.keras_calls import symbols_of
from flaxmodels.layers.symbolic import Shape, Symbol
from flaxmodels.layers.wrappers import Bidirectional
from training.keras import config, first_values, naming, paths, seeds
from training.keras.attributes import KerasAttributes
from training.keras.initializers import KerasInitializer, to_pure
from training.keras.variables import KERAS_NAMES, Weight

COLLECTIONS = ("params", "batch_stats")
keras_state.UNTRACKED.update(("_values", "_weights", "_nodes", "_seeds", "_input_layers", "_is_made", "_first_call"))
Variables = dict[str, Any]


_copying = naming.copying
_drawing = naming.Depth()  # `initialize` creates variables


@functools.cache
def _drawn_at_once(kind: type[initializers.Initializer]) -> type[initializers.Initializer]:
    """Returns a class of initializers that draw at once, also inside a traced function.

    The bits of one fused program would differ from those of Keras, which draws each weight by itself.
    """

    def call(self: Any, key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        with jax.ensure_compile_time_eval():
            return kind.__call__(self, key, shape, dtype)

    return type(kind.__name__, (kind,), {"__call__": call})


def with_seed(initializer: Any, seed: int) -> Callable[..., jax.Array]:
    """Returns a random initializer, or the one of a name, with the seed that it got with its layer."""
    seeded: Any = dataclasses.replace(to_pure(initializers.get(initializer)), seed=seed)  # type: ignore[type-var]
    if _drawing.depth:
        kind: type[initializers.Initializer] = type(seeded)
        object.__setattr__(seeded, "__class__", _drawn_at_once(kind))
    return seeded  # type: ignore[no-any-return]


is_copying = naming.is_copying


class Stateful(KerasAttributes):
    """Mixin in front of a class of layers whose objects hold the values of their variables."""

    # The class of pure layers that a class of this package adds state to; None for a class of the user.
    adds_state_to: ClassVar[type[Layer] | None] = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        # Objects with state are compared by identity. Otherwise flax compares the arguments of two layers.
        cls.__hash__ = object.__hash__  # type: ignore[method-assign]
        cls.__eq__ = object.__eq__  # type: ignore[method-assign]
        super().__init_subclass__(**kwargs)

    def __post_init__(self) -> None:
        if not _copying.depth:
            self.resolve_arguments()
        super().__post_init__()  # type: ignore[misc]
        if getattr(self, "name", None) is None and not _copying.depth:
            object.__setattr__(self, "name", naming.automatic_name(naming.stem_of(type(self))))
        if isinstance(self, MultiHeadAttention | GroupQueryAttention) and not _copying.depth:
            # In Keras, two layers without a given name are inside, so the names of later ones are the same here.
            naming.automatic_name("softmax"), naming.automatic_name("dropout")
        object.__setattr__(self, "_is_made", True)
        if not _copying.depth:
            config.apply_settings(self)
            object.__setattr__(self, "_seeds", seeds.seeds_of_arguments(self))
            for _, child in held_copies(self):
                object.__setattr__(child, "_seeds", seeds.seeds_of_arguments(child, is_copied=True))
            self.show_arguments()

    def own_and_held(self) -> list[Any]:
        """Returns the layer and all layers inside it that hold values."""
        return list(with_held(self))

    def scopes(self) -> list[tuple[tuple[str, ...], Any]]:
        """Returns the scope of the layer and those of all layers inside it that hold values."""
        return list(scopes_of(self))

    def __repr__(self) -> str:
        is_functional = getattr(self, "graph", None) is not None and "adds_state_to" in vars(type(self))
        built = self.built or "_outer_path" in self.__dict__  # a layer without values yet that was called on symbols
        return f"<{'Functional' if is_functional else type(self).__name__} name={self.name}, built={built}>"  # type: ignore[attr-defined]

    __str__ = __repr__

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "trainable" and "_is_made" in self.__dict__:
            for _, child in held_layers(self):
                child.trainable = value

    def __getattr__(self, name: str) -> Any:
        """Returns the weight of a name, such as `kernel`; None if an argument of the layer switches it off."""
        if self.__dict__.get("scope") is None and "_is_made" in self.__dict__ and not self.BINDS_ATTRIBUTES:
            for own in self.WEIGHTS:
                if KERAS_NAMES.get(own, own) == name:
                    return self._weight_named(own, name)
        return super().__getattr__(name)  # type: ignore[misc]

    def _weight_named(self, own: str, name: str) -> Weight | None:
        ensure_initialized(self)
        if not has_values(self):
            raise AttributeError(f"{self.label} has no `{name}` yet; build it, or call it on data first.")  # type: ignore[attr-defined]
        found = [kind for kind, values in self.__dict__["_values"].items() if own in values]
        return self.weight_at((found[0], own)) if found else None

    @classmethod
    def pure_class(cls) -> type:
        """Returns the class of pure layers that this class adds state to, or the class itself."""
        return vars(cls).get("adds_state_to") or cls

    # ------------------------------------------------------------ values

    @property
    def built(self) -> bool:
        """Whether the layer has its variables, or the shapes of its inputs are known, so that it creates them."""
        is_built = bool(self.__dict__.get("built")) or has_values(self)
        return is_built or (not self.BINDS_ATTRIBUTES and _example_arguments(self) is not None)  # type: ignore[attr-defined]

    @built.setter
    def built(self, value: bool) -> None:
        self.__dict__["built"] = value

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Creates the variables for inputs of a shape, with None for the batch.

        Args:
            *args: The shape, or shapes, of the inputs.
            **kwargs: Shapes by the names of the arguments, such as `input_shape`.
        """
        if self.scope is not None or keras_state.state_of(self).shapes is not None:  # type: ignore[attr-defined]
            super().build(*args, **kwargs)  # type: ignore[misc]
            return
        if self.BINDS_ATTRIBUTES and getattr(self, "graph", None) is None:  # type: ignore[attr-defined]
            # As in Keras, which would otherwise have other weights at this point of a program.
            warnings.warn(
                f"{type(self).__name__} has no method `build`, so build() creates no variables; call it on data, "
                "or define `build`.",
                stacklevel=2,
            )
            return
        positional, named = symbols_of(args, kwargs)
        initialize(self, *positional, **named)

    def call_unbound(self, inputs: object, *args: object, **kwargs: object) -> Any:
        """Computes the outputs of arrays with the values that the layer holds; creates them first if needed.

        Raises:
            ValueError: If another layer is being applied, whose gradient would not reach the values of this one.
        """
        if any(module is not None and module.scope is not None for module in linen_module._context.module_stack):
            return super().call_unbound(inputs, *args, **kwargs)  # type: ignore[misc]
        inputs, args, kwargs = jax.tree.map(_as_array, (inputs, args, kwargs))
        ensure_initialized(self)  # with the shapes of the model that the layer is in, if there is one
        train = bool(kwargs.pop("training", kwargs.pop("train", None)) or False)
        initialize(self, inputs, *args, **kwargs)
        values = gather(self)
        options: dict[str, Any] = {"train": train} if train else {}
        if train or any(map(first_values.may_assign, with_held(self))):
            rngs = {"dropout": seeds.next_key()} if train else {}
            outputs, new = self.apply(  # type: ignore[attr-defined]
                values, inputs, *args, rngs=rngs, mutable=["batch_stats", "losses"], **kwargs, **options
            )
            self.set_call_losses(new.get("losses", {}))
            if first_values.is_new(values.get("batch_stats"), new.get("batch_stats")):
                scatter(self, {"batch_stats": new["batch_stats"]})
                push()
            return outputs
        return self.apply(values, inputs, *args, **kwargs)  # type: ignore[attr-defined]

    @property
    def path(self) -> Any:
        """The names of the layers around this one and its own, such as "model/dense"; None if it is not built.

        Inside flax, it is the tuple of scopes.
        """
        if self.scope is not None:  # type: ignore[attr-defined]
            return super().path  # type: ignore[misc]
        return paths.path_of(self) if self.built else None

    @property
    def variables(self) -> Any:
        """The weights; inside flax, the variables of the scope."""
        return self.weights if self.scope is None else super().variables  # type: ignore[misc, attr-defined]

    @property
    def weights(self) -> Any:
        """The weights in Keras' order."""
        is_bound = self.__dict__.get("scope") is not None and "weights" in self.__dict__
        if "_is_made" not in self.__dict__ or _copying.depth or is_bound:
            return self.__dict__.get("weights")  # the argument of this name that some layers take
        return self._all_weights()

    @weights.setter
    def weights(self, value: object) -> None:
        self.__dict__["weights"] = value

    def clone(self, **options: object) -> Any:
        """Returns a copy without values, as flax needs it."""
        _copying.depth += 1
        try:
            copy = super().clone(**options)  # type: ignore[misc]
        finally:
            _copying.depth -= 1
        object.__setattr__(copy, "_seeds", self.__dict__.get("_seeds", {}))
        return copy

    def add_weight(self, *args: object, **kwargs: object) -> Any:
        """Creates a weight; see `flaxmodels.layers.Layer.add_weight`. Its initializer gets a seed, as in Keras."""
        made = super().add_weight(*args, **kwargs)  # type: ignore[misc]
        is_made = "_seeds" in self.__dict__ and not _copying.depth
        is_bound: bool = self.scope is not None  # type: ignore[attr-defined]
        # A layer that is built inside a traced call is built again outside, which creates the weights that count.
        if isinstance(made, keras_state.Variable) and is_made and (not is_bound or self.__dict__.get("built")):
            seeds.draw_for(self.__dict__["_seeds"], f"{made.name}_initializer", made.initializer)
            if not kwargs.get("name"):
                first_values.automatic_name(self, made.name)
            if not is_bound:
                first_values.create(self, made, initializers.key_first(self.argument(made.name, "initializer")))
        return made

    def build_on_symbols(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Builds the layer for the symbols on which it is called, and draws the seeds that Keras draws then."""
        super().build_on_symbols(args, kwargs)  # type: ignore[misc]
        seeds.draw_at_build(self)
        if not paths.is_deferred():
            put_paths(self)

    def argument(self, weight: str, kind: str) -> Any:
        """Returns the argument of a kind for a weight; an initializer has the seed that it got with the layer."""
        if kind == "initializer" and (_drawing.depth or symbolic.INFERRING.get()) and first_values.exists(self, weight):
            return first_values.zeros
        value = super().argument(weight, kind)  # type: ignore[misc]
        seed = self.__dict__.get("_seeds", {}).get(f"{self.ARGUMENTS.get(weight, weight)}_{kind}")  # type: ignore[attr-defined]
        if seed is None and isinstance(value, KerasInitializer):
            seed = value.seed_of_layers()
        # While a model of a file is built, zeros take the place of random numbers.
        is_random = seed is not None and hasattr(initializers.get(value), "seed")
        return with_seed(value, seed) if is_random else value

    @property
    def trainable_weights(self) -> list[Weight]:
        """The weights that training changes."""
        return [weight for weight in self.weights if weight.trainable] if self.trainable else []  # type: ignore[attr-defined]

    @property
    def non_trainable_weights(self) -> list[Weight]:
        """The weights that training does not change by gradients."""
        trained = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trained]

    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def _all_weights(self) -> list[Weight]:
        """Returns the weights of this layer and of those inside it, in Keras' order."""
        ensure_initialized(self)
        if not has_values(self):
            own = [self.weight_at(path) for path in first_values.weight_names(self)]
            found = own + [weight for _, child in held_layers(self) for weight in child._all_weights()]
            return list({id(weight): weight for weight in found}.values())
        owners = dict(scopes_of(self))
        found = []
        for collection, *path in weight_paths(self, gather(self)):  # type: ignore[arg-type]
            scope = next(tuple(path[:n]) for n in range(len(path), -1, -1) if tuple(path[:n]) in owners)
            found.append(owners[scope].weight_at((collection, *path[len(scope) :])))
        return found

    def weight_at(self, path: tuple[str, ...]) -> Weight:
        """Returns the weight at a path of the layer's own values; each call returns the same object."""
        known = self.__dict__.setdefault("_weights", {})
        if path not in known:
            known[path] = Weight(self, path)
        return known[path]

    def get_weights(self) -> list[np.ndarray]:
        """Returns the values of the weights as NumPy arrays, in Keras' order."""
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, weights: Sequence[object]) -> None:
        """Sets the values of the weights, given in Keras' order.

        Raises:
            ValueError: If the number of arrays or a shape differs.
        """
        ensure_initialized(self)
        if not has_values(self):
            first_values.set_all(self, weights)
            return
        scatter(self, fm.interop.set_keras_weights(self, gather(self), list(weights)))  # type: ignore[arg-type]
        push()

    def count_params(self) -> int:
        """Returns the number of weights.

        Raises:
            ValueError: If the layer is not built.
        """
        ensure_initialized(self)
        if not has_values(self) and not self.weights:
            raise ValueError(f"{self.name} has no weights to count yet; build it, or call it on data first.")  # type: ignore[attr-defined]
        return sum(weight.size for weight in self.weights)

    def own_values(self) -> Variables:
        """Returns the present values of the layer itself, without those of the layers inside it."""
        refresh()
        return first_values.values_of(self)

    def set_own_value(self, path: tuple[str, ...], value: jax.Array) -> None:
        """Replaces one value of the layer itself."""
        refresh()
        if self.__dict__.get("_values") is None:
            first_values.set_value(self, path, value)
            return
        *outer, last = path
        values = dict(self.__dict__["_values"])
        object.__setattr__(self, "_values", values)
        _Changes.count += 1
        for key in outer:
            values[key] = dict(values[key])
            values = values[key]
        values[last] = value
        push()


# ---------------------------------------------------------------- trees of layers


def held_copies(layer: object) -> list[tuple[str, Any]]:
    """Returns the layers inside a wrapper that it made itself as copies, such as the two directions of an RNN."""
    return held_layers(layer) if isinstance(layer, Bidirectional) else []


def held_layers(layer: object) -> list[tuple[str, Any]]:
    """Returns the scopes and the layers inside a layer that hold values themselves."""
    if not isinstance(layer, Layer):
        return []
    return [(name, child) for name, child in layer.children() if isinstance(child, Stateful)]


def put_paths(layer: Any, outer: str = "", name: str | None = None) -> None:
    """Gives a layer and the layers inside it their paths, unless they have one already."""
    path = paths.put(layer, outer, name)
    for scope, child in held_layers(layer):
        is_direction = isinstance(layer, Bidirectional)
        put_paths(child, path, layer.name_of_direction(scope) if is_direction else None)


def with_held(layer: object) -> Iterator[Any]:
    """Yields a layer and all layers inside it that hold values."""
    yield layer
    for _, child in held_layers(layer):
        yield from with_held(child)


def scopes_of(layer: object, scope: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields the scope of a layer and those of all layers inside it that hold values."""
    yield scope, layer
    for name, child in held_layers(layer):
        yield from scopes_of(child, (*scope, name))


def gather(layer: object) -> Variables:
    """Returns the variables of a layer as a tree, collected from the layers inside it."""
    refresh()
    return present_values(layer)


def present_values(layer: object) -> Variables:
    """Returns the variables that the layers hold, without asking a trainer for newer ones."""
    values: Variables = {kind: dict(tree) for kind, tree in first_values.values_of(layer).items()}
    for name, child in held_layers(layer):
        for kind, tree in present_values(child).items():
            if tree:
                values.setdefault(kind, {})[name] = tree
    return values


def scatter(layer: Any, variables: Mapping[str, Any], only_missing: bool = False) -> None:
    """Gives variables to a layer and the layers inside it; collections that are not given keep their values.

    Args:
        layer: The layer.
        variables: Collections of variables.
        only_missing: Whether layers that have values keep them.
    """
    held = held_layers(layer)
    names = {name for name, _ in held}
    if not (only_missing and layer.__dict__.get("_values") is not None):
        own = {
            kind: {name: leaf for name, leaf in (variables.get(kind) or {}).items() if name not in names}
            for kind in COLLECTIONS
            if kind in variables
        }
        for kind, tree in first_values.take(layer).items():
            own[kind] = own.get(kind, {}) | tree if only_missing else tree | own.get(kind, {})
        object.__setattr__(layer, "_values", (layer.__dict__.get("_values") or {}) | own)
        _Changes.count += 1
    for name, child in held:
        scatter(child, {kind: (tree or {}).get(name, {}) for kind, tree in variables.items()}, only_missing)


# ---------------------------------------------------------------- initialization


def has_values(layer: Any) -> bool:
    """Returns whether a layer and all layers inside it have values."""
    if layer.BINDS_ATTRIBUTES and not layer.__dict__.get("built"):
        return False  # its variables and the layers inside it are not known yet
    return all(inner.__dict__.get("_values") is not None for inner in with_held(layer))


def build_structure(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Lets a layer that is written as a Keras class create its variables and the layers inside it."""
    if not layer.BINDS_ATTRIBUTES or layer.__dict__.get("built"):
        return

    def symbol(leaf: Any) -> Any:  # with any batch size
        is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, Symbol)
        return Symbol((None, *leaf.shape[1:]), leaf.dtype) if is_array else leaf

    nodes = list(layer.__dict__.get("_nodes", ()))
    args, kwargs = jax.tree.map(symbol, (args, kwargs))
    symbolic.record(layer, args, kwargs)
    object.__setattr__(layer, "_nodes", nodes)  # this call is in no graph
    object.__setattr__(layer, "built", True)


def known_inputs(layer: Any) -> Any:
    """Returns the symbols of the inputs of a model; None if they are not known, or are several arguments of a call."""
    inputs = getattr(layer, "input_spec", None)
    if isinstance(inputs, Symbol | list | tuple | dict) and symbolic.symbols_in(inputs):
        return inputs
    shapes = keras_state.state_of(layer).shapes if layer.BINDS_ATTRIBUTES else None
    if not shapes or len(shapes) > 1:
        return None
    return symbols_of(tuple(shapes.values()), {})[0][0]


def _example_arguments(layer: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
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


def ensure_initialized(layer: object) -> None:
    """Creates the variables of a layer that was called on symbols, or of a model with known inputs."""
    if not has_values(layer) and (arguments := _example_arguments(layer)) is not None:
        initialize(layer, *arguments[0], **arguments[1])


def initialize(layer: Any, *args: Any, **kwargs: Any) -> None:
    """Creates the variables that a layer does not have yet.

    Args:
        layer: The layer.
        *args: Arguments of a call, as arrays or symbols.
        **kwargs: Keyword arguments of a call.
    """
    if has_values(layer):
        return
    if layer.BINDS_ATTRIBUTES and "_first_call" not in layer.__dict__:
        object.__setattr__(layer, "_first_call", jax.tree.map(_as_symbol, (args, kwargs)))
    build_structure(layer, args, kwargs)
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
    _drawing.depth += 1
    try:
        made = jax.jit(init).lower(key).compile(options)(key)
    finally:
        _drawing.depth -= 1
    scatter(layer, made, only_missing=True)
    put_paths(layer)
    hold_variables(layer)


def hold_variables(layer: object) -> None:
    """Lets the variables in the attributes of Keras classes read the values that their layers hold."""
    for inner in with_held(layer):
        if inner.__dict__.get("_values") is None:
            object.__setattr__(inner, "_values", {})
        if inner.BINDS_ATTRIBUTES:
            for variable in keras_state.state_of(inner).variables:
                variable.holder = inner.weight_at((variable.collection, variable.name))


def _as_symbol(leaf: Any) -> Any:
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, Symbol)
    return Symbol(tuple(leaf.shape), leaf.dtype) if is_array else leaf


def sizes(shape: Shape) -> tuple[int, ...]:
    """Returns a shape with a size for each unknown one, large enough for several convolutions and poolings."""
    return tuple(1 if n is None and i == 0 else symbolic.UNKNOWN[0][1] if n is None else n for i, n in enumerate(shape))


def _as_array(leaf: object) -> Any:
    if isinstance(leaf, Weight):
        return leaf.value
    if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64:
        return leaf.astype(np.float32)
    return leaf


# ---------------------------------------------------------------- running fits


@contextlib.contextmanager
def holding_values(layer: object, variables: Mapping[str, object]) -> Iterator[None]:
    """Puts variables, which may be traced, in place of those that layers hold, and puts the former ones back."""
    held = [(inner, inner.__dict__.get("_values")) for inner in with_held(layer)]
    training, TRAINING[:] = list(TRAINING), []
    try:
        scatter(layer, variables)
        yield
    finally:
        for inner, values in held:
            object.__setattr__(inner, "_values", values)
        TRAINING[:] = training


class _Changes:
    """Counts the changes of values in all layers, so that a model need not look for them."""

    count = 0


def changes() -> int:
    """Returns a number that differs after any change of a value that a layer holds."""
    return _Changes.count


# The models that `fit` is training: their layers hold older values than their trainers.
TRAINING: list[Any] = []


def refresh() -> None:
    """Gives the layers of models in training the present values of their trainers."""
    for model in TRAINING:
        model.pull_values()


def push() -> None:
    """Gives the trainers of models in training the values of the layers, after a change."""
    for model in TRAINING:
        model.push_values()


# The classes that add state to the pure ones; models have more than the mixin.
_classes: dict[type, type] = {}


def register(pure: type, with_state: type) -> None:
    """Declares the class that adds state to a pure class."""
    _classes[pure] = with_state


def registered(pure: type) -> type | None:
    """Returns the class that was declared for a pure class, or None."""
    return _classes.get(pure)
