"""Layers that merge several arrays into one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from flaxmodels.layers import checks, symbolic
from flaxmodels.layers.base import Layer, accumulation_dtype
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.layers.tracing import Lookup

MaskList = list[jax.Array | None]


class Merge(Layer):
    """Base class of layers that merge a list of arrays, and the list of their masks, into one.

    Arrays with fewer axes get axes of size 1 after the batch; then sizes of 1 are broadcast. An element of the
    outputs is masked if it is masked in all inputs. If an input has no mask, neither have the outputs.
    """

    SUPPORTS_MASKING: ClassVar[bool] = True
    NUM_INPUTS: ClassVar[int | None] = None

    @nn.compact
    def compute(self, inputs: Sequence[jax.Array], *, mask: Sequence[jax.Array | None] | None = None) -> jax.Array:
        """Broadcasts and merges the arrays."""
        arrays = self.arrays(inputs)
        masks = self.masks(arrays, mask)
        rank = max(x.ndim for x in arrays)
        masks = [
            None if m is None else _expand_after_batch(m, rank - x.ndim) for x, m in zip(arrays, masks, strict=True)
        ]
        arrays = [_expand_after_batch(x, rank - x.ndim) for x in arrays]
        self.check_sizes(inputs, arrays)
        return self.merge(arrays, masks)

    def merge(self, arrays: list[jax.Array], masks: MaskList) -> jax.Array:
        """Merges arrays with the same number of axes."""
        raise TypeError(f"{type(self).__name__} does not implement `merge`; use a subclass such as Add.")

    def compute_mask(
        self, inputs: Sequence[jax.Array], mask: Sequence[jax.Array | None] | None = None
    ) -> jax.Array | None:
        """Returns the elementwise OR of all masks, or None if an input has no mask."""
        masks = self.masks(inputs, mask)
        if any(m is None for m in masks):
            return None
        rank = max(x.ndim for x in inputs)
        aligned = [_expand_after_batch(m, rank - x.ndim) for x, m in zip(inputs, masks, strict=True) if m is not None]
        return _any([_expand_at_end(m, max(m.ndim for m in aligned)) for m in aligned])

    def arrays(self, inputs: Sequence[ArrayLike]) -> list[jax.Array]:
        """Returns the inputs as arrays of one dtype."""
        count = len(inputs) if isinstance(inputs, tuple | list) else None
        if not count or (self.NUM_INPUTS is not None and count != self.NUM_INPUTS):
            expected = "at least 1 array" if self.NUM_INPUTS is None else f"exactly {self.NUM_INPUTS} arrays"
            got = f"{count}" if count is not None else f"inputs of type {type(inputs).__name__}"
            raise ValueError(f"{self.label} merges a list of {expected}, got {got}; give a list such as [a, b].")
        arrays = [jnp.asarray(x) for x in inputs]
        if not all(x.ndim for x in arrays):
            raise ValueError(
                f"{self.label} merges arrays whose first axis is the batch, got shapes {[x.shape for x in arrays]}; "
                "add the batch axis to each."
            )
        if any(jnp.issubdtype(x.dtype, jnp.floating) for x in arrays):
            return [self.cast(x) for x in arrays]
        dtype = np.result_type(*(x.dtype for x in arrays))
        return [x.astype(dtype) for x in arrays]

    def masks(self, inputs: Sequence[jax.Array], mask: Sequence[jax.Array | None] | None) -> MaskList:
        """Returns a boolean mask or None for each input."""
        if mask is None:
            return [None] * len(inputs)
        if not isinstance(mask, tuple | list) or len(mask) != len(inputs):
            got = f"{len(mask)}" if isinstance(mask, tuple | list) else f"a mask of type {type(mask).__name__}"
            raise ValueError(
                f"{self.label} takes a list of masks, one or None for each of its {len(inputs)} inputs, "
                f"got {got}; give a list such as [mask, None]."
            )
        for i, (m, x) in enumerate(zip(mask, inputs, strict=True)):
            if m is not None:
                checks.check_mask(self, m, x.shape, f"mask of input {i}")
        return [None if m is None else m.astype(bool) for m in mask]

    def check_sizes(self, inputs: Sequence[jax.Array], arrays: list[jax.Array]) -> None:
        """Raises unless the sizes of the arrays are equal or 1 on every axis."""
        for axis, sizes in enumerate(zip(*(x.shape for x in arrays), strict=True)):
            if len(set(sizes) - {1}) > 1:
                raise ValueError(
                    f"{self.label} merges arrays whose sizes are equal or 1 on every axis, got shapes "
                    f"{[tuple(x.shape) for x in inputs]}; reshape them to agree on axis {axis}."
                )


class Add(Merge):
    """Adds arrays elementwise.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If the inputs are not a list or their shapes do not agree.

    References:
        Keras, `keras.layers.Add`.

    Example:
        >>> Add().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [3.0, 3.0, 3.0]
    """

    def merge(self, arrays: list[jax.Array], masks: MaskList) -> jax.Array:
        """Returns the elementwise sum of the arrays."""
        total = arrays[0]
        for x in arrays[1:]:
            total = total + x
        return total


class Subtract(Merge):
    """Subtracts the second array from the first.

    Shapes: two of [B, ...] -> [B, ...].

    Raises:
        ValueError: If the inputs are not exactly two arrays or their shapes do not agree.

    References:
        Keras, `keras.layers.Subtract`.

    Example:
        >>> Subtract().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [-1.0, -1.0, -1.0]
    """

    NUM_INPUTS: ClassVar[int | None] = 2

    def merge(self, arrays: list[jax.Array], masks: MaskList) -> jax.Array:
        """Returns the elementwise difference of the two arrays."""
        return arrays[0] - arrays[1]


class Multiply(Merge):
    """Multiplies arrays elementwise; a masked element counts as 1, and the product is 0 where all are masked.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If the inputs are not a list or their shapes do not agree.

    References:
        Keras, `keras.layers.Multiply`.

    Example:
        >>> Multiply().apply({}, [jnp.full((2, 3), 3.0), jnp.full((2, 3), 2.0)])[0].tolist()
        [6.0, 6.0, 6.0]
    """

    def merge(self, arrays: list[jax.Array], masks: MaskList) -> jax.Array:
        """Returns the elementwise product of the arrays, where masked elements count as 1."""
        keeps = [None if m is None else _expand_at_end(m, x.ndim) for x, m in zip(arrays, masks, strict=True)]
        product: Any = 1
        for x, keep in zip(arrays, keeps, strict=True):
            product = product * (x if keep is None else jnp.where(keep, x, 1))
        known = [keep for keep in keeps if keep is not None]
        return jnp.where(_any(known), product, 0) if len(known) == len(keeps) else product


class Average(Merge):
    """Averages arrays elementwise.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If the inputs are not a list or their shapes do not agree.

    References:
        Keras, `keras.layers.Average`.

    Example:
        >>> Average().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [1.5, 1.5, 1.5]
    """

    def merge(self, arrays: list[jax.Array], masks: MaskList) -> jax.Array:
        """Returns the elementwise mean of the arrays."""
        total = arrays[0]
        for x in arrays[1:]:
            total = total + x
        return self.cast(total) / len(arrays)


class Extremum(Merge):
    """Base class of Maximum and Minimum, which ignore masked elements if another input is not masked."""

    def choose(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Returns the elementwise maximum or minimum of two arrays."""
        raise TypeError(f"{type(self).__name__} does not implement `choose`; use Maximum or Minimum.")

    def merge(self, arrays: list[jax.Array], masks: MaskList) -> jax.Array:
        """Returns the elementwise maximum or minimum of the arrays, ignoring masked elements."""
        outputs, outputs_mask = arrays[0], masks[0]
        outputs_mask = None if outputs_mask is None else _expand_at_end(outputs_mask, outputs.ndim)
        for x, mask in zip(arrays[1:], masks[1:], strict=True):
            mask = None if mask is None else _expand_at_end(mask, x.ndim)
            if mask is not None:
                x = jnp.where(mask, x, outputs)
            if outputs_mask is not None:
                outputs = jnp.where(outputs_mask, outputs, x)
            outputs_mask = outputs_mask | mask if outputs_mask is not None and mask is not None else None
            outputs = self.choose(outputs, x)
        return outputs


