"""Keras' operations that encode numbers: classes as vectors, lengths and angles as complex numbers."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels.ops.arguments import refuse_sparse
from flaxmodels.ops.arrays import Tensor, as_array, as_dtype
from flaxmodels.ops.base import operation
from flaxmodels.ops.spectral import as_complex


@operation
def one_hot(
    x: Tensor, num_classes: int, axis: int = -1, dtype: DTypeLike | None = None, sparse: bool = False
) -> jax.Array:
    """Returns vectors with 1 at the index of the class and 0 elsewhere; only 0 for classes out of range.

    Args:
        x: Class indices.
        num_classes: Number of classes.
        axis: The new axis of the classes.
        dtype: The dtype; float32 by default.
        sparse: True is refused, because all arrays are dense.

    Shapes: x [...] -> [..., num_classes].

    Raises:
        ValueError: If `sparse` is True.

    Example:
        >>> one_hot([1, -1], 3).tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    refuse_sparse("one_hot", sparse)
    return jax.nn.one_hot(as_array(x), num_classes, axis=axis, dtype=as_dtype(dtype or "float32"))


@operation
def multi_hot(
    inputs: Tensor,
    num_classes: int | None = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    sparse: bool = False,
) -> jax.Array:
    """Returns a vector for each row of classes, with 1 at each of their indices.

    Args:
        inputs: Class indices.
        num_classes: Number of classes; it is required.
        axis: The axis of the classes in the one-hot vectors.
        dtype: The dtype; float32 by default.
        sparse: True is refused, because all arrays are dense.

    Shapes: inputs [B, K] -> [B, num_classes]; [K] -> [num_classes].

    Raises:
        ValueError: If `num_classes` is missing, or `sparse` is True.

    Example:
        >>> multi_hot([[0, 2], [1, 1]], 3).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    refuse_sparse("multi_hot", sparse)
    if num_classes is None:
        raise ValueError("`num_classes` of `multi_hot` must be an integer, got None; give the number of classes.")
    classes = as_array(inputs).astype(jnp.int32)
    encoded = jax.nn.one_hot(classes, num_classes, axis=axis, dtype=as_dtype(dtype or "float32"))
    return jnp.max(encoded, axis=1 if classes.ndim > 1 else 0)


@operation
def polar(abs_: Tensor, angle: Tensor) -> jax.Array:
    """Returns the complex numbers of absolute values and angles.

    Example:
        >>> polar([2.0], [0.0]).tolist()
        [(2+0j)]
    """
    length, radians = as_array(abs_), as_array(angle)
    return as_complex("polar", (length * jnp.cos(radians), length * jnp.sin(radians)))
