"""What every layer asks of its arguments and of what it is called with: one sentence, before anything is computed."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import activations, constraints, initializers, regularizers


def is_integer(value: Any) -> bool:
    """Whether the value is a whole number, Python's or NumPy's; truth values are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether the value is one real number, also one in an array or a traced one."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 0 and bool(jnp.issubdtype(value.dtype, jnp.floating) or is_integer_dtype(value.dtype))
    return is_integer(value) or isinstance(value, float | np.floating)


def is_integer_dtype(dtype: Any) -> bool:
    """Whether the dtype is one of integers."""
    return bool(jnp.issubdtype(dtype, jnp.integer))


def is_truth(value: Any) -> bool:
    """Whether the value is True or False, or 1 or 0 for them."""
    return isinstance(value, bool | np.bool_ | int | np.integer) and value in (0, 1)


def is_array(value: Any) -> bool:
    """Whether the value is an array of numbers or truth values."""
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        return False
    return bool(jnp.issubdtype(value.dtype, jnp.number) or value.dtype == bool)


def check_not_negative(layer: Any, *names: str, fix: str = "0 or more") -> None:
    """Raises unless the named arguments are numbers from 0 on; called at construction."""
    for name in names:
        value = getattr(layer, name)
        if not is_number(value) or (not isinstance(value, jax.core.Tracer) and np.asarray(value) < 0):
            raise ValueError(f"`{name}` of {layer.label} is a number from 0 on, got {value!r}; give {fix}.")


# What an annotation of a field asks for, and how an error calls it. Annotations that are not here ask for nothing.
KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (is_truth, "True or False"),
    int: (is_integer, "an integer"),
    float: (is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    type(None): (lambda value: value is None, "None"),
}
# What the last word of a field's name asks for.
GETTERS: dict[str, Callable[[Any], Any]] = {
    "activation": activations.get,
    "initializer": initializers.get,
    "regularizer": regularizers.get,
    "constraint": constraints.get,
}


@functools.cache
def _kinds(cls: Any) -> dict[str, tuple[Any, ...]]:
    """The fields of a layer that are annotated by kinds alone, and these kinds."""
    kinds = {
        field.name: typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
        for field in dataclasses.fields(cls)
    }
    return {name: given for name, given in kinds.items() if all(kind in KINDS for kind in given)}


def check_fields(layer: Any) -> None:
    """Raises unless each argument of a layer is of the kind that its annotation, or its name, asks for."""
    cls: Any = type(layer)
    for name, kinds in _kinds(cls).items():
        value = getattr(layer, name)
        if value is not getattr(cls, name, ...) and not any(KINDS[kind][0](value) for kind in kinds):
            wanted = " or ".join(KINDS[kind][1] for kind in kinds)
            raise ValueError(f"`{name}` of {layer.label} is {wanted}, got {shown(value)}; give {wanted}.")
    for field in dataclasses.fields(layer):
        getter = GETTERS.get(field.name.rpartition("_")[2])
        if getter is None:
            continue
        try:
            getter(getattr(layer, field.name))
        except (TypeError, ValueError) as error:
            raise type(error)(f"`{field.name}` of {layer.label} cannot be used: {error}") from error


def check_dtype(layer: Any, name: str) -> None:
    """Raises unless the named argument is a dtype, a policy such as "mixed_bfloat16", or None."""
    value = getattr(layer, name)
    name_of = value.removeprefix("mixed_") if isinstance(value, str) else value
    try:
        known = value is None or jnp.dtype(name_of).kind != "O"
    except TypeError:
        known = False
    if not known:
        raise ValueError(
            f'`{name}` of {layer.label} is a dtype such as "float32" or "bfloat16", got {value!r}; give one of these.'
        )


def shown(value: Any) -> str:
    """What an error says of a value that should not be there."""
    if isinstance(value, jax.core.Tracer):
        return "a value that is traced"
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{value!r} of type {type(value).__name__}"


@functools.cache
def _called_with(cls: Any) -> tuple[str, Any, bool]:
    """Of a layer's first argument the name and the annotation, and whether the layer computes with a mask."""
    parameters = inspect.signature(getattr(cls, "compute", cls.outputs_and_mask)).parameters
    found = list(parameters.values())[1]
    return found.name, found.annotation, "mask" in parameters


def computes_with_mask(layer: Any) -> bool:
    """Whether a layer's outputs depend on the mask; otherwise it is only passed on to the next layer."""
    cls: Any = type(layer)
    return _called_with(cls)[2]


def check_call(layer: Any, inputs: Any, mask: Any, train: Any) -> None:
    """Raises unless inputs, mask and training flag are what any layer takes.

    Whether `inputs` is one array or a list of them, the annotation in the layer's `compute` says.
    """
    cls: Any = type(layer)
    name, annotation, masked = _called_with(cls)
    if annotation is jax.Array:
        check_array(layer, name, inputs)
    elif annotation == Sequence[jax.Array] and isinstance(inputs, list | tuple):
        for i, x in enumerate(inputs):
            check_array(layer, f"{name}[{i}]", x)
    for leaf in jax.tree.leaves(mask):
        if not is_array(leaf) or not leaf.shape:
            raise ValueError(
                f"The mask of {layer.label} is an array of truth values, got {shown(leaf)}; "
                "give one such as jnp.any(x != 0, axis=-1), or None."
            )
    passed_on = is_array(mask) and is_array(inputs) and layer.SUPPORTS_MASKING and not masked
    if passed_on and getattr(layer, "data_format", None) != "channels_first":
        check_mask(layer, mask, inputs.shape)
    if isinstance(train, jax.core.Tracer) or not is_truth(train):
        raise ValueError(
            f"`train` of {layer.label} is True or False, got {shown(train)}; "
            'under jax.jit, fix it with functools.partial or static_argnames="train".'
        )


def check_array(layer: Any, name: str, value: Any) -> None:
    """Raises unless an argument of a call is an array of numbers or truth values."""
    if not is_array(value):
        raise ValueError(
            f"`{name}` of {layer.label} is an array of numbers, got {shown(value)}; give a NumPy or a JAX array."
        )


def check_mask(layer: Any, mask: Any, shape: tuple[int, ...], name: str = "mask") -> None:
    """Raises unless a mask has the leading sizes of an array of the given shape, or 1 in their place."""
    fits = mask.ndim <= len(shape) and all(m in (1, n) for m, n in zip(mask.shape, shape, strict=False))
    if not fits:
        raise ValueError(
            f"The {name} of {layer.label} has the leading sizes of {tuple(shape)}, the shape of what it masks, "
            f"got shape {tuple(mask.shape)}; give one truth value for each position."
        )


def checked_axes(layer: Any, axis: Any, x: jax.Array) -> tuple[int, ...]:
    """The axes that an argument names, sorted as given and counted from the front; raises if one is none of x's."""
    given = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
    within = bool(given) and all(is_integer(a) and -x.ndim <= a < x.ndim for a in given)
    axes = tuple(a % x.ndim for a in sorted(given)) if within else ()
    if not within or len(set(axes)) < len(axes):
        raise ValueError(
            f"`axis` of {layer.label} names axes of its inputs, each once, got {axis} for inputs of shape {x.shape}; "
            f"give axes from {-x.ndim} to {x.ndim - 1}."
        )
    return axes
