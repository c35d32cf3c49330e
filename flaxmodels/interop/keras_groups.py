"""The layout of Keras' weight files: which group of the HDF5 file holds which weights of a model."""

import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import flax.linen as nn
from flax import traverse_util

from flaxmodels import layers
from flaxmodels.building import Model
from flaxmodels.container import Container
from flaxmodels.graph import snake_case
from flaxmodels.interop.keras_weights import PartsReader
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
    """

    path: str
    name: str
    arrays: list[Path]
    sigma: Path | None = None


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

    def keys(self, model: str, children: Sequence[tuple[str, nn.Module | None]], by_order: list[str]) -> list[str]:
        """Returns the keys of a model's layers in the file.

        Args:
            model: Path of the model in the file.
            children: The layers with their names.
            by_order: Their keys in Keras' order, which are used if the names are ambiguous.
        """
        stored = self.models.get(model)
        if not stored:
            return by_order
        by_name = {name: key for key, name in stored.items()}
        names = [name for name, _ in children]
        fits = sorted(stored.values()) == sorted(names) and all(
            _is_key(by_name[name], _stem(child)) for name, child in children
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
            return [by_name[name] for name in names]
        return by_order


def groups(module: Layer, variables: Mapping[Path, object], names: StoredNames | None = None) -> list[Group]:
    """Returns the groups that Keras' `save_weights` writes for a module, in its order.

    The layers inside a custom layer have the names of their scopes, whereas Keras uses the names of attributes.

    Args:
        module: A layer or model.
        variables: The variables of the module, or their shapes, keyed by path.
        names: Layer names of a file, which choose between groups of the same class.

    Raises:
        ValueError: If a custom layer has weights whose order is not known.
    """
    reader = PartsReader(module, traverse_util.unflatten_dict(variables))
    result = list(_groups(reader, module, "", (), module.name or "", names or StoredNames("", {}, False)))
    reader.check_complete([path for group in result for path in group.arrays])
    return result


def _groups(
    reader: PartsReader, module: nn.Module | None, path: str, scope: Path, name: str, names: StoredNames
) -> Iterator[Group]:
    """Yields the groups of a module and the layers inside it.

    Args:
        reader: A reader that lists the parts of modules.
        module: The module.
        path: Path of the module's group.
        scope: The module's scope in the variables.
        name: The module's name in Keras.
        names: Layer names of the file.
    """
    own, inside = reader.parts(module, scope)
    if not isinstance(module, layers.SpectralNormalization):
        own_path = _lookup_by_class(WEIGHT_SUBGROUPS, module, "")
        if own_path:  # Keras also writes a group with the layer's name and without arrays
            yield Group(_join_path(path, "vars"), name, [])
        yield Group(_join_path(path, own_path, "vars"), name, own)
    else:  # the inner layer has the same scope, and Keras writes the kernel in both groups
        sigma = ("batch_stats", *scope, "sigma")
        arrays = [variable for variable in own if variable[-1] in module.WEIGHTS[:2]]
        yield Group(_join_path(path, "vars"), name, arrays, sigma)
        inner_path, inner_name = _join_path(path, "layer"), module.layer.name or ""
        for group in _groups(reader, module.layer, inner_path, scope, inner_name, names):
            yield dataclasses.replace(group, sigma=sigma)
    used: collections.Counter[str] = collections.Counter()
    attributes = [
        _lookup_by_class(KERAS_ATTRIBUTES, module, {}).get(child_name, child_name) for child_name, _ in inside
    ]
    if isinstance(module, Container):
        keys = names.keys(path, inside, [_numbered_key(child, used) for _, child in inside])
        attributes = [f"layers/{key}" for key in keys]
    elif isinstance(module, layers.StackedRNNCells):
        attributes = [f"cells/{_numbered_key(child, used)}" for _, child in inside]
    for attribute, (child_name, child) in zip(attributes, inside, strict=True):
        yield from _groups(reader, child, _join_path(path, attribute), (*scope, child_name), child_name, names)


def _join_path(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _lookup_by_class(table: Mapping[str, T], module: nn.Module | None, default: T) -> T:
    """Returns the entry of a table for the class of a module or its nearest base class."""
    return next((table[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in table), default)


def _numbered_key(layer: nn.Module | None, used: collections.Counter[str]) -> str:
    """Returns Keras' key of a layer in a list: its class name, with a number from the second such layer on."""
    stem = _stem(layer)
    used[stem] += 1
    return stem if used[stem] == 1 else f"{stem}_{used[stem] - 1}"


def _stem(layer: nn.Module | None) -> str:
    kind = "Model" if isinstance(layer, Model) else type(layer).__name__
    return snake_case(KERAS_CLASS_NAMES.get(kind, kind))


def _is_key(key: str, stem: str) -> bool:
    """Returns whether the key consists of a class name and an optional number."""
    return key == stem or (key.startswith(f"{stem}_") and key[len(stem) + 1 :].isdecimal())
