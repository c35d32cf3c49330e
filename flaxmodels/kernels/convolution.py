"""Convolutions, channels last: XLA's own, and on CPU kernels in C or patches times a matrix.

On CPU XLA computes the gradients of a convolution inside a loop with naive code, up to a hundred times slower than
the arithmetic allows, and training is a loop (`lax.scan` over steps). A matrix product is fast there. `convolution.c`
computes it without making its left matrix, and `winograd.c` with fewer multiplications where its rule, measured, says
that they pay. Where there is no C compiler, or for what it does not do, the inputs under each tap of the kernel are
laid side by side (shifted slices, concatenated) and multiplied by the kernel, a block of examples at a time.
`benchmarks/kernels.py` measures all of them.

All of it is bilinear and says so: slices, concatenations and products differentiate into the same again, and so do the
three kernels. So forward mode, second derivatives and `vmap` (over kernels too) work, and what is not asked for, such
as the gradient by the data, is not computed.

Shapes: B batch, S one to three spatial axes, K as many kernel sizes, C channels, F features.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, reduce
from operator import add
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.native import Geometry
from flaxmodels.names import lookup

Ints: TypeAlias = Sequence[int]
Pairs: TypeAlias = Sequence[tuple[int, int]]
Op: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]

# What the patches of one block of examples may take: they should stay in cache between being made and being used.
BLOCK_BYTES = 4 << 20
# Taps that one concatenation gathers; a larger kernel is gathered axis by axis: two copies, but 22 slices for 11 x 11.
TAPS_AT_ONCE = 25
# Slices along one axis, above which the program gets too long to compile.
LONGEST_WINDOW = 128


def conv(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints, groups: int = 1
) -> jax.Array:
    """Convolves: y[p] = sum over taps t of x[p * strides + t * dilation] @ kernel[t].

    Args:
        x: The inputs.
        kernel: The kernel, of the dtype of `x`.
        strides: Steps of the window, per spatial axis.
        padding: "valid", "same" (an odd zero goes behind, as in Keras), "causal" (all zeros in front), or a pair of
            numbers of zeros (in front, behind) per spatial axis.
        dilation: Distance of the taps, per spatial axis.
        groups: In how many groups the channels and the features are cut, to be convolved one by one.

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

    def block(x: jax.Array, kernel: jax.Array) -> jax.Array:
        patches = _patches(x, window, strides, pads, dilation)
        rows = patches.reshape(-1, math.prod(window), groups, kernel.shape[-2])
        columns = kernel.reshape(*rows.shape[1:2], kernel.shape[-2], groups, -1)
        if groups == 1:
            product = rows.reshape(rows.shape[0], -1) @ columns.reshape(-1, kernel.shape[-1])
        else:
            product = jnp.einsum("rtgc,tcgf->rgf", rows, columns)
        return product.reshape(*patches.shape[:-1], kernel.shape[-1])

    def compiled(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = pad(x, pads)
        return conv_p.bind(x, kernel, geometry=Geometry(x.shape[1:-1], window, tuple(strides), tuple(dilation), groups))

    xla = partial(reference, strides=strides, padding=pads, dilation=dilation, groups=groups)
    places = _places(x.shape[1:-1], window, strides, pads, dilation)
    numbers = math.prod((*places, *window, x.shape[-1]))
    return _choose(block, xla, compiled, x, kernel, numbers)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints
) -> jax.Array:
    """Convolves each channel with kernels of its own; arguments and errors as in `conv`.

    Shapes: x [B, *S, C], kernel [*K, C, M] -> [B, *S', C * M], the M features of a channel side by side.

    Example:
        >>> x, kernel = jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 2))
        >>> depthwise_conv(x, kernel, strides=(1, 1), padding="same", dilation=(1, 1)).shape
        (2, 5, 5, 6)
    """
    *window, channels, multiplier = kernel.shape
    pads = padding_pairs(x.shape[1:-1], window, strides, padding, dilation)

    # The matrix of one channel is a column or few: multiplying and adding tap by tap is faster than products of them.
    def block(x: jax.Array, kernel: jax.Array) -> jax.Array:
        taps = kernel.reshape(-1, *(1,) * (x.ndim - 1), channels, multiplier)
        shifted = views(pad(x, pads), window, strides, dilation)
        total = reduce(add, (view[..., None] * tap for view, tap in zip(shifted, taps, strict=True)))
        return total.reshape(*total.shape[:-2], channels * multiplier)

    def compiled(x: jax.Array, kernel: jax.Array) -> jax.Array:
        by_kernel = math.prod(window) <= native.MAX_EDGE_TAPS and min(map(min, pads)) >= 0
        x, around = (x, tuple(pads)) if by_kernel else (pad(x, pads), ())
        x = jnp.repeat(x, multiplier, axis=-1)
        geometry = Geometry(x.shape[1:-1], tuple(window), tuple(strides), tuple(dilation), pads=around)
        return depthwise_p.bind(x, kernel.reshape(*window, -1), geometry=geometry)

    xla = partial(reference_depthwise, strides=strides, padding=pads, dilation=dilation)
    places = _places(x.shape[1:-1], window, strides, pads, dilation)
    return _choose(block, xla, compiled, x, kernel, numbers=math.prod((*places, *window, channels, multiplier)))


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Ints,
    padding: str,
    output_padding: Ints | None,
    dilation: Ints,
) -> jax.Array:
    """Spreads x over a finer grid: the transpose of a `conv` with this kernel, from F to C channels.

    Args:
        x: The inputs.
        kernel: The kernel, of the dtype of `x`.
        strides: Steps of the window on the finer grid, per spatial axis.
        padding: "valid" keeps every position that a window reaches, "same" crops.
        output_padding: How many positions there are beyond (n - 1) * strides, plus the span of the window for
            "valid", plus 1 for "same" if that span is odd. None, as in Keras, gives n * strides positions with
            "same", and (n - 1) * strides + max(span, strides) with "valid".
        dilation: Distance of the taps, per spatial axis.

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
    # A zero more around the transpose is one position less cropped, so one zero less around the convolution.
    around = _transpose_pairs(window, strides, padding, output_padding, dilation)
    pads = [(s - 1 - low, s - 1 - high) for s, (low, high) in zip(_spans(window, dilation), around, strict=True)]

    def block(x: jax.Array, kernel: jax.Array) -> jax.Array:
        gather = partial(_patches, window=window, strides=strides, pads=pads, dilation=dilation)
        patches = x.reshape(-1, channels) @ kernel.reshape(-1, channels).T
        spread = jax.linear_transpose(gather, jax.eval_shape(xla, x, kernel))
        return spread(patches.reshape(*x.shape[:-1], -1))[0]

    def compiled(x: jax.Array, kernel: jax.Array) -> jax.Array:
        sizes = jax.eval_shape(xla, x, kernel).shape[1:-1]
        whole = tuple(n + low + high for n, (low, high) in zip(sizes, pads, strict=True))
        geometry = Geometry(whole, tuple(window), tuple(strides), tuple(dilation))
        return pad(data_p.bind(x, kernel, geometry=geometry), [(-low, -high) for low, high in pads])

    return _choose(block, xla, compiled, x, kernel, numbers=math.prod((*x.shape[1:-1], *window, features)))


# --- XLA's own convolution: the reference of each, and the implementation everywhere but on CPU


def reference(
    x: jax.Array, kernel: jax.Array, *, strides: Ints, padding: str | Pairs, dilation: Ints, groups: int = 1
) -> jax.Array:
    """`conv` by `lax.conv_general_dilated`."""
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
    """`depthwise_conv` by `lax.conv_general_dilated`."""
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
    """`conv_transpose` by `lax.conv_transpose`."""
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


# --- which of the three


def _choose(block: Op, xla: Op, compiled: Op, x: jax.Array, kernel: jax.Array, numbers: int) -> jax.Array:
    """The rule: on CPU the kernel in C, else `block` over blocks of examples; elsewhere, and for the rest, `xla`.

    Measured on CPU with gradients in a loop, patches were 5 to 130 times faster than XLA's for all kinds and sizes
    tried, and the kernel in C 1.5 to 3 times faster than patches. They cannot: no outputs, windows of very many taps
    (patches), and anything but real floats of up to 32 bits (the kernel).

    Args:
        block: The convolution as patches times a matrix.
        xla: The same as XLA's own.
        compiled: The same by the kernel in C.
        x: The inputs.
        kernel: The kernel.
        numbers: How many numbers the patches of one example have.
    """
    # Where programs contain no kernels, slices would hide what they compute from those who analyse it.
    if not dispatch.is_static(x) or not dispatch.kernels_allowed():
        return xla(x, kernel)
    out = jax.eval_shape(xla, x, kernel)
    if out.size == 0 or x.size == 0:
        return xla(x, kernel)
    if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize <= 4 and native.available():
        cpu = partial(_in_float32, compiled)
    elif max(kernel.shape[:-2]) <= LONGEST_WINDOW:
        cpu = partial(_in_blocks, block, numbers)
    else:
        return xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=xla)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _in_float32(compiled: Op, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies the kernel in C; as in `_in_blocks`, x and the kernel are the only residuals, padding is made again."""
    return compiled(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)


