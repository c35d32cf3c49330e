"""Layers that make one array of several."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers import checks, symbolic
from flaxmodels.layers.base import Layer, accumulation_dtype
from flaxmodels.layers.tracing import Lookup

Masks = list[jax.Array | None]


class Merge(Layer):
    """What layers share that merge a list of arrays, and its masks, into one.

    Arrays of fewer axes get axes of size 1 after the batch; then sizes of 1 are stretched. The outputs are
    masked where every input is, and not at all if an input has no mask.
    """

    SUPPORTS_MASKING: ClassVar[bool] = True
    EXACTLY: ClassVar[int | None] = None

    @nn.compact
    def compute(self, inputs: Sequence[jax.Array], *, mask: Any = None) -> jax.Array:
        arrays = self.arrays(inputs)
        masks = self.masks(arrays, mask)
        rank = max(x.ndim for x in arrays)
        masks = [None if m is None else _expanded(m, rank - x.ndim) for x, m in zip(arrays, masks, strict=True)]
        arrays = [_expanded(x, rank - x.ndim) for x in arrays]
        self.check_sizes(inputs, arrays)
        return self.merge(arrays, masks)

    def merge(self, arrays: list[jax.Array], masks: Masks) -> jax.Array:
        """Merges arrays of one rank."""
        raise TypeError(f"{type(self).__name__} does not say how it merges; use Add, Concatenate or another.")

    def compute_mask(self, inputs: Sequence[jax.Array], mask: Any) -> Any:
        """The mask of the outputs: where any input is kept, if all have masks."""
        masks = self.masks(inputs, mask)
        if any(m is None for m in masks):
            return None
        rank = max(x.ndim for x in inputs)
        aligned = [_expanded(m, rank - x.ndim) for x, m in zip(inputs, masks, strict=True) if m is not None]
        return _any([_trailing(m, max(m.ndim for m in aligned)) for m in aligned])

    def arrays(self, inputs: Any) -> list[jax.Array]:
        """The inputs as arrays of one dtype."""
        count = len(inputs) if isinstance(inputs, tuple | list) else None
        if not count or (self.EXACTLY is not None and count != self.EXACTLY):
            wanted = "at least 1 array" if self.EXACTLY is None else f"exactly {self.EXACTLY} arrays"
            came = f"{count}" if count is not None else f"one of type {type(inputs).__name__}"
            raise ValueError(f"{self.label} merges a list of {wanted}, got {came}; give a list such as [a, b].")
        arrays = [jnp.asarray(x) for x in inputs]
        if not all(x.ndim for x in arrays):
            raise ValueError(
                f"{self.label} merges arrays that begin with the batch, got shapes {[x.shape for x in arrays]}; "
                "give each an axis for the batch."
            )
        if any(jnp.issubdtype(x.dtype, jnp.floating) for x in arrays):
            return [self.cast(x) for x in arrays]
        dtype = np.result_type(*(x.dtype for x in arrays))
        return [x.astype(dtype) for x in arrays]

    def masks(self, inputs: Sequence[jax.Array], mask: Any) -> Masks:
        """One mask, or None, for each input."""
        if mask is None:
            return [None] * len(inputs)
        if not isinstance(mask, tuple | list) or len(mask) != len(inputs):
            came = f"{len(mask)}" if isinstance(mask, tuple | list) else f"one of type {type(mask).__name__}"
            raise ValueError(
                f"{self.label} takes a list of masks, one or None for each of its {len(inputs)} inputs, "
                f"got {came}; give a list such as [mask, None]."
            )
        for i, (m, x) in enumerate(zip(mask, inputs, strict=True)):
            if m is not None:
                checks.check_mask(self, m, x.shape, f"mask of input {i}")
        return [None if m is None else m.astype(bool) for m in mask]

    def check_sizes(self, inputs: Sequence[jax.Array], arrays: list[jax.Array]) -> None:
        """Raises unless the arrays, of one rank, have the same batch and equal sizes, or 1, elsewhere."""
        for axis, sizes in enumerate(zip(*(x.shape for x in arrays), strict=True)):
            if len(set(sizes) - ({1} if axis else set())) > 1:
                raise ValueError(
                    f"{self.label} merges arrays of the same batch whose other sizes are equal or 1, got "
                    f"shapes {[tuple(x.shape) for x in inputs]}; reshape them to agree on axis {axis}."
                )


class Add(Merge):
    """Adds arrays element by element.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If no list comes or the shapes do not agree.

    References:
        Keras, `keras.layers.Add`.

    Example:
        >>> Add().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [3.0, 3.0, 3.0]
    """

    def merge(self, arrays: list[jax.Array], masks: Masks) -> jax.Array:
        total = arrays[0]
        for x in arrays[1:]:
            total = total + x
        return total


class Subtract(Merge):
    """Subtracts the second array from the first.

    Shapes: two of [B, ...] -> [B, ...].

    Raises:
        ValueError: If not exactly two arrays come or the shapes do not agree.

    References:
        Keras, `keras.layers.Subtract`.

    Example:
        >>> Subtract().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [-1.0, -1.0, -1.0]
    """

    EXACTLY: ClassVar[int | None] = 2

    def merge(self, arrays: list[jax.Array], masks: Masks) -> jax.Array:
        return arrays[0] - arrays[1]


class Multiply(Merge):
    """Multiplies arrays element by element; what is masked counts as 1, and as 0 where all is masked.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If no list comes or the shapes do not agree.

    References:
        Keras, `keras.layers.Multiply`.

    Example:
        >>> Multiply().apply({}, [jnp.full((2, 3), 3.0), jnp.full((2, 3), 2.0)])[0].tolist()
        [6.0, 6.0, 6.0]
    """

    def merge(self, arrays: list[jax.Array], masks: Masks) -> jax.Array:
        keeps = [None if m is None else _trailing(m, x.ndim) for x, m in zip(arrays, masks, strict=True)]
        product: Any = 1
        for x, keep in zip(arrays, keeps, strict=True):
            product = product * (x if keep is None else jnp.where(keep, x, 1))
        given = [keep for keep in keeps if keep is not None]
        return jnp.where(_any(given), product, 0) if len(given) == len(keeps) else product


class Average(Merge):
    """Averages arrays element by element.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If no list comes or the shapes do not agree.

    References:
        Keras, `keras.layers.Average`.

    Example:
        >>> Average().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [1.5, 1.5, 1.5]
    """

    def merge(self, arrays: list[jax.Array], masks: Masks) -> jax.Array:
        total = arrays[0]
        for x in arrays[1:]:
            total = total + x
        return self.cast(total) / len(arrays)


class Extremum(Merge):
    """What Maximum and Minimum share: a masked element gives way to the others."""

    def choose(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The larger or the smaller of two."""
        raise TypeError(f"{type(self).__name__} does not say what it chooses; use Maximum or Minimum.")

    def merge(self, arrays: list[jax.Array], masks: Masks) -> jax.Array:
        outputs, kept = arrays[0], masks[0]
        kept = None if kept is None else _trailing(kept, outputs.ndim)
        for x, mask in zip(arrays[1:], masks[1:], strict=True):
            mask = None if mask is None else _trailing(mask, x.ndim)
            if mask is not None:
                x = jnp.where(mask, x, outputs)
            if kept is not None:
                outputs = jnp.where(kept, outputs, x)
            kept = kept | mask if kept is not None and mask is not None else None
            outputs = self.choose(outputs, x)
        return outputs


