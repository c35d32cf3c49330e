"""Keras' `keras.backend`: settings, names and dtypes."""

import gc

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels.layers.symbolic import Symbol
from flaxmodels.random import set_shared_seed
from training.keras import naming, refused
from training.keras.config import backend as backend
from training.keras.config import epsilon as epsilon
from training.keras.config import floatx as floatx
from training.keras.config import image_data_format as image_data_format
from training.keras.config import set_epsilon as set_epsilon
from training.keras.config import set_floatx as set_floatx
from training.keras.config import set_image_data_format as set_image_data_format
from training.keras.config import standardize_dtype as standardize_dtype

_uids: dict[str, int] = {}


def clear_session(free_memory: bool = True) -> None:
    """Starts the automatic names of layers again, and collects objects that are no longer used.

    Models, layers and compiled programs that the program still holds remain valid.

    Args:
        free_memory: Whether to run Python's garbage collection, which takes up to some seconds.

    References:
        Keras, `keras.utils.clear_session`.
    """
    naming.reset()
    set_shared_seed(None)
    _uids.clear()
    if free_memory:
        gc.collect()


def get_uid(prefix: str = "") -> int:
    """Returns how often this function was called with a prefix since the last `clear_session`.

    Args:
        prefix: The start of a name.

    References:
        Keras, `keras.backend.get_uid`.

    Example:
        >>> get_uid("example"), get_uid("example")
        (1, 2)
    """
    _uids[prefix] = _uids.get(prefix, 0) + 1
    return _uids[prefix]


def is_keras_tensor(x: object) -> bool:
    """Returns whether a value is a symbol, as `keras.Input` makes."""
    return isinstance(x, Symbol)


def is_float_dtype(dtype: DTypeLike | None) -> bool:
    """Returns whether a dtype has floating-point numbers."""
    return standardize_dtype(dtype).startswith(("float", "bfloat"))


def is_int_dtype(dtype: DTypeLike | None) -> bool:
    """Returns whether a dtype has integers."""
    return standardize_dtype(dtype).startswith(("int", "uint"))


def result_type(*dtypes: DTypeLike | None) -> str:
    """Returns the dtype of an operation on arrays of several dtypes.

    Args:
        *dtypes: Dtypes; the Python types `int`, `float` and `bool` adapt to the others. None means `floatx()`.

    Raises:
        ValueError: If a dtype is one of float8, which have no implicit conversions.

    References:
        Keras, `keras.backend.result_type`; JAX, type promotion semantics.

    Example:
        >>> result_type("bfloat16", int), result_type("int32", "float16"), result_type()
        ('bfloat16', 'float16', 'float32')
    """
    given = [floatx() if dtype is None else dtype for dtype in dtypes] or [floatx()]
    for dtype in given:
        if str(getattr(dtype, "name", dtype)).startswith("float8"):
            raise ValueError(f"float8 dtypes have no implicit conversions, got {dtype!r}; cast the array first.")
    numbers = [0 if dtype in (int, "int") else 0.0 if dtype in (float, "float") else None for dtype in given]
    if all(number is not None for number in numbers):
        return floatx() if any(isinstance(number, float) for number in numbers) else "int32"
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        known = [
            jnp.dtype(standardize_dtype(dtype)) if number is None else number
            for dtype, number in zip(given, numbers, strict=True)
        ]
        if any(isinstance(x, float) for x in known) and not any(
            jnp.issubdtype(x, jnp.inexact) for x in known if not isinstance(x, int | float)
        ):
            return floatx()
        found = jnp.result_type(*known).name
    if found == "complex128" and "complex128" not in map(standardize_dtype, dtypes):
        return "complex64"
    return {"int64": "int32", "uint64": "uint32", "float64": "float32"}.get(found, found)


__all__ = [
    "backend", "clear_session", "epsilon", "floatx", "get_uid", "image_data_format", "is_float_dtype", "is_int_dtype",
    "is_keras_tensor", "result_type", "set_epsilon", "set_floatx", "set_image_data_format", "standardize_dtype",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
