"""Channels-last convolutions: XLA's implementation, or on a CPU a C kernel or im2col.

On a CPU, XLA computes the gradients of a convolution inside a loop with naive code, up to a hundred times slower than
the arithmetic allows, and training is a loop (`lax.scan` over steps). A matrix product is fast there. im2col copies the
inputs under each window position into a row, the patches, and multiplies them by the kernel as a matrix (Chellapilla,
Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006).
`native/convolution.c` computes the same product without storing the patches. `native/winograd.c` needs fewer
multiplications, and is used where measurements showed that it is faster (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016). im2col, in blocks of examples, is the fallback without a C compiler and for what
the kernel in C does not support. `benchmarks/kernels.py` measures all of them.

Every implementation is bilinear in the inputs and the kernel, and consists of operations that JAX can differentiate any
number of times: slices, concatenations, products, and primitives of the kernels in C. Forward mode, second derivatives
and `vmap`, also over kernels, therefore work. A gradient that is not needed, such as that of the data, is not computed.

Shapes: B batch, S one to three spatial axes, K as many kernel sizes, C channels, F features.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from operator import add
from typing import TypeAlias, TypedDict

import jax
import jax.numpy as jnp
from jax import lax

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.native import Geometry
from flaxmodels.names import lookup

Ints: TypeAlias = Sequence[int]
Pairs: TypeAlias = Sequence[tuple[int, int]]
# (inputs, kernel) -> outputs
Convolution: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
ArrayLike: TypeAlias = jax.Array | jax.ShapeDtypeStruct


class WindowArguments(TypedDict):
    """The arguments of a convolution that describe its window."""

    strides: Ints
    padding: str
    dilation: Ints


# Size of the patches of one block of examples. They should stay in the cache until the product has read them.
BLOCK_BYTES = 4 << 20
# Largest number of taps in one concatenation. A larger window is gathered axis by axis, which needs two copies, but
# only 22 slices for 11 x 11 taps.
MAX_TAPS_AT_ONCE = 25
# Largest number of taps along one axis for im2col. More slices would take too long to compile.
MAX_WINDOW = 128


def conv(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints, groups: int = 1
) -> jax.Array:
    """Computes a convolution: y[p] = sum over taps t of x[p * strides + t * dilation] @ kernel[t].

    Args:
        x: The inputs.
        kernel: The kernel, of the dtype of `x`.
        strides: Stride of the window along each spatial axis.
        padding: "valid", "same" (an odd zero goes to the end, as in Keras), "causal" (all zeros at the start), or a
            pair of numbers of zeros (before, after) per spatial axis.
        dilation: Distance between taps along each spatial axis.
        groups: Number of groups into which channels and features are split; each is convolved separately.

    Shapes: x [B, *S, C], kernel [*K, C / groups, F] -> [B, *S', F].

    Raises:
        ValueError: If `padding` is an unknown name.

    Example:
        >>> x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4))
        >>> conv(x, kernel, strides=(1, 1), padding="valid", dilation=(1, 1)).shape
        (2, 3, 3, 4)
    """
    window = kernel.shape[:-2]
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, dilation)

    def im2col(x: jax.Array, kernel: jax.Array) -> jax.Array:
        patches = extract_patches(x, window, strides, pads, dilation)
        rows = patches.reshape(-1, math.prod(window), groups, kernel.shape[-2])
        columns = kernel.reshape(*rows.shape[1:2], kernel.shape[-2], groups, -1)
        if groups == 1:
            product = rows.reshape(rows.shape[0], -1) @ columns.reshape(-1, kernel.shape[-1])
        else:
            product = jnp.einsum("rtgc,tcgf->rgf", rows, columns)
        return product.reshape(*patches.shape[:-1], kernel.shape[-1])

    def by_c_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = pad(x, pads)
        return conv_p.bind(x, kernel, geometry=Geometry(x.shape[1:-1], window, tuple(strides), tuple(dilation), groups))

    xla = partial(reference, strides=strides, padding=pads, dilation=dilation, groups=groups)
    positions = _output_sizes(x.shape[1:-1], window, strides, pads, dilation)
    return _choose(im2col, xla, by_c_kernel, x, kernel, patch_size=math.prod((*positions, *window, x.shape[-1])))


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints
) -> jax.Array:
    """Convolves each channel separately; arguments and errors are those of `conv`.

    y[p, c, m] = sum over taps t of x[p * strides + t * dilation, c] * kernel[t, c, m]

    Shapes: x [B, *S, C], kernel [*K, C, M] -> [B, *S', C * M], the M features of a channel side by side.

    Example:
        >>> x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 2))
        >>> depthwise_conv(x, kernel, strides=(1, 1), padding="same", dilation=(1, 1)).shape
        (2, 5, 5, 6)
    """
    *window, channels, multiplier = kernel.shape
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, dilation)

    # The matrix of one channel has few columns, so multiplying and adding tap by tap is faster than a product.
    def by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
        taps = kernel.reshape(-1, *(1,) * (x.ndim - 1), channels, multiplier)
        shifted = tap_views(pad(x, pads), window, strides, dilation)
        total = reduce(add, (view[..., None] * tap for view, tap in zip(shifted, taps, strict=True)))
        return total.reshape(*total.shape[:-2], channels * multiplier)

    def by_c_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # The kernel handles padding itself, which saves a padded copy, unless the window is huge or padding crops.
        kernel_pads = math.prod(window) <= native.MAX_EDGE_TAPS and min(map(min, pads)) >= 0
        x, kept_pads = (x, tuple(pads)) if kernel_pads else (pad(x, pads), ())
        x = jnp.repeat(x, multiplier, axis=-1)
        geometry = Geometry(x.shape[1:-1], tuple(window), tuple(strides), tuple(dilation), pads=kept_pads)
        return depthwise_p.bind(x, kernel.reshape(*window, -1), geometry=geometry)

    xla = partial(reference_depthwise, strides=strides, padding=pads, dilation=dilation)
    positions = _output_sizes(x.shape[1:-1], window, strides, pads, dilation)
    patch_size = math.prod((*positions, *window, channels, multiplier))
    return _choose(by_taps, xla, by_c_kernel, x, kernel, patch_size)


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Ints,
    padding: str,
    output_padding: Ints | None,
    dilation: Ints,
) -> jax.Array:
    """Computes a transposed convolution from F to C channels.

    It is the gradient of a `conv` with this kernel with respect to its inputs. See Dumoulin and Visin, "A guide to
    convolution arithmetic for deep learning" (2016).

    Args:
        x: The inputs.
        kernel: The kernel, of the dtype of `x`.
        strides: Stride of the window on the output, along each spatial axis.
        padding: "valid" keeps every position that a window reaches, "same" crops.
        output_padding: If given, n inputs along an axis give (n - 1) * strides + output_padding outputs, plus the span
            of the window for "valid", plus 1 for "same" if that span is odd. None gives Keras' sizes: n * strides
            outputs with "same", and (n - 1) * strides + max(span, strides) with "valid".
        dilation: Distance between taps along each spatial axis.

    Shapes: x [B, *S, C], kernel [*K, F, C] -> [B, *S', F].

    Raises:
        ValueError: If `padding` is an unknown name.

    Example:
        >>> x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 4, 3))
        >>> conv_transpose(
        ...     x, kernel, strides=(2, 2), padding="same", output_padding=None, dilation=(1, 1)
        ... ).shape
        (2, 10, 10, 4)
    """
    *window, features, channels = kernel.shape
    xla = partial(
        reference_transpose, strides=strides, padding=padding, output_padding=output_padding, dilation=dilation
    )
    # `conv` with `pads` maps the outputs to the inputs. Each zero that is added around the dilated inputs of the
    # transpose crops one position less, and so removes one zero around the inputs of `conv`.
    around = _transpose_pairs(window, strides, padding, output_padding, dilation)
    pads = [(s - 1 - low, s - 1 - high) for s, (low, high) in zip(_spans(window, dilation), around, strict=True)]

    def col2im(x: jax.Array, kernel: jax.Array) -> jax.Array:
        gather = partial(extract_patches, window=window, strides=strides, pads=pads, dilation=dilation)
        patches = x.reshape(-1, channels) @ kernel.reshape(-1, channels).T
        add_patches = jax.linear_transpose(gather, jax.eval_shape(xla, x, kernel))
        return add_patches(patches.reshape(*x.shape[:-1], -1))[0]

    def by_c_kernel(x: jax.Array, kernel: jax.Array) -> jax.Array:
        sizes = jax.eval_shape(xla, x, kernel).shape[1:-1]
        padded = tuple(n + low + high for n, (low, high) in zip(sizes, pads, strict=True))
        geometry = Geometry(padded, tuple(window), tuple(strides), tuple(dilation))
        return pad(conv_backward_input_p.bind(x, kernel, geometry=geometry), [(-low, -high) for low, high in pads])

    patch_size = math.prod((*x.shape[1:-1], *window, features))
    return _choose(col2im, xla, by_c_kernel, x, kernel, patch_size)


# --- XLA's own convolution: the reference, and the implementation on every platform but the CPU


def reference(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints, groups: int = 1
) -> jax.Array:
    """Computes `conv` by `lax.conv_general_dilated`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding_pairs(x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation),
        rhs_dilation=dilation,
        dimension_numbers=_layout(x),
        feature_group_count=groups,
    )


