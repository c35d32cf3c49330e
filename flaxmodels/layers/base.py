"""The base of all layers: a linen module that also draws graphs, carries masks and names its weights as Keras does."""

import functools
import inspect
import math
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import initializers, regularizers
from flaxmodels.layers import checks, symbolic


class Lookup(NamedTuple):
    """A layer that takes integers in a range from an input of a model; see `Layer.trace_inputs`.

    Attributes:
        source: The index of the model's input.
        path: The layer's scopes, joined by "/".
        layer: The class of the layer.
        size: How many integers there are, from 0 on.
    """

    source: int
    path: str
    layer: str
    size: int


class _Calls(threading.local):
    """Scopes of layers of transformed classes that this thread is calling, and whether in training."""

    def __init__(self) -> None:
        self.stack: list[tuple[Any, bool]] = []


_transformed = _Calls()


class Layer(nn.Module, kw_only=True):
    """Computes outputs from inputs; on symbols it draws a graph instead.

    A layer of a new kind is a dataclass of Keras' arguments with one method `compute`, marked `@nn.compact`, that takes
    arrays. Where it needs them, `compute` also takes `mask` and `train`; every layer accepts both when it is called.

    Args:
        dtype: Computation's dtype, "mixed_bfloat16" and the like included; by default that of the model around the
            layer, or else that of the parameters.
        param_dtype: The parameters' dtype.
        trainable: Whether a `Trainer` updates the parameters. If False, their regularizers are left out as well. A
            change takes effect at the next `fit`.
        activity_regularizer: Adds a loss on the outputs, divided by the number of examples. Each call of the layer
            counts; Keras counts the last call alone, unless the layer is inside a nested model.
        input_shape: Shape of one example; `Sequential` reads it from its first layer.
        name: Scope of the parameters; by default Keras' automatic name, such as `conv2d_1`.

    References:
        Keras, `keras.layers.Layer`; flax, `flax.linen.Module`.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32
    trainable: bool = True
    activity_regularizer: Any = None
    input_shape: symbolic.Shape | None = None

    # Names of the parameters and statistics in the order of Keras' `get_weights()`.
    WEIGHTS: ClassVar[tuple[str, ...]] = ()
    # Parameters whose arguments have another first word: {"embedding": "embeddings"} for `embeddings_initializer`.
    ARGUMENTS: ClassVar[dict[str, str]] = {}
    # Whether a mask that comes in goes on to the next layer.
    SUPPORTS_MASKING: ClassVar[bool] = False
    # How many rows the layers inside this one receive for each example.
    rows_per_example: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.check_fields(self)
        for name in ("dtype", "param_dtype"):
            checks.check_dtype(self, name)
        if self.input_shape is not None:
            symbolic.as_shape(self.input_shape)
        super().__post_init__()

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Computes the outputs, or draws a node where a symbol is among the arguments.

        Args:
            inputs: An array, or a list of arrays for layers that merge; also by the name that `compute` gives it.
            *args: Further arrays, for layers that take them.
            **kwargs: `mask`, `train` (False by default) and what the layer's `compute` names.
        """
        if inputs is None:
            inputs = kwargs.pop(next(iter(arguments(self)), "inputs"), None)
        if symbolic.symbols_in((inputs, args, kwargs)):
            return symbolic.record(self, (inputs, *args), kwargs)
        if self.scope is None:
            raise ValueError(
                f"{type(self).__name__} computes with parameters from outside, but was called on an array by itself; "
                "use variables = layer.init(jax.random.key(0), x) and layer.apply(variables, x)."
            )
        if _transformed.stack and _transformed.stack[-1][0] == self.path:
            kwargs["train"] = _transformed.stack[-1][1]
        outputs, mask = self.outputs_and_mask(inputs, *args, **kwargs)
        object.__setattr__(self, "_output_mask", mask)
        return outputs

    @nn.nowrap
    def call_with_mask(
        self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Calls this layer and returns its outputs and their mask; this is how a layer around this one calls it.

        The call itself is `__call__`, whose outputs flax records (`capture_intermediates`, `nn.tabulate`), and whose
        value is therefore the outputs alone; the mask is kept aside.
        """
        if mask is not None:
            kwargs["mask"] = mask
        if type(self).__call__ is Layer.__call__:
            outputs = self(inputs, *args, **kwargs | ({} if train is False else {"train": train}))
            return outputs, self.__dict__.pop("_output_mask")
        # A class transformed by flax, such as nn.remat(Dense), takes arrays alone, and calls a copy of itself.
        _transformed.stack.append((self.path, train))
        try:
            outputs = self(inputs, *args, **kwargs)
        finally:
            _transformed.stack.pop()
        if type(self).outputs_and_mask is Layer.outputs_and_mask:
            return outputs, self.compute_mask(inputs, mask)
        # The copy has the mask, so it is computed again; what only the outputs need is left out by XLA.
        again = self.clone(parent=None).apply(self.variables, inputs, *args, **kwargs, method="outputs_and_mask")
        return outputs, again[1]

    def outputs_and_mask(
        self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Computes the outputs and the mask that belongs to them."""
        checks.check_call(self, inputs, mask, train)
        for name, value in (("mask", mask), ("train", train)):
            if name in arguments(self):
                kwargs[name] = value
        outputs = self.compute(inputs, *args, **kwargs)
        if self.activity_regularizer is not None:
            self._add_activity_loss(outputs)
        return outputs, self.compute_mask(inputs, mask)

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """The mask of the outputs: the inputs' own where the layer keeps positions, else None."""
        return mask if self.SUPPORTS_MASKING else None

    def children(self) -> list[tuple[str, Any]]:
        """Layers inside this one by scope name, in the order of Keras' `get_weights()`."""
        return []

    @nn.nowrap
    def trace_inputs(self, sources: Any, lookups: list["Lookup"], path: str, *args: Any, **kwargs: Any) -> Any:
        """Finds which inputs of a model reach a layer that looks integers up, with unchanged values; see `trace`.

        Args:
            sources: For each of the layer's inputs a set: the indices of the model's inputs of which it holds values;
                empty where it holds others.
            lookups: Receives what is found.
            path: The layer's scopes, joined by "/".
            *args: Further arguments of the call.
            **kwargs: Likewise.

        Returns:
            A set for each output, or one for all.
        """
        return frozenset()

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """The argument that belongs to a weight, such as `kernel_constraint`, or None."""
        return getattr(self, f"{self.ARGUMENTS.get(weight, weight)}_{kind}", None)

    def add_weight(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> jax.Array:
        """Makes a parameter by its `<name>_initializer` and its loss by `<name>_regularizer`.

        A frozen layer adds no loss on its parameters: nothing could reduce it. Keras leaves it out as well.

        Args:
            name: Name in `params`.
            shape: The parameter's shape.
            dtype: What it is cast to for the computation; None for `compute_dtype`.
        """
        initializer: Any = initializers.get(self.argument(name, "initializer") or "glorot_uniform")
        try:
            value = self.param(name, initializer, shape, jnp.dtype(self.param_dtype))
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                f"{self.label} takes inputs for which `{name}` has shape {self._shape_of(name)}, got some for which it "
                f"has shape {shape}; give inputs of the size that the variables were made for, or make new ones."
            ) from error
        regularizer = regularizers.get(self.argument(name, "regularizer"))
        if regularizer is not None and not self.is_initializing() and not self.frozen:
            self.sow("losses", name, regularizer(value), reduce_fn=lambda old, new: new, init_fn=lambda: 0.0)
        return self.cast(value) if dtype is None else value.astype(dtype)

    def _shape_of(self, name: str) -> tuple[int, ...]:
        return tuple(jnp.shape(nn.meta.unbox(self.get_variable("params", name))))

    @nn.nowrap
    def cast(self, array: jax.Array) -> jax.Array:
        """The array in the computation's dtype."""
        return jnp.asarray(array).astype(self.compute_dtype)

    @nn.nowrap
    def cast_floats(self, tree: Any) -> Any:
        """The arrays, those of floating point in the computation's dtype, others as they are."""

        def cast(x: Any) -> Any:
            checks.check_array(self, "inputs", x)
            return self.cast(x) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(cast, tree, is_leaf=lambda x: x is None)

    @property
    @nn.nowrap
    def compute_dtype(self) -> Any:
        """The dtype that the layer computes in: its own, or that of the nearest model around it which has one."""
        return compute_dtype(next((m.dtype for m in self._around() if m.dtype is not None), None), self.param_dtype)

    @nn.nowrap
    def keras_input_dtype(self, around: Any) -> Any:
        """The dtype that Keras casts inputs of floating point to when this layer is called; None if it casts none.

        Args:
            around: The dtype of the model around this layer, or None.
        """
        return compute_dtype(around if self.dtype is None else self.dtype, self.param_dtype)

    @nn.nowrap
    def inner_outputs(self) -> Any:
        """The symbols inside a model that its outputs are, in their structure; None for other layers."""
        return None

    @nn.nowrap
    def _around(self) -> Iterator["Layer"]:
        """This layer and the layers around it, from the inside out."""
        module: Any = self
        while isinstance(module, nn.Module):
            if isinstance(module, Layer):
                yield module
            module = module.parent

    def rows(self, leading: int) -> jax.Array | None:
        """Which of the `leading` rows are examples, not padding, as a mask [leading]; None where all are.

        A caller that pads a batch gives the collection "batch" with `valid` [B]. The answer is right where the batch is
        the first part of the leading axis, B * T rows with the T rows of an example side by side. A layer can't see
        whether that is so; `training.padding` proves it for a whole model before a batch is padded.
        """
        root = self.scope.root if self.scope else None
        if root is None or not root.has_variable("batch", "valid"):
            return None
        valid = root.get_variable("batch", "valid")
        return jnp.repeat(valid, leading // valid.shape[0]) if leading != valid.shape[0] else valid

    def _add_activity_loss(self, outputs: Any) -> None:
        if self.is_initializing():
            return
        regularizer = regularizers.get(self.activity_regularizer)
        for output in jax.tree.leaves(outputs):
            if not output.shape:
                raise ValueError(
                    f"{self.label} divides the loss on its outputs by the number of examples, got outputs of shape (); "
                    "give inputs with an axis for the batch, or leave the regularizer out."
                )
            rows = self.rows(output.shape[0])
            count: Any = output.shape[0]
            if rows is not None:
                output = jnp.where(jnp.expand_dims(rows, tuple(range(1, output.ndim))), output, 0)
                count = jnp.sum(rows)
            loss = regularizer(output)
            examples = jnp.maximum(count, 1).astype(loss.dtype) / self._folded()
            loss = loss / examples
            self.sow("losses", "activity", loss, reduce_fn=jnp.add, init_fn=lambda: 0.0)

    @nn.nowrap
    def _folded(self) -> int:
        """How many rows of this layer's inputs belong to one example: more than one inside `TimeDistributed`."""
        _, *outer = self._around()
        return math.prod(layer.rows_per_example for layer in outer)

    @property
    @nn.nowrap
    def frozen(self) -> bool:
        """Whether this layer, or a layer around it, has `trainable=False`."""
        return not all(layer.trainable for layer in self._around())

    @property
    @nn.nowrap
    def label(self) -> str:
        """What an error calls the layer: its class and, where it is known, its scope."""
        scope = ("/".join(self.path) if self.scope is not None else "") or self.name
        return f"{type(self).__name__} {scope!r}" if scope else type(self).__name__

    @nn.nowrap
    def check_positive(self, *names: str) -> None:
        """Raises unless the named arguments are positive integers; called at construction."""
        for name in names:
            value = getattr(self, name)
            if not checks.is_integer(value) or value < 1:
                raise ValueError(f"`{name}` of {self.label} is a positive integer, got {value!r}; give 1 or more.")

    @nn.nowrap
    def check_rank(self, inputs: Any, axes: str) -> None:
        """Raises unless the inputs have as many axes as named, "B T F" for three."""
        shape, rank = tuple(inputs.shape), len(axes.split())
        if len(shape) != rank:
            raise ValueError(
                f"{self.label} takes inputs of {rank} axes [{', '.join(axes.split())}], got shape {shape}; "
                f"{'add' if len(shape) < rank else 'remove'} an axis, or use a layer for {len(shape)} axes."
            )


def trace(layer: Any, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Any:
    """Calls `layer.trace_inputs`, unless a subclass computes something else than the class that defines it."""
    classes = type(layer).__mro__
    computing = next(i for i, cls in enumerate(classes) if {"compute", "outputs_and_mask"} & set(vars(cls)))
    tracing = next(i for i, cls in enumerate(classes) if "trace_inputs" in vars(cls))
    return layer.trace_inputs(sources, lookups, path, *args, **kwargs) if tracing <= computing else frozenset()


@nn.nowrap
def keep_values(
    layer: Any, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any
) -> frozenset[int]:
    """The `trace_inputs` of a layer whose outputs are values of its inputs, or 0."""
    return sources


def compute_dtype(dtype: Any, param_dtype: Any) -> Any:
    """The dtype to compute in: `dtype`, also as a Keras policy such as "mixed_bfloat16", or else `param_dtype`."""
    if isinstance(dtype, str) and dtype.startswith("mixed_"):
        dtype = dtype.removeprefix("mixed_")
    return jnp.dtype(param_dtype if dtype is None else dtype)


def wide(dtype: Any) -> Any:
    """The dtype for sums and statistics of a dtype: float32, or float64 for float64."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def arguments(layer: Any) -> tuple[str, ...]:
    """The names of what a layer's `compute` takes."""
    return _arguments(type(layer))  # type: ignore[arg-type]


@functools.cache
def _arguments(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.compute).parameters)[1:] if hasattr(cls, "compute") else ()
