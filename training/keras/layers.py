"""Keras' layers, which hold the values of their variables. Type checkers read `layers.pyi`."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

from flaxmodels import layers as pure
from flaxmodels.layers.attention import ProjectedAttention
from flaxmodels.layers.base import Layer as PureLayer
from flaxmodels.layers.host import HostLayer
from flaxmodels.layers.images.base import ImageLayer
from flaxmodels.layers.recurrent import Recurrent
from training.keras import adapting, naming, refused, serialization
from training.keras.docstrings import without_example
from training.keras.images import RandomImages
from training.keras.initialization import with_seed
from training.keras.input_specs import InputSpec as InputSpec
from training.keras.inputs import Input as Input
from training.keras.inputs import InputLayer as InputLayer
from training.keras.recurrent_states import DirectionStates, RecurrentStates
from training.keras.stateful import Stateful, registered

# The functions that merge symbols or arrays, and their classes.
MERGES = {name: name.capitalize() for name in "add average concatenate dot maximum minimum multiply subtract".split()}


def _merge_function(name: str) -> Any:
    """Returns the function that merges symbols or arrays with a new layer, which holds a name like all others."""
    layer_class: Any = stateful_class(getattr(pure, MERGES[name]))

    @functools.wraps(getattr(pure, name))
    def merge(inputs: object, *args: object, **kwargs: object) -> Any:
        if name == "dot" and not args:
            kwargs.setdefault("axes", -1)
        return layer_class(*args, **kwargs)(inputs)

    return merge


@functools.cache
def stateful_class(cls: type[PureLayer]) -> type[PureLayer]:
    """Returns the class that adds state to a class of pure layers."""
    if issubclass(cls, Stateful):
        return cls
    known = registered(cls)
    if known is not None:
        return known
    namespace = {
        "__doc__": without_example(cls),
        "__module__": __name__,
        "__qualname__": cls.__name__,
        "adds_state_to": cls,
    }
    mixins = [mixin for base, mixin in MIXINS.items() if issubclass(cls, base)]
    return type(cls)(cls.__name__, (*mixins, Stateful, cls), namespace)


class SeededProjections:
    """Mixin of attention layers, whose projections each have a seed for their initial weights."""

    def projections(self, features: tuple[int, ...]) -> dict[str, Any]:
        """Returns the projections, whose initializers have the seeds that were drawn for them."""
        made = super().projections(features)  # type: ignore[misc]
        for name, layer in made.items():
            for argument in ("kernel_initializer", "bias_initializer"):
                seed = self.__dict__.get("_seeds", {}).get(f"{name}/{argument}")
                if seed is not None:
                    object.__setattr__(layer, argument, with_seed(vars(layer)[argument], seed))
        return made


class NamedDirections:
    """Mixin of `Bidirectional`, whose two layers are named after the one that it was given."""

    def __post_init__(self) -> None:
        self.resolve_arguments()  # type: ignore[attr-defined]
        given: Any = vars(self)["layer"]
        name = getattr(given, "name", None)
        known = vars(given).get("_path_name", "") if name == "forward_layer" else name or ""
        object.__setattr__(self, "_given_name", known.removeprefix("forward_"))
        super().__post_init__()  # type: ignore[misc]

    def name_of_direction(self, scope: str) -> str:
        """Returns Keras' name of the layer in a scope, such as "forward_lstm"."""
        given = vars(self)["_given_name"] or naming.stem_of(type(self.forward_layer))
        return f"{scope.removesuffix('layer')}{given}"

    @property
    def forward_layer(self) -> Any:
        """The layer for the forward direction."""
        return vars(self)["layer"]


class StackedCells:
    """Mixin of `RNN`, which makes one cell with state of a list of cells."""

    def __post_init__(self) -> None:
        self.resolve_arguments()  # type: ignore[attr-defined]
        cell = vars(self)["cell"]
        if isinstance(cell, list | tuple):
            object.__setattr__(self, "cell", stateful_class(pure.StackedRNNCells)(cell))  # type: ignore[arg-type]
        super().__post_init__()  # type: ignore[misc]


class _Directions(NamedDirections, DirectionStates):
    """Mixin of `Bidirectional`."""


# Layers whose configurations in Keras have other keys than their arguments.
_DATA = (
    HostLayer, pure.Normalization, pure.Rescaling, pure.CategoryEncoding, pure.Discretization, pure.MelSpectrogram,
)  # fmt: skip
MIXINS: dict[type | tuple[type, ...], type] = {
    ProjectedAttention: SeededProjections,
    pure.Bidirectional: _Directions,
    pure.RNN: StackedCells,
    _DATA: adapting.DataConfig,
    Recurrent: RecurrentStates,
    HostLayer: adapting.HostArrays,
    pure.Normalization: adapting.StatisticsInWeights,
    pure.Rescaling: adapting.ChannelFactors,
    ImageLayer: RandomImages,
}


def serialize(layer: object) -> Any:
    """Describes a layer by plain values.

    References:
        Keras, `keras.layers.serialize`.
    """
    return serialization.serialize_keras_object(layer)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the layer of a configuration.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.layers.deserialize`.
    """
    described = {"module": "keras.layers", **config} if isinstance(config, Mapping) else config
    layer = serialization.deserialize_keras_object(described, custom_objects)
    if not isinstance(layer, PureLayer | InputLayer):
        raise ValueError(
            f"`config` must describe a layer, got one of type {type(layer).__name__}; use `keras.layers.serialize`."
        )
    return layer


_, __dir__ = refused.attach(__name__, {*pure.__all__, "InputLayer", "InputSpec", "deserialize", "serialize"})


def __getattr__(name: str) -> Any:
    if name not in pure.__all__:
        refused.raise_missing(__name__, name, sys._getframe(1))
    value = getattr(pure, name)
    if name in MERGES:
        value = _merge_function(name)
    if isinstance(value, type) and issubclass(value, PureLayer):
        value = stateful_class(value)  # type: ignore[arg-type]  # classes are hashable
    setattr(sys.modules[__name__], name, value)
    return value
