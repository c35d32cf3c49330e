"""The calls of layers written as Keras classes: arguments, building, masks, clones and configurations."""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.linen import module as linen_module

from flaxmodels.layers import checks, keras_state, symbolic
from flaxmodels.layers.keras_state import STATE, Frame, state_of
from flaxmodels.variables import Variable

# ---------------------------------------------------------------- a call


def _run(self: Any, inputs: Any = None, *args: Any, mask: Any = None, train: Any = None, **kwargs: Any) -> Any:
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
    if not self.built:
        _build(self, arguments)
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
    with keras_state.calling(frame):
        outputs = self.call(*positional, **kwargs)
        outputs = jax.tree.map(_as_array, outputs, is_leaf=lambda leaf: isinstance(leaf, Variable))
        if self.activity_regularizer is not None and base_outputs(keras_state.class_of(self)) is None:
            self._add_activity_loss(outputs)
        if self.supports_masking and frame.mask_of(outputs) is None:
            frame.set_masks(outputs, self.compute_mask(first, mask))
    if symbolic.BUILDS.get() is not None:
        symbolic.note_build(self, None)
    return outputs, frame.mask_of(outputs)


outputs_and_mask = linen_module.wrap_method_once(nn.compact(_run))


def _as_array(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Variable) else leaf


def _converted(layer: Any, tree: Any) -> Any:
    """Returns the arguments with arrays as JAX arrays, floating-point ones in the dtype of the computation."""
    dtype = layer.compute_dtype

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, Variable):
            leaf = leaf.value
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        is_cast = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != dtype
        if isinstance(leaf, jax.Array) and not is_cast:
            return leaf  # The same object, because masks belong to objects.
        return jnp.asarray(leaf, dtype if is_cast else None)

    return jax.tree.map(convert, tree, is_leaf=lambda leaf: leaf is None or isinstance(leaf, Variable))


@functools.cache
def call_signature(cls: Any) -> inspect.Signature:
    """Returns the signature of a class's `call`."""
    return inspect.signature(cls.call)


def _shape_of(array: Any) -> Any:
    """Returns the shape of an array with None for the batch."""
    shape = tuple(np.shape(array))
    return (None, *shape[1:]) if shape else shape


def input_shapes(arguments: dict[str, Any], shape_of: Callable[[Any], Any] = _shape_of) -> dict[str, Any]:
    """Returns the shapes of the arrays among the arguments of a call, by name."""
    shapes = {}
    for name, value in arguments.items():
        leaves = jax.tree.leaves(value)
        if name != "mask" and leaves and all(hasattr(leaf, "shape") for leaf in leaves):
            shapes[name] = jax.tree.map(shape_of, value)
    return shapes


def _build(layer: Any, arguments: dict[str, Any]) -> None:
    """Builds a bound layer for the arguments of a call."""
    shapes = input_shapes(arguments)
    if symbolic.BUILDS.get() is not None:
        symbolic.note_build(layer, input_shapes(arguments, lambda array: tuple(np.shape(array))))
    build_for(layer, shapes)


def build_for(layer: Any, shapes: dict[str, Any]) -> None:
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
    given: dict[str, Any] = {}
    for name in names:
        argument = name.removesuffix("_shape")
        if argument == name or argument not in call_signature(keras_state.class_of(layer)).parameters:
            raise ValueError(
                f"Each parameter of the `build` of {layer.label} must be named after a parameter of `call`, such as "
                f"`{next(iter(shapes), 'inputs')}_shape`, got `{name}`; rename it."
            )
        given |= {name: shapes[argument]} if argument in shapes else {}
    layer.build(**given)


def is_library_build(function: Any) -> bool:
    """Returns whether a `build` is that of the base class."""
    return not hasattr(function, "__wrapped__")


# ---------------------------------------------------------------- the base class


@functools.cache
def base_outputs(cls: Any) -> Any:
    """Returns the `outputs_and_mask` of the library's class that a Keras class extends; None if it has `compute`."""
    for base in cls.__mro__:
        method = vars(base).get("outputs_and_mask")
        if method is not None and method is not outputs_and_mask:
            return None if base.__name__ == "Layer" else method
    return None


