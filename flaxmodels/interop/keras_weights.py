"""A module's weights as the list that Keras' `get_weights()` gives and `set_weights()` takes."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import Linen

Path = tuple[str, ...]


def weight_paths(module: nn.Module, variables: Any, scope: Path = ()) -> list[Path]:
    """The paths in `variables`, collection first, of a module's weights in Keras' order."""
    if not isinstance(module, Layer) or isinstance(module, Linen):
        return _paths_under(variables, scope)
    paths = []
    for name in module.WEIGHTS:
        for collection in ("params", "batch_stats"):
            if _at(variables, (collection, *scope, name)) is not None:
                paths.append((collection, *scope, name))
    for name, child in module.children():
        paths.extend(weight_paths(child, variables, (*scope, name)))
    return paths


def _paths_under(variables: Any, scope: Path) -> list[Path]:
    paths = []
    for collection in ("params", "batch_stats"):
        tree = _at(variables, (collection, *scope))
        for keys, _ in jax.tree_util.tree_leaves_with_path(tree):
            paths.append((collection, *scope, *(key.key for key in keys)))
    return paths


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        if not hasattr(tree, "get") or tree.get(key) is None:
            return None
        tree = tree[key]
    return tree


def get_keras_weights(module: nn.Module, variables: Any) -> list[np.ndarray]:
    """Lists a module's weights in the order of Keras' `get_weights()`; those that no layer of ours makes, by path.

    Args:
        module: A layer or model.
        variables: Its variables; a tree of gradients in place of `params` works as well.

    Example:
        >>> from flaxmodels import layers
        >>> layer = layers.Dense(2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> [w.shape for w in get_keras_weights(layer, variables)]
        [(3, 2), (2,)]
    """
    return [np.asarray(_at(variables, path)) for path in weight_paths(module, variables)]


def set_keras_weights(module: nn.Module, variables: Any, weights: Sequence[Any]) -> dict[str, Any]:
    """Returns the variables with Keras' weights in place of their values.

    Args:
        module: A layer or model.
        variables: Its variables, as `init` makes them.
        weights: Arrays in the order of Keras' `get_weights()`.

    Raises:
        ValueError: If the number of weights or any shape differs; every difference is named.

    Example:
        >>> from flaxmodels import layers
        >>> layer = layers.Dense(2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> variables = set_keras_weights(layer, variables, [np.ones((3, 2)), np.zeros(2)])
        >>> float(variables["params"]["kernel"].sum())
        6.0
    """
    paths = weight_paths(module, variables)
    wanted = [f"{'/'.join(path[1:])} {tuple(np.shape(_at(variables, path)))}" for path in paths]
    if len(paths) != len(weights):
        came = [tuple(np.shape(w)) for w in weights]
        raise ValueError(
            f"{type(module).__name__} has {len(paths)} weights [{', '.join(wanted)}], got {len(weights)} of shapes "
            f"{came}; give them in the order of Keras' get_weights()."
        )
    differing = [
        f"{want} got {np.shape(w)}"
        for path, want, w in zip(paths, wanted, weights, strict=True)
        if np.shape(_at(variables, path)) != np.shape(w)
    ]
    if differing:
        raise ValueError(
            f"Weights of {type(module).__name__} must have its shapes, but {'; '.join(differing)}; "
            "give them in the order of Keras' get_weights()."
        )
    result = _copied(variables)
    for path, weight in zip(paths, weights, strict=True):
        *scope, name = path
        old = _at(variables, path)
        _at(result, tuple(scope))[name] = jnp.asarray(weight, old.dtype)
    return result


def _copied(tree: Any) -> Any:
    return {key: _copied(value) for key, value in tree.items()} if hasattr(tree, "items") else tree