class Maximum(Extremum):
    """Returns the elementwise maximum of arrays, ignoring masked elements if another input is not masked.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If the inputs are not a list or their shapes do not agree.

    References:
        Keras, `keras.layers.Maximum`.

    Example:
        >>> Maximum().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [2.0, 2.0, 2.0]
    """

    def choose(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Returns the elementwise maximum of two arrays."""
        return jnp.maximum(a, b)


class Minimum(Extremum):
    """Returns the elementwise minimum of arrays, ignoring masked elements if another input is not masked.

    Shapes: a list of [B, ...] -> [B, ...].

    Raises:
        ValueError: If the inputs are not a list or their shapes do not agree.

    References:
        Keras, `keras.layers.Minimum`.

    Example:
        >>> Minimum().apply({}, [jnp.ones((2, 3)), jnp.full((2, 3), 2.0)])[0].tolist()
        [1.0, 1.0, 1.0]
    """

    def choose(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Returns the elementwise minimum of two arrays."""
        return jnp.minimum(a, b)


class Concatenate(Merge):
    """Concatenates arrays along an axis.

    Masks are concatenated too; an array without a mask counts as not masked. If the masks have fewer axes than the
    inputs, a position is masked only if all its elements are.

    Args:
        axis: Axis along which the arrays are concatenated.

    Shapes: a list of [B, ..., F] -> [B, ..., sum of F].

    Raises:
        ValueError: If the inputs are not a list, or their shapes differ on another axis.

    References:
        Keras, `keras.layers.Concatenate`.

    Example:
        >>> Concatenate().apply({}, [jnp.ones((2, 3)), jnp.ones((2, 4))]).shape
        (2, 7)
    """

    axis: int = -1

    @nn.nowrap
    def trace_inputs(
        self, sources: Sequence[frozenset[int]], lookups: list[Lookup], path: str, *args: object, **kwargs: object
    ) -> frozenset[int]:
        """Returns the union of the sources if all inputs hold values of the model's inputs, else an empty set."""
        leaves = jax.tree.leaves(sources)
        return frozenset().union(*leaves) if all(leaves) else frozenset()

    @nn.compact
    def compute(self, inputs: Sequence[jax.Array], *, mask: Sequence[jax.Array | None] | None = None) -> jax.Array:
        """Concatenates the arrays."""
        arrays = self.arrays(inputs)
        shapes = [tuple(x.shape) for x in arrays]
        rank = len(shapes[0])
        axis = self.axis % rank if -rank <= self.axis < rank else None
        rests = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes} if axis is not None else set()
        if axis is None or len(rests) > 1 or any(len(shape) != rank for shape in shapes):
            raise ValueError(
                f"{self.label} concatenates arrays that differ only on `axis`={self.axis}, got shapes {shapes}; "
                "reshape them, or choose another axis."
            )
        return jnp.concatenate(arrays, axis)

    def compute_mask(
        self, inputs: Sequence[jax.Array], mask: Sequence[jax.Array | None] | None = None
    ) -> jax.Array | None:
        """Returns the concatenated masks, or None if no input has a mask."""
        masks = self.masks(inputs, mask)
        mask_ranks = [m.ndim for m in masks if m is not None]
        if not mask_ranks:
            return None
        full_masks = [
            jnp.ones(x.shape, bool) if m is None else jnp.broadcast_to(_expand_at_end(m, x.ndim), x.shape)
            for x, m in zip(inputs, masks, strict=True)
        ]
        rank = inputs[0].ndim
        return jnp.any(jnp.concatenate(full_masks, self.axis), tuple(range(min(max(mask_ranks), rank - 1), rank)))