def call_base(layer: Any, inputs: Any, args: Any, training: Any, mask: Any, kwargs: dict[str, Any]) -> Any:
    """Computes the outputs of the library's class that a Keras class extends."""
    if not layer.BINDS_ATTRIBUTES:
        flags = {} if training is None else {"train": training}
        return layer(inputs, *args, **flags, **({} if mask is None else {"mask": mask}), **kwargs)
    frame = keras_state.current_frame()
    if frame is None or frame.layer is not layer:
        raise ValueError(f"`call` of {layer.label} can only be called while it computes; call the layer itself.")
    method = base_outputs(keras_state.class_of(layer))
    if method is None:
        if not hasattr(type(layer), "compute"):
            raise TypeError(f"{layer.label} must define how it computes its outputs; write `call(self, inputs)`.")
        names = inspect.signature(type(layer).compute).parameters
        options = {"mask": mask, "train": bool(training), "training": training}
        options = {name: value for name, value in options.items() if name in names}
        return layer.compute(inputs, *args, **options, **kwargs)
    train = frame.train if training is None else training
    mask = frame.mask_of(inputs) if mask is None else mask
    outputs, out_mask = method(layer, inputs, *args, mask=mask, train=bool(train), **kwargs)
    if out_mask is not None:
        frame.set_masks(outputs, out_mask)
    return outputs


def children(self: Any) -> list[tuple[str, Any]]:
    """Returns the scope names and the layers inside this one, in the order of Keras' `get_weights()`."""
    own = base_children(self)
    known = {id(child) for _, child in own}
    return own + [(name, module) for name, module in keras_state.sublayers(self) if id(module) not in known]


def base_children(layer: Any) -> list[tuple[str, Any]]:
    """Returns the layers inside of the library's class that a Keras class extends."""
    for base in type(layer).__mro__:
        method = vars(base).get("children")
        if method is not None and method is not children:
            return list(method(layer))
    return []


def own_weights(layer: Any) -> list[tuple[str, str]]:
    """Returns the collection and the name of each weight of a layer itself, in Keras' order.

    The weights of the library's class are listed in both collections, because only the variables show which exist.
    """
    state = state_of(layer)
    mine = [(variable.collection, variable.name) for variable in state.variables]
    split = state.own_build or 0
    base = [(collection, name) for name in layer.WEIGHTS for collection in ("params", "batch_stats")]
    ordered = [*mine[:split], *base, *mine[split:]]
    return sorted(ordered, key=lambda weight: weight[0] != "params")


def own_variable(layer: Any, name: str) -> Any:
    """Returns a weight of the library's class as a variable; None if the layer has no such weight.

    Raises:
        AttributeError: If the weights do not exist yet.
    """
    if layer.scope is not None:
        if _has(layer, name) is None and layer.is_initializing() and layer.built:
            type(layer).compute(layer, *_zeros(state_of(layer).shapes))
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
                method=lambda bound: type(bound).compute(bound, *_zeros(state_of(layer).shapes)),
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


def _has(layer: Any, name: str) -> str | None:
    """Returns the collection in which a bound layer has a weight, or None."""
    return next((c for c in ("params", "batch_stats") if layer.scope.has_variable(c, name)), None)


def _no_initializer(*args: Any) -> Any:
    raise TypeError("The base class initializes this weight.")


def _zeros(shapes: Any) -> list[Any]:
    """Returns arrays of zeros of the shapes for which a layer was built."""
    sizes = [tuple(1 if size is None else size for size in shape) for shape in _leaf_shapes(shapes)]
    return [jnp.zeros(size) for size in sizes]


def is_shape(value: Any) -> bool:
    """Returns whether a value is a shape: a list or tuple of integers and None."""
    return isinstance(value, list | tuple) and all(n is None or checks.is_integer(n) for n in value)


