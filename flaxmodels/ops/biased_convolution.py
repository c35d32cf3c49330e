"""A convolution and its bias, rectified or not, in one: on a CPU by kernels in C, elsewhere what XLA makes of it.

What XLA does on a CPU after a kernel in C goes through memory once more: there to add the bias and rectify, back for
the rectifier's gradient and again for the bias's. `convolution.c` does that where the values are in registers anyway.

The derivatives are those of `plain`, which is also what any other transformation sees.

Shapes: as in `convolution`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from flaxmodels.ops import native
from flaxmodels.ops.convolution import Ints, Pairs, conv, pad, padding_pairs
from flaxmodels.ops.native import Geometry


class Form(NamedTuple):
    """What a convolution does, besides its arrays."""

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    relu: bool

    def convolved(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel, strides=self.strides, padding=self.pads, dilation=self.dilation, groups=self.groups)

    def called(self, function: str, out: Any, x: Any, kernel: Any, *operands: jax.Array) -> Any:
        """Calls a kernel in C for a padded x and a kernel of these shapes."""
        geometry = Geometry(x.shape[1:-1], kernel.shape[:-2], self.strides, self.dilation, self.groups)
        numbers = geometry.numbers(x.shape[-1], kernel.shape[-1], self.relu)
        return native.call(function, out, *operands, numbers=numbers)


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
) -> jax.Array:
    """Convolves and adds a bias, and replaces what is below zero by zero if `relu`; the rest as in `conv`.

    Shapes: x [B, *S, C], kernel [*K, C / groups, F], bias [F] -> [B, *S', F].

    Example:
        >>> x, kernel, bias = jnp.ones((1, 3, 1)), jnp.ones((2, 1, 2)), jnp.array([1.0, -3.0])
        >>> conv_bias(x, kernel, bias, strides=(1,), padding="valid", dilation=(1,), relu=True)[0].tolist()
        [[3.0, 0.0], [3.0, 0.0]]
    """
    pads = tuple(padding_pairs(x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation))
    form = Form(tuple(strides), pads, tuple(dilation), groups, relu)
    # The rule: as for a convolution alone, and in float32 only; sums of halves are rounded before a bias is added.
    one = x.dtype == kernel.dtype == bias.dtype == jnp.float32
    if one and native.available() and x.size and jax.eval_shape(form.convolved, x, kernel).size:
        return biased_p.bind(x, kernel, bias, form=form)
    return plain(x, kernel, bias, form=form)


def plain(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, form: Form) -> jax.Array:
    """The same from single operations."""
    y = form.convolved(x, kernel)
    y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
    return jax.nn.relu(y) if form.relu else y


# --- three operations: outputs; what small changes of the operands do to them; and gradients
#
# `given` names the operands, x, kernel and bias, that change or by which gradients are asked for: 0, 1, 2.

X, KERNEL, BIAS = range(3)


def _tangent(y: jax.Array, x: jax.Array, kernel: jax.Array, *changes: Any, form: Form, given: Any) -> jax.Array:
    of = dict(zip(given, changes, strict=True))
    parts = [form.convolved(of[X], kernel)] if X in of else []
    parts += [form.convolved(x, of[KERNEL])] if KERNEL in of else []
    parts += [jnp.broadcast_to(of[BIAS], y.shape)] if BIAS in of else []
    total = sum(parts[1:], parts[0])
    return jnp.where(y > 0, total, 0) if form.relu else total


def _gradients(dy: jax.Array, y: jax.Array, x: jax.Array, kernel: jax.Array, *, form: Form, given: Any) -> list:
    dy = jnp.where(y > 0, dy, 0) if form.relu else dy
    back = jax.vjp(form.convolved, x, kernel)[1]
    return [dy.sum(range(dy.ndim - 1)) if i == BIAS else back(dy)[i] for i in given]


def _compiled(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, form: Form) -> jax.Array:
    out = jax.eval_shape(partial(plain, form=form), x, kernel, bias)
    x = pad(x, form.pads)
    return form.called("conv", out, x, kernel, x, kernel, bias)


def _compiled_gradients(
    dy: jax.Array, y: jax.Array, x: jax.Array, kernel: jax.Array, *, form: Form, given: Any
) -> list[jax.Array]:
    padded, gate = pad(x, form.pads), [y] if form.relu else []
    found = {}
    if X in given:
        d_padded = form.called("conv_data", jax.typeof(padded), padded, kernel, dy, kernel, *gate)
        found[X] = pad(d_padded, [(-low, -high) for low, high in form.pads])
    if KERNEL in given or BIAS in given:
        out = [jax.typeof(kernel), jax.ShapeDtypeStruct(kernel.shape[-1:], kernel.dtype)]
        found[KERNEL], found[BIAS] = form.called("conv_kernel", out, padded, kernel, padded, dy, *gate)
    return [found[i] for i in given]


def _operation(function: Any, several: bool = False, **lowered: Any) -> Primitive:
    """An operation that is `function` but where another one is named for a platform."""

    def out(*operands: Any, **static: Any) -> Any:
        return jax.eval_shape(partial(function, **static), *operands)

    def mapped(made: Primitive, operands: Any, axes: Any, **static: Any) -> Any:
        found = jax.vmap(partial(function, **static), in_axes=tuple(axes))(*operands)
        return found, jax.tree.map(lambda _: 0, found)

    name = f"conv_bias_{function.__name__.strip('_')}"
    return native.primitive(name, out, mapped, several, default=function, **lowered)


biased_p = _operation(plain, cpu=_compiled)
tangent_p = _operation(_tangent)
gradients_p = _operation(_gradients, several=True, cpu=_compiled_gradients)


def _differentiate(primals: Any, tangents: Any, *, form: Form) -> Any:
    y = biased_p.bind(*primals, form=form)
    given = tuple(i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero))
    return y, tangent_p.bind(y, *primals[:2], *(tangents[i] for i in given), form=form, given=given)


def _transpose(dy: Any, y: Any, x: Any, kernel: Any, *changes: Any, form: Form, given: Any) -> Any:
    wanted = tuple(i for i, change in zip(given, changes, strict=True) if ad.is_undefined_primal(change))
    found = dict(zip(wanted, gradients_p.bind(dy, y, x, kernel, form=form, given=wanted), strict=True))
    return [None, None, None, *(found.get(i) for i in given)]


def _differentiate_as(function: Any) -> Any:
    """The rule for an operation whose derivative is that of `function`."""

    def rule(primals: Any, tangents: Any, **params: Any) -> Any:
        return jax.jvp(partial(function, **params), tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))

    return rule


ad.primitive_jvps[biased_p] = _differentiate
ad.primitive_transposes[tangent_p] = _transpose
ad.primitive_jvps[tangent_p] = _differentiate_as(_tangent)
ad.primitive_jvps[gradients_p] = _differentiate_as(_gradients)
