"""The calls of layers written as Keras classes: arguments, building, masks and configurations."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen import module as linen_module
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.layers import checks, keras_clones, keras_state, symbolic
from flaxmodels.layers.builds import BUILDS, Builds, Shape, Shapes, is_shape
from flaxmodels.layers.keras_state import Frame, scope_of, state_of
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.trees import ArrayTree, MaskTree, Tree
from flaxmodels.variables import Variable

if TYPE_CHECKING:
    from flaxmodels.layers.base import Layer
    from flaxmodels.layers.keras_style import KerasStyle

T = TypeVar("T")

# ---------------------------------------------------------------- a call


def _run(
    self: "KerasStyle",
    inputs: object = None,
    *args: object,
    mask: MaskTree = None,
    train: bool | None = None,
    **kwargs: object,
) -> tuple[ArrayTree, MaskTree]:
    """Computes the outputs and their mask by `call`, after `build`."""
    if train is not None:
        checks.check_train(self, train)
    positional = () if inputs is None and not args else (inputs, *args)
    positional, kwargs = _converted(self, positional), _converted(self, kwargs)
    signature = call_signature(keras_state.class_of(self))
    try:
        given = signature.bind(self, *positional, **kwargs)
    except TypeError as error:
        raise TypeError(f"{self.label} cannot be called with these arguments: {error}.") from error
    arguments = dict(list(given.arguments.items())[1:])
    arguments |= arguments.pop("kwargs", {}) if "kwargs" in signature.parameters else {}
    first = next(iter(arguments.values()), None)
    is_traced_to_build = (
        BUILDS.get() is not None
        and not self.built
        and is_library_build(type(self).build)
        and _has_sublayers_to_build(self)
    )
    building = _build(self, arguments)
    check_input_spec(self, first)
    for flag in ("training", "train"):
        parameter = signature.parameters.get(flag)
        if parameter is not None and train is None and parameter.default is not parameter.empty:
            train = parameter.default
        if parameter is not None and train is not None:
            kwargs[flag] = train
    if mask is not None and "mask" in signature.parameters:
        kwargs["mask"] = mask
    frame = Frame(self, train)
    if mask is not None:
        frame.set_masks(first, mask)
    for name, value in arguments.items():
        if kwargs.get(f"{name}_mask") is not None:
            frame.set_masks(value, kwargs[f"{name}_mask"])
    if is_traced_to_build:  # Keras calls the layer once more to build it; the call may make layers.
        with keras_state.calling(Frame(self, train)):
            symbols = jax.tree.leaves(self.call(*positional, **kwargs))
        if symbolic.name_of_output is not None:
            for _ in symbols:
                symbolic.name_of_output()
    with keras_state.calling(frame):
        outputs = self.call(*positional, **kwargs)
        outputs = jax.tree.map(_as_array, outputs, is_leaf=lambda leaf: isinstance(leaf, Variable))
        if self.activity_regularizer is not None and base_outputs(keras_state.class_of(self)) is None:
            self._add_activity_loss(outputs)
        if self.supports_masking and frame.mask_of(outputs) is None:
            frame.set_masks(outputs, self.compute_mask(first, mask))
    if building is not None:
        take_lazy_attributes(building, self)
    return outputs, frame.mask_of(outputs)


outputs_and_mask = linen_module.wrap_method_once(nn.compact(_run))


def _as_array(leaf: T | Variable) -> T | jax.Array:
    return leaf.value if isinstance(leaf, Variable) else leaf


def _converted(layer: "KerasStyle", tree: T) -> T:
    """Returns the arguments with arrays as JAX arrays, floating-point ones in the dtype of the computation."""
    dtype = layer.compute_dtype

    def convert(leaf: object) -> object:
        if isinstance(leaf, Variable):
            leaf = leaf.value
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        is_cast = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != dtype
        if isinstance(leaf, jax.Array) and not is_cast:
            return leaf  # The same object, because masks belong to objects.
        return jnp.asarray(leaf, dtype if is_cast else None)

    converted: T = jax.tree.map(convert, tree, is_leaf=lambda leaf: leaf is None or isinstance(leaf, Variable))
    return converted


def takes_training(layer: "KerasStyle") -> bool:
    """Returns whether `call` of a layer has an argument for the training mode."""
    names = call_signature(keras_state.class_of(layer)).parameters
    return "training" in names or "train" in names


@functools.cache
def call_signature(cls: type["KerasStyle"]) -> inspect.Signature:
    """Returns the signature of a class's `call`."""
    return inspect.signature(cls.call)


