"""A convolution fused with its bias, ReLU and a max pooling over windows of two.

On a CPU, separate XLA operations after a kernel in C would read the outputs from memory again: in the forward pass to
add the bias and apply ReLU, in the backward pass for the gradients of ReLU and of the bias. `native/convolution.c` does
both while the values are in registers. With pooling, only the maxima are ever written to memory. On other platforms
these are separate operations, which XLA fuses.

The derivatives are those of `unfused`, and all JAX transformations are supported.

Shapes: as in `convolution`.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.convolution import ArrayLike, Ints, Pairs, conv, pad, padding_pairs, tap_views
from flaxmodels.kernels.native import Geometry

Result = TypeVar("Result")
Shapes: TypeAlias = jax.ShapeDtypeStruct | Sequence[jax.ShapeDtypeStruct]


class Form(NamedTuple):
    """The parameters of a fused convolution that are not arrays.

    Attributes:
        strides: Stride of the window along each spatial axis.
        pads: Numbers of padding zeros (before, after) along each spatial axis.
        dilation: Distance between taps along each spatial axis.
        groups: Number of groups of channels.
        relu: Whether ReLU follows.
        pooled: Whether max pooling over windows of two follows.
    """

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    relu: bool
    pooled: bool

    def conv(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Computes the convolution alone."""
        return conv(x, kernel, strides=self.strides, padding=self.pads, dilation=self.dilation, groups=self.groups)

    def call(self, function: str, out: Shapes, x: ArrayLike, kernel: ArrayLike, *operands: jax.Array) -> Any:
        """Calls a kernel in C with the attributes of this form and of the shapes of x and the convolution kernel."""
        geometry = Geometry(x.shape[1:-1], kernel.shape[:-2], self.strides, self.dilation, self.groups)
        attributes = geometry.attributes(x.shape[-1], kernel.shape[-1], self.relu, self.pooled)
        return native.call(function, out, *operands, attributes=attributes)


def conv_bias(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    *,
    strides: Ints,
    padding: str | Pairs,
    dilation: Ints,
    groups: int = 1,
    relu: bool = False,
    pooled: bool = False,
) -> jax.Array:
    """Computes a convolution with bias: y = conv(x, kernel) + bias, then ReLU and max pooling if requested.

    Args:
        x: The inputs.
        kernel: The kernel, of the dtype of `x`.
        bias: The bias, of the dtype of `x`.
        strides: Stride of the window along each spatial axis.
        padding: As in `conv`.
        dilation: Distance between taps along each spatial axis.
        groups: Number of groups into which channels and features are split.
        relu: Whether to apply ReLU.
        pooled: Whether to apply max pooling with windows and strides of two along each spatial axis, without padding.

    Shapes: x [B, *S, C], kernel [*K, C / groups, F], bias [F] -> [B, *S', F], pooled [B, *(S' // 2), F].

    Raises:
        ValueError: If `padding` is an unknown name.

    Example:
        >>> x, kernel, bias = jnp.ones((1, 3, 1)), jnp.ones((2, 1, 2)), jnp.array([1.0, -3.0])
        >>> conv_bias(x, kernel, bias, strides=(1,), padding="valid", dilation=(1,), relu=True)[0].tolist()
        [[3.0, 0.0], [3.0, 0.0]]
    """
    pads = tuple(padding_pairs(x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation))
    form = Form(tuple(strides), pads, tuple(dilation), groups, relu, pooled)
    # Half precision is not fused, because its sums are rounded before the bias is added. Empty outputs are not fused
    # either.
    fused = x.dtype == kernel.dtype == bias.dtype == jnp.float32 and not (pooled and len(strides) > 2)
    fused = fused and dispatch.is_static(x) and dispatch.kernels_allowed() and native.available()
    if fused and x.size and jax.eval_shape(partial(unfused, form=form), x, kernel, bias)[0].size:
        return fused_p.bind(x, kernel, bias, form=form)[0]
    return unfused(x, kernel, bias, form=form)[0]


def unfused(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, form: Form) -> list[jax.Array]:
    """Computes `conv_bias` in separate operations; with pooling, also returns the argmax of each window.

    The argmax is the index of the tap that receives the gradient, or `native.BLOCKED` if ReLU blocks the gradient.
    """
    y = form.conv(x, kernel)
    y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
    y = jax.nn.relu(y) if form.relu else y
    if not form.pooled:
        return [y]
    best, *others = pool_taps(y)
    argmax = jnp.zeros(best.shape, jnp.uint8)
    for tap, other in enumerate(others, start=1):
        larger = (other > best) | (other != other)
        best, argmax = lax.select(larger, other, best), lax.select(larger, jnp.full_like(argmax, tap), argmax)
    return [best, jnp.where(best > 0, argmax, native.BLOCKED) if form.relu else argmax]


def pool_taps(y: jax.Array) -> list[jax.Array]:
    """Returns the values under each tap of a window of two along each spatial axis, in row-major order."""
    twos = (2,) * (y.ndim - 2)
    return list(tap_views(y, twos, twos, (1,) * len(twos)))


def _through_relu_and_pool(tangent: jax.Array, gate: jax.Array, form: Form) -> jax.Array:
    """Applies the derivative of ReLU and pooling to a tangent of the convolution's outputs.

    Args:
        tangent: The tangent.
        gate: With pooling, the argmax of each window; otherwise the outputs.
        form: The parameters.
    """
    if not form.pooled:
        return jnp.where(gate > 0, tangent, 0) if form.relu else tangent
    parts = [jnp.where(gate == tap, values, 0) for tap, values in enumerate(pool_taps(tangent))]
    return sum(parts[1:], parts[0])