def reference_depthwise(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints
) -> jax.Array:
    """Computes `depthwise_conv` by `lax.conv_general_dilated`."""
    *window, channels, multiplier = kernel.shape
    kernel = kernel.reshape(*window, 1, channels * multiplier)
    return reference(x, kernel, strides=strides, padding=padding, dilation=dilation, groups=channels)


def reference_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Ints,
    padding: str,
    output_padding: Ints | None,
    dilation: Ints,
) -> jax.Array:
    """Computes `conv_transpose` by `lax.conv_transpose`."""
    return lax.conv_transpose(
        x,
        kernel,
        strides,
        _transpose_pairs(kernel.shape[:-2], strides, padding, output_padding, dilation),
        rhs_dilation=dilation,
        dimension_numbers=_layout(x),
        transpose_kernel=True,
    )


def _layout(x: jax.Array) -> tuple[str, str, str]:
    axes = "HWD"[: x.ndim - 2]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"


# --- the choice of the implementation


def _choose(
    fallback: Convolution,
    xla: Convolution,
    by_c_kernel: Convolution,
    x: jax.Array,
    kernel: jax.Array,
    patch_size: int,
) -> jax.Array:
    """Computes a convolution: on a CPU by the kernel in C or else by `fallback`, on other platforms by XLA.

    Measured on a CPU with gradients in a loop, im2col was 5 to 130 times faster than XLA for all kinds and sizes, and
    the kernel in C 1.5 to 3 times faster than im2col. XLA also computes what they do not support: empty outputs,
    windows with very many taps (im2col), and dtypes other than real floats of up to 32 bits (the kernel in C).

    Args:
        fallback: The convolution in XLA operations that are fast on a CPU.
        xla: The same convolution as one XLA convolution.
        by_c_kernel: The same convolution, computed by the kernel in C.
        x: The inputs.
        kernel: The kernel.
        patch_size: Number of elements of the patches of one example.
    """
    # Inside `without_kernels`, programs are analysed, and slices would hide that they compute a convolution.
    if not dispatch.is_static(x) or not dispatch.kernels_allowed():
        return xla(x, kernel)
    out = jax.eval_shape(xla, x, kernel)
    if out.size == 0 or x.size == 0:
        return xla(x, kernel)
    if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize <= 4 and native.available():
        cpu = partial(_in_float32, by_c_kernel)
    elif max(kernel.shape[:-2]) <= MAX_WINDOW:
        cpu = partial(_in_blocks, fallback, patch_size)
    else:
        return xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=xla)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _in_float32(by_c_kernel: Convolution, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Calls the kernel in C. As in `_in_blocks`, only x and the kernel are residuals; padding is computed again."""
    return by_c_kernel(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)


def _in_blocks(fallback: Convolution, patch_size: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies a convolution to blocks of examples whose patches take about `BLOCK_BYTES`.

    The backward pass computes the patches again, which is faster than reading them back from memory. The outer
    checkpoint makes x and the kernel the only residuals, as for XLA's convolution. Both branches of
    `platform_dependent` then have the same residuals, so a scan that is differentiated stacks no patches.
    """
    # A CPU has no fast half-precision arithmetic, and sums over taps and blocks would lose digits in it.
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    dtype = jnp.dtype(jnp.float32) if half else x.dtype
    count = min(-(-x.shape[0] * patch_size * dtype.itemsize // BLOCK_BYTES), x.shape[0])
    size = -(-x.shape[0] // count)

    @partial(jax.checkpoint, prevent_cse=False)
    def all_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        one = jax.checkpoint(
            lambda part, kernel: fallback(part.astype(dtype), kernel).astype(x.dtype), prevent_cse=False
        )
        kernel = kernel.astype(dtype)
        if count == 1:
            return one(x, kernel)
        padded = pad(x, [], extra_examples=count * size - x.shape[0])
        parts = lax.map(lambda part: one(part, kernel), padded.reshape(count, size, *x.shape[1:]))
        return parts.reshape(count * size, *parts.shape[2:])[: x.shape[0]]

    return all_blocks(x, kernel)


# --- the kernels in C as primitives
#
# Each of x, the kernel and y is a bilinear function of the other two. The registry of the kernels declares the
# gradient of each, and `native.window_primitive` derives the derivatives and the batching rules.


def _conv_shape(x: ArrayLike, kernel: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.output_sizes(), kernel.shape[-1])


def _backward_input_shape(dy: ArrayLike, kernel: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (dy.shape[0], *geometry.sizes, kernel.shape[-2] * geometry.groups)


def _backward_kernel_shape(x: ArrayLike, dy: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (*geometry.window, x.shape[-1] // geometry.groups, dy.shape[-1])


def _channels_and_features(x: ArrayLike, kernel: ArrayLike, geometry: Geometry) -> list[int]:
    return [x.shape[-1], kernel.shape[-1]]


def _backward_input_channels_and_features(dy: ArrayLike, kernel: ArrayLike, geometry: Geometry) -> list[int]:
    return [kernel.shape[-2] * geometry.groups, dy.shape[-1]]


def _conv_by_xla(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    no_padding = [(0, 0)] * len(geometry.window)
    strides, dilation, groups = geometry.strides, geometry.dilation, geometry.groups
    return reference(x, kernel, strides=strides, padding=no_padding, dilation=dilation, groups=groups)


def _backward_input_by_xla(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    x = jax.ShapeDtypeStruct(_backward_input_shape(dy, kernel, geometry), dy.dtype)
    return jax.linear_transpose(lambda x: _conv_by_xla(x, kernel, geometry=geometry), x)(dy)[0]


def _backward_kernel_by_xla(x: jax.Array, dy: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(_backward_kernel_shape(x, dy, geometry), dy.dtype)
    return jax.linear_transpose(lambda kernel: _conv_by_xla(x, kernel, geometry=geometry), kernel)(dy)[0]


conv_p = native.window_primitive("conv", _conv_shape, _channels_and_features, _conv_by_xla)
conv_backward_input_p = native.window_primitive(
    "conv_backward_input", _backward_input_shape, _backward_input_channels_and_features, _backward_input_by_xla
)
conv_backward_kernel_p = native.window_primitive(
    "conv_backward_kernel", _backward_kernel_shape, _channels_and_features, _backward_kernel_by_xla
)


def _depthwise_shape(x: ArrayLike, kernel: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.output_sizes(), x.shape[-1])


def _depthwise_backward_input_shape(dy: ArrayLike, kernel: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (dy.shape[0], *geometry.sizes, dy.shape[-1])


def _depthwise_backward_kernel_shape(x: ArrayLike, dy: ArrayLike, geometry: Geometry) -> tuple[int, ...]:
    return (*geometry.window, x.shape[-1])


def _depthwise_channels(x: ArrayLike, _: ArrayLike, geometry: Geometry) -> list[int]:
    return [x.shape[-1], x.shape[-1]]


def _depthwise_by_xla(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    pads = geometry.pads or [(0, 0)] * len(geometry.window)
    kernel = kernel[..., None]
    return reference_depthwise(x, kernel, strides=geometry.strides, padding=pads, dilation=geometry.dilation)


def _depthwise_backward_input_by_xla(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    x = jax.ShapeDtypeStruct(_depthwise_backward_input_shape(dy, kernel, geometry), dy.dtype)
    return jax.linear_transpose(lambda x: _depthwise_by_xla(x, kernel, geometry=geometry), x)(dy)[0]


def _depthwise_backward_kernel_by_xla(x: jax.Array, dy: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(_depthwise_backward_kernel_shape(x, dy, geometry), dy.dtype)
    return jax.linear_transpose(lambda kernel: _depthwise_by_xla(x, kernel, geometry=geometry), kernel)(dy)[0]


depthwise_p, depthwise_backward_input_p, depthwise_backward_kernel_p = (
    native.window_primitive(name, shape, _depthwise_channels, default)
    for name, shape, default in (
        ("depthwise", _depthwise_shape, _depthwise_by_xla),
        ("depthwise_backward_input", _depthwise_backward_input_shape, _depthwise_backward_input_by_xla),
        ("depthwise_backward_kernel", _depthwise_backward_kernel_shape, _depthwise_backward_kernel_by_xla),
    )
)


# --- windows


def tap_views(x: jax.Array, window: Ints, strides: Ints, dilation: Ints) -> Iterator[jax.Array]:
    """Yields for each tap, in row-major order, the values under it at all window positions: a strided slice of x."""
    positions = _output_sizes(x.shape[1:-1], window, strides, [(0, 0)] * len(window), dilation)
    for tap in itertools.product(*map(range, window)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [first + (n - 1) * stride + 1 for first, n, stride in zip(start, positions, strides, strict=True)]
        yield lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))


def tap_views_along(x: jax.Array, axis: int, taps: int, stride: int, dilation: int) -> Iterator[jax.Array]:
    """Yields the `tap_views` of a window that extends along one spatial axis only."""
    sizes = [[size if i == axis else 1 for i in range(x.ndim - 2)] for size in (taps, stride, dilation)]
    return tap_views(x, *sizes)


def extract_patches(x: jax.Array, window: Ints, strides: Ints, pads: Pairs, dilation: Ints) -> jax.Array:
    """Gathers the inputs under each window position (im2col): [B, *S, C] -> [B, *S', taps * C]."""
    x = pad(x, pads)
    if math.prod(window) <= MAX_TAPS_AT_ONCE:
        return jnp.concatenate(list(tap_views(x, window, strides, dilation)), axis=-1)
    # The last axis comes first, so that the taps end up in row-major order.
    for axis in reversed(range(len(window))):
        x = jnp.concatenate(list(tap_views_along(x, axis, window[axis], strides[axis], dilation[axis])), axis=-1)
    return x


def pad(x: jax.Array, pads: Pairs, extra_examples: int = 0) -> jax.Array:
    """Pads each spatial axis with zeros (before, after) and appends examples of zeros; negative numbers crop."""
    config = [(0, extra_examples, 0), *((low, high, 0) for low, high in pads)]
    config += [(0, 0, 0)] * (x.ndim - len(config))
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _output_sizes(sizes: Ints, window: Ints, strides: Ints, pads: Pairs, dilation: Ints) -> list[int]:
    """Returns the number of window positions along each axis."""
    axes = zip(sizes, pads, _spans(window, dilation), strides, strict=True)
    return [(n + low + high - span) // stride + 1 for n, (low, high), span, stride in axes]


def _spans(window: Ints, dilation: Ints) -> list[int]:
    """Returns the sizes of the dilated window."""
    return [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]


# --- padding


def padding_pairs(shape: Ints, window: Ints, strides: Ints, padding: str | Pairs, dilation: Ints) -> Pairs:
    """Converts a padding to numbers of zeros (before, after) per spatial axis.

    Raises:
        ValueError: If `padding` is an unknown name.

    Example:
        >>> padding_pairs((28, 28), (3, 3), (2, 2), "same", (1, 1))
        ((0, 1), (0, 1))
    """
    if not isinstance(padding, str):
        return tuple((low, high) for low, high in padding)
    pair = lookup("padding", padding, PADDINGS, "Or pass a pair (before, after) per spatial axis.")
    return tuple(map(pair, shape, _spans(window, dilation), strides))


def _same(size: int, span: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


PADDINGS: dict[str, Callable[[int, int, int], tuple[int, int]]] = {
    "causal": lambda size, span, stride: (span - 1, 0),
    "same": _same,
    "valid": lambda size, span, stride: (0, 0),
}


def _transpose_pairs(window: Ints, strides: Ints, padding: str, output_padding: Ints | None, dilation: Ints) -> Pairs:
    """Returns the padding of the dilated inputs with which a flipped kernel gives Keras' transposed convolution."""
    pair = lookup("padding", padding, TRANSPOSE_PADDINGS)
    extra = output_padding if output_padding is not None else [None] * len(strides)
    return tuple(map(pair, _spans(window, dilation), strides, extra))


def _transpose_valid(span: int, stride: int, extra: int | None) -> tuple[int, int]:
    return span - 1, span - 1 + (max(stride - span, 0) if extra is None else extra)


def _transpose_same(span: int, stride: int, extra: int | None) -> tuple[int, int]:
    total = span - 2 + (stride if extra is None else span % 2 + extra)
    low = min(-(-total // 2), span - 1)
    return low, total - low


TRANSPOSE_PADDINGS: dict[str, Callable[[int, int, int | None], tuple[int, int]]] = {
    "same": _transpose_same,
    "valid": _transpose_valid,
}
