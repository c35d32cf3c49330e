"""Operations with several implementations: which of them a program holds.

A program holds a kernel of ours where the platform has one. The exceptions are exported programs, whose custom calls no
other process could resolve, and programs traced inside `without_kernels`.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

PLATFORMS = ("cpu", "cuda")
# Part of the keys of JAX's caches, so that a program traced with kernels is not reused without them, or the reverse.
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
    """Whether programs traced here may contain kernels: not inside of `without_kernels`.

    Example:
        >>> kernels_allowed()
        True
    """
    return _kernels.value


# What each operation made by `primitive` computes by operations of XLA alone: (operands, keyword arguments) -> results.
DEFAULTS: dict[Primitive, Callable[..., Any]] = {}


def is_static(*arrays: Any) -> bool:
    """Whether all sizes are numbers; sizes that are symbols occur only in programs to be exported.

    Example:
        >>> is_static(np.ones((2, 3)))
        True
    """
    return all(isinstance(size, int) for array in arrays for size in array.shape)


def primitive(
    name: str,
    out: Callable[..., Any],
    mapped: Callable[..., Any],
    default: Callable[..., Any],
    several: bool = False,
    **kernels: Callable[..., Any],
) -> Primitive:
    """Makes an operation on arrays that programs name; its keyword arguments are part of the program.

    Args:
        name: Its name.
        out: Shape and dtype of the result, or a list of them, from the operands.
        mapped: The batching rule: (operation, operands, axes) -> outputs, axes.
        default: Computes it by operations of XLA alone.
        several: Whether it returns a list.
        **kernels: Computes it by kernels, by the name of the platform.
    """
    made = Primitive(name)
    made.multiple_results = several
    DEFAULTS[made] = default

    # Called outside of a program, the operation is a program itself, compiled once.
    @cache
    def program(**static: Any) -> Callable:
        return jax.jit(partial(made.bind, **static))

    def abstract(*operands: Any, **static: Any) -> Any:
        return jax.tree.map(lambda a: jax.core.ShapedArray(a.shape, a.dtype), out(*operands, **static))

    made.def_impl(lambda *operands, **static: program(**static)(*operands))
    made.def_abstract_eval(abstract)
    batching.primitive_batchers[made] = partial(mapped, made)
    xla = mlir.lower_fun(default, multiple_results=several)
    mlir.register_lowering(made, xla)
    for platform, kernel in kernels.items():
        rule = partial(_lower, platform, xla, mlir.lower_fun(kernel, multiple_results=several))
        mlir.register_lowering(made, rule, platform=platform)
    return made


def _lower(platform: str, xla: Any, kernel: Any, context: Any, *operands: Any, **static: Any) -> Any:
    """Lowers to the kernel where the program may contain it, else to operations of XLA alone."""
    module = context.module_context
    exported = getattr(module.lowering_parameters, "for_export", False)
    # XLA can't divide a kernel among devices: each of them would compute the whole batch. On a GPU that takes longer
    # than the divided operations of XLA.
    divided = platform == "cuda" and is_divided(module.axis_context)
    allowed = kernels_allowed() and not exported and not divided
    return (kernel if allowed else xla)(context, *operands, **static)


def is_divided(axes: Any) -> bool:
    """Whether XLA divides a program among devices, by the context in which it is lowered.

    A program under `jax.shard_map` divides itself: what it computes on each device is a program of one device.
    """
    if hasattr(axes, "num_devices"):
        return axes.num_devices > 1
    manual: Any = getattr(axes, "manual_axes", ())
    mesh = getattr(axes, "mesh", None)
    return mesh is not None and any(size > 1 for name, size in mesh.shape.items() if name not in manual)


def alternatives(default: Callable[..., Any], *arguments: Any, **kernels: Callable[..., Any]) -> Any:
    """Computes a function by a kernel where the platform has one, else as it is written.

    Derivatives are those of the function as it is written. The platform is that for which the program is lowered, so a
    program for several platforms has the right kernel on each. What no platform of the program uses is not traced.

    Args:
        default: The function, of operations of XLA alone.
        *arguments: Trees of arrays.
        **kernels: What computes the same on a platform, by its name, one of `PLATFORMS`.

    Example:
        >>> alternatives(lambda x: x + 1, np.float32(1), cuda=lambda x: 1 + x).item()
        2.0
    """
    if not kernels or not kernels_allowed():
        return default(*arguments)
    flat, structure = jax.tree.flatten(arguments)
    out, found = jax.tree.flatten(jax.eval_shape(default, *arguments))

    def of_leaves(function: Callable[..., Any]) -> Callable[..., list[Any]]:
        return lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))

    ways = tuple((platform, of_leaves(kernel)) for platform, kernel in kernels.items())
    leaves = alternatives_p.bind(*flat, out=tuple(out), default=of_leaves(default), kernels=ways)
    return jax.tree.unflatten(found, leaves)


alternatives_p = Primitive("alternatives")
alternatives_p.multiple_results = True


@alternatives_p.def_impl
def _compute(*operands: Any, out: Any, default: Any, kernels: Any) -> Any:
    # Outside of a program the platform is known, so this is a call of one of the functions.
    return lax.platform_dependent(*operands, default=default, **dict(kernels))


@alternatives_p.def_abstract_eval
def _shapes(*operands: Any, out: Any, default: Any, kernels: Any) -> Any:
    return [jax.core.ShapedArray(a.shape, a.dtype) for a in out]


def _differentiate(primals: Any, tangents: Any, *, out: Any, default: Any, kernels: Any) -> Any:
    return jax.jvp(default, tuple(primals), tuple(map(ad.instantiate_zeros, tangents)))


def _map(operands: Sequence[Any], axes: Any, *, out: Any, default: Any, kernels: Any) -> Any:
    (size,) = {a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None}
    mapped = partial(jax.vmap, in_axes=tuple(axes), axis_size=size)
    found = alternatives_p.bind(
        *operands,
        out=tuple(jax.ShapeDtypeStruct((size, *a.shape), a.dtype) for a in out),
        default=mapped(default),
        kernels=tuple((platform, mapped(kernel)) for platform, kernel in kernels),
    )
    return found, [0] * len(found)


def _lower_alternatives(
    platform: str, context: Any, *operands: Any, out: Any, default: Any, kernels: Any
) -> Sequence[Any]:
    xla, kernel = (mlir.lower_fun(f, multiple_results=True) for f in (default, dict(kernels).get(platform, default)))
    return _lower(platform, xla, kernel, context, *operands)


ad.primitive_jvps[alternatives_p] = _differentiate
batching.primitive_batchers[alternatives_p] = _map
mlir.register_lowering(alternatives_p, partial(_lower_alternatives, "default"))
for platform in PLATFORMS:
    mlir.register_lowering(alternatives_p, partial(_lower_alternatives, platform), platform=platform)
