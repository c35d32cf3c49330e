"""The layout of Keras' weight files: which group of the HDF5 file holds which weights of a model."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard, TypeVar

import flax.linen as nn
from flax import traverse_util

from flaxmodels import layers
from flaxmodels.building import Model
from flaxmodels.container import Container
from flaxmodels.graph import snake_case
from flaxmodels.interop.keras_weights import Parts, PartsReader
from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer

# The subgroup in which Keras stores a layer's own weights, if it is not the group of the layer.
WEIGHT_SUBGROUPS = {name: "cell" for name in ("SimpleRNN", "GRU", "LSTM", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")}
# Keras' attribute names of the layers inside a layer, if they differ from the scope.
KERAS_ATTRIBUTES = {
    "MultiHeadAttention": {
        "query": "query_dense",
        "key": "key_dense",
        "gate": "_gate_dense",
        "value": "value_dense",
        "attention_output": "output_dense",
    },
    "GroupQueryAttention": {
        name: f"_{attribute}_dense"
        for name, attribute in (*((n, n) for n in ("query", "key", "gate", "value")), ("attention_output", "output"))
    },
}
# Classes whose name in Keras' code differs.
KERAS_CLASS_NAMES = {"GroupQueryAttention": "GroupedQueryAttention", "Model": "Functional", "Linen": "FlaxLayer"}

T = TypeVar("T")
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of an HDF5 file, which holds the weights of one layer.

    Attributes:
        path: Path of the group.
        name: Keras' name of the layer.
        arrays: For each array of the group, its path in the variables.
        sigma: Path of the divisor of the kernel in `SpectralNormalization`; Keras stores the divided kernel.
        layer: The layer.
    """

    path: str
    name: str
    arrays: list[Path]
    sigma: Path | None = None
    layer: nn.Module | None = None


class StoredNames:
    """Matches the groups of a file to layers by the layer names that the file contains.

    Keras names groups by class and order, and the order depends on the graph. A layer name only decides between layers
    of the same class in the same model. Files of older versions of Keras have no layer names.

    Args:
        path: Path of the file, for error messages only.
        names: Layer names keyed by the path of their groups.
        required: Whether the names must match the layer names; if so, a mismatch raises an error. Otherwise, names
            are used only if they equal names that the user gave to all layers. Automatic names are not used, because
            Keras numbers them in the order of creation and this library in the order of the calls.
    """

    def __init__(self, path: str | os.PathLike[str], names: Mapping[str, str], required: bool):
        self.path, self.required = path, required
        self.models: dict[str, dict[str, str]] = collections.defaultdict(dict)
        # Early versions of this library wrote no group "vars" for recurrent layers, and gave the layers' names to their
        # cells.
        cells = {g.removesuffix("/cell/vars") + "/vars": name for g, name in names.items() if g.endswith("/cell/vars")}
        for group, name in (cells | dict(names)).items():
            *model, kind, key, last = ("", "", *group.split("/"))
            if (kind, last) == ("layers", "vars") and not _is_key(key, "input_layer"):
                self.models["/".join(filter(None, model))][key] = name

    def keys(
        self,
        model: str,
        children: Sequence[tuple[str, nn.Module | None]],
        by_order: list[str],
        is_shared: Callable[[nn.Module | None], bool],
    ) -> list[str]:
        """Returns the keys of a model's layers in the file.

        Args:
            model: Path of the model in the file.
            children: The layers with their names.
            by_order: Their keys in Keras' order, which are used if the names are ambiguous.
            is_shared: Returns whether a layer is in several places, of which the file has only one.
        """
        stored = self.models.get(model)
        if not stored:
            return by_order
        by_name = {name: key for key, name in stored.items()}
        known = [(name, child) for name, child in children if name in by_name or not is_shared(child)]
        fits = sorted(stored.values()) == sorted({name for name, _ in known}) and all(
            _is_key(by_name[name], _stem(child)) for name, child in known
        )
        if self.required and not fits:
            expected = sorted((name[:80], _stem(child)) for name, child in children)[:10]
            actual = sorted((name[:80], key[:80]) for key, name in stored.items())[:10]
            wanted, got = (", ".join(f"{kind} {name!r}" for name, kind in pairs) for pairs in (expected, actual))
            raise ValueError(
                f"{self.path} contains weights that do not match its config: the config has {wanted}, got weights of "
                f"{got}; save it again with Keras."
            )
        if fits and (self.required or all(child is not None and child.name for _, child in children)):
            return [by_name.get(name, key) for (name, _), key in zip(children, by_order, strict=True)]
        return by_order


def groups(module: Layer, variables: Mapping[Path, object], names: StoredNames | None = None) -> list[Group]:
    """Returns the groups that Keras' `save_weights` writes for a module, in its order.

    The layers inside a custom layer that is not written Keras' way have the names of their scopes, whereas Keras uses
    the names of attributes.

    Args:
        module: A layer or model.
        variables: The variables of the module, or their shapes, keyed by path.
        names: Layer names of a file, which choose between groups of the same class.

    Raises:
        ValueError: If a custom layer has weights whose order is not known.
    """
    reader = PartsReader(module, traverse_util.unflatten_dict(variables))
    result = list(_Walk(reader, names or StoredNames("", {}, False)).groups(module, "", (), module.name or ""))
    reader.check_complete([path for group in result for path in group.arrays])
    return result


