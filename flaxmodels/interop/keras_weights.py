"""The weights of a module as the list that Keras' `get_weights()` returns and `set_weights()` takes.

Keras lists a layer's own weights, trainable ones first, and then those of the layers inside it, in order of creation.
The layers of this library declare that order in `WEIGHTS` and `children`. Weights that a custom layer does not declare
are sorted by creation, which is observed by tracing `init`; this requires a model whose input is known.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.module import InterceptorContext
from numpy.typing import ArrayLike

from flaxmodels.container import Container
from flaxmodels.inspection import weights_of
from flaxmodels.layers import keras_state, symbolic
from flaxmodels.layers.base import Layer
from flaxmodels.layers.keras_calls import is_library_build
from flaxmodels.layers.linen import Linen
from flaxmodels.layers.normalization import SpectralNormalization
from flaxmodels.layers.recurrent import Recurrent
from flaxmodels.layers.scopes import places_of
from flaxmodels.trees import Tree

T = TypeVar("T")
Path = tuple[str, ...]
COLLECTIONS = ("params", "batch_stats")


class Parts(NamedTuple):
    """The parts of a module in Keras' order.

    Attributes:
        own: Paths of the module's own weights in the variables.
        children: The scopes and modules inside it, with None for a module that is not known.
    """

    own: list[Path]
    children: list[tuple[str, nn.Module | None]]


class Creation(NamedTuple):
    """The order of creation, as observed while a model was initialized.

    Attributes:
        modules: Modules keyed by scope.
        names: Names of weights and modules in each scope, in order of creation.
    """

    modules: dict[Path, nn.Module]
    names: dict[Path, dict[str, None]]


def weight_paths(module: nn.Module, variables: Mapping[str, object]) -> list[Path]:
    """Returns the paths of a module's weights in Keras' order; each path starts with the collection.

    Args:
        module: A layer or model.
        variables: The variables, or their shapes.

    Raises:
        ValueError: If a custom layer has weights whose order is not known.
    """
    reader = PartsReader(module, variables)

    visited: set[Path] = set()

    def walk(module: nn.Module | None, path: Path) -> list[Path]:
        scope = reader.scope_of(module, path)
        if scope in visited:
            return []
        visited.add(scope)
        own, children = reader.parts(module, scope)
        return own + [weight for name, child in children for weight in walk(child, (*scope, name))]

    paths = walk(module, ())
    reader.check_complete(paths)
    return paths


class PartsReader:
    """Lists the parts of modules; if the order of creation is needed, traces the initialization of the model once.

    Args:
        root: The whole model.
        variables: The variables, or their shapes.
    """

    def __init__(self, root: nn.Module, variables: Mapping[str, object]):
        self.root, self.variables = root, variables
        # Kept, because some layers make the layers inside them anew, and an id is unique only among living objects.
        self._places = places = places_of(root)
        self._scopes = {id(keras_state.origin_of(place.layer)): place.scope for place in places}
        self._shared = {place.scope for place in places if place.path != place.scope}

    def scope_of(self, module: nn.Module | None, path: Path) -> Path:
        """Returns the scope of the module at a path; a shared module has that of its first place."""
        return path if module is None else self._scopes.get(id(keras_state.origin_of(module)), path)

    def is_shared(self, module: nn.Module | None) -> bool:
        """Returns whether a module is in several places."""
        return module is not None and self._scopes.get(id(keras_state.origin_of(module))) in self._shared

    def parts(self, module: nn.Module | None, scope: Path) -> Parts:
        """Returns the parts of the module at a scope."""
        if not isinstance(module, Layer) or isinstance(module, Linen):
            return Parts(_paths_under(self.variables, scope), [])  # sorted by path, as in Keras' FlaxLayer
        self._check_built(module)
        own = [
            (collection, *scope, name)
            for collection, name in module.own_weights()
            if _get_in(self.variables, (collection, *scope, name)) is not None
        ]
        children: list[tuple[str, nn.Module | None]] = [
            (name, _with_model_dtype(module, child)) for name, child in module.children()
        ]
        if module.pure_class().__module__.split(".")[0] == __name__.split(".")[0]:
            return Parts(own, children)  # layers of this library declare all parts
        if module.BINDS_ATTRIBUTES:
            return Parts(own, children)
        declared = {*module.WEIGHTS, *(name for name, _ in children)}
        scopes: dict[str, None] = {}
        for collection in COLLECTIONS:
            tree = _get_in(self.variables, (collection, *scope)) or {}
            names = [name for name in tree if name not in declared and not _is_not_in_keras(module, name)]
            leaves = [name for name in names if not hasattr(tree[name], "items")]
            own += [(collection, *scope, name) for name in self._sort_by_creation(module, scope, leaves)]
            scopes |= dict.fromkeys(name for name in names if hasattr(tree[name], "items"))
        return Parts(
            own,
            children
            + [
                (name, self._module_at(module, scope, name))
                for name in self._sort_by_creation(module, scope, [*scopes])
            ],
        )

    def _check_built(self, module: Layer) -> None:
        """Raises if a layer that is written as a Keras class does not know its variables and sublayers yet."""
        if module.BINDS_ATTRIBUTES and not module.built and not is_library_build(type(module).build):
            raise ValueError(
                f"{module.label} is not built, so the order of its weights is unknown; "
                "call build(input_shape) of the model first, with None for the batch."
            )

    def check_complete(self, paths: Sequence[Path]) -> None:
        """Raises unless the paths contain every weight; states and `sigma` are not weights in Keras."""
        missing = {path for path in _paths_under(self.variables, ()) if path not in set(paths)}
        unknown = sorted("/".join(path[1:]) for path in missing if not _is_statistic(path))
        if unknown:
            raise ValueError(
                f"{type(self.root).__name__} has weights that none of its layers declares, {', '.join(unknown[:5])}; "
                "list them in `WEIGHTS` of the layer, and the layers inside it in `children`."
            )

    def _sort_by_creation(self, module: Layer, scope: Path, names: list[str]) -> list[str]:
        """Returns the names in order of creation."""
        if len(names) < 2:
            return names
        created = self._creation.names.get(scope, {}) if self._creation else {}
        if any(name not in created for name in names):
            self._raise_unknown_order(module, names)
        return [name for name in created if name in names]

    def _module_at(self, module: Layer, scope: Path, name: str) -> nn.Module | None:
        """Returns the submodule `name` of a layer that does not list it in `children`, or None if it is not known."""
        field = getattr(module, name, None) if name in type(module).__dataclass_fields__ else None
        if isinstance(field, nn.Module):
            return field
        paths = _paths_under(self.variables, (*scope, name))
        if len(paths) > 1 and not (self._creation and (*scope, name) in self._creation.modules):
            self._raise_unknown_order(module, sorted("/".join(path[len(scope) + 1 :]) for path in paths))
        return self._creation.modules.get((*scope, name)) if self._creation else None

    def _raise_unknown_order(self, module: Layer, names: list[str]) -> None:
        raise ValueError(
            f"Keras sorts weights by creation, whose order is unknown for {', '.join(map(repr, sorted(names)[:5]))} "
            f"of {module.label}; list weights in `WEIGHTS` and layers in `children`, or put the layer into a model "
            "that starts with Input(shape)."
        )

    @functools.cached_property
    def _creation(self) -> Creation | None:
        """The order of creation, or None if the input of the model is unknown."""
        inputs = _input_of(self.root)
        if inputs is None:
            return None
        modules: dict[Path, nn.Module] = {}
        names: dict[Path, dict[str, None]] = {}
        roots: list[Any] = []

        def note(
            method: Callable[..., T], args: tuple[object, ...], kwargs: dict[str, object], context: InterceptorContext
        ) -> T:
            module, scope = context.module, context.module.scope
            roots.extend([] if scope is None else [scope.root])
            if scope is None or scope.root is not roots[0]:  # a separate module that only infers shapes
                return method(*args, **kwargs)
            modules.setdefault(scope.path, module)
            result = method(*args, **kwargs)
            children = module._state.children
            names.setdefault(scope.path, {}).update(dict.fromkeys(children))
            # A lifted transformation, such as nn.remat, calls its module in scopes with a different root.
            for name, child in children.items():
                if isinstance(child, nn.Module):
                    modules.setdefault((*scope.path, name), child)
            return result

        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        with nn.intercept_methods(note):
            symbolic.evaluate(lambda examples: self.root.init(rngs, examples), inputs)
        return Creation({path: module.clone(parent=None) for path, module in modules.items()}, names)


def _with_model_dtype(model: Layer, child: nn.Module) -> nn.Module:
    """Returns the child, or a copy with the dtype of the enclosing model if the child is a model without a dtype.

    The order of its weights may depend on the dtype.
    """
    if isinstance(model, Container) and isinstance(child, Container) and child.own_dtype is None is not model.own_dtype:
        copy = child.clone(dtype=model.own_dtype)
        keras_state.note_origin(copy, child)
        return copy
    return child


def _input_of(module: nn.Module) -> Tree[symbolic.Symbol] | None:
    if isinstance(module, Container):
        return module.symbols()[0]
    shape = module.input_shape if isinstance(module, Layer) else None
    return None if shape is None else symbolic.Input(shape)


def _is_not_in_keras(module: Layer, name: str) -> bool:
    """Returns whether a class of this library creates this statistic, which is not a weight in Keras."""
    return (isinstance(module, Recurrent) and name.startswith("state_")) or (
        isinstance(module, SpectralNormalization) and name == "sigma"
    )


def _is_statistic(path: Path) -> bool:
    return path[0] == "batch_stats" and (path[-1].startswith("state_") or path[-1] == "sigma")


def _paths_under(variables: Mapping[str, object], scope: Path) -> list[Path]:
    paths = []
    for collection in COLLECTIONS:
        tree = _get_in(variables, (collection, *scope))
        for keys, _ in jax.tree_util.tree_leaves_with_path(tree):
            paths.append((collection, *scope, *(key.key for key in keys)))
    return paths


def _get_in(tree: object, path: Path) -> Any:
    found: Any = tree
    for key in path:
        if not hasattr(found, "get") or found.get(key) is None:
            return None
        found = found[key]
    return found


def get_keras_weights(module: nn.Module, variables: Mapping[str, object]) -> list[np.ndarray]:
    """Returns the weights of a module in the order of Keras' `get_weights()`.

    The weights of a linen module that is not a `Layer` are sorted by path.

    Args:
        module: A layer or model.
        variables: The variables of the module; `params` may also be a tree of gradients.

    Raises:
        ValueError: If the order of a custom layer's weights is unknown, because it does not declare them in `WEIGHTS`
            and `children` and the input of the model is unknown.

    Example:
        >>> from flaxmodels import layers
        >>> layer = layers.Dense(2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> [w.shape for w in get_keras_weights(layer, variables)]
        [(3, 2), (2,)]
    """
    return [np.asarray(_get_in(variables, path)) for path in weight_paths(module, variables)]


def set_keras_weights(
    module: nn.Module, variables: Mapping[str, object], weights: Sequence[ArrayLike]
) -> dict[str, Any]:
    """Returns the variables with their values replaced by Keras' weights.

    Args:
        module: A layer or model.
        variables: The variables of the module, as `init` returns them.
        weights: Arrays in the order of Keras' `get_weights()`.

    Raises:
        ValueError: If the number of weights or a shape differs, or the order of the weights is unknown. The error
            lists all differences.

    Example:
        >>> from flaxmodels import layers
        >>> layer = layers.Dense(2)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> variables = set_keras_weights(layer, variables, [np.ones((3, 2)), np.zeros(2)])
        >>> float(variables["params"]["kernel"].sum())
        6.0
    """
    paths = weight_paths(module, variables)
    expected = [f"{'/'.join(path[1:])} {tuple(np.shape(_get_in(variables, path)))}" for path in paths]
    if len(paths) != len(weights):
        shapes = [tuple(np.shape(w)) for w in weights]
        raise ValueError(
            f"{type(module).__name__} has {len(paths)} weights [{', '.join(expected)}], got {len(weights)} of shapes "
            f"{shapes}; give them in the order of Keras' get_weights()."
        )
    differences = [
        f"{description}, got {np.shape(w)}"
        for path, description, w in zip(paths, expected, weights, strict=True)
        if np.shape(_get_in(variables, path)) != np.shape(w)
    ]
    if differences:
        raise ValueError(
            f"The weights of {type(module).__name__} must have the shapes {'; '.join(differences)}; "
            "give them in the order of Keras' get_weights()."
        )
    result = _copy_tree(variables)
    for path, weight in zip(paths, weights, strict=True):
        *scope, name = path
        old = _get_in(variables, path)
        _get_in(result, tuple(scope))[name] = jnp.asarray(weight, old.dtype)
    return result


def _copy_tree(tree: Mapping[str, object]) -> dict[str, object]:
    return {key: _copy_tree(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _split_weights(
    module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, Any]
) -> tuple[list[Path], list[Path], Mapping[str, object]]:
    """Implements `keras_state.split_weights`."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    fixed = {name: value for name, value in kwargs.items() if not jax.tree.leaves(value) or isinstance(value, bool)}
    arrays = {name: value for name, value in kwargs.items() if name not in fixed}
    shapes = jax.eval_shape(lambda args, arrays: module.init(rngs, *args, **fixed, **arrays), args, arrays)
    paths = weight_paths(module, shapes)
    frozen = {path for path, (layer, _) in weights_of(module, *args, **kwargs).items() if layer.frozen}
    trained = [path for path in paths if path[0] == "params" and path[1:] not in frozen]
    return trained, [path for path in paths if path not in set(trained)], shapes


keras_state.split_weights = _split_weights
