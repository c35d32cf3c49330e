"""Finds layers inside any linen module: those that own its weights, and those that look up integers."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util
from flax.linen import module as linen_module

from flaxmodels.container import Container
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import Linen
from flaxmodels.layers.tracing import Lookup, trace


def weights_of(module: nn.Module, *args: object, **kwargs: Any) -> dict[tuple[str, ...], tuple[Layer, str]]:
    """Returns the layer and the name of each weight, keyed by its path in `params`, at any depth of a module.

    Parameters that a plain linen module creates belong to the enclosing `Linen` layer, and are left out if there is
    none.

    Args:
        module: Any linen module.
        *args: Arguments of the module's call, as arrays or as shapes and dtypes.
        **kwargs: Keyword arguments of the module's call.
    """
    weights: dict[tuple[str, ...], tuple[Layer, str]] = {}
    wrapped: dict[tuple[str, ...], Layer] = {}
    roots: list[Any] = []

    def record(
        method: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: Mapping[str, object],
        context: linen_module.InterceptorContext,
    ) -> object:
        layer: Any = context.module
        scope = context.module.scope
        roots.extend([] if scope is None else [scope.root])
        if scope is None or scope.root is not roots[0]:  # This call builds a graph inside the traced call.
            return method(*args, **kwargs)
        if context.method_name == "create_weight":
            weights[(*layer.path, args[0])] = (_detached(layer), args[0])
        elif isinstance(layer, Linen):
            wrapped[layer.path] = _detached(layer)
        return method(*args, **kwargs)

    leaves = {key: jax.tree.leaves(value) for key, value in kwargs.items()}
    arrays = {key: kwargs[key] for key in kwargs if leaves[key] and all(hasattr(leaf, "shape") for leaf in leaves[key])}
    fixed = {key: value for key, value in kwargs.items() if key not in arrays}
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda args, arrays: module.init(rngs, *args, **fixed, **arrays), args, arrays)
    for path in traverse_util.flatten_dict(variables.get("params", {})):
        enclosing = [scope for scope in wrapped if path[: len(scope)] == scope]
        if enclosing:
            weights.setdefault(path, (wrapped[max(enclosing, key=len)], path[-1]))
    return weights


def _detached(layer: Layer) -> Layer:
    """Returns a copy without its parent, which flax does not keep alive; the copy is frozen if `layer.frozen` is."""
    return layer.clone(parent=None, trainable=not layer.frozen)


def lookups_of(model: nn.Module) -> list[Lookup]:
    """Returns the layers known to look up integers in an input of a model.

    Args:
        model: Any linen module; nothing is known about modules that are not layers of this library.

    Example:
        >>> from flaxmodels import Sequential, layers
        >>> lookups_of(Sequential([layers.Flatten(), layers.Embedding(9, 2)]))
        [Lookup(source=0, path='embedding', layer='Embedding', size=9)]
    """
    lookups: list[Lookup] = []
    if isinstance(model, Layer):
        spec = model.input_spec if isinstance(model, Container) else None
        indices = itertools.count()
        sources = jax.tree.map(lambda _: frozenset([next(indices)]), 0 if spec is None else spec)
        trace(model, sources, lookups, "")
    return [lookup._replace(path=lookup.path.removeprefix("/")) for lookup in lookups]
