"""Chooses which implementation of an operation a program contains.

A program contains a kernel of this library if there is one for the platform. There are two exceptions. Exported
programs contain none, because no other process could resolve their custom calls. Programs traced inside
`without_kernels` contain none either.
"""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Result = TypeVar("Result")
Function: TypeAlias = Callable[..., Any]
# (platform, function) pairs, hashable as a parameter of a primitive.
Kernels: TypeAlias = tuple[tuple[str, Function], ...]
Shapes: TypeAlias = tuple[jax.ShapeDtypeStruct, ...]


class Shaped(Protocol):
    """An array, or a description of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""


PLATFORMS = ("cpu", "cuda")
# Part of the keys of JAX's caches, so a program traced with kernels is not reused without them, and vice versa.
_kernels: Any = jax.make_user_context(True)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Leaves the kernels of this library out of everything that this thread traces inside the block.

    XLA then computes all operations itself, with the same results up to rounding. Use it to analyse a program: XLA's
    cost analysis counts no operation of a custom call. Functions under `jax.jit` are traced again inside the block.
    `jax.export` needs no such block, because exported programs never contain these kernels.

    Example:
        >>> import jax, jax.numpy as jnp, flaxmodels
        >>> from flaxmodels import Sequential, layers
        >>> model, x = Sequential([layers.Conv2D(4, 3)]), jnp.ones((1, 8, 8, 2))
        >>> variables = model.init(jax.random.key(0), x)
        >>> with flaxmodels.without_kernels():
        ...     cost = jax.jit(model.apply).lower(variables, x).compile().cost_analysis()
        >>> cost["flops"] >= 2 * (6 * 6) * (3 * 3 * 2) * 4
        True
    """
    with _kernels(False):
        yield


def kernels_allowed() -> bool:
    """Returns whether programs traced here may contain kernels: False inside `without_kernels`.

    Example:
        >>> kernels_allowed()
        True
    """
    return _kernels.value


# The XLA implementation of each primitive made by `primitive`: (operands, keyword arguments) -> results.
DEFAULTS: dict[Primitive, Function] = {}


def is_static(*arrays: Shaped) -> bool:
    """Returns whether all sizes are numbers. Symbolic sizes occur only in programs that will be exported.

    Example:
        >>> is_static(np.ones((2, 3)))
        True
    """
    return all(isinstance(size, int) for array in arrays for size in array.shape)


def primitive(
    name: str, out: Function, batched: Function, default: Function, multiple: bool = False, **kernels: Function
) -> Primitive:
    """Makes a JAX primitive with a kernel on some platforms. Keyword arguments of its calls are parameters of the
    primitive.

    Args:
        name: The name of the primitive.
        out: Function that maps the operands to the shape and dtype of the result, or to a list of them.
        batched: The batching rule: (primitive, operands, axes) -> outputs, axes.
        default: The function in XLA operations, for all other platforms.
        multiple: Whether it returns a list of results.
        **kernels: The function computed by a kernel, keyed by the name of the platform.
    """
    new = Primitive(name)
    new.multiple_results = multiple
    DEFAULTS[new] = default

    # A call outside of a program is compiled once, as a separate program.
    @cache
    def program(**static: Hashable) -> Function:
        return jax.jit(partial(new.bind, **static))

    def abstract(
        *operands: jax.core.ShapedArray, **static: Hashable
    ) -> jax.core.ShapedArray | list[jax.core.ShapedArray]:
        return jax.tree.map(lambda a: jax.core.ShapedArray(a.shape, a.dtype), out(*operands, **static))

    new.def_impl(lambda *operands, **static: program(**static)(*operands))
    new.def_abstract_eval(abstract)
    batching.primitive_batchers[new] = partial(batched, new)
    xla = mlir.lower_fun(default, multiple_results=multiple)
    mlir.register_lowering(new, xla)
    for platform, kernel in kernels.items():
        rule = partial(_lower, platform, xla, mlir.lower_fun(kernel, multiple_results=multiple))
        mlir.register_lowering(new, rule, platform=platform)
    return new


def _lower(
    platform: str,
    xla: Function,
    kernel: Function,
    context: mlir.LoweringRuleContext,
    *operands: mlir.Value,
    **static: Hashable,
) -> Sequence[mlir.Value]:
    """Lowers to the kernel if the program may contain it, otherwise to XLA operations."""
    module = context.module_context
    exported = getattr(module.lowering_parameters, "for_export", False)
    # XLA cannot partition a kernel: each device would compute the whole batch. On a GPU that takes longer than the
    # partitioned XLA operations.
    divided = platform == "cuda" and is_divided(module.axis_context)
    allowed = kernels_allowed() and not exported and not divided
    return (kernel if allowed else xla)(context, *operands, **static)


