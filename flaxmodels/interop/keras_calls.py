"""The graph of a functional Keras model: the calls in its config, in topological order, with our references."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flaxmodels.interop import keras_masks, keras_operations
from flaxmodels.interop.keras_masks import Arguments, Call, Description
from flaxmodels.interop.keras_values import required
from flaxmodels.layers.base import Layer
from flaxmodels.saving.format import Json

Config = dict[str, Json]


class CallGraph:
    """The calls of layers and operations of a functional model in topological order.

    Args:
        described: Configs of the layers and operations by name.
        sources: Names of the input layers.
        outputs: The outputs of the model, as the config gives them.
        layer_classes: Our classes by the names of Keras' classes.
        compute_dtype: Returns the compute dtype of a layer, given its config.
    """

    def __init__(
        self,
        described: Mapping[str, Description],
        sources: Sequence[str],
        outputs: Json,
        layer_classes: Mapping[str, type[Layer]],
        compute_dtype: Callable[[Mapping[str, Json]], str],
    ):
        self.positions = {(name, 0): [-1, i] for i, name in enumerate(sources)}
        self.calls: dict[Call, Arguments] = {}
        for name, layer in described.items():
            if name not in sources:
                for i, call in enumerate(required(layer, "inbound_nodes", list)):
                    self.calls[name, i] = {
                        "args": required(call, "args", list),
                        "kwargs": required(call, "kwargs", dict),
                    }
        masks = keras_masks.MaskTerms(described, output_of, layer_classes, compute_dtype, keras_operations.is_operation)
        order = self._sorted()
        for key in order:
            self.calls[key] = masks.resolve_call(key, self.calls[key])
        # Operations that compute only masks that our layers compute themselves are left out.
        needed = set(_ends(outputs))
        for key in reversed(order):
            if key in needed or key[0] not in masks.operations:
                needed |= {key, *map(_call_of, _tensors([self.calls[key]["args"], self.calls[key]["kwargs"]]))}
        self.order = [key for key in order if key in needed]
        for name, call in self.order:
            if name in masks.operations:
                self.calls[name, call] = keras_operations.merge_settings(described[name], self.calls[name, call])
        self.operations = {
            name: keras_operations.name_of(described[name]) for name, _ in self.order if name in masks.operations
        }
        self.positions |= {key: [i, 0] for i, key in enumerate(self.order)}

    def _sorted(self) -> list[Call]:
        needs = {key: set(map(_call_of, _tensors([call["args"], call["kwargs"]]))) for key, call in self.calls.items()}
        missing = {key: {other for other in needed if other in self.calls} for key, needed in needs.items()}
        followers = collections.defaultdict(list)
        for key, needed in missing.items():
            for other in needed:
                followers[other].append(key)
        ready = collections.deque(key for key, needed in missing.items() if not needed)
        order = []
        while ready:
            order.append(ready.popleft())
            for key in followers[order[-1]]:
                missing[key].discard(order[-1])
                if not missing[key]:
                    ready.append(key)
        if len(order) < len(self.calls):
            left = next(iter(set(self.calls) - set(order)))
            raise ValueError(f"its graph has a cycle at {left[0][:80]!r}; remove the cycle")
        return order

    def in_order(self) -> Iterator[tuple[str, Arguments]]:
        """Yields the name of the layer and the call, for each call in topological order."""
        for key in self.order:
            yield key[0], self.calls[key]

    def argument(self, value: Json, translate: Callable[[Json], Json]) -> Json:
        """Translates an argument of a call; Keras tensors become references to our symbols."""
        if _is_tensor(value):
            return self._symbol(*output_of(value))
        if isinstance(value, dict) and value.get("class_name") == "__ellipsis__":
            return {"ellipsis": True}
        if isinstance(value, dict) and value.get("class_name") == "__slice__":
            inner = required(value, "config", dict)
            return {"slice": [inner.get(key) for key in ("start", "stop", "step")]}
        if isinstance(value, list):
            return [self.argument(item, translate) for item in value]
        if isinstance(value, dict) and "class_name" not in value:
            return {"mapping": {key: self.argument(item, translate) for key, item in value.items()}}
        return translate(value)

    def endpoints(self, tree: Json, counted_from_one: set[str]) -> Json:
        """Translates the model's inputs or outputs; Keras counts the calls of nested functional models from 1."""
        if isinstance(tree, dict):
            return {"mapping": {key: self.endpoints(item, counted_from_one) for key, item in tree.items()}}
        if isinstance(tree, list) and len(tree) == 3 and isinstance(tree[0], str):
            name, call, output = tree[0], tree[1], tree[2]
            return self._symbol(name, call - (name in counted_from_one) if isinstance(call, int) else call, output)
        if isinstance(tree, list):
            return [self.endpoints(item, counted_from_one) for item in tree]
        raise ValueError(f"its inputs and outputs must be [layer, call, output], got {str(tree)[:80]!r}")

    def _symbol(self, name: str, call: Json, output: Json) -> Config:
        if not isinstance(call, int) or type(output) is not int or output < 0 or (name, call) not in self.positions:
            raise ValueError(f"it refers to call {str(call)[:20]} of {name[:80]!r}, which does not exist")
        call_index, first_output = self.positions[name, call]
        return {"symbol": [call_index, first_output + output]}


def _is_tensor(value: Json) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"


def _call_of(tensor: Json) -> tuple[str, int]:
    """Returns the (layer, call) that outputs a tensor."""
    return output_of(tensor)[:2]


def output_of(tensor: Json) -> tuple[str, int, int]:
    """Returns the (layer, call, output) of a tensor, from its `keras_history`."""
    history = required(required(tensor, "config", dict), "keras_history", list)
    if len(history) != 3 or not isinstance(history[0], str) or any(type(n) is not int for n in history[1:]):
        raise ValueError(f"the history of a tensor must be [layer, call, output], got {str(history)[:80]!r}")
    return history[0], history[1], history[2]


def _tensors(value: Json) -> list[Json]:
    """Returns all tensors in a nested value."""
    if _is_tensor(value):
        return [value]
    inner: Iterable[Json] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for item in inner for tensor in _tensors(item)]


def _ends(tree: Json) -> list[Call]:
    """Returns the calls that a tree of [layer, call, output] names, as far as it is well-formed."""
    if isinstance(tree, list) and len(tree) == 3 and isinstance(tree[0], str) and isinstance(tree[1], int):
        return [(tree[0], tree[1])]
    inner: Iterable[Json] = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return [end for item in inner for end in _ends(item)]