def _shape_of(array: ArrayLike) -> Shape:
    """Returns the shape of an array with None for the batch."""
    shape = tuple(np.shape(array))
    return (None, *shape[1:]) if shape else shape


def input_shapes(arguments: Mapping[str, object], shape_of: Callable[[Any], Shape] = _shape_of) -> Shapes:
    """Returns the shapes of the arrays among the arguments of a call, by name."""
    shapes: Shapes = {}
    for name, value in arguments.items():
        leaves = jax.tree.leaves(value)
        if name != "mask" and leaves and all(hasattr(leaf, "shape") for leaf in leaves):
            shapes[name] = jax.tree.map(shape_of, value)
    return shapes


def _build(layer: "KerasStyle", arguments: Mapping[str, object]) -> "KerasStyle | None":
    """Builds a bound layer for the arguments of a call.

    Returns:
        While a call on symbols builds layers, the layer that the bound one is a clone of, otherwise None.
    """
    noted = BUILDS.get()
    if noted is None:
        if not layer.built:
            build_for(layer, input_shapes(arguments))
        return None
    shapes = noted.note_call(input_shapes(arguments, lambda array: tuple(np.shape(array))))
    original: KerasStyle = keras_state.origin_of(layer)
    if noted.is_rehearsal or original.scope is not None:
        if not layer.built:
            build_for(layer, input_shapes(arguments))
        return None
    if not original.built:
        with keras_state.outside_calls():
            build_for(original, shapes)
    if not layer.built:
        keras_clones.copy_attributes(layer, original, {})
        keras_state.bind_attributes(layer)
    return original


def build_in_call(layer: "KerasStyle", noted: Builds, inputs: object) -> None:
    """Builds a bound layer that is not written as a Keras class, while a call on symbols builds layers."""
    shapes = noted.note_call(input_shapes({"inputs": inputs}, lambda array: tuple(np.shape(array))))
    original = keras_state.origin_of(layer)
    if not noted.is_rehearsal and original.scope is None:
        with keras_state.outside_calls():
            original.build_in_call(shapes)


def _has_sublayers_to_build(layer: "KerasStyle") -> bool:
    """Returns whether a layer holds layers that have weights and are not built yet."""
    inner = [keras_state.origin_of(module) for _, module in keras_state.sublayers(layer)]
    return any(
        _is_layer(module) and not module.built and (module.BINDS_ATTRIBUTES or module.WEIGHTS or module.children())
        for module in inner
    )