class Maximum(Extremum):
    """The largest of arrays, element by element; what is masked gives way to the others.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If no list comes or the shapes do not agree.

    References:
        Keras, `keras.layers.Maximum`.

    Example:
        >>> Maximum().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [2.0, 2.0, 2.0]
    """

    def choose(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.maximum(a, b)


class Minimum(Extremum):
    """The smallest of arrays, element by element; what is masked gives way to the others.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If no list comes or the shapes do not agree.

    References:
        Keras, `keras.layers.Minimum`.

    Example:
        >>> Minimum().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [1.0, 1.0, 1.0]
    """

    def choose(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.minimum(a, b)


class Concatenate(Merge):
    """Joins arrays along an axis.

    Masks are joined with them; an array without a mask counts as kept. Positions are kept where any element
    is.

    Args:
        axis: The axis along which the arrays follow each other.

    Shapes: a list of [B, ..., F] -> [B, ..., sum of F].

    Raises:
        ValueError: If no list comes or the shapes differ on another axis.

    References:
        Keras, `keras.layers.Concatenate`.

    Example:
        >>> Concatenate().apply({}, [jnp.ones((2, 3)), jnp.ones((2, 4))]).shape
        (2, 7)
    """

    axis: int = -1

    @nn.nowrap
    def trace_inputs(self, sources: Any, lookups: list[Lookup], path: str, *args: Any, **kwargs: Any) -> Any:
        """Joins what the inputs hold, where all of them hold unchanged values."""
        found = jax.tree.leaves(sources)
        return frozenset().union(*found) if all(found) else frozenset()

    @nn.compact
    def compute(self, inputs: Sequence[jax.Array], *, mask: Any = None) -> jax.Array:
        arrays = self.arrays(inputs)
        shapes = [tuple(x.shape) for x in arrays]
        rank = len(shapes[0])
        axis = self.axis % rank if -rank <= self.axis < rank else None
        rests = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes} if axis is not None else set()
        if axis is None or len(rests) > 1 or any(len(shape) != rank for shape in shapes):
            raise ValueError(
                f"{self.label} joins arrays that differ on `axis`={self.axis} alone, got shapes {shapes}; "
                "reshape them, or choose another axis."
            )
        return jnp.concatenate(arrays, axis)

    def compute_mask(self, inputs: Sequence[jax.Array], mask: Any) -> Any:
        """The masks, joined."""
        masks = self.masks(inputs, mask)
        given = [m.ndim for m in masks if m is not None]
        if not given:
            return None
        whole = [
            jnp.ones(x.shape, bool) if m is None else jnp.broadcast_to(_trailing(m, x.ndim), x.shape)
            for x, m in zip(inputs, masks, strict=True)
        ]
        rank = inputs[0].ndim
        return jnp.any(jnp.concatenate(whole, self.axis), tuple(range(min(max(given), rank - 1), rank)))


class Dot(Merge):
    """Sums products of two arrays along an axis of each, example by example; the outputs have no mask.

    Args:
        axes: The axis of both arrays, or a pair of axes, one of each; not the batch.
        normalize: Whether to divide by the Euclidean norms along the axes first, for cosines.

    Shapes: x [B, ...] and y [B, ...] -> [B, the rest of x, the rest of y], and [B, 1] where nothing rests.

    Raises:
        ValueError: If not exactly two arrays come, or an axis is wrong or does not agree.
        TypeError: If `axes` is neither an integer nor a pair.

    References:
        Keras, `keras.layers.Dot`.

    Example:
        >>> Dot(axes=(1, 2)).apply({}, [jnp.ones((2, 3, 5)), jnp.ones((2, 10, 3))]).shape
        (2, 5, 10)
    """

    axes: Any
    normalize: bool = False

    EXACTLY: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        pair = self.axes if isinstance(self.axes, tuple | list) else None
        if pair is None and type(self.axes) is not int:
            raise TypeError(
                f"`axes` of {self.label} is an integer or a pair of integers, got {self.axes!r}; give one such as -1."
            )
        if pair is not None and (len(pair) != 2 or any(type(a) is not int for a in pair)):
            raise ValueError(
                f"`axes` of {self.label} is an integer or a pair of integers, got {tuple(pair)}; "
                "give one axis of each array, such as (1, 2)."
            )
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: Sequence[jax.Array]) -> jax.Array:
        x, y = self.arrays(inputs)
        a, b = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        within = -x.ndim <= a < x.ndim and -y.ndim <= b < y.ndim and a % x.ndim > 0 and b % y.ndim > 0
        if not within or x.shape[a] != y.shape[b] or x.shape[0] != y.shape[0]:
            raise ValueError(
                f"{self.label} sums along axes of equal size, one of each array, in batches of equal size, got shapes "
                f"{x.shape} and {y.shape} with `axes`={self.axes}; reshape, or choose other axes than the batch."
            )
        a, b = a % x.ndim, b % y.ndim
        if self.normalize:
            x, y = (self.cast(normalized(z.astype(accumulation_dtype(z.dtype)), axis)) for z, axis in ((x, a), (y, b)))
        outputs = jax.lax.dot_general(x, y, (((a,), (b,)), ((0,), (0,))))
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def compute_mask(self, inputs: Sequence[jax.Array], mask: Any) -> Any:
        return None