# --- three primitives: the outputs, their tangent (JVP), and the gradients (VJP)
#
# `wrt` contains the operands that have a tangent, or those whose gradients are needed.

X, KERNEL, BIAS = range(3)
Operands: TypeAlias = tuple[int, ...]


def _tangent(
    gate: jax.Array, x: jax.Array, kernel: jax.Array, *tangents: jax.Array, form: Form, wrt: Operands
) -> jax.Array:
    of = dict(zip(wrt, tangents, strict=True))
    shape = jax.eval_shape(form.conv, x, kernel).shape
    parts = [form.conv(of[X], kernel)] if X in of else []
    parts += [form.conv(x, of[KERNEL])] if KERNEL in of else []
    parts += [jnp.broadcast_to(of[BIAS], shape)] if BIAS in of else []
    return _through_relu_and_pool(sum(parts[1:], parts[0]), gate, form)


def _gradients(
    dy: jax.Array, gate: jax.Array, x: jax.Array, kernel: jax.Array, *, form: Form, wrt: Operands
) -> list[jax.Array]:
    y = jax.eval_shape(form.conv, x, kernel)
    (dy,) = jax.linear_transpose(partial(_through_relu_and_pool, gate=gate, form=form), y)(dy)
    back = jax.vjp(form.conv, x, kernel)[1]
    return [dy.sum(range(dy.ndim - 1)) if i == BIAS else back(dy)[i] for i in wrt]


def _fused_by_c_kernel(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, form: Form) -> list[jax.Array]:
    out = jax.eval_shape(partial(unfused, form=form), x, kernel, bias)
    x = pad(x, form.pads)
    return form.call("conv", out, x, kernel, x, kernel, bias)


def _gradients_by_c_kernel(
    dy: jax.Array, gate: jax.Array, x: jax.Array, kernel: jax.Array, *, form: Form, wrt: Operands
) -> list[jax.Array]:
    padded, gates = pad(x, form.pads), [gate] if form.relu or form.pooled else []
    gradients = {}
    if X in wrt:
        d_padded = form.call("conv_backward_input", jax.typeof(padded), padded, kernel, dy, kernel, *gates)
        gradients[X] = pad(d_padded, [(-low, -high) for low, high in form.pads])
    if KERNEL in wrt or BIAS in wrt:
        out = [jax.typeof(kernel), jax.ShapeDtypeStruct(kernel.shape[-1:], kernel.dtype)]
        gradients[KERNEL], gradients[BIAS] = form.call("conv_backward_kernel", out, padded, kernel, padded, dy, *gates)
    return [gradients[i] for i in wrt]


def _primitive(
    name: str,
    function: Callable[..., jax.Array | list[jax.Array]],
    multiple: bool = False,
    **kernels: Callable[..., list[jax.Array]],
) -> Primitive:
    """Makes a primitive that computes `function`, by a kernel on the platforms in `kernels`."""

    def out(*operands: ArrayLike, **static: Hashable) -> Shapes:
        return jax.eval_shape(partial(function, **static), *operands)

    def batched(
        _: Primitive, operands: Sequence[jax.Array], axes: Sequence[int | None], **static: Hashable
    ) -> tuple[jax.Array | list[jax.Array], int | list[int]]:
        outputs = jax.vmap(partial(function, **static), in_axes=tuple(axes))(*operands)
        return outputs, jax.tree.map(lambda _: 0, outputs)

    return dispatch.primitive(name, out, batched, function, multiple, **kernels)


fused_p = _primitive("conv_bias", unfused, multiple=True, cpu=_fused_by_c_kernel)
tangent_p = _primitive("conv_bias_tangent", _tangent)
gradients_p = _primitive("conv_bias_gradients", _gradients, multiple=True, cpu=_gradients_by_c_kernel)


def _fused_jvp(
    primals: Sequence[jax.Array], tangents: Sequence[jax.Array | ad.Zero], *, form: Form
) -> tuple[list[jax.Array], list[jax.Array | ad.Zero]]:
    y, *argmax = outputs = fused_p.bind(*primals, form=form)
    wrt = tuple(i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero))
    dy = tangent_p.bind(*(argmax or [y]), *primals[:2], *(tangents[i] for i in wrt), form=form, wrt=wrt)
    return outputs, [dy, *(ad.Zero(jax.core.ShapedArray(a.shape, jax.dtypes.float0)) for a in argmax)]


def _tangent_transpose(
    dy: jax.Array,
    gate: jax.Array,
    x: jax.Array,
    kernel: jax.Array,
    *tangents: jax.Array | ad.UndefinedPrimal,
    form: Form,
    wrt: Operands,
) -> list[jax.Array | None]:
    needed = tuple(i for i, tangent in zip(wrt, tangents, strict=True) if ad.is_undefined_primal(tangent))
    values = gradients_p.bind(dy, gate, x, kernel, form=form, wrt=needed)
    gradients = dict(zip(needed, values, strict=True))
    return [None, None, None, *(gradients.get(i) for i in wrt)]


def _jvp_of(function: Callable[..., Result]) -> Callable[..., tuple[Result, Result]]:
    """Returns the JVP rule of a primitive that has the derivatives of `function`."""

    def rule(
        primals: Sequence[jax.Array], tangents: Sequence[jax.Array | ad.Zero], **params: Hashable
    ) -> tuple[Result, Result]:
        return jax.jvp(partial(function, **params), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))

    return rule


ad.primitive_jvps[fused_p] = _fused_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_jvps[tangent_p] = _jvp_of(_tangent)
ad.primitive_jvps[gradients_p] = _jvp_of(_gradients)
