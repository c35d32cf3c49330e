"""A convolution and what follows it in one: its bias, a rectifier, the largest of neighbours.

What XLA does on a CPU after a kernel in C goes through memory once more: there to add the bias and rectify, back for
the rectifier's gradient and again for the bias's. `convolution.c` does that where the values are in registers anyway,
and where only the largest of neighbouring outputs is kept, the others never get to memory. Elsewhere it is what XLA
makes of it.

The derivatives are those of `plain`, which is also what any other transformation sees.

Shapes: as in `convolution`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from flaxmodels.kernels import dispatch, native
from flaxmodels.kernels.convolution import Ints, Pairs, conv, pad, padding_pairs, views
from flaxmodels.kernels.native import Geometry


class Form(NamedTuple):
    """What a convolution does, besides its arrays."""

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    relu: bool
    pooled: bool

    def convolved(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel, strides=self.strides, padding=self.pads, dilation=self.dilation, groups=self.groups)

    def called(self, function: str, out: Any, x: Any, kernel: Any, *operands: jax.Array) -> Any:
        """Calls a kernel in C for a padded x and a kernel of these shapes."""
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
    """Convolves and adds a bias, and replaces what is below zero by zero if `relu`; the rest as in `conv`.

    If `pooled`, the largest of two neighbours along each spatial axis follows, as by `pooling.max_pool` with windows of
    two side by side; an odd one at the end counts nowhere.

    Shapes: x [B, *S, C], kernel [*K, C / groups, F], bias [F] -> [B, *S', F], pooled [B, *(S' // 2), F].

    Example:
        >>> x, kernel, bias = jnp.ones((1, 3, 1)), jnp.ones((2, 1, 2)), jnp.array([1.0, -3.0])
        >>> conv_bias(x, kernel, bias, strides=(1,), padding="valid", dilation=(1,), relu=True)[0].tolist()
        [[3.0, 0.0], [3.0, 0.0]]
    """
    pads = tuple(padding_pairs(x.shape[1:-1], kernel.shape[:-2], strides, padding, dilation))
    form = Form(tuple(strides), pads, tuple(dilation), groups, relu, pooled)
    # The rule: as for a convolution alone, and in float32 only; sums of halves are rounded before a bias is added.
    one = x.dtype == kernel.dtype == bias.dtype == jnp.float32 and not (pooled and len(strides) > 2)
    one = one and dispatch.is_static(x) and dispatch.kernels_allowed() and native.available()
    if one and x.size and jax.eval_shape(partial(plain, form=form), x, kernel, bias)[0].size:
        return biased_p.bind(x, kernel, bias, form=form)[0]
    return plain(x, kernel, bias, form=form)[0]


def plain(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, form: Form) -> list[jax.Array]:
    """The same from single operations; if pooled, also which neighbour is the largest, for whether gradients pass."""
    y = form.convolved(x, kernel)
    y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
    y = jax.nn.relu(y) if form.relu else y
    if not form.pooled:
        return [y]
    best, *others = neighbours(y)
    which = jnp.zeros(best.shape, jnp.uint8)
    for tap, other in enumerate(others, start=1):
        larger = (other > best) | (other != other)
        best, which = lax.select(larger, other, best), lax.select(larger, jnp.full_like(which, tap), which)
    return [best, jnp.where(best > 0, which, native.BLOCKED) if form.relu else which]


def neighbours(y: jax.Array) -> list[jax.Array]:
    """What the windows of two neighbours along each spatial axis see, row by row."""
    twos = (2,) * (y.ndim - 2)
    return list(views(y, twos, twos, (1,) * len(twos)))


def _let_pass(changes: jax.Array, gate: jax.Array, form: Form) -> jax.Array:
    """Of changes of the outputs those that get through the rectifier and to the largest of neighbours."""
    if not form.pooled:
        return jnp.where(gate > 0, changes, 0) if form.relu else changes
    parts = [jnp.where(gate == tap, near, 0) for tap, near in enumerate(neighbours(changes))]
    return sum(parts[1:], parts[0])


# --- three operations: outputs; what small changes of the operands do to them; and gradients
#
# `given` names the operands, x, kernel and bias, that change or by which gradients are asked for: 0, 1, 2.

X, KERNEL, BIAS = range(3)


def _tangent(gate: jax.Array, x: jax.Array, kernel: jax.Array, *changes: Any, form: Form, given: Any) -> jax.Array:
    of = dict(zip(given, changes, strict=True))
    shape = jax.eval_shape(form.convolved, x, kernel).shape
    parts = [form.convolved(of[X], kernel)] if X in of else []
    parts += [form.convolved(x, of[KERNEL])] if KERNEL in of else []
    parts += [jnp.broadcast_to(of[BIAS], shape)] if BIAS in of else []
    return _let_pass(sum(parts[1:], parts[0]), gate, form)


def _gradients(dy: jax.Array, gate: jax.Array, x: jax.Array, kernel: jax.Array, *, form: Form, given: Any) -> list:
    y = jax.eval_shape(form.convolved, x, kernel)
    (dy,) = jax.linear_transpose(partial(_let_pass, gate=gate, form=form), y)(dy)
    back = jax.vjp(form.convolved, x, kernel)[1]
    return [dy.sum(range(dy.ndim - 1)) if i == BIAS else back(dy)[i] for i in given]


def _compiled(x: jax.Array, kernel: jax.Array, bias: jax.Array, *, form: Form) -> list[jax.Array]:
    out = jax.eval_shape(partial(plain, form=form), x, kernel, bias)
    x = pad(x, form.pads)
    return form.called("conv", out, x, kernel, x, kernel, bias)


def _compiled_gradients(
    dy: jax.Array, gate: jax.Array, x: jax.Array, kernel: jax.Array, *, form: Form, given: Any
) -> list[jax.Array]:
    padded, by = pad(x, form.pads), [gate] if form.relu or form.pooled else []
    found = {}
    if X in given:
        d_padded = form.called("conv_backward_input", jax.typeof(padded), padded, kernel, dy, kernel, *by)
        found[X] = pad(d_padded, [(-low, -high) for low, high in form.pads])
    if KERNEL in given or BIAS in given:
        out = [jax.typeof(kernel), jax.ShapeDtypeStruct(kernel.shape[-1:], kernel.dtype)]
        found[KERNEL], found[BIAS] = form.called("conv_backward_kernel", out, padded, kernel, padded, dy, *by)
    return [found[i] for i in given]


def _operation(function: Any, several: bool = False, **lowered: Any) -> Primitive:
    """An operation that is `function` but where another one is named for a platform."""

    def out(*operands: Any, **static: Any) -> Any:
        return jax.eval_shape(partial(function, **static), *operands)

    def mapped(made: Primitive, operands: Any, axes: Any, **static: Any) -> Any:
        found = jax.vmap(partial(function, **static), in_axes=tuple(axes))(*operands)
        return found, jax.tree.map(lambda _: 0, found)

    name = f"conv_bias_{function.__name__.strip('_')}"
    return dispatch.primitive(name, out, mapped, function, several, **lowered)


biased_p = _operation(plain, several=True, cpu=_compiled)
tangent_p = _operation(_tangent)
gradients_p = _operation(_gradients, several=True, cpu=_compiled_gradients)


def _differentiate(primals: Any, tangents: Any, *, form: Form) -> Any:
    y, *which = found = biased_p.bind(*primals, form=form)
    given = tuple(i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero))
    dy = tangent_p.bind(*(which or [y]), *primals[:2], *(tangents[i] for i in given), form=form, given=given)
    return found, [dy, *(ad.Zero(jax.core.ShapedArray(w.shape, jax.dtypes.float0)) for w in which)]


def _transpose(dy: Any, gate: Any, x: Any, kernel: Any, *changes: Any, form: Form, given: Any) -> Any:
    wanted = tuple(i for i, change in zip(given, changes, strict=True) if ad.is_undefined_primal(change))
    found = dict(zip(wanted, gradients_p.bind(dy, gate, x, kernel, form=form, given=wanted), strict=True))
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