def build_for(layer: "KerasStyle", shapes: Shapes) -> None:
    """Calls the `build` of a layer with the shapes of the arguments of its `call`.

    Args:
        layer: The layer, bound or not.
        shapes: Shapes by the names of the arguments.

    Raises:
        ValueError: If `build` has several parameters and one of them is not named after an argument of `call`.
    """
    state = state_of(layer)
    own = type(layer).build
    if is_library_build(own):
        state.shapes, state.own_build = shapes, 0
        object.__setattr__(layer, "built", True)
        return
    names = [
        name
        for name, parameter in list(inspect.signature(own).parameters.items())[1:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    state.shapes = shapes
    if len(names) == 1:
        layer.build(next(iter(shapes.values()), None))
        return
    given: Shapes = {}
    for name in names:
        argument = name.removesuffix("_shape")
        if argument == name or argument not in call_signature(keras_state.class_of(layer)).parameters:
            raise ValueError(
                f"Each parameter of the `build` of {layer.label} must be named after a parameter of `call`, such as "
                f"`{next(iter(shapes), 'inputs')}_shape`, got `{name}`; rename it."
            )
        given |= {name: shapes[argument]} if argument in shapes else {}
    layer.build(**given)


def shapes_of_build(
    layer: "KerasStyle", build: Callable[..., None], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Shapes:
    """Returns the shapes that `build` is called with; the name of a single one is that of the first input of `call`."""
    given = list(inspect.signature(build).bind(layer, *args, **kwargs).arguments.items())[1:]
    names = list(call_signature(keras_state.class_of(layer)).parameters)[1:]
    if len(args) + len(kwargs) == 1 and names:
        return {names[0]: (*args, *kwargs.values())[0]}
    return dict(given)


def is_library_build(function: Callable[..., object]) -> bool:
    """Returns whether a `build` is that of the base class."""
    return not hasattr(function, "__wrapped__")


# ---------------------------------------------------------------- the base class


@functools.cache
def base_outputs(cls: type["KerasStyle"]) -> Callable[..., tuple[ArrayTree, MaskTree]] | None:
    """Returns the `outputs_and_mask` of the library's class that a Keras class extends; None if it has `compute`."""
    for base in cls.__mro__:
        method = vars(base).get("outputs_and_mask")
        if method is not None and method is not outputs_and_mask:
            return None if base.__name__ == "Layer" else method
    return None


def call_base(
    layer: "KerasStyle",
    inputs: object,
    args: tuple[object, ...],
    training: bool | None,
    mask: MaskTree,
    kwargs: dict[str, object],
) -> object:
    """Computes the outputs of the library's class that a Keras class extends."""
    if not layer.BINDS_ATTRIBUTES:
        flags = {} if training is None else {"train": training}
        return layer(inputs, *args, **flags, **({} if mask is None else {"mask": mask}), **kwargs)
    frame = keras_state.current_frame()
    if frame is None or frame.layer is not layer:
        raise ValueError(f"`call` of {layer.label} can only be called while it computes; call the layer itself.")
    method = base_outputs(keras_state.class_of(layer))
    if method is None:
        cls = type(layer)
        if not hasattr(cls, "compute"):
            raise TypeError(f"{layer.label} must define how it computes its outputs; write `call(self, inputs)`.")
        names = inspect.signature(cls.compute).parameters
        options = {"mask": mask, "train": bool(training), "training": training}
        options = {name: value for name, value in options.items() if name in names}
        return layer.compute(inputs, *args, **options, **kwargs)
    train = frame.train if training is None else training
    mask = frame.mask_of(inputs) if mask is None else mask
    outputs, out_mask = method(layer, inputs, *args, mask=mask, train=bool(train), **kwargs)
    if out_mask is not None:
        frame.set_masks(outputs, out_mask)
    return outputs


def children(self: "KerasStyle") -> list[tuple[str, nn.Module]]:
    """Returns the scope names and the layers inside this one, in the order of Keras' `get_weights()`."""
    own = base_children(self)
    known = {id(child) for _, child in own}
    return own + [(name, module) for name, module in keras_state.sublayers(self) if id(module) not in known]


def base_children(layer: "KerasStyle") -> list[tuple[str, nn.Module]]:
    """Returns the layers inside of the library's class that a Keras class extends."""
    for base in type(layer).__mro__:
        method = vars(base).get("children")
        if method is not None and method is not children:
            return list(method(layer))
    return []


def own_weights(layer: "KerasStyle") -> list[tuple[str, str]]:
    """Returns the collection and the name of each weight of a layer itself, in Keras' order.

    The weights of the library's class are listed in both collections, because only the variables show which exist.
    """
    state = state_of(layer)
    mine = [(variable.collection, variable.name) for variable in state.variables]
    split = state.own_build or 0
    base = [(collection, name) for name in layer.WEIGHTS for collection in ("params", "batch_stats")]
    ordered = [*mine[:split], *base, *mine[split:]]
    return sorted(ordered, key=lambda weight: weight[0] != "params")


def own_variable(layer: "KerasStyle", name: str) -> Variable | None:
    """Returns a weight of the library's class as a variable; None if the layer has no such weight.

    Raises:
        AttributeError: If the weights do not exist yet.
    """
    if layer.scope is not None:
        if _has(layer, name) is None and layer.is_initializing() and layer.built:
            _compute_for(layer, state_of(layer).shapes)
        collection = _has(layer, name)
        if collection is not None:
            value = layer.scope.get_variable(collection, name)
            variable = Variable(name, jnp.shape(value), jnp.result_type(value), _no_initializer, collection == "params")
            return variable.bind(layer.scope, layer.compute_dtype)
        if layer.built:
            return None
    elif layer.built or state_of(layer).shapes is not None:
        shapes = jax.eval_shape(
            lambda: layer.clone().init(
                {"params": jax.random.key(0), "dropout": jax.random.key(0)},
                method=lambda bound: _compute_for(bound, state_of(layer).shapes),
            )
        )
        for collection in ("params", "batch_stats"):
            leaf = shapes.get(collection, {}).get(name)
            if leaf is not None:
                return Variable(name, leaf.shape, leaf.dtype, _no_initializer, collection == "params")
        return None
    raise AttributeError(
        f"{type(layer).__name__} has no weight `{name}` before it is built; call super().build(input_shape) first.",
        name=name,
        obj=layer,
    )


def _compute_for(layer: nn.Module, shapes: Shapes | None) -> object:
    """Calls the `compute` of the library's class for the shapes for which a layer was built."""
    cls: Any = type(layer)
    return cls.compute(layer, *_zeros(shapes))


def _has(layer: nn.Module, name: str) -> str | None:
    """Returns the collection in which a bound layer has a weight, or None."""
    return next((c for c in ("params", "batch_stats") if scope_of(layer).has_variable(c, name)), None)


def _no_initializer(*args: object) -> NoReturn:
    raise TypeError("The base class initializes this weight.")


def _zeros(shapes: Shapes | None) -> list[jax.Array]:
    """Returns arrays of zeros of the shapes for which a layer was built."""
    sizes = [tuple(1 if size is None else size for size in shape) for shape in _leaf_shapes(shapes)]
    return [jnp.zeros(size) for size in sizes]


def _leaf_shapes(shapes: object) -> list[Shape]:
    return jax.tree.leaves(shapes, is_leaf=is_shape)


# ---------------------------------------------------------------- variables


def taken_names(layer: "KerasStyle") -> set[str]:
    """Returns the names of the variables and sublayers of a layer."""
    variables = {variable.name for variable in state_of(layer).variables}
    return variables | set(layer.WEIGHTS) | {name for name, _ in keras_state.sublayers(layer)}


def add_variable(layer: "KerasStyle", variable: Variable) -> Variable:
    """Adds a variable to a layer; a bound layer gets its value too."""
    state = state_of(layer)
    state.variables.append(variable)
    if layer.scope is None:
        return variable
    bound = keras_state.bind_variable(layer, variable)
    state.variables[-1] = bound
    return bound


# ---------------------------------------------------------------- building on symbols


def symbols_of(
    args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[tuple[Tree[Symbol], ...], dict[str, Tree[Symbol]]]:
    """Returns symbols for shapes; a name that ends in `_shape` becomes that of the argument."""

    def symbol(shape: Shape) -> Symbol:
        return symbolic.Input(batch_shape=tuple(shape))

    positional = tuple(jax.tree.map(symbol, shapes, is_leaf=is_shape) for shapes in args)
    named = {
        name.removesuffix("_shape"): jax.tree.map(symbol, shapes, is_leaf=is_shape) for name, shapes in kwargs.items()
    }
    if "input" in named:
        positional, named = (named.pop("input"), *positional), named
    return positional, named


def build_by_call(layer: "KerasStyle", args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Builds a layer by calling it on symbols of shapes."""
    positional, named = symbols_of(args, kwargs)
    layer(*positional, **named)


def build_like(layer: nn.Module, *arrays: object) -> None:
    """Builds a layer for inputs like these arrays, so that its variables and sublayers are known.

    Args:
        layer: A layer; one that is not written as a Keras class needs nothing.
        *arrays: Arrays, or trees of arrays, with the batch; shapes and dtypes suffice.
    """
    needs = [module for module in _with_inner(layer) if module.BINDS_ATTRIBUTES and not module.built]
    if needs and _is_layer(layer):
        make = lambda a: Symbol(_shape_of(a), jnp.result_type(a))  # noqa: E731
        symbolic.record(layer, tuple(jax.tree.map(make, array) for array in arrays), {})


def _with_inner(module: nn.Module) -> list["Layer"]:
    """Returns a module and all layers inside it; nothing for a module that is not a layer of this library."""
    if not _is_layer(module):
        return []
    return [module, *(layer for _, child in module.children() for layer in _with_inner(child))]


def _is_layer(module: nn.Module) -> "TypeGuard[Layer]":
    return hasattr(module, "BINDS_ATTRIBUTES")


def build_on_symbols(layer: "KerasStyle", args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Builds a layer that has a `build` for the symbols on which it is called."""
    if is_library_build(type(layer).build):
        return  # It is built when the first call has created its sublayers.
    named = {name: value for name, value in kwargs.items() if name not in ("train", "mask")}
    given = call_signature(keras_state.class_of(layer)).bind_partial(layer, *args, **named).arguments
    build_for(layer, input_shapes(dict(list(given.items())[1:]), lambda symbol: symbol.shape))


def has_unbuilt_layers(layer: nn.Module) -> bool:
    """Returns whether a layer, or one inside it, is written as a Keras class and is not built yet."""
    return any(inner.BINDS_ATTRIBUTES and not inner.built for inner in _with_inner(layer))


def take_lazy_attributes(layer: "KerasStyle", bound: "KerasStyle") -> bool:
    """Takes over the sublayers and variables that the first call of a layer created; returns whether there are any."""
    found = False
    for name, value in keras_state.attributes(bound).items():
        value = keras_state.unbound(value)
        if keras_state.leaves_in(value) and not keras_state.leaves_in(layer.__dict__.get(name)):
            setattr(layer, name, keras_state.copied(value, state_of(layer)))
            found = True
    mine, theirs = state_of(layer), state_of(bound)
    known = {id(variable) for variable in mine.variables}
    for variable in theirs.variables[len(known) :]:
        mine.variables.append(variable.descriptor)
        found = True
    return found


def stateless_call(
    layer: "KerasStyle",
    trainable: Sequence[ArrayLike],
    others: Sequence[ArrayLike],
    args: tuple[object, ...],
    kwargs: dict[str, Any],
    return_losses: bool,
) -> tuple[object, ...]:
    """Calls a layer with the given weights; see `KerasStyle.stateless_call`."""
    if keras_state.split_weights is None:
        importlib.import_module("flaxmodels.interop.keras_weights")
    split: Any = keras_state.split_weights
    trained_paths, other_paths, shapes = split(layer, args, kwargs)
    flat = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in traverse_util.flatten_dict(dict(shapes)).items()}
    for what, paths, given in (
        ("trainable_variables", trained_paths, trainable),
        ("non_trainable_variables", other_paths, others),
    ):
        wanted = [tuple(flat[path].shape) for path in paths]
        if [tuple(jnp.shape(value)) for value in given] != wanted:
            raise ValueError(
                f"`{what}` of {layer.label} must have the shapes {wanted}, got {[jnp.shape(v) for v in given]}; "
                "give the weights in the order of Keras' get_weights()."
            )
        flat |= {path: jnp.asarray(value, flat[path].dtype) for path, value in zip(paths, given, strict=True)}
    variables = traverse_util.unflatten_dict(flat)
    outputs, updated = layer.apply(variables, *args, mutable=["batch_stats", "losses"], **kwargs)
    flat |= traverse_util.flatten_dict({"batch_stats": dict(updated.get("batch_stats", {}))})
    values = [flat[path] for path in other_paths]
    return (outputs, values, jax.tree.leaves(updated.get("losses", {}))) if return_losses else (outputs, values)


# ---------------------------------------------------------------- configurations and checks


def config_of(layer: "KerasStyle", is_default: bool) -> dict[str, object]:
    """Returns the configuration of a layer; see `KerasStyle.get_config`."""
    from_users = getattr(type(layer).__init__, "is_users", False)
    common = {"name": layer.name, "trainable": layer.trainable, "dtype": _dtype_name(layer.own_dtype)}
    if layer.activity_regularizer is not None:
        common["activity_regularizer"] = layer.activity_regularizer
    skipped = {"parent", "graph", "input_shape", "param_dtype", "activity_regularizer", *common}
    fields = [name for name, is_argument in keras_state.field_names(keras_state.class_of(layer)).items() if is_argument]
    if not from_users or not is_default:
        return {name: getattr(layer, name) for name in fields if name not in skipped} | common
    args, kwargs = state_of(layer).arguments
    signature = inspect.signature(type(layer).__init__)
    bound = signature.bind(layer, *args, **kwargs)
    bound.apply_defaults()
    config: dict[str, object] = {}
    for name, value in list(bound.arguments.items())[1:]:
        kind = signature.parameters[name].kind
        if kind == inspect.Parameter.VAR_KEYWORD:
            config |= value
        elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY) and value:
            config[name] = NotImplemented
        else:
            config[name] = value
    unknown = [name for name, value in config.items() if name not in common and not _is_plain(value)]
    if unknown:
        raise NotImplementedError(
            f"The configuration of {layer.label} cannot be derived from its argument `{unknown[0]}`, got "
            f"{checks.describe(config[unknown[0]])}; define `get_config`, and `from_config` if needed."
        )
    takes = signature.parameters
    accepts_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in takes.values())
    return config | {name: value for name, value in common.items() if accepts_all or name in takes}


def _dtype_name(dtype: DTypeLike | None) -> str | None:
    return dtype if dtype is None or isinstance(dtype, str) else jnp.dtype(dtype).name


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)


def check_input_spec(layer: "KerasStyle", inputs: object) -> None:
    """Raises unless the inputs fit the `input_spec` that the class set."""
    specs = layer.__dict__.get("input_spec")
    if specs is None:
        return
    arrays = jax.tree.leaves(inputs)
    specs = specs if isinstance(specs, list | tuple) else [specs]
    for spec, array in zip(specs, arrays, strict=False):
        wanted = _mismatch(spec, jnp.shape(array))
        if wanted:
            raise ValueError(
                f"{layer.label} takes inputs {wanted}, as its `input_spec` says, got shape {jnp.shape(array)}; "
                "reshape the inputs."
            )


def _mismatch(spec: object, shape: tuple[int, ...]) -> str:
    """Returns what an `InputSpec` requires and a shape does not have, or an empty string."""
    read: Callable[[str], Any] = lambda name: getattr(spec, name, None)  # noqa: E731
    if read("ndim") is not None and len(shape) != read("ndim"):
        return f"of {read('ndim')} axes"
    if read("min_ndim") is not None and len(shape) < read("min_ndim"):
        return f"of at least {read('min_ndim')} axes"
    if read("max_ndim") is not None and len(shape) > read("max_ndim"):
        return f"of at most {read('max_ndim')} axes"
    for axis, size in (read("axes") or {}).items():
        if size is not None and shape[axis] != size:
            return f"with the size {size} along axis {axis}"
    wanted = read("shape")
    if wanted is not None and any(n not in (None, m) for n, m in zip(wanted, shape, strict=False)):
        return f"of shape {tuple(wanted)}"
    return ""
