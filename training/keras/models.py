"""Keras' models: `Sequential` and `Model`, with functions that make them."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxmodels import building
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.ops.base import OperationCall
from training.keras import naming, paths, refused, stateful
from training.keras.compiled import first_batch
from training.keras.inputs import Input, InputLayer, layer_of
from training.keras.model_files import SavedModel, clone_model, load_model, model_from_json, save_model
from training.keras.stateful import ensure_initialized


class Sequential(SavedModel, building.Sequential):
    __doc__ = building.Sequential.__doc__
    adds_state_to = building.Sequential

    def __post_init__(self) -> None:
        given = vars(self)["layers"]
        if isinstance(given, list | tuple) and given:
            object.__setattr__(self, "layers", [*_input_before(given[0]), *given])
        with paths.deferred():
            super().__post_init__()
        if not stateful.is_copying():
            self._put_paths()

    def _put_paths(self) -> None:
        """Gives the layers their paths and the input its name, if the input is known: they are built then."""
        if self.layers.source is not None:
            stateful.put_paths(self)
            if len(self.layers):
                naming.automatic_name("functional")  # In Keras, a functional model is inside.

    def add(self, layer: Any) -> None:
        """Appends a layer."""
        first = [] if len(self.layers) or self.layers.source is not None else _input_before(layer)
        with paths.deferred():
            for thing in (*first, layer):
                super().add(thing)
        self._put_paths()

    @nn.nowrap
    def _build_for(self, x: object) -> None:
        if self.layers.source is None and len(self.layers):
            inputs = first_batch(x)
            if hasattr(inputs, "shape"):
                self.build((None, *np.shape(inputs)[1:]))

    @nn.nowrap
    def build(self, input_shape: Any = None) -> None:
        """Gives the model its input, and creates the variables."""
        if self.layers.source is None and input_shape is not None:
            layers = [Input(batch_shape=tuple(input_shape)), *self.layers]
            with paths.deferred():
                object.__setattr__(self, "layers", building.LayerStack().extended(layers))
            self._put_paths()
        ensure_initialized(self)


def _input_before(layer: Any) -> list[Symbol]:
    """Returns the input that Keras puts in front of a first layer with an `input_shape`."""
    shape = vars(layer).get("input_shape") if isinstance(layer, stateful.Stateful) else None
    return [] if shape is None else [Input(shape)]


class Model(SavedModel, building.Model):
    __doc__ = building.Model.__doc__
    adds_state_to = building.Model

    def __post_init__(self) -> None:
        if self.__dict__.get("name") is None and "adds_state_to" in vars(type(self)) and not stateful.is_copying():
            object.__setattr__(self, "name", naming.automatic_name("functional"))
        super().__post_init__()
        if self.graph is not None and not stateful.is_copying():
            # In Keras, they were built when they were called on symbols.
            for _, layer in stateful.held_layers(self):
                stateful.put_paths(layer)
            stateful.put_paths(self)

    @property
    def layers(self) -> list[Any]:
        """The layers in Keras' order, with an `InputLayer` for each input."""
        if self.graph is None:
            return [layer for _, layer in self.children()]
        return [
            layer_of(layer) if isinstance(layer, Symbol) else layer
            for layer in self.graph.in_order(self.own_dtype)
            if not isinstance(layer, OperationCall)
        ]

    @property
    def output_names(self) -> list[str]:
        """The names of the layers that compute the outputs."""
        nodes = [symbol.node for symbol in jax.tree.leaves(self.graph.outputs)]
        symbols = jax.tree.leaves(self.graph.outputs)
        return [
            layer_of(symbol).name if node is None else self.graph.names[id(node.layer)]
            for symbol, node in zip(symbols, nodes, strict=True)
        ]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """Returns a layer by its name, or by its index in `layers`.

        Raises:
            ValueError: If neither or both are given, or there is no such layer.
        """
        layers = self.layers
        if name is None and index is not None and -len(layers) <= index < len(layers):
            return layers[index]
        inputs = [layer for layer in layers if isinstance(layer, InputLayer) and layer.name == name]
        return inputs[0] if inputs and index is None else super().get_layer(name, index)

    @nn.nowrap
    def children(self) -> Sequence[tuple[str, Any]]:
        """Returns the names and the layers in Keras' order, without inputs."""
        if self.graph is None:
            return super().children()
        layers = self.graph.layers_in(self.own_dtype)
        return [(self.graph.names[id(layer)], layer) for layer in layers]


stateful.register(building.Sequential, Sequential)
stateful.register(building.Model, Model)


__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]
__getattr__, __dir__ = refused.attach(__name__, __all__)
