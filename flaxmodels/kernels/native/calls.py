"""Calls C kernels from JAX programs, and wraps the kernels over windows as JAX primitives with derivatives."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from flaxmodels.kernels import dispatch
from flaxmodels.kernels.native import build
from flaxmodels.kernels.native.registry import KERNELS, MAX_SPATIAL_AXES, Kernel

# The primitives of kernels over windows, keyed by the name of the kernel. The gradients of a kernel use other kernels.
_PRIMITIVES: dict[str, Primitive] = {}


def call(
    kernel: str,
    out: jax.ShapeDtypeStruct | Sequence[jax.ShapeDtypeStruct],
    *operands: jax.Array,
    attributes: Mapping[str, int | Sequence[int]],
) -> Any:
    """Calls a C kernel in a program for a CPU.

    Args:
        kernel: The kernel's name in `registry.KERNELS`.
        out: Shape and dtype of the result, or a list of them.
        operands: The arrays that the registry declares.
        attributes: The integers that the registry declares, keyed by name.

    Raises:
        ValueError: If the number or the rank of an array, or an attribute, differs from the registry.
        TypeError: If the dtype of an array differs from the registry.
    """
    declared = KERNELS[kernel]
    declared.check_call(operands, jax.tree.leaves(out))
    packed = np.asarray(declared.pack_attributes(attributes), np.int64)
    target = jax.ffi.ffi_call(f"{build.prefix()}_{kernel}", out, vmap_method="sequential")
    return target(*operands, attributes=packed)


class Geometry(NamedTuple):
    """How a window moves over an image.

    Attributes:
        sizes: Sizes of the image along its spatial axes.
        window: Sizes of the window.
        strides: Steps of the window.
        dilation: Distances between the taps of the window.
        groups: Number of groups of channels.
        pads: Padding (before, after) of each axis; empty where windows stay inside the image.
    """

    sizes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    pads: tuple[tuple[int, int], ...] = ()

    def attributes(
        self, channels: int, features: int, relu: bool = False, pooled: bool = False
    ) -> dict[str, int | tuple[int, ...]]:
        """Returns the attributes of a kernel over windows; leading axes are added until there are three.

        Args:
            channels: Number of channels of the image.
            features: Number of features of the outputs.
            relu: Whether ReLU follows a convolution.
            pooled: Whether max pooling with windows of size 2 along each axis follows.
        """
        before = tuple(low for low, _ in self.pads)
        axes = {
            "image_size": self.sizes,
            "window": self.window,
            "stride": self.strides,
            "dilation": self.dilation,
            "output_size": self.output_sizes(),
        }
        return {
            **{name: (1,) * (MAX_SPATIAL_AXES - len(sizes)) + sizes for name, sizes in axes.items()},
            "pad_before": (0,) * (MAX_SPATIAL_AXES - len(before)) + before,
            "channels": channels,
            "features": features,
            "groups": self.groups,
            "relu": int(relu),
            "pooled": int(pooled),
        }

    def output_sizes(self) -> tuple[int, ...]:
        """Returns the number of window positions along each axis.

        Example:
            >>> Geometry((28, 28), (3, 3), (2, 2), (1, 1)).output_sizes()
            (13, 13)
        """
        padded = [n + sum(pad) for n, pad in zip(self.sizes, self.pads or [()] * len(self.sizes), strict=True)]
        axes = zip(padded, self.window, self.strides, self.dilation, strict=True)
        return tuple((n - (taps - 1) * dilation - 1) // stride + 1 for n, taps, stride, dilation in axes)


def window_primitive(
    kernel: str,
    out_shape: Callable[..., tuple[int, ...]],
    channels_and_features: Callable[..., list[int]],
    default: Callable[..., jax.Array],
) -> Primitive:
    """Makes a JAX primitive with parameter `geometry` that a C kernel computes on a CPU.

    The batching rule and the derivatives follow from the registry.

    Args:
        kernel: The kernel's name in `registry.KERNELS`.
        out_shape: Function of (*operands, geometry) that returns the shape of the result.
        channels_and_features: Function of (*operands, geometry) that returns [number of channels, number of features].
        default: The same function in XLA operations: (*operands, geometry=...) -> array.
    """
    declared = KERNELS[kernel]

    def out(*operands: dispatch.Shaped, geometry: Geometry) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(out_shape(*operands, geometry), np.float32)

    def compute(*operands: jax.Array, geometry: Geometry) -> jax.Array:
        channels, features = channels_and_features(*operands, geometry)
        attributes = geometry.attributes(channels, features)
        return call(kernel, out(*operands, geometry=geometry), *operands, attributes=attributes)

    def batched(
        primitive: Primitive, operands: Sequence[jax.Array], axes: Sequence[int | None], *, geometry: Geometry
    ) -> tuple[jax.Array, int]:
        shared = [not array.has_batch_axis for array in declared.operands[: len(operands)]]
        mapped = [axis is not None for axis in axes]
        if declared.results[0].has_batch_axis and not any(a and b for a, b in zip(shared, mapped, strict=True)):
            return fold_into_batch(primitive, operands, axes, shared=shared, geometry=geometry)
        return _map_one_by_one(primitive, operands, axes, geometry=geometry)

    primitive = dispatch.primitive(kernel, out, batched, default, cpu=compute)
    _PRIMITIVES[kernel] = primitive
    _define_derivatives(primitive, declared)
    return primitive


def fold_into_batch(
    primitive: Primitive,
    operands: Sequence[jax.Array],
    axes: Sequence[int | None],
    *,
    shared: Sequence[bool] = (),
    geometry: Geometry,
) -> tuple[jax.Array, int]:
    """Batching rule that merges the mapped axis with the batch axis.

    Args:
        primitive: The primitive.
        operands: The operands of the primitive.
        axes: The mapped axis of each operand, or None.
        shared: For each operand, whether all examples share it because it has no batch axis; empty if every operand has
            one.
        geometry: The parameter of the primitive.
    """
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)

    def folded(a: jax.Array, axis: int | None) -> jax.Array:
        a = jnp.broadcast_to(a[None], (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        return a.reshape(-1, *a.shape[2:])

    each = zip(operands, axes, shared or [False] * len(operands), strict=True)
    out = primitive.bind(*(a if is_shared else folded(a, axis) for a, axis, is_shared in each), geometry=geometry)
    return out.reshape(size, -1, *out.shape[1:]), 0


def _map_one_by_one(
    primitive: Primitive, operands: Sequence[jax.Array], axes: Sequence[int | None], *, geometry: Geometry
) -> tuple[jax.Array, int]:
    """Batching rule that loops over the mapped axis."""
    mapped = [jnp.moveaxis(a, axis, 0) for a, axis in zip(operands, axes, strict=True) if axis is not None]

    def one(parts: list[jax.Array]) -> jax.Array:
        rest = iter(parts)
        arrays = [a if axis is None else next(rest) for a, axis in zip(operands, axes, strict=True)]
        return primitive.bind(*arrays, geometry=geometry)

    return lax.map(one, mapped), 0


def _define_derivatives(primitive: Primitive, kernel: Kernel) -> None:
    """Defines the derivatives of a primitive that is linear in each operand that has a gradient in the registry."""
    names = [array.name for array in kernel.operands]
    linear = [i for i, name in enumerate(names) if name in kernel.gradients]

    def jvp_rule(i: int) -> Callable[..., jax.Array]:
        def rule(tangent: jax.Array, *primals: jax.Array, geometry: Geometry) -> jax.Array:
            return primitive.bind(*primals[:i], tangent, *primals[i + 1 :], geometry=geometry)

        return rule

    def transpose(
        cotangent: jax.Array | ad.Zero, *operands: jax.Array | ad.UndefinedPrimal, geometry: Geometry
    ) -> list[jax.Array | ad.Zero | None]:
        (i,) = (i for i, operand in enumerate(operands) if ad.is_undefined_primal(operand))
        results: list[jax.Array | ad.Zero | None] = [None] * len(operands)
        if type(cotangent) is ad.Zero:
            results[i] = ad.Zero(operands[i].aval)
            return results
        # The gradient's kernel takes operands of the same names; the cotangent has the name of this kernel's result.
        arrays = dict(zip(names, operands, strict=False)) | {kernel.results[0].name: cotangent}
        gradient = kernel.gradients[names[i]]
        required = [array.name for array in KERNELS[gradient].operands if not array.optional]
        results[i] = _PRIMITIVES[gradient].bind(*(arrays[name] for name in required), geometry=geometry)
        return results

    required = sum(not array.optional for array in kernel.operands)
    ad.defjvp(primitive, *(jvp_rule(i) if i in linear else None for i in range(required)))
    ad.primitive_transposes[primitive] = transpose