def normalized(x: jax.Array, axis: Any, epsilon: float = 1e-7) -> jax.Array:
    """x over its Euclidean norm along one axis, or several; a norm below `epsilon` counts as `epsilon`."""
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    # The square is bounded before the root: the gradient at 0 is finite.
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))


# --- functions: on symbols they draw a node, on arrays they compute


def add(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Adds symbols or arrays: `Add(**kwargs)` called on them.

    Example:
        >>> add([jnp.ones(2), jnp.ones(2)]).tolist()
        [2.0, 2.0]
    """
    return _merged(Add, inputs, kwargs)


def subtract(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Subtracts the second symbol or array from the first: `Subtract(**kwargs)` called on them."""
    return _merged(Subtract, inputs, kwargs)


def multiply(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Multiplies symbols or arrays: `Multiply(**kwargs)` called on them."""
    return _merged(Multiply, inputs, kwargs)


def average(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """Averages symbols or arrays: `Average(**kwargs)` called on them."""
    return _merged(Average, inputs, kwargs)


def maximum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The largest of symbols or arrays: `Maximum(**kwargs)` called on them."""
    return _merged(Maximum, inputs, kwargs)


def minimum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The smallest of symbols or arrays: `Minimum(**kwargs)` called on them."""
    return _merged(Minimum, inputs, kwargs)


def concatenate(inputs: Sequence[Any], axis: int = -1, **kwargs: Any) -> Any:
    """Joins symbols or arrays along an axis: `Concatenate(axis, **kwargs)` called on them."""
    return _merged(Concatenate, inputs, {"axis": axis, **kwargs})


def dot(inputs: Sequence[Any], axes: Any = -1, **kwargs: Any) -> Any:
    """Sums products of two symbols or arrays along axes: `Dot(axes, **kwargs)` called on them."""
    return _merged(Dot, inputs, {"axes": axes, **kwargs})


def _merged(cls: type[Merge], inputs: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    layer = cls(parent=None, **kwargs)
    return layer(inputs) if symbolic.symbols_in(inputs) else layer.apply({}, inputs)


# --- shapes


def _any(masks: list[jax.Array]) -> jax.Array:
    """Where any of several masks is true."""
    kept = masks[0]
    for mask in masks[1:]:
        kept = kept | mask
    return kept


def _expanded(x: jax.Array, axes: int) -> jax.Array:
    """x with axes of size 1 after the batch."""
    return jnp.expand_dims(x, tuple(range(1, 1 + axes)))


def _trailing(mask: jax.Array, rank: int) -> jax.Array:
    """A mask of leading axes with axes of size 1 at the end."""
    return jnp.expand_dims(mask, tuple(range(mask.ndim, rank)))