class Dot(Merge):
    """Computes batched dot products of two arrays along one axis of each; the outputs have no mask.

    Args:
        axes: Axis of both arrays, or a pair with one axis of each; not the batch axis.
        normalize: Whether to divide by the Euclidean norms along the axes first, which gives cosines.

    Shapes: x [B, ...] and y [B, ...] -> [B, other axes of x, other axes of y], or [B, 1] if there are no other axes.

    Raises:
        ValueError: If the inputs are not exactly two arrays, or an axis does not exist or differs in size.
        TypeError: If `axes` is neither an integer nor a pair.

    References:
        Keras, `keras.layers.Dot`.

    Example:
        >>> Dot(axes=(1, 2)).apply({}, [jnp.ones((2, 3, 5)), jnp.ones((2, 10, 3))]).shape
        (2, 5, 10)
    """

    axes: int | Sequence[int]
    normalize: bool = False

    NUM_INPUTS: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        pair = self.axes if isinstance(self.axes, tuple | list) else None
        if pair is None and type(self.axes) is not int:
            raise TypeError(
                f"`axes` of {self.label} must be an integer or a pair of integers, got {self.axes!r}; "
                "give, for example, -1."
            )
        if pair is not None and (len(pair) != 2 or any(type(a) is not int for a in pair)):
            raise ValueError(
                f"`axes` of {self.label} must be an integer or a pair of integers, got {tuple(pair)}; "
                "give one axis of each array, such as (1, 2)."
            )
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: Sequence[jax.Array]) -> jax.Array:
        """Computes the dot products."""
        x, y = self.arrays(inputs)
        a, b = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        exist = -x.ndim <= a < x.ndim and -y.ndim <= b < y.ndim and a % x.ndim > 0 and b % y.ndim > 0
        if not exist or x.shape[a] != y.shape[b] or x.shape[0] != y.shape[0]:
            raise ValueError(
                f"{self.label} takes two arrays of equal batch size and contracts one axis of each; these axes must "
                f"have the same size, got shapes {x.shape} and {y.shape} with `axes`={self.axes}; reshape them, or "
                "choose other axes."
            )
        a, b = a % x.ndim, b % y.ndim
        if self.normalize:
            x, y = (self.cast(normalize(z.astype(accumulation_dtype(z.dtype)), axis)) for z, axis in ((x, a), (y, b)))
        outputs = jax.lax.dot_general(x, y, (((a,), (b,)), ((0,), (0,))))
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def compute_mask(
        self, inputs: Sequence[jax.Array], mask: Sequence[jax.Array | None] | None = None
    ) -> jax.Array | None:
        """Returns None: the outputs have no mask."""
        return None