def _leaf_shapes(shapes: Any) -> list[Any]:
    return jax.tree.leaves(shapes, is_leaf=is_shape)


# ---------------------------------------------------------------- variables


def taken_names(layer: Any) -> set[str]:
    """Returns the names of the variables and sublayers of a layer."""
    variables = {variable.name for variable in state_of(layer).variables}
    return variables | set(layer.WEIGHTS) | {name for name, _ in keras_state.sublayers(layer)}


def add_variable(layer: Any, variable: Variable) -> Variable:
    """Adds a variable to a layer; a bound layer gets its value too."""
    state = state_of(layer)
    state.variables.append(variable)
    if layer.scope is None:
        return variable
    bound = keras_state.bind_variable(layer, variable)
    state.variables[-1] = bound
    return bound


# ---------------------------------------------------------------- building on symbols


def symbols_of(args: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns symbols for shapes; a name that ends in `_shape` becomes that of the argument."""

    def symbol(shape: Any) -> symbolic.Symbol:
        return symbolic.Input(batch_shape=tuple(shape))

    positional = tuple(jax.tree.map(symbol, shapes, is_leaf=is_shape) for shapes in args)
    named = {
        name.removesuffix("_shape"): jax.tree.map(symbol, shapes, is_leaf=is_shape) for name, shapes in kwargs.items()
    }
    if "input" in named:
        positional, named = (named.pop("input"), *positional), named
    return positional, named


def build_by_call(layer: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Builds a layer by calling it on symbols of shapes."""
    positional, named = symbols_of(args, kwargs)
    layer(*positional, **named)


def build_like(layer: Any, *arrays: Any) -> None:
    """Builds a layer for inputs like these arrays, so that its variables and sublayers are known.

    Args:
        layer: A layer; one that is not written as a Keras class needs nothing.
        *arrays: Arrays, or trees of arrays, with the batch; shapes and dtypes suffice.
    """
    needs = [module for module in _with_inner(layer) if module.BINDS_ATTRIBUTES and not module.built]
    if needs:
        make = lambda a: symbolic.Symbol(_shape_of(a), jnp.result_type(a))  # noqa: E731
        symbolic.record(layer, tuple(jax.tree.map(make, array) for array in arrays), {})


def _with_inner(layer: Any) -> list[Any]:
    inner = layer.children() if hasattr(layer, "children") and hasattr(layer, "BINDS_ATTRIBUTES") else []
    own = [layer] if hasattr(layer, "BINDS_ATTRIBUTES") else []
    return own + [module for _, child in inner for module in _with_inner(child)]


def build_on_symbols(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Builds a layer that has a `build` for the symbols on which it is called."""
    if is_library_build(type(layer).build):
        return  # It is built when the first call has created its sublayers.
    named = {name: value for name, value in kwargs.items() if name not in ("train", "mask")}
    given = call_signature(keras_state.class_of(layer)).bind_partial(layer, *args, **named).arguments
    build_for(layer, input_shapes(dict(list(given.items())[1:]), lambda symbol: symbol.shape))


def build_noted(noted: list[tuple[Any, dict[str, Any] | None]]) -> bool:
    """Builds the instances whose clones were built or called during an inference.

    Args:
        noted: Bound layers in order, with the shapes of their inputs before they were built, or None after a call.

    Returns:
        Whether an instance that was built has sublayers that are not built yet.
    """
    targets = {id(keras_state.origin_of(bound)): keras_state.origin_of(bound) for bound, _ in noted}
    more = False
    for key, layer in targets.items():
        mine = [(bound, shapes) for bound, shapes in noted if id(keras_state.origin_of(bound)) == key]
        shapes = [given for _, given in mine if given is not None]
        if not layer.built and shapes:
            build_for(layer, _merged(shapes))
            more |= any(not inner.built for inner in _with_inner(layer)[1:] if inner.BINDS_ATTRIBUTES)
        for bound, given in mine:
            if given is None:
                take_lazy_attributes(layer, bound)
    return more


def _merged(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns shapes with None for the batch and for sizes that differ between inferences."""

    def merge(*given: Any) -> Any:
        sizes = [n if all(n == m for m in rest) else None for n, *rest in zip(*given, strict=False)]
        return (None, *sizes[1:]) if sizes else ()

    return jax.tree.map(merge, *shapes, is_leaf=is_shape)


def take_lazy_attributes(layer: Any, bound: Any) -> bool:
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
    layer: Any, trainable: Any, others: Any, args: tuple[Any, ...], kwargs: dict[str, Any], return_losses: bool
) -> Any:
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


# ---------------------------------------------------------------- clones


def clone(layer: Any, parent: Any, deep: Any, reset_names: bool, updates: dict[str, Any]) -> Any:
    """Returns a copy of a layer with another parent or other arguments, as flax's `clone` does."""
    new: Any = object.__new__(type(layer))
    fields = [
        name
        for name, is_argument in keras_state.field_names(keras_state.class_of(layer)).items()
        if is_argument and name != "parent"
    ]
    values = {name: getattr(layer, name) for name in fields}
    if deep is not False:
        cache = {} if isinstance(deep, bool) else deep

        def clone_inner(module: Any) -> Any:
            if not hasattr(module, "_id"):
                return module
            if module._id not in cache:
                names = {"name": None} if reset_names else {}
                cache[module._id] = module.clone(_deep_clone=cache, _reset_names=reset_names, **names)
            return cache[module._id]

        with keras_state.binding() if parent is not None else contextlib.nullcontext():
            values = {name: linen_module._map_submodules(clone_inner, value) for name, value in values.items()}
    values |= updates
    _copy_attributes(new, layer, values)
    origin = keras_state.origin_of(layer)
    # Clones that flax makes stand for their original; another copy is a layer of its own.
    if parent is not None or keras_state.is_binding() or updates == {"name": None}:
        new.__dict__["_origin"] = origin
    object.__setattr__(new, "parent", parent)
    root = getattr(getattr(parent, "scope", parent), "root", None)
    if root is not None:
        keras_state.clones_of(root)[origin._id] = new
    new.__post_init__()
    return new


def copy_into(new: Any, layer: Any, fields: dict[str, Any]) -> None:
    """Makes a new instance, whose constructor was not called, stand for a layer; its fields get the given values."""
    _copy_attributes(new, layer, fields)
    new.__dict__["_origin"] = keras_state.origin_of(layer)
    object.__setattr__(new, "parent", fields["parent"])
    new.__post_init__()


def _copy_attributes(new: Any, layer: Any, fields: dict[str, Any]) -> None:
    """Gives a new instance the attributes of a layer that is perhaps bound, and the given values of its fields."""
    attributes = keras_state.attributes(layer)
    state = state_of(layer).copy()
    if layer.scope is not None:
        attributes = {name: keras_state.unbound(value) for name, value in attributes.items()}
        state.variables = [variable.descriptor for variable in state.variables]
    copies = {name: keras_state.copied(value, state) for name, value in attributes.items()}
    new.__dict__.update(copies | {name: value for name, value in fields.items() if name != "parent"})
    new.__dict__[STATE] = state
    if "built" in layer.__dict__:
        new.__dict__["built"] = layer.__dict__["built"]


# ---------------------------------------------------------------- configurations and checks


def config_of(layer: Any, is_default: bool) -> dict[str, Any]:
    """Returns the configuration of a layer; see `KerasStyle.get_config`."""
    from_users = getattr(type(layer).__init__, "is_users", False)
    common = {"name": layer.name, "trainable": layer.trainable, "dtype": _dtype_name(layer.dtype)}
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
    config: dict[str, Any] = {}
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


def _dtype_name(dtype: Any) -> Any:
    return dtype if dtype is None or isinstance(dtype, str) else jnp.dtype(dtype).name


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, str | int | float | bool)


def check_input_spec(layer: Any, inputs: Any) -> None:
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


def _mismatch(spec: Any, shape: tuple[int, ...]) -> str:
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
