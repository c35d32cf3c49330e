"""The base class of models: checks inputs against the model's symbols, and reports shapes and a summary."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import flax.linen as nn
import jax
import numpy as np
from flax.linen import module as linen_module

from flaxmodels import summary
from flaxmodels.layers import keras_calls, keras_state
from flaxmodels.layers.base import Layer, accessor
from flaxmodels.layers.checks import is_integer
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.names import lookup
from flaxmodels.summary import Call
from flaxmodels.trees import ArrayTree, MaskTree, Tree

# Attributes of Keras' models that need variables or an optimizer.
OF_STATEFUL_MODELS = frozenset(
    "compile compiled compute_loss count_params evaluate export fit get_weights history load_weights losses metrics "
    "metrics_names non_trainable_variables non_trainable_weights optimizer predict predict_on_batch save save_weights "
    "set_weights stop_training test_on_batch train_on_batch trainable_variables trainable_weights weights".split()
)


class Container(Layer):
    """Base class of `Sequential` and `Model`: checks inputs, and reports output shapes and a summary."""

    ACCESSORS: ClassVar[tuple[str, ...]] = ("input", "output", "inputs", "outputs")

    def __post_init__(self) -> None:
        # Transformations such as `nn.jit` pass on all fields to the constructor, so the model's own shape may be given.
        shape = self.__dict__.pop("_input_shape", None)
        given = {"param_dtype": self.param_dtype, "activity_regularizer": self.activity_regularizer,
                 "input_shape": None if shape == self.input_shape else shape}  # fmt: skip
        for name, value in given.items():
            if value is not getattr(Layer, name):
                raise ValueError(f"{self.label} does not take `{name}`, got {value!r}; pass it to the layers inside.")
        super().__post_init__()

    if not TYPE_CHECKING:

        @nn.nowrap
        def __getattr__(self, name: str) -> Any:
            if name in OF_STATEFUL_MODELS:
                raise AttributeError(
                    f"{self.label} is a pure module, which holds no variables and has no `{name}`; use "
                    "training.Trainer(model), or make the model with `from training import keras`."
                )
            return super().__getattr__(name)

    @nn.nowrap
    def clone(self, **arguments: Any) -> Self:
        """Returns a copy with changed fields, as in flax; `input_shape` is not a field but follows from the input."""
        return super().clone(**{"input_shape": None} | arguments)

    @nn.nowrap
    def _bind_inner(self) -> None:
        """Binds the layers of the model at once and in order, so that the scope of a shared layer is known."""
        children = keras_calls.base_children(self) if self.BINDS_ATTRIBUTES else self.children()
        bound = {id(layer): keras_state.bind_module(self, layer, name) for name, layer in children}
        object.__setattr__(self, "_bound", bound)
        super()._bind_inner()

    @nn.nowrap
    def bound(self, layer: Layer) -> Layer:
        """Returns the clone of a layer of this model that is bound to it, or to another holder of the layer."""
        bound: dict[int, Layer] = self.__dict__["_bound"]
        return bound[id(layer)]

    def outputs_and_mask(
        self, inputs: ArrayTree, *, mask: MaskTree = None, train: bool = False
    ) -> tuple[ArrayTree, MaskTree]:
        """Computes the outputs and their mask."""
        raise TypeError(f"{type(self).__name__} is not a model; use Sequential or Model.")

    @nn.nowrap
    def may_fuse(self) -> bool:
        """Returns whether pairs of layers may be computed together, because nothing observes the values between them.

        Parameters are initialized, intermediates recorded and methods intercepted layer by layer.
        """
        observed = self.is_initializing() or self.is_mutable_collection("intermediates")
        return not observed and not getattr(linen_module, "_global_interceptor_stack", ())

    @nn.nowrap
    def symbols(self) -> tuple[Tree[Symbol] | None, Tree[Symbol] | None]:
        """Returns the symbols of the inputs and of the outputs; None for a Sequential without a known input."""
        return None, None

    @nn.nowrap
    def inner_outputs(self) -> Tree[Symbol] | None:
        """Returns the symbols of the outputs."""
        return self.symbols()[1]

    @property
    @nn.nowrap
    def input_spec(self) -> Tree[Symbol] | None:
        """The symbol of the input, or a tree of symbols; None if the input is not known."""
        return self.symbols()[0]

    @accessor
    def input(self) -> Any:
        """The symbol of the input, or the tree of the input symbols.

        Raises:
            AttributeError: If the input is not known.

        Example:
            >>> from flaxmodels import Input, Model, Sequential, layers
            >>> model = Sequential([Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(2)])
            >>> Model(model.input, model.get_layer("hidden").output).output_shape
            (None, 3)
        """
        return self._known_symbols("input")[0]

    @accessor
    def output(self) -> Any:
        """The symbol of the output, or the tree of the output symbols.

        Raises:
            AttributeError: If the input is not known.
        """
        return self._known_symbols("output")[1]

    @accessor
    def inputs(self) -> list[Symbol]:
        """The symbols of the inputs as a list.

        Raises:
            AttributeError: If the input is not known.
        """
        return jax.tree.leaves(self._known_symbols("inputs")[0])

    @accessor
    def outputs(self) -> list[Symbol]:
        """The symbols of the outputs as a list.

        Raises:
            AttributeError: If the input is not known.
        """
        return jax.tree.leaves(self._known_symbols("outputs")[1])

    @property
    @nn.nowrap
    def input_shape(self) -> Any:
        """The shape of the input with the batch, or a tree of shapes, with None for sizes that vary.

        It is None if the input is not known.
        """
        return jax.tree.map(lambda symbol: symbol.shape, self.symbols()[0])

    @input_shape.setter
    def input_shape(self, value: object) -> None:
        if value is not None:  # The constructor sets it; `__post_init__` then raises.
            self.__dict__["_input_shape"] = value

    @nn.nowrap
    def _known_symbols(self, wanted: str) -> tuple[Tree[Symbol], Tree[Symbol] | None]:
        inputs, outputs = self.symbols()
        if inputs is None:
            raise AttributeError(self.no_symbols(wanted))
        return inputs, outputs

    @nn.nowrap
    def no_symbols(self, name: str) -> str:
        """Returns the sentence of the error for an accessor of symbols that the model does not have."""
        return (
            f"{self.label} has no `{name}` without a known input; add Input(shape) first, or give the first layer "
            "`input_shape`."
        )

    @nn.nowrap
    def get_layer(self, name: str | None = None, index: int | None = None) -> nn.Module:
        """Returns a layer inside this model, by its name in the model or by its position.

        Args:
            name: The name, as `summary` shows it.
            index: The position in the model's `layers`. Inputs are not layers here, so positions in a `Model` are
                smaller than in Keras by the number of inputs before them.

        Raises:
            ValueError: If neither or both arguments are given, or there is no such layer.

        References:
            Keras, `keras.Model.get_layer`.

        Example:
            >>> from flaxmodels import Sequential, layers
            >>> model = Sequential([layers.Dense(3), layers.Dense(2)])
            >>> model.get_layer("dense_1").units, model.get_layer(index=0).units
            (2, 3)
        """
        if (name is None) == (index is None):
            raise ValueError(
                f"get_layer takes either `name` or `index`, got name={name!r} and index={index!r}; give one of them."
            )
        children = self.children()
        if name is not None:
            return lookup(f"layer of {self.label}", name, dict(children))
        if not is_integer(index) or not -len(children) <= index < len(children):
            raise ValueError(
                f"`index` must be a position among the {len(children)} layers of {self.label}, got {index!r}; give an "
                "integer below this number."
            )
        return children[int(index)][1]

    @property
    @nn.nowrap
    def output_shape(self) -> Any:
        """The shape of the output, or a tree of shapes, with None for sizes that vary.

        Raises:
            ValueError: If the input's shape is not known.
        """
        inputs, outputs = self.symbols()
        if inputs is None:
            raise ValueError(
                f"{self.label} has no shapes without a known input; "
                "add Input(shape) first, or give the first layer `input_shape`."
            )
        return jax.tree.map(lambda symbol: symbol.shape, outputs)

    @nn.nowrap
    def calls(self) -> list[Call]:
        """Returns the calls of layers in order."""
        return []

    @nn.nowrap
    def summary(
        self,
        print_fn: Callable[[str], None] = print,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
    ) -> None:
        """Prints a table of the layers with output shape, number of parameters and sources of the inputs.

        Args:
            print_fn: Receives the whole text.
            line_length: The greatest number of characters of a line. Longer cells get several lines.
            positions: Where each column ends: numbers of characters, or shares of `line_length` up to 1.
            expand_nested: Whether to show the layers inside nested models, too.
            show_trainable: Whether to show which layers a `Trainer` trains; "-" for layers without weights.

        Raises:
            ValueError: If the input's shape is not known, or the columns do not fit.

        References:
            Keras, `keras.Model.summary`.

        Example:
            >>> from flaxmodels import Input, Sequential, layers
            >>> Sequential([Input((4,)), layers.Dense(2)], name="tiny").summary()
            tiny: 10 parameters
            layer (class)    output     parameters  inputs
            dense (Dense)    (None, 2)          10  input
        """
        _ = self.output_shape  # Raises if the input is not known.
        options = summary.Options(line_length, positions, expand_nested, show_trainable)
        print_fn(summary.as_text(self, options))

    @nn.nowrap
    def _repr_html_(self) -> str:
        """Returns the table of `summary` for a notebook."""
        return summary.as_html(self)

    @nn.nowrap
    def match_structure(self, expected: Tree[Symbol], given: object, what: str = "inputs") -> list[Any]:
        """Returns the values given for the expected symbols, in the order of the symbols.

        Args:
            expected: A symbol, or a tree of symbols.
            given: Values in the same structure, or in a dictionary keyed by the names of the symbols.
            what: A description of the values, for the error message.

        Raises:
            ValueError: If the structures differ.
        """
        if isinstance(expected, Symbol):
            expected = [expected]
        if not isinstance(given, list | tuple | Mapping):
            given = [given]
        if isinstance(given, Mapping):
            self._check_keys(expected, given, what)
        if isinstance(given, Mapping) and not isinstance(expected, Mapping):
            names = [symbol.name for symbol in jax.tree.leaves(expected)]
            given = [given[name] for name in names] if set(names) <= set(given) else given
        values = _matched(expected, given)
        if values is None:
            names = jax.tree.map(lambda symbol: symbol.name or str(symbol.shape), expected)
            raise ValueError(
                f"{self.label} takes {what} with the structure {names}, got {_shapes_of(given)}; "
                "pass them in the structure of the model's inputs, or in a dictionary keyed by input name."
            )
        return values

    @nn.nowrap
    def _check_keys(self, expected: Tree[Symbol], given: Mapping[str, object], what: str) -> None:
        """Raises if the value of a named input is missing; skipped unless all inputs have names."""
        names = list(expected) if isinstance(expected, Mapping) else [s.name for s in jax.tree.leaves(expected)]
        missing = [name for name in names if name not in given]
        if missing and None not in names:
            raise ValueError(
                f"{self.label} takes {what} with the names {sorted(names)}, got {sorted(given)}; "
                f"add {', '.join(map(repr, missing))}."
            )

    @nn.nowrap
    def check_inputs(self, expected: Tree[Symbol], inputs: object) -> list[jax.Array]:
        """Returns the input arrays in the order of the expected symbols; raises if structure or shapes differ."""
        arrays = self.match_structure(expected, inputs)
        for symbol, array in zip(jax.tree.leaves(expected), arrays, strict=True):
            shape = tuple(np.shape(array))
            # As in Keras, any batch size is accepted, even if the input has a fixed one.
            same = len(shape) == symbol.ndim and all(
                n is None or n == m for n, m in zip(symbol.shape[1:], shape[1:], strict=True)
            )
            if not same:
                raise ValueError(
                    f"{self.label} takes inputs of shape {symbol.shape}, got {shape}; "
                    "reshape the data, or change the model's input shape."
                )
        return arrays


def _matched(expected: Tree[Symbol], given: object) -> list[object] | None:
    """Returns the values for the expected symbols, in the order of jax.tree.leaves; None if the structures differ."""
    if isinstance(expected, Symbol):
        return None if isinstance(given, list | tuple | Mapping) else [given]
    if isinstance(expected, Mapping):
        if not isinstance(given, Mapping) or set(expected) != set(given):
            return None
        pairs = [(expected[key], given[key]) for key in sorted(expected)]
    else:
        if not isinstance(given, list | tuple) or len(expected) != len(given):
            return None
        pairs = list(zip(expected, given, strict=True))
    parts = [_matched(*pair) for pair in pairs]
    return None if None in parts else [leaf for part in parts if part is not None for leaf in part]


def _shapes_of(given: object) -> str:
    """Returns the structure of the given arrays as text, with shapes in place of arrays."""
    return str(jax.tree.map(lambda leaf: str(np.shape(leaf)), given, is_leaf=lambda leaf: leaf is None))
