"""The base class of all layers: a linen module that also builds graphs, carries masks and has Keras' weight names."""

import functools
import inspect
import math
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels import initializers, regularizers
from flaxmodels.layers import checks, keras_calls, keras_state, symbolic
from flaxmodels.layers.builds import BUILDS, Shape
from flaxmodels.layers.keras_state import CURRENT_LAYER
from flaxmodels.layers.keras_style import KerasStyle
from flaxmodels.layers.tracing import Lookup, Sources
from flaxmodels.trees import ArrayTree, MaskTree, Tree

Arrays = TypeVar("Arrays", bound=ArrayTree)


class _Calls(threading.local):
    """The transformed layers that this thread is calling, as scope and training flag, outermost first."""

    def __init__(self) -> None:
        self.stack: list[tuple[tuple[str, ...], bool]] = []


_transformed = _Calls()


class accessor(property):  # noqa: N801 - used as a decorator, like `property`
    """A property that may raise AttributeError, so that `hasattr` works; flax changes the error of other ones."""

    nowrap = True


class Layer(KerasStyle, nn.Module, kw_only=True):
    """Computes outputs from arrays; called on symbols, it adds a node to a graph instead.

    A custom layer is a dataclass of Keras' arguments with one method `compute`, marked `@nn.compact`, that takes
    arrays. If it needs them, `compute` also takes `mask` and `train`; every layer accepts both when it is called.

    A class written for Keras, with `__init__`, `build` and `call`, works too; see `KerasStyle`. Its variables are in
    `params` if they are trainable, otherwise in `batch_stats`.

    Args:
        dtype: Dtype of the computation, or a Keras policy such as "mixed_bfloat16". The default is the dtype of the
            enclosing model if it has one, otherwise `param_dtype`.
        param_dtype: Dtype of the parameters.
        trainable: Whether a `Trainer` updates the parameters. If False, their regularizers are left out as well. A
            change takes effect at the next `fit`.
        activity_regularizer: Adds a loss on the outputs, divided by the number of examples. Each call of the layer
            counts; Keras counts only the last call, unless the layer is inside a nested model.
        input_shape: Shape of one example; `Sequential` reads it from its first layer.
        name: Scope of the parameters; by default Keras' automatic name, such as `conv2d_1`.

    References:
        Keras, `keras.layers.Layer`; flax, `flax.linen.Module`.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    trainable: bool = True
    activity_regularizer: Any = None
    input_shape: Shape | None = None

    # Names of the parameters and statistics in the order of Keras' `get_weights()`.
    WEIGHTS: ClassVar[tuple[str, ...]] = ()
    # The first word in the names of a parameter's arguments, if it differs from the parameter's name: {"embedding":
    # "embeddings"} for `embeddings_initializer`.
    ARGUMENTS: ClassVar[dict[str, str]] = {}
    # Whether the mask of the inputs is also the mask of the outputs.
    SUPPORTS_MASKING: ClassVar[bool] = False
    # Names of accessors of symbols, which raise an AttributeError if there are none.
    ACCESSORS: ClassVar[tuple[str, ...]] = ("input", "output")
    # The number of rows that the layers inside this one receive per example.
    rows_per_example: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.check_fields(self)
        for name in ("dtype", "param_dtype"):
            checks.check_dtype(self, name)
        if self.__dict__.get("input_shape") is not None:
            symbolic.as_shape(self.input_shape)
        made_in = keras_state.detach_from_call(self)
        super().__post_init__()
        if self.scope is not None:
            keras_state.note_clone(self)
            self._bind_inner()
        if made_in is not None:
            made_in.made.append(self)

    if not TYPE_CHECKING:

        @nn.nowrap
        def __getattr__(self, name: str) -> Any:
            # Python also calls this if an accessor raises AttributeError. Flax would replace the error by its own.
            if name in type(self).ACCESSORS:
                raise AttributeError(self.no_symbols(name))
            return super().__getattr__(name)

    @nn.nowrap
    def _bind_inner(self) -> None:
        """Binds the layers inside this one, when it is bound itself; flax binds those in fields."""
        if self.BINDS_ATTRIBUTES:
            keras_state.bind_attributes(self)

    @accessor
    def input(self) -> Any:
        """The symbols that the layer was called on, in their structure; those of the first call if it has several.

        Raises:
            AttributeError: If the layer has not been called on symbols.
        """
        args = self._first_call("input").args
        return args[0] if len(args) == 1 else args

    @accessor
    def output(self) -> Any:
        """The symbols that the layer returned, in their structure; those of the first call if it has several.

        Raises:
            AttributeError: If the layer has not been called on symbols.

        Example:
            >>> from flaxmodels import Input, layers
            >>> dense = layers.Dense(2)
            >>> _ = dense(Input((3,)))
            >>> dense.output
            <Symbol shape=(None, 2) dtype=float32 output of Dense>
        """
        return self._first_call("output").outputs

    @nn.nowrap
    def _first_call(self, wanted: str) -> symbolic.Node:
        nodes: list[symbolic.Node] = self.__dict__.get("_nodes", [])
        if not nodes:
            raise AttributeError(self.no_symbols(wanted))
        return nodes[0]

    @nn.nowrap
    def no_symbols(self, name: str) -> str:
        """Returns the sentence of the error for an accessor of symbols that the layer does not have."""
        return (
            f"{self.label} has no `{name}`, because it has not been called on a symbol; call it on Input(...), or get "
            "it from a model whose input is known."
        )

    @overload
    def __call__(
        self, inputs: symbolic.Symbol | Sequence[symbolic.Symbol], *args: object, **kwargs: object
    ) -> symbolic.Symbol: ...
    @overload
    def __call__(self, inputs: ArrayLike | Sequence[ArrayLike], *args: object, **kwargs: object) -> jax.Array: ...
    @overload
    def __call__(self, inputs: object = None, *args: object, **kwargs: object) -> Any: ...
    def __call__(self, inputs: object = None, *args: object, **kwargs: Any) -> object:
        """Computes the outputs, or adds a node to a graph if an argument is a symbol.

        Args:
            inputs: An array, or a list of arrays for layers that merge. They can also be passed by keyword, under the
                name of the first parameter of `compute`.
            *args: Further arrays, for layers that take them.
            **kwargs: `mask`, `train` or Keras' `training`, and the other parameters of `compute`. The flag is False by
                default; inside the `call` of a Keras class, it is the flag of that call.
        """
        if inputs is None:
            inputs = kwargs.pop(next(iter(arguments(self)), "inputs"), None)
        if "training" in kwargs and (self.BINDS_ATTRIBUTES or "training" not in arguments(self)):
            train = kwargs.pop("training")
            kwargs |= {} if train is None else {"train": train}
        if symbolic.symbols_in((inputs, args, kwargs)):
            return symbolic.record(self, (inputs, *args), kwargs)
        frame = keras_state.current_frame()
        if self.scope is None:
            bound = None if frame is None else keras_state.bound_in_call(self, frame)
            return (self.call_unbound if bound is None else bound)(inputs, *args, **kwargs)
        if frame is not None:
            kwargs = frame.inherited(inputs, args, kwargs, arguments(self))
        if _transformed.stack and _transformed.stack[-1][0] == self.path:
            kwargs["train"] = _transformed.stack[-1][1]
        if not self.BINDS_ATTRIBUTES and (builds := BUILDS.get()) is not None:
            keras_calls.build_in_call(self, builds, inputs)
        token = CURRENT_LAYER.set(self)
        try:
            outputs, mask = self.outputs_and_mask(inputs, *args, **kwargs)
        finally:
            CURRENT_LAYER.reset(token)
        object.__setattr__(self, "_output_mask", mask)
        if frame is not None and mask is not None and frame.is_caller():
            frame.set_masks(outputs, mask)
        return outputs

    @nn.nowrap
    def call_unbound(self, inputs: object, *args: object, **kwargs: object) -> object:
        """Raises, because a layer without a scope has no variables to compute with."""
        raise ValueError(
            f"{type(self).__name__} holds no parameters, so it cannot be called on an array directly; "
            "use variables = layer.init(jax.random.key(0), x) and layer.apply(variables, x)."
        )

    @classmethod
    def pure_class(cls) -> type["Layer"]:
        """Returns the class that files name; a class that only adds state to another one returns that one."""
        return cls

    @nn.nowrap
    def call_with_mask(
        self, inputs: ArrayTree, *args: object, mask: MaskTree = None, train: bool = False, **kwargs: Any
    ) -> tuple[ArrayTree, MaskTree]:
        """Calls this layer from an enclosing layer and returns its outputs and their mask.

        The outputs go through `__call__`, because flax records its results (`capture_intermediates`, `nn.tabulate`).
        `__call__` returns only the outputs and keeps the mask in an attribute.
        """
        if mask is not None:
            kwargs["mask"] = mask
        if not is_transformed(keras_state.class_of(self)):
            outputs = self(inputs, *args, **kwargs | ({} if train is False else {"train": train}))
            return outputs, self.__dict__.pop("_output_mask")
        # A class transformed by flax, such as nn.remat(Dense), takes only arrays and calls a copy of itself.
        _transformed.stack.append((self.path, train))
        try:
            outputs = self(inputs, *args, **kwargs)
        finally:
            _transformed.stack.pop()
        if type(self).outputs_and_mask is Layer.outputs_and_mask:
            return outputs, self.compute_mask(inputs, mask)
        # Only the copy knows the mask, so compute it again; XLA removes the operations that only the outputs need.
        clone = self.clone(parent=None)
        _, output_mask = clone.apply(self.variables, inputs, *args, **kwargs, method="outputs_and_mask")
        return outputs, output_mask

    def outputs_and_mask(
        self, inputs: Any, *args: object, mask: MaskTree = None, train: bool = False, **kwargs: object
    ) -> tuple[ArrayTree, MaskTree]:
        """Computes the outputs and their mask."""
        if not hasattr(type(self), "compute"):
            raise TypeError(
                f"{type(self).__name__} must define how it computes its outputs, got neither `call` nor `compute`; "
                "write a method `call(self, inputs)`."
            )
        checks.check_call(self, inputs, mask, train)
        for name, value in (("mask", mask), ("train", train)):
            if name in arguments(self):
                kwargs[name] = value
        outputs = self.compute(inputs, *args, **kwargs)
        if self.activity_regularizer is not None:
            self._add_activity_loss(outputs)
        return outputs, self.compute_mask(inputs, mask)

    def compute_mask(self, inputs: Any, mask: Any = None) -> MaskTree:
        """Returns the mask of the outputs: that of the inputs if the layer keeps positions, otherwise None."""
        return mask if self.SUPPORTS_MASKING or (self.KERAS_STYLE and self.supports_masking) else None

    @nn.nowrap
    def training_flag(self, train: bool) -> bool | None:
        """Returns the `train` with which a step of training or evaluation calls the layer as the whole model.

        As in Keras, a model whose `call` has no `training` argument is called without one. Its layers then run in
        inference mode during training, too.
        """
        return None if self.BINDS_ATTRIBUTES and not keras_calls.takes_training(self) else train

    @nn.nowrap
    def children(self) -> Sequence[tuple[str, nn.Module]]:
        """Returns the scope names and the layers inside this one, in the order of Keras' `get_weights()`."""
        return []

    @nn.nowrap
    def own_weights(self) -> list[tuple[str, str]]:
        """Returns the collection and the name of each weight of the layer itself, in Keras' order.

        A weight in `WEIGHTS` is listed in both collections, because only the variables show where it is.
        """
        if self.BINDS_ATTRIBUTES:
            return keras_calls.own_weights(self)
        return [(collection, name) for name in self.WEIGHTS for collection in ("params", "batch_stats")]

    @nn.nowrap
    def trace_inputs(self, sources: Sources, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Sources:
        """Returns the model inputs whose values the outputs hold; takes the arguments of `tracing.trace`."""
        return frozenset()

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """Returns the layer's argument of a kind for a weight, such as `kernel_constraint`, or None if it has none."""
        if self.KERAS_STYLE and (variable := keras_state.variable_named(self, weight)) is not None:
            return getattr(variable, "stored_dtype" if kind == "dtype" else kind)
        return getattr(self, f"{self.ARGUMENTS.get(weight, weight)}_{kind}", None)

    def create_weight(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> jax.Array:
        """Creates a parameter with its `<name>_initializer` and adds the loss of its `<name>_regularizer`.

        A frozen layer adds no loss on its parameters, as in Keras, because training could not reduce it.

        Args:
            name: Name in `params`.
            shape: Shape of the parameter.
            dtype: Dtype of the returned value; None for `compute_dtype`.
        """
        initializer: Any = initializers.get(self.argument(name, "initializer") or "glorot_uniform")
        initializer = initializers.key_first(initializer)
        try:
            value = self.param(name, initializer, shape, self._stored_dtype(name))
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                f"`{name}` of {self.label} has shape {self._shape_of(name)}, but inputs of this size need {shape}; "
                "give inputs of the size that the variables were made for, or call `init` again."
            ) from error
        regularizer = regularizers.get(self.argument(name, "regularizer"))
        if regularizer is not None and not self.is_initializing() and not self.frozen:
            self.sow("losses", name, regularizer(value), reduce_fn=lambda old, new: new, init_fn=lambda: 0.0)
        return self.cast(value) if dtype is None else value.astype(dtype)

    @nn.nowrap
    def _stored_dtype(self, name: str) -> np.dtype:
        """Returns the dtype in which a weight is stored."""
        return jnp.dtype((self.KERAS_STYLE and self.argument(name, "dtype")) or self.param_dtype)

    def _shape_of(self, name: str) -> tuple[int, ...]:
        return tuple(jnp.shape(nn.meta.unbox(self.get_variable("params", name))))

    @nn.nowrap
    def cast(self, array: jax.Array) -> jax.Array:
        """Returns the array in the dtype of the computation."""
        return jnp.asarray(array).astype(self.compute_dtype)

    @nn.nowrap
    def cast_floats(self, tree: Arrays) -> Arrays:
        """Returns the arrays, with floating-point arrays cast to the dtype of the computation."""

        def cast(x: jax.Array) -> jax.Array:
            checks.check_array(self, "inputs", x)
            return self.cast(x) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(cast, tree, is_leaf=lambda x: x is None)

    @property
    @nn.nowrap
    def compute_dtype(self) -> np.dtype:
        """The dtype that the layer computes in: its own, otherwise that of the nearest enclosing layer with one."""
        dtypes = (layer.own_dtype for layer in self._enclosing() if layer.own_dtype is not None)
        return compute_dtype(next(dtypes, None), self.param_dtype)

    @property
    @nn.nowrap
    def own_dtype(self) -> Any:
        """The argument `dtype`; the attribute of this name differs in `training.keras`."""
        return self.__dict__.get("dtype")

    @nn.nowrap
    def keras_input_dtype(self, model_dtype: DTypeLike | None) -> np.dtype | None:
        """Returns the dtype that Keras casts floating-point inputs of this layer to; None if it casts none.

        Args:
            model_dtype: The dtype of the enclosing model, or None.
        """
        return compute_dtype(model_dtype if self.own_dtype is None else self.own_dtype, self.param_dtype)

    @nn.nowrap
    def inner_outputs(self) -> Tree[symbolic.Symbol] | None:
        """Returns the symbols of a model's outputs inside the model, in their structure; None for other layers."""
        return None

    @nn.nowrap
    def _enclosing(self) -> Iterator["Layer"]:
        """Yields this layer and the layers that enclose it, from the inside out."""
        module: object = self
        while isinstance(module, nn.Module):
            if isinstance(module, Layer):
                yield module
            module = module.parent

    def valid_rows(self, leading: int) -> jax.Array | None:
        """Returns the mask [leading] of the rows that are examples, not padding; None if all are.

        A caller that pads a batch passes the collection "batch" with `valid` [B]. The mask is correct if the leading
        axis has B * T rows and the T rows of each example are consecutive. A layer cannot check this, so
        `training.padding` proves it for the whole model before a batch is padded.
        """
        root = self.scope.root if self.scope else None
        if root is None or not root.has_variable("batch", "valid"):
            return None
        valid = root.get_variable("batch", "valid")
        return jnp.repeat(valid, leading // valid.shape[0]) if leading != valid.shape[0] else valid

    def _add_activity_loss(self, outputs: ArrayTree) -> None:
        if self.is_initializing():
            return
        regularizer = regularizers.get(self.activity_regularizer)
        for output in jax.tree.leaves(outputs):
            if not output.shape:
                raise ValueError(
                    f"{self.label} divides the loss on its outputs by the number of examples, got outputs of shape (); "
                    "give inputs with an axis for the batch, or leave the regularizer out."
                )
            rows = self.valid_rows(output.shape[0])
            count: int | jax.Array = output.shape[0]
            if rows is not None:
                output = jnp.where(jnp.expand_dims(rows, tuple(range(1, output.ndim))), output, 0)
                count = jnp.sum(rows)
            loss = regularizer(output)
            examples = jnp.maximum(count, 1).astype(loss.dtype) / self._rows_per_example()
            loss = loss / examples
            self.sow("losses", "activity", loss, reduce_fn=jnp.add, init_fn=lambda: 0.0)

    @nn.nowrap
    def _rows_per_example(self) -> int:
        """Returns how many rows of this layer's inputs belong to one example: several inside `TimeDistributed`."""
        _, *outer = self._enclosing()
        return math.prod(layer.rows_per_example for layer in outer)

    @property
    @nn.nowrap
    def frozen(self) -> bool:
        """Whether this layer or an enclosing one has `trainable=False`."""
        return not all(layer.trainable for layer in self._enclosing())

    @property
    @nn.nowrap
    def class_name(self) -> str:
        """The name of the layer's class in summaries."""
        return type(self).__name__

    @property
    @nn.nowrap
    def label(self) -> str:
        """The layer in error messages: its class and, if known, its scope."""
        scope = ("/".join(self.path) if self.scope is not None else "") or self.name
        return f"{type(self).__name__} {scope!r}" if scope else type(self).__name__

    @nn.nowrap
    def check_positive(self, *names: str) -> None:
        """Raises unless the named arguments are positive integers; called at construction."""
        for name in names:
            value = getattr(self, name)
            if not checks.is_integer(value) or value < 1:
                raise ValueError(f"`{name}` of {self.label} must be a positive integer, got {value!r}; give 1 or more.")

    @nn.nowrap
    def check_rank(self, inputs: jax.Array | jax.ShapeDtypeStruct, axes: str) -> None:
        """Raises unless the inputs have one axis for each letter in `axes`, such as "B T F"."""
        shape, rank = tuple(inputs.shape), len(axes.split())
        if len(shape) != rank:
            raise ValueError(
                f"{self.label} takes inputs of {rank} axes [{', '.join(axes.split())}], got shape {shape}; "
                f"{'add' if len(shape) < rank else 'remove'} an axis, or use a layer for {len(shape)} axes."
            )


class MultiOutputLayer(Layer):
    """A layer that may return several outputs, depending on its arguments.

    Only type checkers distinguish it from `Layer`: its call may return anything.
    """

    if TYPE_CHECKING:

        def __call__(self, inputs: object = None, *args: object, **kwargs: object) -> Any: ...


def compute_dtype(dtype: DTypeLike | None, param_dtype: DTypeLike) -> np.dtype:
    """Returns the dtype to compute in: that of `dtype`, which may be a Keras policy, otherwise `param_dtype`.

    Example:
        >>> compute_dtype("mixed_bfloat16", "float32").name, compute_dtype(None, "float32").name
        ('bfloat16', 'float32')
    """
    if isinstance(dtype, str) and dtype.startswith("mixed_"):
        dtype = dtype.removeprefix("mixed_")
    return jnp.dtype(param_dtype if dtype is None else dtype)


def accumulation_dtype(dtype: DTypeLike) -> np.dtype:
    """Returns the dtype for sums and statistics of a dtype: float64 for float64, otherwise float32."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def arguments(layer: Layer) -> tuple[str, ...]:
    """Returns the parameter names of a layer's `compute`."""
    return _arguments(keras_state.class_of(layer))


@functools.cache
def _arguments(cls: type[Layer]) -> tuple[str, ...]:
    method = cls.call if cls.BINDS_ATTRIBUTES else getattr(cls, "compute", None)
    return () if method is None else tuple(inspect.signature(method).parameters)[1:]


@functools.cache
def is_transformed(cls: type) -> bool:
    """Returns whether flax made a class by a transformation, such as nn.remat(Dense)."""
    return any(base.__module__ == "flax.linen.transforms" for base in cls.__mro__)