def _in_blocks(block: Op, numbers: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies `block` to a few examples at a time, as many as have patches of `BLOCK_BYTES`.

    Patches are made again for the gradient, which is faster than reading them back from memory. The outer checkpoint
    leaves x and the kernel as the only residuals, which are those of XLA's convolution: the two branches of
    `platform_dependent` exchange no others, so a scan that is differentiated stacks no patches.
    """
    # Half precision has no fast arithmetic here, and sums over taps and blocks would lose digits in it.
    half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    wide = jnp.dtype(jnp.float32) if half else x.dtype
    count = min(-(-x.shape[0] * numbers * wide.itemsize // BLOCK_BYTES), x.shape[0])
    size = -(-x.shape[0] // count)

    @partial(jax.checkpoint, prevent_cse=False)
    def all_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
        one = jax.checkpoint(lambda part, kernel: block(part.astype(wide), kernel).astype(x.dtype), prevent_cse=False)
        kernel = kernel.astype(wide)
        if count == 1:
            return one(x, kernel)
        padded = pad(x, [], behind=count * size - x.shape[0])
        parts = lax.map(lambda part: one(part, kernel), padded.reshape(count, size, *x.shape[1:]))
        return parts.reshape(count * size, *parts.shape[2:])[: x.shape[0]]

    return all_blocks(x, kernel)


# --- the kernels in C, as operations that JAX can differentiate and map
#
# Each of x, the kernel and y is a bilinear function of the other two. The registry of the kernels says so, and
# `native.window_primitive` defines the derivatives and the batching rules from it.


def _conv_shape(x: Any, kernel: Any, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.output_sizes(), kernel.shape[-1])


def _data_shape(dy: Any, kernel: Any, geometry: Geometry) -> tuple[int, ...]:
    return (dy.shape[0], *geometry.sizes, kernel.shape[-2] * geometry.groups)


def _kernel_shape(x: Any, dy: Any, geometry: Geometry) -> tuple[int, ...]:
    return (*geometry.window, x.shape[-1] // geometry.groups, dy.shape[-1])


def _conv_ends(x: Any, kernel: Any, geometry: Geometry) -> list[int]:
    return [x.shape[-1], kernel.shape[-1]]


def _data_ends(dy: Any, kernel: Any, geometry: Geometry) -> list[int]:
    return [kernel.shape[-2] * geometry.groups, dy.shape[-1]]


def _conv_by_xla(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    inside = [(0, 0)] * len(geometry.window)
    strides, dilation, groups = geometry.strides, geometry.dilation, geometry.groups
    return reference(x, kernel, strides=strides, padding=inside, dilation=dilation, groups=groups)


def _data_by_xla(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    x = jax.ShapeDtypeStruct(_data_shape(dy, kernel, geometry), dy.dtype)
    return jax.linear_transpose(lambda x: _conv_by_xla(x, kernel, geometry=geometry), x)(dy)[0]


def _kernel_by_xla(x: jax.Array, dy: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(_kernel_shape(x, dy, geometry), dy.dtype)
    return jax.linear_transpose(lambda kernel: _conv_by_xla(x, kernel, geometry=geometry), kernel)(dy)[0]


conv_p = native.window_primitive("conv", _conv_shape, _conv_ends, _conv_by_xla)
data_p = native.window_primitive("conv_backward_input", _data_shape, _data_ends, _data_by_xla)
kernel_p = native.window_primitive("conv_backward_kernel", _kernel_shape, _conv_ends, _kernel_by_xla)


def _depthwise_shape(x: Any, kernel: Any, geometry: Geometry) -> tuple[int, ...]:
    return (x.shape[0], *geometry.output_sizes(), x.shape[-1])


def _depthwise_data_shape(dy: Any, kernel: Any, geometry: Geometry) -> tuple[int, ...]:
    return (dy.shape[0], *geometry.sizes, dy.shape[-1])


def _depthwise_kernel_shape(x: Any, dy: Any, geometry: Geometry) -> tuple[int, ...]:
    return (*geometry.window, x.shape[-1])


def _depthwise_ends(x: Any, _: Any, geometry: Geometry) -> list[int]:
    return [x.shape[-1], x.shape[-1]]


def _depthwise_by_xla(x: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    pads = geometry.pads or [(0, 0)] * len(geometry.window)
    kernel = kernel[..., None]
    return reference_depthwise(x, kernel, strides=geometry.strides, padding=pads, dilation=geometry.dilation)


def _depthwise_data_by_xla(dy: jax.Array, kernel: jax.Array, *, geometry: Geometry) -> jax.Array:
    x = jax.ShapeDtypeStruct(_depthwise_data_shape(dy, kernel, geometry), dy.dtype)
    return jax.linear_transpose(lambda x: _depthwise_by_xla(x, kernel, geometry=geometry), x)(dy)[0]


def _depthwise_kernel_by_xla(x: jax.Array, dy: jax.Array, *, geometry: Geometry) -> jax.Array:
    kernel = jax.ShapeDtypeStruct(_depthwise_kernel_shape(x, dy, geometry), dy.dtype)
    return jax.linear_transpose(lambda kernel: _depthwise_by_xla(x, kernel, geometry=geometry), kernel)(dy)[0]


depthwise_p, depthwise_data_p, depthwise_kernel_p = (
    native.window_primitive(name, shape, _depthwise_ends, default)
    for name, shape, default in (
        ("depthwise", _depthwise_shape, _depthwise_by_xla),
        ("depthwise_backward_input", _depthwise_data_shape, _depthwise_data_by_xla),
        ("depthwise_backward_kernel", _depthwise_kernel_shape, _depthwise_kernel_by_xla),
    )
)


# --- windows


def views(x: jax.Array, window: Ints, strides: Ints, dilation: Ints) -> Iterator[jax.Array]:
    """Yields, tap by tap in row-major order, what a window sees there at each of its places: slices of x."""
    places = _places(x.shape[1:-1], window, strides, [(0, 0)] * len(window), dilation)
    for tap in itertools.product(*map(range, window)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        stop = [first + (n - 1) * step + 1 for first, n, step in zip(start, places, strides, strict=True)]
        yield lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1))


def views_along(x: jax.Array, axis: int, taps: int, stride: int, dilation: int) -> Iterator[jax.Array]:
    """`views` of a window that extends along one of the spatial axes only."""
    sizes = [[size if i == axis else 1 for i in range(x.ndim - 2)] for size in (taps, stride, dilation)]
    return views(x, *sizes)


def _patches(x: jax.Array, window: Ints, strides: Ints, pads: Pairs, dilation: Ints) -> jax.Array:
    """[B, *S, C] -> [B, *S', taps * C]: under each output what its window sees."""
    x = pad(x, pads)
    if math.prod(window) <= TAPS_AT_ONCE:
        return jnp.concatenate(list(views(x, window, strides, dilation)), axis=-1)
    # The last axis first, so that the taps come out in row-major order.
    for axis in reversed(range(len(window))):
        x = jnp.concatenate(list(views_along(x, axis, window[axis], strides[axis], dilation[axis])), axis=-1)
    return x


def pad(x: jax.Array, pads: Pairs, behind: int = 0) -> jax.Array:
    """Puts zeros (in front, behind) around each spatial axis, as many examples of zeros behind; cuts where negative."""
    config = [(0, behind, 0), *((low, high, 0) for low, high in pads)]
    config += [(0, 0, 0)] * (x.ndim - len(config))
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _places(sizes: Ints, window: Ints, strides: Ints, pads: Pairs, dilation: Ints) -> list[int]:
    each = zip(sizes, pads, _spans(window, dilation), strides, strict=True)
    return [(n + low + high - span) // step + 1 for n, (low, high), span, step in each]


def _spans(window: Ints, dilation: Ints) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]


# --- padding


def padding_pairs(shape: Ints, window: Ints, strides: Ints, padding: str | Pairs, dilation: Ints) -> Pairs:
    """The numbers of zeros (in front, behind) of each spatial axis that `padding` means.

    Example:
        >>> padding_pairs((28, 28), (3, 3), (2, 2), "same", (1, 1))
        ((0, 1), (0, 1))
    """
    if not isinstance(padding, str):
        return tuple((low, high) for low, high in padding)
    pair = lookup("padding", padding, PADDINGS, "Or pass a pair (in front, behind) per spatial axis.")
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
    """The numbers of zeros around the spread inputs, so that the flipped kernel gives the outputs Keras gives."""
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
