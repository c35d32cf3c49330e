"""Argument and call checks shared by all layers; each raises one sentence before anything is computed."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from flaxmodels import activations, constraints, initializers, regularizers

if TYPE_CHECKING:
    from flaxmodels.layers.base import Layer
    from flaxmodels.layers.keras_style import KerasStyle

Array = np.ndarray | np.generic | jax.Array


def is_integer(value: object) -> TypeGuard[int | np.integer]:
    """Returns whether the value is an integer of Python or NumPy, not a boolean."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Returns whether the value is one real number, which may be a scalar array or a tracer."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 0 and bool(jnp.issubdtype(value.dtype, jnp.floating) or is_integer_dtype(value.dtype))
    return is_integer(value) or isinstance(value, float | np.floating)


def is_integer_dtype(dtype: DTypeLike) -> bool:
    """Returns whether the dtype is an integer dtype."""
    return bool(jnp.issubdtype(dtype, jnp.integer))


def is_boolean(value: object) -> bool:
    """Returns whether the value is True, False, 1 or 0."""
    return isinstance(value, bool | np.bool_ | int | np.integer) and value in (0, 1)


def is_array(value: object) -> TypeGuard[Array]:
    """Returns whether the value is an array of numbers or booleans."""
    if not isinstance(value, Array):
        return False
    return bool(jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool)


def check_not_negative(layer: "Layer", *names: str, fix: str = "0 or more") -> None:
    """Raises unless the named arguments are numbers of at least 0; called at construction."""
    for name in names:
        value = getattr(layer, name)
        if not is_number(value) or (not isinstance(value, jax.core.Tracer) and np.asarray(value) < 0):
            raise ValueError(f"`{name}` of {layer.label} must be a number of at least 0, got {value!r}; give {fix}.")


# Maps the annotation of a field to the check of its value and a description for errors; others are not checked.
KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (is_boolean, "True or False"),
    int: (is_integer, "an integer"),
    float: (is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    type(None): (lambda value: value is None, "None"),
}
# Maps the last word of a field's name to the function that looks up the field's value.
GETTERS: dict[str, Callable[[Any], Any]] = {
    "activation": activations.get,
    "initializer": initializers.get,
    "regularizer": regularizers.get,
    "constraint": constraints.get,
}


@functools.cache
def _kinds(cls: "type[Layer]") -> dict[str, tuple[object, ...]]:
    """Returns the fields of a layer whose annotation consists of `KINDS`, and these kinds."""
    annotated = {
        field.name: typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
        for field in dataclasses.fields(cls)
    }
    return {name: kinds for name, kinds in annotated.items() if all(kind in KINDS for kind in kinds)}


def check_fields(layer: "Layer") -> None:
    """Raises unless each argument of a layer has the annotated type, and initializers and similar ones are valid."""
    cls: Any = type(layer)
    for name, kinds in _kinds(cls).items():
        value = getattr(layer, name)
        if value is not getattr(cls, name, ...) and not any(KINDS[kind][0](value) for kind in kinds):
            wanted = " or ".join(KINDS[kind][1] for kind in kinds)
            raise ValueError(f"`{name}` of {layer.label} must be {wanted}, got {describe(value)}; give {wanted}.")
    for field in dataclasses.fields(layer):
        getter = GETTERS.get(field.name.rpartition("_")[2])
        if getter is None:
            continue
        try:
            getter(getattr(layer, field.name))
        except (TypeError, ValueError) as error:
            raise type(error)(f"`{field.name}` of {layer.label} cannot be used: {error}") from error


def check_dtype(layer: "Layer", name: str) -> None:
    """Raises unless the named argument is a dtype, a policy such as "mixed_bfloat16", or None."""
    value = getattr(layer, name)
    name_of = value.removeprefix("mixed_") if isinstance(value, str) else value
    try:
        known = value is None or jnp.dtype(name_of).kind != "O"
    except TypeError:
        known = False
    if not known:
        raise ValueError(
            f'`{name}` of {layer.label} must be a dtype such as "float32" or "bfloat16", got {value!r}; '
            "give one of these."
        )