def normalize(x: jax.Array, axis: int | Sequence[int] | None, epsilon: float = 1e-7) -> jax.Array:
    """Divides x by its Euclidean norm along one or several axes; a norm below `epsilon` counts as `epsilon`."""
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    # The sum of squares is bounded before the square root, so that the gradient at 0 is finite.
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))


# --- functions, which add a layer to a model if called on symbols and compute if called on arrays


@overload
def add(inputs: Sequence[ArrayLike], **kwargs: object) -> jax.Array: ...
@overload
def add(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol: ...
def add(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol | jax.Array:
    """Adds symbols or arrays elementwise; calls `Add(**kwargs)`.

    Example:
        >>> add([jnp.ones(2), jnp.ones(2)]).tolist()
        [2.0, 2.0]
    """
    return _call_merge(Add, inputs, kwargs)


@overload
def subtract(inputs: Sequence[ArrayLike], **kwargs: object) -> jax.Array: ...
@overload
def subtract(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol: ...
def subtract(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol | jax.Array:
    """Subtracts the second symbol or array from the first; calls `Subtract(**kwargs)`."""
    return _call_merge(Subtract, inputs, kwargs)


@overload
def multiply(inputs: Sequence[ArrayLike], **kwargs: object) -> jax.Array: ...
@overload
def multiply(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol: ...
def multiply(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol | jax.Array:
    """Multiplies symbols or arrays elementwise; calls `Multiply(**kwargs)`."""
    return _call_merge(Multiply, inputs, kwargs)


@overload
def average(inputs: Sequence[ArrayLike], **kwargs: object) -> jax.Array: ...
@overload
def average(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol: ...
def average(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol | jax.Array:
    """Averages symbols or arrays elementwise; calls `Average(**kwargs)`."""
    return _call_merge(Average, inputs, kwargs)


@overload
def maximum(inputs: Sequence[ArrayLike], **kwargs: object) -> jax.Array: ...
@overload
def maximum(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol: ...
def maximum(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol | jax.Array:
    """Returns the elementwise maximum of symbols or arrays; calls `Maximum(**kwargs)`."""
    return _call_merge(Maximum, inputs, kwargs)


@overload
def minimum(inputs: Sequence[ArrayLike], **kwargs: object) -> jax.Array: ...
@overload
def minimum(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol: ...
def minimum(inputs: Sequence[Symbol | ArrayLike], **kwargs: object) -> Symbol | jax.Array:
    """Returns the elementwise minimum of symbols or arrays; calls `Minimum(**kwargs)`."""
    return _call_merge(Minimum, inputs, kwargs)


@overload
def concatenate(inputs: Sequence[ArrayLike], axis: int = -1, **kwargs: object) -> jax.Array: ...
@overload
def concatenate(inputs: Sequence[Symbol | ArrayLike], axis: int = -1, **kwargs: object) -> Symbol: ...
def concatenate(inputs: Sequence[Symbol | ArrayLike], axis: int = -1, **kwargs: object) -> Symbol | jax.Array:
    """Concatenates symbols or arrays along an axis; calls `Concatenate(axis, **kwargs)`."""
    return _call_merge(Concatenate, inputs, {"axis": axis, **kwargs})


@overload
def dot(inputs: Sequence[ArrayLike], axes: int | Sequence[int] = -1, **kwargs: object) -> jax.Array: ...
@overload
def dot(inputs: Sequence[Symbol | ArrayLike], axes: int | Sequence[int] = -1, **kwargs: object) -> Symbol: ...
def dot(inputs: Sequence[Symbol | ArrayLike], axes: int | Sequence[int] = -1, **kwargs: object) -> Symbol | jax.Array:
    """Computes batched dot products of two symbols or arrays along axes; calls `Dot(axes, **kwargs)`."""
    return _call_merge(Dot, inputs, {"axes": axes, **kwargs})


def _call_merge(cls: Callable[..., Merge], inputs: Sequence[Symbol | ArrayLike], kwargs: Mapping[str, object]) -> Any:
    layer = cls(parent=None, **kwargs)
    return layer(inputs) if symbolic.symbols_in(inputs) else layer.apply({}, inputs)


# --- shapes


def _any(masks: list[jax.Array]) -> jax.Array:
    """Returns the elementwise OR of masks."""
    result = masks[0]
    for mask in masks[1:]:
        result = result | mask
    return result


def _expand_after_batch(x: jax.Array, axes: int) -> jax.Array:
    """Returns x with a number of axes of size 1 inserted after the batch."""
    return jnp.expand_dims(x, tuple(range(1, 1 + axes)))


def _expand_at_end(mask: jax.Array, rank: int) -> jax.Array:
    """Returns the mask with `rank` axes: axes of size 1 are appended."""
    return jnp.expand_dims(mask, tuple(range(mask.ndim, rank)))
