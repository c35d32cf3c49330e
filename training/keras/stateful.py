"""Layers that hold the values of their variables, as in Keras: a mixin in front of the pure layers.

A pure layer is a description; its variables are a separate tree. A stateful layer keeps its part of that tree, so a
layer that is used in two models has the same values in both. `gather` collects the variables of a model from its
layers, pure functions compute with them, and `scatter` gives the results back to the layers.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, ClassVar, Self

import jax
import numpy as np
from flax.linen import module as linen_module
from jax.typing import ArrayLike

import flaxmodels as fm
from flaxmodels import initializers
from flaxmodels.interop.keras_weights import weight_paths
from flaxmodels.layers import keras_state, symbolic
from flaxmodels.layers.attention import GroupQueryAttention, MultiHeadAttention
from flaxmodels.layers.base import Layer
from flaxmodels.layers.builds import Shapes
from flaxmodels.layers.keras_calls import is_library_build, symbols_of
from training.assigned import may_assign
from training.keras import config, first_values, images, naming, own_variables, paths, seeds
from training.keras.attributes import KerasAttributes
from training.keras.held_values import (
    COLLECTIONS,
    Changes,
    Variables,
    gather,
    has_values,
    held_copies,
    held_layers,
    is_stateful,
    push,
    refresh,
    scatter,
    scopes_of,
    store_assigned,
    with_held,
)
from training.keras.initialization import (
    as_array,
    built_shapes,
    drawing,
    ensure_initialized,
    example_arguments,
    initialize,
    put_paths,
    with_seed,
)
from training.keras.initializers import KerasInitializer
from training.keras.refused_methods import raise_refused
from training.keras.serialization import Config
from training.keras.variables import KERAS_NAMES, Weight

keras_state.UNTRACKED.update(("_values", "_weights", "_nodes", "_seeds", "_input_layers", "_is_made", "_first_call"))


def _with_path(build: Callable[..., None]) -> Callable[..., None]:
    """Returns a `build` of a class of the user that puts the layers it builds behind the path of its layer."""

    @functools.wraps(build)
    def with_path(self: "Stateful", *args: object, **kwargs: object) -> None:
        with paths.inside(self):
            build(self, *args, **kwargs)

    return with_path


class Stateful(KerasAttributes):
    """Mixin in front of a class of layers whose objects hold the values of their variables."""

    # The class of pure layers that a class of this package adds state to; None for a class of the user.
    adds_state_to: ClassVar[type[Layer] | None] = None
    ASSIGNS_PARAMS: ClassVar[bool] = True
    HONOURED: ClassVar[frozenset[str]] = own_variables.METHODS

    def __init_subclass__(cls, **kwargs: object) -> None:
        # Objects with state are compared by identity. Otherwise flax compares the arguments of two layers.
        cls.__hash__ = object.__hash__  # type: ignore[method-assign]
        cls.__eq__ = object.__eq__  # type: ignore[method-assign]
        super().__init_subclass__(**kwargs)
        if not is_library_build(vars(cls).get("build", Stateful.build)):
            cls.build = _with_path(cls.build)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        if not naming.copying.depth:
            self.resolve_arguments()
        super().__post_init__()
        if getattr(self, "name", None) is None and not naming.copying.depth:
            object.__setattr__(self, "name", naming.automatic_name(naming.stem_of(type(self))))
        if isinstance(self, MultiHeadAttention | GroupQueryAttention) and not naming.copying.depth:
            # In Keras, two layers without a given name are inside, so the names of later ones are the same here.
            naming.automatic_name("softmax"), naming.automatic_name("dropout")
        object.__setattr__(self, "_is_made", True)
        if not naming.copying.depth:
            config.apply_settings(self)
            object.__setattr__(self, "_seeds", seeds.seeds_of_arguments(self))
            for _, child in held_copies(self):
                object.__setattr__(child, "_seeds", seeds.seeds_of_arguments(child, is_copied=True))
            self.show_arguments()

    def own_and_held(self) -> "list[Stateful]":
        """Returns the layer and all layers inside it that hold values."""
        return list(with_held(self))

    def scopes(self) -> "list[tuple[tuple[str, ...], Stateful]]":
        """Returns the scope of the layer and those of all layers inside it that hold values."""
        return list(scopes_of(self))

    def __repr__(self) -> str:
        is_functional = getattr(self, "graph", None) is not None and "adds_state_to" in vars(type(self))
        built = self.built or "_outer_path" in self.__dict__  # a layer without values yet that was called on symbols
        return f"<{'Functional' if is_functional else type(self).__name__} name={self.name}, built={built}>"

    __str__ = __repr__

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "trainable" and "_is_made" in self.__dict__:
            for _, child in held_layers(self):
                child.trainable = bool(value)

    def __getattr__(self, name: str) -> Any:
        """Returns the weight of a name, such as `kernel`; None if an argument of the layer switches it off."""
        if "_is_made" in self.__dict__ and not self.BINDS_ATTRIBUTES:
            for own in self.WEIGHTS:
                if KERAS_NAMES.get(own, own) == name:
                    is_bound = self.__dict__.get("scope") is not None
                    return self._weight_in_call(own, name) if is_bound else self._weight_named(own, name)
        if "_is_made" in self.__dict__:
            raise_refused(self, name)
        return super().__getattr__(name)

    def _weight_named(self, own: str, name: str) -> Weight | None:
        ensure_initialized(self)
        if not has_values(self):
            raise AttributeError(f"{self.label} has no `{name}` yet; build it, or call it on data first.")
        found = [kind for kind, values in self.__dict__["_values"].items() if own in values]
        return self.weight_at((found[0], own)) if found else None

    def _weight_in_call(self, own: str, name: str) -> Weight | None:
        origin = keras_state.origin_of(self)
        trees = {kind: dict(self._scope_variables().get(kind, {})) for kind in COLLECTIONS}
        held = origin.own_values() if is_stateful(origin) else {}
        for kind, values in (*trees.items(), *held.items()):
            if own in values:
                return origin.weight_at((kind, own))
        if any(trees.values()) or any(held.values()):
            return None
        raise AttributeError(f"{self.label} has no `{name}` yet; build it, or call it on data first.")

    def _scope_variables(self) -> Mapping[str, Any]:
        """Returns the variables of a bound layer and of those inside it."""
        return super().variables

    @classmethod
    def pure_class(cls) -> type:
        """Returns the class of pure layers that this class adds state to, or the class itself."""
        return vars(cls).get("adds_state_to") or cls

    # ------------------------------------------------------------ values

    @property
    def built(self) -> bool:
        """Whether the layer has its variables, or the shapes of its inputs are known, so that it creates them."""
        is_built = bool(self.__dict__.get("built")) or has_values(self)
        return is_built or (not self.BINDS_ATTRIBUTES and example_arguments(self) is not None)

    @built.setter
    def built(self, value: bool) -> None:
        self.__dict__["built"] = value

    def build(self, *args: Any, **kwargs: Any) -> None:
        """Creates the variables for inputs of a shape, with None for the batch.

        Args:
            *args: The shape, or shapes, of the inputs.
            **kwargs: Shapes by the names of the arguments, such as `input_shape`.
        """
        if self.scope is not None or keras_state.state_of(self).shapes is not None:
            super().build(*args, **kwargs)
            return
        if self.BINDS_ATTRIBUTES and getattr(self, "graph", None) is None:
            # As in Keras, which would otherwise have other weights at this point of a program.
            if any(not child.built for _, child in held_layers(self)):
                warnings.warn(
                    f"{type(self).__name__} has no method `build`, so build() creates no variables; call it on data, "
                    "or define `build`.",
                    stacklevel=2,
                )
            return
        positional, named = symbols_of(args, kwargs)
        initialize(self, *positional, **named)

    def get_build_config(self) -> Config | None:
        """Returns the shapes of the inputs for which the layer was built; None if it is not built.

        References:
            Keras, `keras.layers.Layer.get_build_config`.
        """
        return built_shapes(self)

    def build_from_config(self, config: Config) -> None:
        """Builds the layer for the shapes that `get_build_config` returned.

        Args:
            config: The result of `get_build_config`.

        References:
            Keras, `keras.layers.Layer.build_from_config`.
        """
        if config and "input_shape" in config:
            self.build(config["input_shape"])
        elif config and "shapes_dict" in config:
            self.build(**config["shapes_dict"])

    def save_own_variables(self, store: MutableMapping[str, np.ndarray]) -> None:
        """Puts the values of the layer's own weights into a dictionary; a class may override it.

        Args:
            store: The dictionary; the keys are the indices of the weights.

        References:
            Keras, `keras.layers.Layer.save_own_variables`.
        """
        for i, weight in enumerate(self._own_weights()):
            store[str(i)] = weight.numpy()

    def load_own_variables(self, store: Mapping[str, ArrayLike]) -> None:
        """Sets the layer's own weights to the values in a dictionary; a class may override it.

        Args:
            store: What `save_own_variables` has written.

        Raises:
            ValueError: If the number of values or a shape differs.

        References:
            Keras, `keras.layers.Layer.load_own_variables`.
        """
        own = self._own_weights()
        if len(store) != len(own):
            raise ValueError(
                f"{self.name} has {len(own)} own weights, got {len(store)} values; build the layer first, or save it "
                "again."
            )
        for i, weight in enumerate(own):
            weight.assign(store[str(i)])

    def _own_weights(self) -> list[Weight]:
        """Returns the weights of the layer itself, in Keras' order."""
        return [weight for weight in self.weights if weight.is_of(self)]

    def compute_output_spec(self, *args: object, **kwargs: object) -> Any:
        """Returns symbols of the shapes and dtypes of the outputs.

        Args:
            *args: Symbols of the inputs.
            **kwargs: Keyword arguments of the call.

        References:
            Keras, `keras.Operation.compute_output_spec`.

        Example:
            >>> from training import keras
            >>> keras.layers.Dense(3).compute_output_spec(keras.Input((4,))).shape
            (None, 3)
        """
        return symbolic.infer(self.clone(), args, kwargs)

    def call_unbound(self, inputs: object, *args: object, **kwargs: object) -> Any:
        """Computes the outputs of arrays with the values that the layer holds; creates them first if needed.

        Raises:
            ValueError: If another layer is being applied, whose gradient would not reach the values of this one.
        """
        if any(module is not None and module.scope is not None for module in linen_module._context.module_stack):
            return super().call_unbound(inputs, *args, **kwargs)
        named: dict[str, Any]
        inputs, args, named = jax.tree.map(as_array, (inputs, args, kwargs))
        ensure_initialized(self)  # with the shapes of the model that the layer is in, if there is one
        flag = named.pop("training", named.pop("train", None))
        train = images.trains_by_default(with_held(self)) if flag is None else bool(flag)
        with seeds.undone() if initialize(self, inputs, *args, **named) else contextlib.nullcontext():
            return self._compute(train, inputs, *args, **named)

    def _compute(self, train: bool, inputs: object, *args: object, **named: Any) -> object:
        """Computes the outputs of arrays with the values that the layer holds, and keeps the new state."""
        values = gather(self)
        options: dict[str, Any] = {"train": train} if train else {}
        if train or any(map(first_values.may_assign, with_held(self))):
            draws_itself = isinstance(self, images.RandomImages)
            rngs = {"dropout": seeds.next_key()} if train and not draws_itself else {}
            mutable = ["batch_stats", "losses", *(["params"] if may_assign(self) else [])]
            outputs, new = self.apply(values, inputs, *args, rngs=rngs, mutable=mutable, **named, **options)
            self.set_call_losses(new.get("losses", {}))
            store_assigned(self, values, {kind: new[kind] for kind in COLLECTIONS if kind in new})
            return outputs
        return self.apply(values, inputs, *args, **named)

    @property
    def path(self) -> Any:
        """The names of the layers around this one and its own, such as "model/dense"; None if it is not built.

        Inside flax, it is the tuple of scopes.
        """
        if self.scope is not None:
            return super().path
        return paths.path_of(self) if self.built else None

    @property
    def variables(self) -> Any:
        """The weights; inside flax, but not in `call` of a custom class, the variables of the scope."""
        is_in_call = keras_state.current_frame() is not None
        return self.weights if self.scope is None or is_in_call else self._scope_variables()

    @property
    def weights(self) -> Any:
        """The weights in Keras' order."""
        is_bound = self.__dict__.get("scope") is not None and "weights" in self.__dict__
        if "_is_made" not in self.__dict__ or naming.copying.depth or is_bound:
            return self.__dict__.get("weights")  # the argument of this name that some layers take
        return self._all_weights()

    @weights.setter
    def weights(self, value: object) -> None:
        self.__dict__["weights"] = value

    def clone(self, **options: Any) -> Self:
        """Returns a copy without values, as flax needs it."""
        naming.copying.depth += 1
        try:
            copy = super().clone(**options)
        finally:
            naming.copying.depth -= 1
        object.__setattr__(copy, "_seeds", self.__dict__.get("_seeds", {}))
        return copy

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Creates a weight; see `flaxmodels.layers.Layer.add_weight`. Its initializer gets a seed, as in Keras."""
        made = super().add_weight(*args, **kwargs)
        is_made = "_seeds" in self.__dict__ and not naming.copying.depth
        is_bound: bool = self.scope is not None
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
        super().build_on_symbols(args, kwargs)
        seeds.draw_at_build(self)
        if not paths.is_deferred():
            put_paths(self)

    def build_in_call(self, shapes: Shapes) -> None:
        """Draws the seeds that Keras draws when a call builds the layer inside another one."""
        seeds.draw_at_build(self)

    def argument(self, weight: str, kind: str) -> Any:
        """Returns the argument of a kind for a weight; an initializer has the seed that it got with the layer."""
        if kind == "initializer" and (drawing.depth or symbolic.INFERRING.get()) and first_values.exists(self, weight):
            return first_values.zeros
        value = super().argument(weight, kind)
        seed = self.__dict__.get("_seeds", {}).get(f"{self.ARGUMENTS.get(weight, weight)}_{kind}")
        if seed is None and isinstance(value, KerasInitializer):
            seed = value.seed_of_layers()
        # While a model of a file is built, zeros take the place of random numbers.
        is_random = seed is not None and hasattr(initializers.get(value), "seed")
        return with_seed(value, seed) if is_random else value

    @property
    def trainable_weights(self) -> list[Weight]:
        """The weights that training changes."""
        return [weight for weight in self.weights if weight.trainable] if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Weight]:
        """The weights that training does not change by gradients."""
        trained = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trained]

    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def _all_weights(self) -> list[Weight]:
        """Returns the weights of this layer and of those inside it, in Keras' order."""
        is_bound = self.scope is not None
        if not is_bound:
            ensure_initialized(self)
        if not is_bound and not has_values(self):
            own = [self.weight_at(path) for path in first_values.weight_names(self)]
            found = own + [weight for _, child in held_layers(self) for weight in child._all_weights()]
            return list({id(weight): weight for weight in found}.values())
        owners = dict(scopes_of(self))
        found = []
        variables = {kind: self._scope_variables().get(kind, {}) for kind in COLLECTIONS} if is_bound else gather(self)
        for collection, *path in weight_paths(self, variables):
            scope = next(tuple(path[:n]) for n in range(len(path), -1, -1) if tuple(path[:n]) in owners)
            owner = keras_state.origin_of(owners[scope])
            found.append(owner.weight_at((collection, *path[len(scope) :])))
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
            raise ValueError(f"{self.name} has no weights to count yet; build it, or call it on data first.")
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
        Changes.count += 1
        for key in outer:
            values[key] = dict(values[key])
            values = values[key]
        values[last] = value
        push()


# The classes that add state to the pure ones; models have more than the mixin.
_classes: dict[type, type] = {}


def register(pure: type, with_state: type) -> None:
    """Declares the class that adds state to a pure class."""
    _classes[pure] = with_state


def registered(pure: type) -> type | None:
    """Returns the class that was declared for a pure class, or None."""
    return _classes.get(pure)
