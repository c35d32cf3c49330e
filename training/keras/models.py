"""Keras' models: `Sequential` and `Model`, with functions that make them."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen import module as linen_module

from flaxmodels import building
from flaxmodels.layers.builds import Shape, Shapes, is_shape
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.ops.base import OperationCall
from training.keras import held_values, initialization, naming, paths, refused, stateful, summary
from training.keras.compiled import first_batch
from training.keras.initialization import ensure_initialized
from training.keras.inputs import Input, InputLayer, layer_of
from training.keras.model_files import SavedModel, clone_model, load_model, model_from_json, save_model


class Summarized:
    """Mixin of models: prints the table of Keras."""

    @nn.nowrap
    def summary(
        self: Any,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        print_fn: Callable[[str], object] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Sequence[str] | None = None,
    ) -> None:
        """Prints a table of the layers, and the numbers of weights.

        Args:
            line_length: The width of the table; by default that of the terminal, up to a limit.
            positions: Where each column ends, as shares of the width.
            print_fn: Receives the whole text; by default it is printed.
            expand_nested: Whether to show the layers inside nested models, too.
            show_trainable: Whether a column says which layers are trained.
            layer_range: Names of the first and the last layer, or regular expressions for them.

        Raises:
            ValueError: If the columns do not fit the line, or no layers have the names of `layer_range`.

        References:
            Keras, `keras.Model.summary`.
        """
        options = summary.Options(line_length, positions, expand_nested, show_trainable, layer_range)
        text = summary.as_text(self, options)
        if print_fn is None:
            print(text, end="")
        else:
            print_fn(text)


class Sequential(Summarized, SavedModel, building.Sequential):
    __doc__ = building.Sequential.__doc__
    adds_state_to = building.Sequential

    def __post_init__(self) -> None:
        given = vars(self)["layers"]
        if isinstance(given, list | tuple) and given:
            object.__setattr__(self, "layers", [*_input_before(given[0]), *given])
        with paths.deferred():
            super().__post_init__()
        if not naming.is_copying():
            self._put_paths()

    def _put_paths(self) -> None:
        """Gives the layers their paths and the input its name, if the input is known: they are built then."""
        if self.layers.source is not None:
            initialization.put_paths(self)
            if len(self.layers):
                naming.automatic_name("functional")  # In Keras, a functional model is inside.

    def add(self, layer: Any) -> None:
        """Appends a layer."""
        first = [] if len(self.layers) or self.layers.source is not None else _input_before(layer)
        if self.layers.source is not None:
            for _ in self.layers:  # Keras calls the layers again, and each call names a symbol
                naming.automatic_name("keras_tensor")
        with paths.deferred():
            for thing in (*first, layer):
                super().add(thing)
        self._put_paths()

    @nn.nowrap
    def _build_for(self, x: object) -> None:
        if self.layers.source is None and len(self.layers):
            inputs = first_batch(x)
            if hasattr(inputs, "shape"):
                self._build_with(inputs)

    @nn.nowrap
    def _build_with(self, inputs: Any) -> None:
        """Gives the model an input of the shape of an array, with any batch size."""
        self.build((None, *np.shape(inputs)[1:]))
        object.__setattr__(self, "_batch_size", np.shape(inputs)[0] if np.ndim(inputs) else None)

    @nn.nowrap
    def build_on_symbols(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Gives the model the input on which it is called, if it has none."""
        if self.layers.source is None and len(self.layers) and args and isinstance(args[0], Symbol):
            self._connect(args[0].shape)
            if paths.is_deferred():
                naming.automatic_name("functional")  # the outer layer gives the paths
            else:
                self._put_paths()
        super().build_on_symbols(args, kwargs)

    @nn.nowrap
    def build_in_call(self, shapes: Shapes) -> None:
        """Gives the model the input of a call by a layer around it, if it has none; that layer gives the paths."""
        shape: Any = shapes.get("inputs")
        if self.layers.source is None and len(self.layers) and is_shape(shape):
            self._connect(shape)
            naming.automatic_name("functional")
        super().build_in_call(shapes)

    @nn.nowrap
    def call_unbound(self, inputs: object, *args: object, **kwargs: object) -> Any:
        """Computes the outputs of arrays; gives the model an input first if it has none."""
        is_bound = any(module is not None and module.scope is not None for module in linen_module._context.module_stack)
        if self.layers.source is None and len(self.layers) and hasattr(inputs, "shape") and not is_bound:
            self._build_with(inputs)
        return super().call_unbound(inputs, *args, **kwargs)

    @nn.nowrap
    def build(self, input_shape: Any = None) -> None:
        """Gives the model its input, and creates the variables."""
        if self.layers.source is None and input_shape is not None:
            self._connect(tuple(input_shape))
            self._put_paths()
        ensure_initialized(self)

    @nn.nowrap
    def _connect(self, input_shape: Shape) -> None:
        """Calls the layers on the symbol of a new input."""
        layers = [Input(batch_shape=input_shape), *self.layers]
        with paths.deferred():
            object.__setattr__(self, "layers", building.LayerStack().extended(layers))


def _input_before(layer: object) -> list[Symbol]:
    """Returns the input that Keras puts in front of a first layer with an `input_shape`."""
    shape = vars(layer).get("input_shape") if isinstance(layer, stateful.Stateful) else None
    return [] if shape is None else [Input(shape)]


class Model(Summarized, SavedModel, building.Model):
    __doc__ = building.Model.__doc__
    adds_state_to = building.Model

    def __post_init__(self) -> None:
        if self.graph is None and isinstance(self.outputs, list | tuple) and len(self.outputs) == 1:
            # As in Keras, the model returns the only output itself, and `output` keeps the list.
            object.__setattr__(self, "_listed_output", type(self.outputs))
            object.__setattr__(self, "outputs", self.outputs[0])
        if self.__dict__.get("name") is None and "adds_state_to" in vars(type(self)) and not naming.is_copying():
            object.__setattr__(self, "name", naming.automatic_name("functional"))
        super().__post_init__()
        if self.graph is not None and not naming.is_copying():
            # In Keras, they were built when they were called on symbols.
            for _, layer in held_values.held_layers(self):
                initialization.put_paths(layer)
            initialization.put_paths(self)

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
    def input_shape(self) -> Any:
        """The shape of the only input, or a list of the shapes of all inputs."""
        if self.graph is None:
            return None
        shapes = [symbol.shape for symbol in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @input_shape.setter
    def input_shape(self, value: object) -> None:
        if value is not None:  # the constructor sets it, and `__post_init__` of the base class raises
            self.__dict__["_input_shape"] = value

    @property
    def output_shape(self) -> Any:
        """The shape of the only output, or a list of the shapes of all outputs."""
        if self.graph is None:
            return super().output_shape
        shapes = [symbol.shape for symbol in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output(self) -> Any:
        """The symbol of the output, or the tree of the output symbols, as the constructor got it."""
        listed = self.__dict__.get("_listed_output")
        return super().output if listed is None else listed([super().output])

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
