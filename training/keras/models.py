"""Keras' models: `Sequential` and `Model`, with functions that make them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flaxmodels import building
from flaxmodels.layers.symbolic import Input
from training.keras import naming, refused, stateful
from training.keras.compiled import CompiledModel, first_batch
from training.keras.inputs import InputLayer
from training.keras.model_files import SavedModel, clone_model, load_model, model_from_json, save_model
from training.keras.stateful import ensure_initialized


class Sequential(CompiledModel, SavedModel, building.Sequential):
    __doc__ = building.Sequential.__doc__
    adds_state_to = building.Sequential

    def _build_for(self, x: Any) -> None:
        if self.layers.source is None and len(self.layers):
            inputs = first_batch(x)
            if hasattr(inputs, "shape"):
                self.build((None, *np.shape(inputs)[1:]))

    def build(self, input_shape: Any = None) -> None:
        """Gives the model its input, and creates the variables."""
        if self.layers.source is None and input_shape is not None:
            layers = [Input(batch_shape=tuple(input_shape)), *self.layers]
            object.__setattr__(self, "layers", building.LayerStack().extended(layers))
        ensure_initialized(self)


class Model(CompiledModel, SavedModel, building.Model):
    __doc__ = building.Model.__doc__
    adds_state_to = building.Model

    def __post_init__(self) -> None:
        if self.__dict__.get("name") is None and "adds_state_to" in vars(type(self)) and not stateful.is_copying():
            object.__setattr__(self, "name", naming.automatic_name("functional"))
        super().__post_init__()

    @property
    def layers(self) -> list[Any]:
        """The layers in Keras' order, with an `InputLayer` for each input."""
        if self.graph is None:
            return [layer for _, layer in self.children()]
        if "_input_layers" not in self.__dict__:
            inputs = [InputLayer(input_tensor=symbol) for symbol in jax.tree.leaves(self.graph.inputs)]
            object.__setattr__(self, "_input_layers", inputs)
        return [*self.__dict__["_input_layers"], *self.graph.layers_in(self.dtype)]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """Returns a layer by its name, or by its index in `layers`, which begins with the inputs.

        Raises:
            ValueError: If neither or both are given, or there is no such layer.
        """
        layers = self.layers
        if name is None and index is not None and -len(layers) <= index < len(layers):
            return layers[index]
        inputs = [layer for layer in layers if isinstance(layer, InputLayer) and layer.name == name]
        return inputs[0] if inputs and index is None else super().get_layer(name, index)

    def children(self) -> Sequence[tuple[str, Any]]:
        """Returns the names and the layers in Keras' order, without inputs."""
        if self.graph is None:
            return super().children()
        return [(self.graph.names[id(layer)], layer) for layer in self.graph.layers_in(self.dtype)]


stateful.register(building.Sequential, Sequential)
stateful.register(building.Model, Model)


__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]
__getattr__, __dir__ = refused.attach(__name__, __all__)