def is_divided(axes: object) -> bool:
    """Returns whether XLA partitions a program among devices, from the axis context in which it is lowered.

    A program under `jax.shard_map` is partitioned by the user, so each device runs it as a single-device program.
    """
    if hasattr(axes, "num_devices"):
        return axes.num_devices > 1
    manual: Any = getattr(axes, "manual_axes", ())
    mesh = getattr(axes, "mesh", None)
    return mesh is not None and any(size > 1 for name, size in mesh.shape.items() if name not in manual)


def alternatives(default: Callable[..., Result], *arguments: object, **kernels: Callable[..., Result]) -> Result:
    """Computes a function by a kernel if there is one for the platform, otherwise by XLA operations.

    Derivatives are those of `default`. The platform is the one for which a program is lowered, so a program for several
    platforms contains the right kernel on each. Kernels for other platforms are not traced.

    Args:
        default: The function in XLA operations.
        *arguments: The arguments of the function, pytrees of arrays.
        **kernels: The same function computed by a kernel, keyed by the name of the platform, one of `PLATFORMS`.

    Example:
        >>> alternatives(lambda x: x + 1, np.float32(1), cuda=lambda x: 1 + x).item()
        2.0
    """
    if not kernels or not kernels_allowed():
        return default(*arguments)
    flat, structure = jax.tree.flatten(arguments)
    out, out_structure = jax.tree.flatten(jax.eval_shape(default, *arguments))

    def on_leaves(function: Function) -> Callable[..., list[jax.Array]]:
        return lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))

    pairs = tuple((platform, on_leaves(kernel)) for platform, kernel in kernels.items())
    leaves = alternatives_p.bind(*flat, out=tuple(out), default=on_leaves(default), kernels=pairs)
    return jax.tree.unflatten(out_structure, leaves)


alternatives_p = Primitive("alternatives")
alternatives_p.multiple_results = True


@alternatives_p.def_impl
def _compute(*operands: jax.Array, out: Shapes, default: Function, kernels: Kernels) -> list[jax.Array]:
    # Outside of a program the platform is known, so this calls only one of the functions.
    return lax.platform_dependent(*operands, default=default, **dict(kernels))


@alternatives_p.def_abstract_eval
def _shapes(
    *operands: jax.core.ShapedArray, out: Shapes, default: Function, kernels: Kernels
) -> list[jax.core.ShapedArray]:
    return [jax.core.ShapedArray(a.shape, a.dtype) for a in out]


def _jvp(
    primals: Sequence[jax.Array],
    tangents: Sequence[jax.Array | ad.Zero],
    *,
    out: Shapes,
    default: Function,
    kernels: Kernels,
) -> tuple[list[jax.Array], list[jax.Array]]:
    return jax.jvp(default, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _batch(
    operands: Sequence[jax.Array],
    axes: Sequence[int | None],
    *,
    out: Shapes,
    default: Function,
    kernels: Kernels,
) -> tuple[list[jax.Array], list[int]]:
    (size,) = {a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None}
    batched = partial(jax.vmap, in_axes=tuple(axes), axis_size=size)
    outputs = alternatives_p.bind(
        *operands,
        out=tuple(jax.ShapeDtypeStruct((size, *a.shape), a.dtype) for a in out),
        default=batched(default),
        kernels=tuple((platform, batched(kernel)) for platform, kernel in kernels),
    )
    return outputs, [0] * len(outputs)


def _lower_alternatives(
    platform: str,
    context: mlir.LoweringRuleContext,
    *operands: mlir.Value,
    out: Shapes,
    default: Function,
    kernels: Kernels,
) -> Sequence[mlir.Value]:
    xla, kernel = (mlir.lower_fun(f, multiple_results=True) for f in (default, dict(kernels).get(platform, default)))
    return _lower(platform, xla, kernel, context, *operands)


ad.primitive_jvps[alternatives_p] = _jvp
batching.primitive_batchers[alternatives_p] = _batch
mlir.register_lowering(alternatives_p, partial(_lower_alternatives, "default"))
for platform in PLATFORMS:
    mlir.register_lowering(alternatives_p, partial(_lower_alternatives, platform), platform=platform)
