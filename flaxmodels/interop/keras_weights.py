"""A module's weights as the list that Keras' `get_weights()` gives and `set_weights()` takes.

Keras lists a layer's own weights, those that train first, then those of the layers inside it, each in the order of
creation. Our layers declare that order in `WEIGHTS` and `children`. What a custom layer does not declare is ordered by
its creation, which is observed where the model knows its input.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.container import Container
from flaxmodels.layers import symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import Linen
from flaxmodels.layers.normalization import SpectralNormalization
from flaxmodels.layers.recurrent import Recurrent

Path = tuple[str, ...]
COLLECTIONS = ("params", "batch_stats")


class Parts(NamedTuple):
    """A module's own weights, as paths in the variables, and the modules inside it by scope, in Keras' order."""

    own: list[Path]
    inside: list[tuple[str, Any]]


class Creation(NamedTuple):
    """What was observed while a model was initialized: by scope, the module and its names in order of creation."""

    modules: dict[Path, nn.Module]
    names: dict[Path, dict[str, None]]


def weight_paths(module: nn.Module, variables: Any) -> list[Path]:
    """The paths in `variables`, collection first, of a module's weights in Keras' order.

    Raises:
        ValueError: If a custom layer has weights whose order is not known.
    """
    reader = PartsReader(module, variables)

    def walk(module: Any, scope: Path) -> list[Path]:
        own, inside = reader.parts(module, scope)
        return own + [path for name, child in inside for path in walk(child, (*scope, name))]

    paths = walk(module, ())
    reader.check_complete(paths)
    return paths


class PartsReader:
    """Finds the parts of a model's modules; initializes the model abstractly once, if it needs to.

    Args:
        root: The whole model.
        variables: Its variables, or their shapes.
    """

    def __init__(self, root: nn.Module, variables: Any):
        self.root, self.variables = root, variables

    def parts(self, module: Any, scope: Path) -> Parts:
        """The parts of the module at a scope."""
        if not isinstance(module, Layer) or isinstance(module, Linen):
            return Parts(_paths_under(self.variables, scope), [])  # by path, as Keras' own FlaxLayer lists them
        own = [
            (collection, *scope, name)
            for name in module.WEIGHTS
            for collection in COLLECTIONS
            if _at(self.variables, (collection, *scope, name)) is not None
        ]
        inside = [(name, _inside(module, child)) for name, child in module.children()]
        if type(module).__module__.split(".")[0] == __name__.split(".")[0]:
            return Parts(own, inside)  # our layers declare everything
        declared = {*module.WEIGHTS, *(name for name, _ in inside)}
        scopes: dict[str, None] = {}
        for collection in COLLECTIONS:
            tree = _at(self.variables, (collection, *scope)) or {}
            names = [name for name in tree if name not in declared and not _is_hidden(module, name)]
            leaves = [name for name in names if not hasattr(tree[name], "items")]
            own += [(collection, *scope, name) for name in self._in_order(module, scope, leaves)]
            scopes |= dict.fromkeys(name for name in names if hasattr(tree[name], "items"))
        return Parts(
            own,
            inside
            + [(name, self._module_at(module, scope, name)) for name in self._in_order(module, scope, [*scopes])],
        )

    def check_complete(self, paths: Sequence[Path]) -> None:
        """Raises unless every weight is among the paths; a state, or the divisor of a kernel, is none in Keras."""
        missing = {path for path in _paths_under(self.variables, ()) if path not in set(paths)}
        unknown = sorted("/".join(path[1:]) for path in missing if not _is_statistic(path))
        if unknown:
            raise ValueError(
                f"{type(self.root).__name__} has weights that none of its layers declares, {', '.join(unknown[:5])}; "
                "list them in `WEIGHTS` of the layer, and the layers inside it in `children`."
            )

    def _in_order(self, module: Layer, scope: Path, names: list[str]) -> list[str]:
        """The names in order of their creation."""
        if len(names) < 2:
            return names
        created = self._creation.names.get(scope, {}) if self._creation else {}
        if any(name not in created for name in names):
            self._refuse(module, names)
        return [name for name in created if name in names]

    def _module_at(self, module: Layer, scope: Path, name: str) -> Any:
        """The module behind a scope that its layer does not declare."""
        found = getattr(module, name, None) if name in type(module).__dataclass_fields__ else None
        if isinstance(found, nn.Module):
            return found
        inside = _paths_under(self.variables, (*scope, name))
        if len(inside) > 1 and not (self._creation and (*scope, name) in self._creation.modules):
            self._refuse(module, sorted("/".join(path[len(scope) + 1 :]) for path in inside))
        return self._creation.modules.get((*scope, name)) if self._creation else None

    def _refuse(self, module: Layer, names: list[str]) -> None:
        raise ValueError(
            f"Keras orders weights by their creation, which is not known for {', '.join(map(repr, sorted(names)[:5]))} "
            f"of {module.label}; list weights in `WEIGHTS` and layers in `children`, or put the layer into a model "
            "that starts with Input(shape)."
        )

    @functools.cached_property
    def _creation(self) -> Creation | None:
        """How the model is initialized, where it knows its input."""
        inputs = _input_of(self.root)
        if inputs is None:
            return None
        modules: dict[Path, nn.Module] = {}
        names: dict[Path, dict[str, None]] = {}
        roots: list[Any] = []

        def note(method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            module, scope = context.module, context.module.scope
            roots.extend([] if scope is None else [scope.root])
            if scope is None or scope.root is not roots[0]:  # part of a graph that is drawn on the way
                return method(*args, **kwargs)
            modules.setdefault(scope.path, module)
            result = method(*args, **kwargs)
            children = module._state.children
            names.setdefault(scope.path, {}).update(dict.fromkeys(children))
            # A lifted transformation, such as nn.remat, calls its module in scopes that are apart from the root.
            inside = {(*scope.path, name): child for name, child in children.items() if isinstance(child, nn.Module)}
            modules.update({path: child for path, child in inside.items() if path not in modules})
            return result

        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        with nn.intercept_methods(note):
            symbolic.evaluate(lambda examples: self.root.init(rngs, examples), inputs)
        return Creation({path: module.clone(parent=None) for path, module in modules.items()}, names)


def _inside(model: Layer, child: Any) -> Any:
    """A layer inside another one; a model in a model of a dtype has that dtype, on which its order may depend."""
    if isinstance(model, Container) and isinstance(child, Container) and child.dtype is None is not model.dtype:
        return child.clone(dtype=model.dtype)
    return child


def _input_of(module: nn.Module) -> Any:
    if isinstance(module, Container):
        return module.symbols()[0]
    shape = module.input_shape if isinstance(module, Layer) else None
    return None if shape is None else symbolic.Input(shape)


def _is_hidden(module: Layer, name: str) -> bool:
    """Whether a class of ours makes this statistic, which Keras does not count among its weights."""
    return (isinstance(module, Recurrent) and name.startswith("state_")) or (
        isinstance(module, SpectralNormalization) and name == "sigma"
    )


def _is_statistic(path: Path) -> bool:
    return path[0] == "batch_stats" and (path[-1].startswith("state_") or path[-1] == "sigma")


def _paths_under(variables: Any, scope: Path) -> list[Path]:
    paths = []
    for collection in COLLECTIONS:
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
    """Lists a module's weights in the order of Keras' `get_weights()`; those of a linen module by path.

    Args:
        module: A layer or model.
        variables: Its variables; a tree of gradients in place of `params` works as well.

    Raises:
        ValueError: If a custom layer has weights whose order is not known: it does not declare them in `WEIGHTS` and
            `children`, and the model does not know its input.

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
        ValueError: If the number of weights or any shape differs, every difference being named; or if the order of
            the weights is not known.

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