def describe(value: object) -> str:
    """Returns a short description of an invalid value for an error message."""
    if isinstance(value, jax.core.Tracer):
        return "a traced value"
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{value!r} of type {type(value).__name__}"


@functools.cache
def _call_signature(cls: "type[Layer]") -> tuple[str, object, bool]:
    """Returns the name and the annotation of a layer's first parameter, and whether the layer computes with a mask."""
    method = cls.call if getattr(cls, "BINDS_ATTRIBUTES", False) else getattr(cls, "compute", cls.outputs_and_mask)
    parameters = inspect.signature(method).parameters
    first = list(parameters.values())[1]
    return first.name, first.annotation, "mask" in parameters


def computes_with_mask(layer: "Layer") -> bool:
    """Returns whether a layer's outputs depend on the mask; otherwise the mask is only passed to the next layer."""
    cls: Any = type(layer)
    return _call_signature(cls)[2]


def check_call(layer: "Layer", inputs: object, mask: object, train: object) -> None:
    """Raises unless inputs, mask and training flag of a call are valid for every layer.

    The annotation in the layer's `compute` determines whether `inputs` is one array or a list of arrays.
    """
    cls: Any = type(layer)
    name, annotation, masked = _call_signature(cls)
    if annotation is jax.Array:
        check_array(layer, name, inputs)
    elif annotation == Sequence[jax.Array] and isinstance(inputs, list | tuple):
        for i, x in enumerate(inputs):
            check_array(layer, f"{name}[{i}]", x)
    for leaf in jax.tree.leaves(mask):
        if not is_array(leaf) or not leaf.shape:
            raise ValueError(
                f"The mask of {layer.label} must be a boolean array, got {describe(leaf)}; "
                "give one such as jnp.any(x != 0, axis=-1), or None."
            )
    passes_on = layer.SUPPORTS_MASKING and not masked and getattr(layer, "data_format", None) != "channels_first"
    if passes_on and is_array(mask) and is_array(inputs):
        check_mask(layer, mask, inputs.shape)
    check_train(layer, train)


def check_train(layer: "KerasStyle", train: object) -> None:
    """Raises unless a training flag is True or False."""
    if isinstance(train, jax.core.Tracer) or not is_boolean(train):
        raise ValueError(
            f"`train` of {layer.label} must be True or False, got {describe(train)}; "
            'under jax.jit, fix it with functools.partial or static_argnames="train".'
        )


def check_array(layer: "Layer", name: str, value: object) -> None:
    """Raises unless an argument of a call is an array of numbers or booleans."""
    if not is_array(value):
        raise ValueError(
            f"`{name}` of {layer.label} must be an array of numbers, got {describe(value)}; "
            "give a NumPy or a JAX array."
        )


def check_mask(layer: "Layer", mask: Array, shape: tuple[int, ...], name: str = "mask") -> None:
    """Raises unless a mask has the leading sizes of an array of the given shape, or 1 in their place."""
    fits = mask.ndim <= len(shape) and all(m in (1, n) for m, n in zip(mask.shape, shape, strict=False))
    if not fits:
        raise ValueError(
            f"The {name} of {layer.label} must have the leading sizes of the masked array of shape {tuple(shape)}, "
            f"got shape {tuple(mask.shape)}; give one boolean for each position."
        )


def checked_axes(layer: "Layer", axis: int | Sequence[int], x: jax.Array) -> tuple[int, ...]:
    """Returns the sorted axes of an argument, converted to non-negative numbers; raises if x lacks one of them."""
    given = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
    within = bool(given) and all(is_integer(a) and -x.ndim <= a < x.ndim for a in given)
    axes = tuple(a % x.ndim for a in sorted(given)) if within else ()
    if not within or len(set(axes)) < len(axes):
        raise ValueError(
            f"`axis` of {layer.label} must name different axes of its inputs, got {axis} for inputs of shape "
            f"{x.shape}; give axes from {-x.ndim} to {x.ndim - 1}."
        )
    return axes
