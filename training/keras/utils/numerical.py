"""Prepares arrays for training: one-hot labels, normalized rows, padded sequences, and batches as tuples."""

from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt


@overload
def to_categorical(x: jax.Array, num_classes: int | None = None) -> jax.Array: ...
@overload
def to_categorical(x: npt.ArrayLike, num_classes: int | None = None) -> np.ndarray: ...
def to_categorical(x: npt.ArrayLike, num_classes: int | None = None) -> np.ndarray | jax.Array:
    """Converts class indices to one-hot rows.

    Args:
        x: Integers from 0 to num_classes - 1, of any shape; a last axis of size 1 is dropped.
        num_classes: The number of classes; by default the largest index plus 1.

    Returns:
        A float64 array of NumPy, as in Keras; for an array of JAX a float32 array of JAX.

    Raises:
        ValueError: If an index is out of range, or `num_classes` is missing for an array of JAX.

    References:
        Keras, `keras.utils.to_categorical`.

    Example:
        >>> to_categorical([0, 2]).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if isinstance(x, jax.Array):
        if num_classes is None:
            raise ValueError(
                "`num_classes` must be given for an array of JAX, got None; pass it, or convert x by np.array."
            )
        x = x[..., 0] if x.ndim > 1 and x.shape[-1] == 1 else x
        return jax.nn.one_hot(x, num_classes, dtype=jnp.float32)
    labels = np.array(x, np.int64)
    labels = labels[..., 0] if labels.ndim > 1 and labels.shape[-1] == 1 else labels
    classes = num_classes or int(labels.max()) + 1
    if labels.size and not (-classes <= labels.min() and labels.max() < classes):
        raise ValueError(
            f"`x` must contain integers from 0 to {classes - 1} for {classes} classes, got values from {labels.min()} "
            f"to {labels.max()}; pass a larger `num_classes`."
        )
    return np.eye(classes)[labels]


@overload
def normalize(x: jax.Array, axis: int = -1, order: int = 2) -> jax.Array: ...
@overload
def normalize(x: npt.ArrayLike, axis: int = -1, order: int = 2) -> np.ndarray: ...
def normalize(x: npt.ArrayLike, axis: int = -1, order: int = 2) -> np.ndarray | jax.Array:
    """Divides an array by its norms along an axis.

    Args:
        x: An array of NumPy or JAX.
        axis: The axis of the norms.
        order: The order of the norms, for example 2 for Euclidean lengths.

    Returns:
        An array of the same kind. Rows whose norm is 0 remain unchanged.

    References:
        Keras, `keras.utils.normalize`.

    Example:
        >>> normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    if isinstance(x, jax.Array):
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
        norm = jnp.linalg.norm(x, order, axis, keepdims=True)
        return x / jnp.maximum(norm, jnp.asarray(1e-12, x.dtype))
    array = np.asarray(x)
    norm = np.linalg.norm(array, order, axis, keepdims=True)
    return array / np.where(norm == 0, np.ones_like(norm), norm)


def pad_sequences(
    sequences: Sequence[Sequence[object] | np.ndarray] | np.ndarray,
    maxlen: int | None = None,
    dtype: npt.DTypeLike = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: float | str | bytes = 0.0,
) -> np.ndarray:
    """Pads or truncates sequences to one length.

    Args:
        sequences: Sequences of numbers, or of arrays of one shape.
        maxlen: The length; by default that of the longest sequence.
        dtype: The dtype of the result; `object` for strings of any length.
        padding: "pre" or "post": where values are added.
        truncating: "pre" or "post": where values are removed.
        value: The value that is added.

    Returns:
        An array of shape [len(sequences), maxlen, ...].

    Raises:
        ValueError: If a sequence has no length, an option is unknown, or the shapes of the steps differ.

    References:
        Keras, `keras.utils.pad_sequences`.

    Example:
        >>> pad_sequences([[1], [2, 3, 4]], maxlen=2).tolist()
        [[0, 1], [3, 4]]
    """
    if not hasattr(sequences, "__len__"):
        raise ValueError(
            f"`sequences` must be a list of sequences, got {type(sequences).__name__}; convert it with list()."
        )
    for sequence in sequences:
        if not hasattr(sequence, "__len__"):
            raise ValueError(
                f"`sequences` must be a list of sequences, got {sequence!r} as one of them; put it in a list."
            )
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise ValueError(f"`{name}` must be 'pre' or 'post', got {given!r}; choose one.")
    text = np.issubdtype(dtype, np.str_) or np.issubdtype(dtype, np.bytes_)
    if isinstance(value, str) and dtype is not object and not text:
        raise ValueError(
            f"`dtype` must hold strings for the value {value!r}, got {np.dtype(dtype).name!r}; pass dtype=object."
        )
    length = max(map(len, sequences)) if maxlen is None else maxlen
    shape = next((np.asarray(sequence).shape[1:] for sequence in sequences if len(sequence)), ())
    padded = np.full((len(sequences), length, *shape), value, dtype)
    for i, sequence in enumerate(sequences):
        if not len(sequence):
            continue
        part = slice(max(len(sequence) - length, 0), None) if truncating == "pre" else slice(length)
        kept = np.asarray(sequence[part], dtype)
        if kept.shape[1:] != shape:
            raise ValueError(
                f"The steps of all sequences must have one shape, got {kept.shape[1:]} in sequence {i} and {shape} "
                "before it; reshape them."
            )
        start = 0 if padding == "post" else length - len(kept)
        padded[i, start : start + len(kept)] = kept
    return padded


def unpack_x_y_sample_weight(data: object) -> tuple[Any, Any, Any]:
    """Splits a batch into inputs, targets and sample weights; missing ones are None.

    Args:
        data: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ValueError: If there are more parts.

    References:
        Keras, `keras.utils.unpack_x_y_sample_weight`.

    Example:
        >>> unpack_x_y_sample_weight((1, 2))
        (1, 2, None)
    """
    if not isinstance(data, list | tuple):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise ValueError(
            f"A batch must be x, (x,), (x, y) or (x, y, sample_weight), got {len(data)} parts; put several inputs "
            "into one tuple or dictionary."
        )
    x, y, sample_weight = (*data, None, None)[:3]
    return x, y, sample_weight


def pack_x_y_sample_weight(x: object, y: object = None, sample_weight: object = None) -> Any:
    """Combines inputs, targets and sample weights into a batch; missing ones are left out.

    Args:
        x: The inputs.
        y: The targets.
        sample_weight: The weights of the examples, which need targets.

    References:
        Keras, `keras.utils.pack_x_y_sample_weight`.

    Example:
        >>> pack_x_y_sample_weight(1, 2), pack_x_y_sample_weight(1), pack_x_y_sample_weight([1])
        ((1, 2), 1, ([1],))
    """
    if y is None:
        return (x,) if isinstance(x, list | tuple) else x
    return (x, y) if sample_weight is None else (x, y, sample_weight)
