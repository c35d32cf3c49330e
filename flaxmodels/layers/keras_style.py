"""Layers and models written as Keras classes: `__init__`, `build` and `call` instead of fields and `compute`."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import module as linen_module
from jax.typing import ArrayLike, DTypeLike

from flaxmodels import constraints, initializers, regularizers
from flaxmodels.layers import keras_calls, keras_clones, keras_state, symbolic
from flaxmodels.layers.builds import Shapes
from flaxmodels.layers.keras_state import STATE, state_of
from flaxmodels.names import refuse_keras
from flaxmodels.variables import Variable

T = TypeVar("T")

# Packages whose classes are written as dataclasses, even if they define `call` or `__init__`.
LIBRARIES = ("flaxmodels", "training", "flax")
# Methods that Keras calls and this library does not, with what to use instead.
STEP = "give Trainer(train_step=...) a function that makes the step"
REFUSED = {
    **dict.fromkeys(("train_step", "make_train_function", "apply_gradients"), STEP),
    **dict.fromkeys(("test_step", "make_test_function"), f"{STEP}, and use metrics and losses for evaluation"),
    **dict.fromkeys(("predict_step", "make_predict_function"), "compute the outputs in `call`"),
    "compute_loss": "give a loss to the training, or call `add_loss` in `call`",
    "__call__": "define `call`",
    "compute_output_spec": "leave it out, because shapes and dtypes are inferred from `call`",
    "symbolic_call": "leave it out, because shapes and dtypes are inferred from `call`",
    **dict.fromkeys(("quantize", "quantized_call", "quantized_build"), "leave it out; quantization is not supported"),
    **dict.fromkeys(("save_own_variables", "load_own_variables", "save_assets", "load_assets"),
                    "create the state with `add_weight`, which is saved"),
    **dict.fromkeys(("compute", "setup", "outputs_and_mask"),
                    "compute in `call` and create weights in `build`, or leave `call`, `build` and `__init__` out"),
    "add_metric": "give metrics to the Trainer",
    **dict.fromkeys(("init", "apply", "bind", "unbind", "clone", "param", "variable", "sow", "scope", "make_rng",
                     "create_weight", "call_with_mask", "children", "argument", "frozen", "label", "compute_dtype",
                     "is_initializing", "is_mutable_collection", "has_variable", "valid_rows", "trace_inputs"),
                    "choose another name, because the library calls its own method of this name"),
}  # fmt: skip
# Attributes that an instance must not have, because flax or the base class uses them.
RESERVED = frozenset(
    "init apply bind unbind clone param variable sow scope make_rng create_weight call_with_mask children "
    "argument frozen label compute_dtype is_initializing is_mutable_collection has_variable valid_rows trace_inputs "
    "outputs_and_mask compute setup call build path variables cast cast_floats add_weight add_loss".split()
)


def is_library(cls: type) -> bool:
    """Returns whether a class belongs to this library or to flax."""
    return cls.__module__.split(".")[0] in LIBRARIES


# Every instance is a module, because only `Layer` extends `KerasStyle`; the bases of `Layer` must not repeat.
if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object


class KerasStyle(_Base):
    """The base of `Layer` that makes Keras' way of writing classes work.

    A class is written Keras' way if it, or a base of it that is not part of the library, defines `call`, `build` or
    `__init__`. An instance then holds any attributes. A clone that flax binds gets bound variables and sublayers in
    their places, so that nothing is ever stored on the user's instance under `init` and `apply`.

    References:
        Keras, `keras.layers.Layer`.
    """

    # Whether the class is written Keras' way.
    KERAS_STYLE: ClassVar[bool] = False
    # Whether the class defines `call` or `build`, so that its attributes hold sublayers and variables.
    BINDS_ATTRIBUTES: ClassVar[bool] = False
    # Whether `build` has created the variables.
    built: ClassVar[bool] = False
    # Whether `call` may assign trained parameters for the rest of the call.
    ASSIGNS_PARAMS: ClassVar[bool] = False
    # Methods of `REFUSED` that the class calls nevertheless.
    HONOURED: ClassVar[frozenset[str]] = frozenset()

    if TYPE_CHECKING:
        SUPPORTS_MASKING: ClassVar[bool]
        frozen: ClassVar[bool]
        WEIGHTS: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        defined = _defined_names(cls)
        inherits = any(getattr(base, "KERAS_STYLE", False) for base in cls.__bases__)
        is_dataclass_style = {"compute", "setup", "outputs_and_mask"} & set(vars(cls)) and not {
            "call",
            "build",
        } & defined
        if not (inherits or (defined and not is_dataclass_style)) or (is_library(cls) and not inherits):
            super().__init_subclass__(**kwargs)
            return
        cls.KERAS_STYLE = True
        if not is_library(cls):
            check_class(cls)
        if {"call", "build"} & defined and not cls.BINDS_ATTRIBUTES:
            cls.BINDS_ATTRIBUTES = True
            cls.outputs_and_mask = keras_calls.outputs_and_mask  # type: ignore[attr-defined]
            cls.children = keras_calls.children  # type: ignore[attr-defined]
        if cls.__module__ == "flax.linen.transforms":
            for name, value in list(vars(cls).items()):
                if inspect.isfunction(value):
                    setattr(cls, name, _wrapped_transformation(value))
        if "build" in vars(cls):
            cls.build = _wrapped_build(vars(cls)["build"])  # type: ignore[method-assign]
        _keep_init(cls, lambda: super(KerasStyle, cls).__init_subclass__(**kwargs))

    @classmethod
    def _wrap_module_attributes(cls) -> type[Self]:
        # Methods of a Keras class are plain methods: only `outputs_and_mask` is called by flax.
        is_users = cls.KERAS_STYLE and not is_library(cls)
        return cls if is_users else super()._wrap_module_attributes()

    # ------------------------------------------------------------ attributes and clones

    def __setattr__(self, name: str, value: object) -> None:
        if not self.KERAS_STYLE or (name in keras_state.OWN and name not in ("built", "scope")):
            super().__setattr__(name, value)
            return
        if name in RESERVED:
            raise ValueError(
                f"The attribute `{name}` of {type(self).__name__} belongs to the library, got an assignment; "
                "choose another name."
            )
        refuse_keras(value)
        state = state_of(self)
        state.note(value)
        object.__setattr__(self, name, value if self.scope is not None else keras_state.tracked(value, state))

    def __getattr__(self, name: str) -> Any:
        if not self.KERAS_STYLE or name.startswith("__"):
            return super().__getattr__(name)
        if self.BINDS_ATTRIBUTES and name in type(self).WEIGHTS and STATE in self.__dict__:
            return keras_calls.own_variable(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def clone(
        self,
        *,
        parent: keras_clones.Parent = None,
        _deep_clone: bool | keras_clones.Clones = False,
        _reset_names: bool = False,
        **updates: Any,
    ) -> Self:
        """Returns a copy with another parent or other arguments; the constructor is not called again."""
        if self.KERAS_STYLE:
            return keras_clones.clone(self, parent, _deep_clone, _reset_names, updates)
        flags: dict[str, Any] = {"_deep_clone": _deep_clone, "_reset_names": _reset_names}
        with keras_state.binding() if parent is not None and _deep_clone is not False else contextlib.nullcontext():
            new = super().clone(parent=parent, **flags, **updates)
        # Clones that flax makes stand for their original; another copy is a layer of its own.
        if parent is not None or keras_state.is_binding() or updates == {"name": None}:
            keras_state.note_origin(new, self)
        return new

    # ------------------------------------------------------------ Keras' methods

    @nn.nowrap
    def build(self, *args: Any, **kwargs: Any) -> None:
        """Creates the variables; a subclass that has variables overrides it.

        Called from outside on a layer or model without an own `build`, it creates all variables and sublayers by
        calling the layer on symbols of these shapes.

        Args:
            *args: Shapes of the inputs, with None for the batch.
            **kwargs: Shapes by the names of the arguments of `call`, such as `query_shape`.
        """
        if not self.KERAS_STYLE:
            return
        if self.BINDS_ATTRIBUTES and type(self).build is KerasStyle.build and self.scope is None:
            keras_calls.build_by_call(self, args, kwargs)
            return
        state = state_of(self)
        state.own_build = len(state.variables)
        object.__setattr__(self, "built", True)

    @nn.nowrap
    def build_on_symbols(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Builds a layer for the symbols on which it is called, whose sizes may be unknown."""
        if self.BINDS_ATTRIBUTES and not self.built:
            keras_calls.build_on_symbols(self, args, kwargs)

    @nn.nowrap
    def build_in_call(self, shapes: Shapes) -> None:
        """Does what Keras does when a call builds a layer that is not written as a Keras class; nothing by default.

        Args:
            shapes: The shapes of the inputs, with None for the batch and unknown sizes.
        """

    @nn.nowrap
    def has_unbuilt_layers(self) -> bool:
        """Returns whether this layer, or one inside it, is written as a Keras class and is not built yet."""
        return keras_calls.has_unbuilt_layers(self)

    @nn.nowrap
    def call(self, inputs: Any = None, *args: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """Computes the outputs; a subclass overrides it and may call it as `super().call(inputs)`.

        Args:
            inputs: An array, or a tree of arrays.
            *args: Further arrays, for layers that take them.
            training: Whether the layer runs in training mode; False by default.
            mask: The mask of the inputs.
            **kwargs: Further arguments of the layer.
        """
        return keras_calls.call_base(self, inputs, args, training, mask, kwargs)

    @nn.nowrap
    def add_weight(
        self,
        *args: Any,
        shape: int | Sequence[int] | None = None,
        initializer: initializers.InitializerLike = None,
        dtype: DTypeLike | None = None,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: regularizers.RegularizerLike = None,
        constraint: constraints.ConstraintLike = None,
        aggregation: str | None = "none",
        name: str | None = None,
    ) -> Any:
        """Creates a weight.

        A class written Keras' way gets a `Variable`. A dataclass layer calls `add_weight(name, shape)` in `compute`
        and gets an array; the initializer, the regularizer and the constraint are its fields `<name>_initializer`
        and so on.

        Args:
            *args: The name and the shape for a dataclass layer; for a Keras class, the shape, the initializer and the
                dtype may be positional.
            shape: Shape of the weight, by default that of a scalar.
            initializer: Initializer or its name; by default "glorot_uniform", or "zeros" for integers and booleans.
            dtype: Dtype in which the weight is stored, by default that of the layer's parameters.
            trainable: Whether the weight is in `params` and trained, otherwise in `batch_stats`.
            autocast: Whether the weight is read in the dtype of the layer's computation.
            regularizer: Regularizer or its name; None for none.
            constraint: Constraint after each update, or its name; None for none.
            aggregation: Must be "none": a program for several devices computes with whole values.
            name: Name in `params` or `batch_stats`, by default "variable".

        Raises:
            ValueError: If an argument is invalid.
            TypeError: If there are too many positional arguments.

        References:
            Keras, `keras.layers.Layer.add_weight`.
        """
        if (args and isinstance(args[0], str)) or not self.KERAS_STYLE:
            given = {"name": name, "shape": shape, "dtype": dtype}
            return self.create_weight(*args, **{key: value for key, value in given.items() if value is not None})
        if len(args) > 3:
            raise TypeError(
                f"add_weight takes a shape, an initializer and a dtype by position, got {len(args)} values."
            )
        shape, initializer, dtype = (*args, *(shape, initializer, dtype)[len(args) :])
        if aggregation not in ("none", None):
            raise ValueError(f'`aggregation` of add_weight must be "none", got {aggregation!r}; leave it out.')
        sizes = (shape,) if isinstance(shape, int) else tuple(() if shape is None else shape)
        label = self.label
        if not all(isinstance(size, int) or hasattr(size, "__index__") for size in sizes):
            raise ValueError(
                f"The shape of a weight of {label} must have sizes that are known, got {sizes}; "
                "give the sizes of the inputs that it depends on."
            )
        if name is not None and (not isinstance(name, str) or "/" in name):
            raise ValueError(
                f"The name of a weight of {label} must be a string without '/', got {name!r}; use another character."
            )
        stored = jnp.dtype(self.param_dtype if dtype is None else dtype)
        if initializer is None:
            initializer = "glorot_uniform" if jnp.issubdtype(stored, jnp.floating) else "zeros"
        variable = Variable(
            keras_state.unused(name or "variable", keras_calls.taken_names(self)),
            tuple(int(size) for size in sizes),
            stored,
            initializers.key_first(initializers.get(initializer)),  # type: ignore[arg-type]
            trainable,
            regularizers.get(regularizer),
            constraints.get(constraint),
            autocast,
        )
        return keras_calls.add_variable(self, variable)

    add_variable = add_weight

    @nn.nowrap
    def add_loss(self, loss: object) -> None:
        """Adds to the loss of training; called inside `call`.

        Args:
            loss: A scalar, or a list of scalars. An array counts with the sum of its elements.

        Raises:
            ValueError: If it is called outside of `call`.

        References:
            Keras, `keras.layers.Layer.add_loss`.
        """
        if self.scope is None:
            raise ValueError(
                f"{type(self).__name__} takes a loss only while it computes, got one outside; "
                "call add_loss inside `call`."
            )
        if self.is_initializing():
            return
        for value in jax.tree.leaves(loss, is_leaf=lambda leaf: isinstance(leaf, Variable)):
            total = jnp.sum(jnp.asarray(value).astype(jnp.float32))
            self.sow("losses", "added", total, reduce_fn=jnp.add, init_fn=lambda: 0.0)

    @nn.nowrap
    def add_metric(self, *args: object, **kwargs: object) -> NoReturn:
        """Raises, as in Keras: metrics belong to the training.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot add a metric while it computes; give `metrics` to the Trainer, "
            "or return the value as another output."
        )

    @property
    @nn.nowrap
    def supports_masking(self) -> bool:
        """Whether the layer passes a mask on: set by a Keras class, or implied by its own `compute_mask`."""
        default = self.SUPPORTS_MASKING or _overrides_mask(type(self))
        return bool(self.__dict__.get("supports_masking", default))

    @supports_masking.setter
    @nn.nowrap
    def supports_masking(self, value: bool) -> None:
        self.__dict__["supports_masking"] = bool(value)

    @property
    @nn.nowrap
    def variable_dtype(self) -> str:
        """The dtype in which weights are stored."""
        return jnp.dtype(self.param_dtype).name

    @nn.nowrap
    def stateless_call(
        self,
        trainable_variables: Sequence[ArrayLike],
        non_trainable_variables: Sequence[ArrayLike],
        *args: object,
        return_losses: bool = False,
        **kwargs: object,
    ) -> tuple[Any, ...]:
        """Calls the layer with the given weights.

        Args:
            trainable_variables: The trained weights in Keras' order.
            non_trainable_variables: The other weights, such as statistics and the weights of frozen layers.
            *args: Arguments of the call.
            return_losses: Whether to return the losses too.
            **kwargs: Keyword arguments of the call, such as `training`.

        Returns:
            The outputs, the updated other weights, and with `return_losses` a list of losses.

        Raises:
            ValueError: If the layer is not built, or a number of weights or a shape differs.

        References:
            Keras, `keras.layers.Layer.stateless_call`.

        Example:
            >>> from flaxmodels import layers
            >>> outputs, rest = layers.Dense(2).stateless_call([jnp.ones((3, 2)), jnp.zeros(2)], [], jnp.ones((1, 3)))
            >>> outputs.tolist(), rest
            ([[3.0, 3.0]], [])
        """
        return keras_calls.stateless_call(
            self, trainable_variables, non_trainable_variables, args, kwargs, return_losses
        )

    @nn.nowrap
    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the shape of the outputs for inputs of a shape, with None for sizes that vary.

        Args:
            *args: Shapes of the inputs, with the batch.
            **kwargs: Shapes by the names of the arguments, such as `query_shape`.

        Example:
            >>> from flaxmodels import layers
            >>> layers.Dense(3).compute_output_shape((None, 4))
            (None, 3)
        """
        inputs, named = keras_calls.symbols_of(args, kwargs)
        outputs = symbolic.infer(self.clone(), inputs, named)
        return jax.tree.map(lambda symbol: symbol.shape, outputs)

    @nn.nowrap
    def get_config(self) -> dict[str, Any]:
        """Returns the arguments from which `from_config` makes the layer again.

        As in Keras, the configuration of a class with an own `__init__` is derived from the arguments, if all of them
        are numbers, strings, booleans and None, or lists and dictionaries of them.

        Raises:
            NotImplementedError: If an argument is anything else, and the class does not override this method.
        """
        return keras_calls.config_of(self, type(self).get_config is KerasStyle.get_config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes an instance from the result of `get_config`."""
        return cls(**config)


def _defined_names(cls: type) -> set[str]:
    """Returns which of Keras' methods a class defines, itself or by a base that is not a module."""
    bases = [base for base in cls.__mro__[1:] if not issubclass(base, KerasStyle) and not is_library(base)]
    bases = [base for base in bases if base.__module__ not in ("builtins", "typing", "abc")]
    names = ("call", "build", "__init__")
    return {name for name in names if any(name in vars(base) for base in (cls, *bases) if base is not KerasStyle)}


def check_class(cls: Any) -> None:
    """Raises if a class written Keras' way defines a method that would not be called."""
    for name, advice in REFUSED.items():
        if name in vars(cls) and name not in cls.HONOURED:
            raise TypeError(f"{cls.__name__} defines `{name}`, which is not supported in a Keras class; {advice}.")


def _overrides_mask(cls: type) -> bool:
    defining = next(base for base in cls.__mro__ if "compute_mask" in vars(base))
    return not is_library(defining)


def _keep_init(cls: Any, transform: Callable[[], None]) -> None:
    """Makes a dataclass of a class, but keeps the `__init__` of the user, and compares instances by identity."""
    first = next(base for base in cls.__mro__ if "__init__" in vars(base))
    is_own = first is cls
    is_users = is_own or getattr(vars(first)["__init__"], "is_users", False)
    if is_own:
        cls.__init__ = _wrapped_init(vars(cls)["__init__"])
    elif is_users:
        cls.__init__ = vars(first)["__init__"]
    if is_users and not is_library(cls):
        # Without a generated __init__, annotations are not fields.
        cls.__annotations__ = {}
    operators = {name: vars(cls)[name] for name in ("__eq__", "__hash__") if vars(cls).get(name) is not None}
    cls.__eq__, cls.__hash__ = object.__eq__, object.__hash__
    transform()
    cls.__eq__, cls.__hash__ = operators.get("__eq__", object.__eq__), operators.get("__hash__", object.__hash__)
    if is_users and not is_own:
        del cls.__init__


def _wrapped_init(original: Callable[..., None]) -> Callable[..., None]:
    """Returns a constructor that notes its arguments, and after which the instance is complete."""

    @functools.wraps(original)
    def __init__(self: KerasStyle, *args: object, **kwargs: object) -> None:
        if STATE in self.__dict__:  # called by the constructor of a subclass
            original(self, *args, **kwargs)
            return
        transformed = keras_state.frames.transformed
        if "parent" in kwargs and transformed and isinstance(transformed[-1], type(self)):
            # A transformation of flax makes an instance of the original class from the fields of its own instance.
            keras_clones.copy_into(self, transformed[-1], kwargs)
            return
        outer = linen_module._context.module_stack[-1]
        state_of(self).arguments = (args, kwargs)
        with keras_state.without_parent():
            original(self, *args, **kwargs)
        if "_id" not in self.__dict__:
            raise RuntimeError(
                f"The constructor of {type(self).__name__} must call that of its base class, got none; "
                "write super().__init__(**kwargs) first."
            )
        frame = keras_state.current_frame()
        if outer is not None and outer.scope is not None and not (frame is not None and outer is frame.layer):
            object.__setattr__(self, "parent", outer)
            self.__post_init__()

    __init__.is_users = True  # type: ignore[attr-defined]
    return __init__


def _wrapped_transformation(method: Callable[..., T]) -> Callable[..., T]:
    """Returns a method that flax transformed, such as `__call__` of nn.remat(Block), which notes the instance."""

    @functools.wraps(method)
    def wrapped(self: KerasStyle, *args: object, **kwargs: object) -> T:
        keras_state.frames.transformed.append(self)
        try:
            return method(self, *args, **kwargs)
        finally:
            keras_state.frames.transformed.pop()

    return wrapped


def _wrapped_build(original: Callable[..., None]) -> Callable[..., None]:
    """Returns a `build` after which the layer is built."""

    @functools.wraps(original)
    def build(self: KerasStyle, *args: object, **kwargs: object) -> None:
        state = state_of(self)
        if state.shapes is None:
            state.shapes = keras_calls.shapes_of_build(self, original, args, kwargs)
        with keras_state.without_parent():
            original(self, *args, **kwargs)
        if self.scope is not None:
            keras_state.bind_sublayers(self)
        object.__setattr__(self, "built", True)

    return build