class _Walk:
    """Lists the groups of a module in the order in which Keras visits its layers.

    Keras writes a layer that is shared into the group where it visits it first. That is not always where its scope is.

    Args:
        reader: A reader that lists the parts of modules.
        names: Layer names of a file.
    """

    def __init__(self, reader: PartsReader, names: StoredNames):
        self.reader, self.names = reader, names
        self._parts: dict[tuple[Path, int], Parts] = {}
        self._visited: set[int] = set()

    def _parts_of(self, module: nn.Module | None, scope: Path) -> Parts:
        key = scope, id(module)
        if key not in self._parts:
            self._parts[key] = self.reader.parts(module, scope)
        return self._parts[key]

    def groups(self, module: nn.Module | None, path: str, scope: Path, name: str) -> Iterator[Group]:
        """Yields the groups of a module and the layers inside it.

        Args:
            module: The module.
            path: Path of the module's group.
            scope: The module's scope in the variables.
            name: The module's name in Keras.
        """
        if module is not None:
            self._visited.add(id(keras_state.origin_of(module)))
        own, inside = self._parts_of(module, scope)
        if not isinstance(module, layers.SpectralNormalization):
            own_path = _lookup_by_class(WEIGHT_SUBGROUPS, module, "")
            if own_path:  # Keras also writes a group with the layer's name and without arrays
                yield Group(_join_path(path, "vars"), name, [])
            yield Group(_join_path(path, own_path, "vars"), name, own, layer=module)
        else:  # the inner layer has the same scope, and Keras writes the kernel in both groups
            sigma = ("batch_stats", *scope, "sigma")
            arrays = [variable for variable in own if variable[-1] in module.WEIGHTS[:2]]
            yield Group(_join_path(path, "vars"), name, arrays, sigma)
            for group in self.groups(module.layer, _join_path(path, "layer"), scope, module.layer.name or ""):
                yield dataclasses.replace(group, sigma=sigma)
        for key, child_name, child in self._children(module, path, inside):
            if child is not None and id(keras_state.origin_of(child)) in self._visited:
                continue
            child_scope = self.reader.scope_of(child, (*scope, child_name))
            inner_name = getattr(child, "name", None) if _has_attributes(module) else None
            yield from self.groups(child, _join_path(path, key), child_scope, inner_name or child_name)

    def _children(
        self, module: nn.Module | None, path: str, inside: list[tuple[str, nn.Module | None]]
    ) -> list[tuple[str, str, nn.Module | None]]:
        """Returns the keys, the scopes and the layers inside a module."""
        used: collections.Counter[str] = collections.Counter()
        if _has_attributes(module):
            scopes = {id(keras_state.origin_of(child)): name for name, child in keras_state.sublayers(module)}
            named = dict(inside)
            found = [
                (key, scopes[id(keras_state.origin_of(child))], child)
                for key, child in _attributes_of(module)
                if id(keras_state.origin_of(child)) in scopes
            ]
            own = {name for _, name, _ in found}
            keys = _lookup_by_class(KERAS_ATTRIBUTES, module, {})
            return [(key, name, named.get(name, child)) for key, name, child in found] + [
                (keys.get(name, name), name, child) for name, child in inside if name not in own
            ]
        if isinstance(module, Container):
            by_order = [_numbered_key(child, used) for _, child in inside]
            stored = self.names.keys(path, inside, by_order, self.reader.is_shared)
            attributes = [f"layers/{key}" for key in stored]
        elif isinstance(module, layers.StackedRNNCells):
            attributes = [f"cells/{_numbered_key(child, used)}" for _, child in inside]
        else:
            keys = _lookup_by_class(KERAS_ATTRIBUTES, module, {})
            attributes = [keys.get(name, name) for name, _ in inside]
        return [(key, name, child) for key, (name, child) in zip(attributes, inside, strict=True)]


def _has_attributes(module: nn.Module | None) -> TypeGuard[Layer]:
    """Returns whether the layers inside a module are in the attributes of a class that is written Keras' way."""
    return isinstance(module, Layer) and module.BINDS_ATTRIBUTES and getattr(module, "graph", None) is None


def _attributes_of(module: Layer) -> Iterator[tuple[str, nn.Module]]:
    """Yields paths and layers in the attributes of a Keras class in the order of Keras: sorted, private ones last.

    A model has the further attribute `layers`.
    """
    values = keras_state.attributes(module)
    if isinstance(module, Container):
        values = values | {"layers": [child for _, child in module.children()]}
    for name in sorted(values, key=lambda name: f"~{name}" if name.startswith("_") else name):
        yield from _layers_in(values[name], name)


def _layers_in(value: object, path: str) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield path, value
    if not isinstance(value, list | tuple | dict):
        return
    used: collections.Counter[str] = collections.Counter()
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, nn.Module):
            yield f"{path}/{_numbered_key(item, used)}", item
        elif isinstance(item, list | tuple | dict):
            yield from _layers_in(item, f"{path}/{_numbered('container', used)}")


def _join_path(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _lookup_by_class(table: Mapping[str, T], module: nn.Module | None, default: T) -> T:
    """Returns the entry of a table for the class of a module or its nearest base class."""
    return next((table[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in table), default)


def _numbered_key(layer: nn.Module | None, used: collections.Counter[str]) -> str:
    """Returns Keras' key of a layer in a list: its class name, with a number from the second such layer on."""
    return _numbered(_stem(layer), used)


def _numbered(stem: str, used: collections.Counter[str]) -> str:
    used[stem] += 1
    return stem if used[stem] == 1 else f"{stem}_{used[stem] - 1}"


def _stem(layer: nn.Module | None) -> str:
    kind = "Model" if isinstance(layer, Model) else type(layer).__name__
    return snake_case(KERAS_CLASS_NAMES.get(kind, kind))


def _is_key(key: str, stem: str) -> bool:
    """Returns whether the key consists of a class name and an optional number."""
    return key == stem or (key.startswith(f"{stem}_") and key[len(stem) + 1 :].isdecimal())
