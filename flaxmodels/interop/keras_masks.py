"""Masks in a functional model of Keras' files.

When a layer that takes a mask is called on a symbol that has one, Keras writes the mask down as an argument of the
call, and the operations that compute it as nodes of the graph: `NotEqual` for an Embedding with `mask_zero`,
`LogicalOr` for an Add of two masked inputs, and so on. Our models pass masks along with the arrays. So such an argument
is left out if it is the mask that its input has anyway. This is decided without running anything: each mask is a term
over the tensors of the graph, once as it is written and once as the layers pass it on, and the two must be equal.

Keras gives no mask to a recurrent layer that is called with initial states, though it passes the mask on. Such a call
gets `mask=None` here, so that its numbers are those of Keras, and its outputs have no mask.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flaxmodels import mask_operations

Call = tuple[str, int]

# The operations that masks are made of, and their arguments in a file.
OPERATIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("keras.src.ops.numpy", "NotEqual"): (),
    ("keras.src.ops.numpy", "Any"): ("axis", "keepdims"),
    ("keras.src.ops.numpy", "LogicalOr"): (),
    ("keras.src.ops.numpy", "ExpandDims"): ("axis",),
    ("keras.src.ops.numpy", "ZerosLike"): ("dtype",),
    ("keras.src.ops.numpy", "OnesLike"): ("dtype",),
    ("keras.src.ops.numpy", "Concatenate"): ("axis",),
    ("keras.src.ops.core", "Cast"): ("dtype",),
    ("keras.src.ops.core", "ConvertToTensor"): ("dtype", "sparse", "ragged"),
}
RECURRENT = ("RNN", "SimpleRNN", "GRU", "LSTM", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
ATTENTION = ("Attention", "AdditiveAttention", "MultiHeadAttention", "GroupQueryAttention")
# Layers that are asked for a mask of their own, and so do not pass on the one of a TimeDistributed around them.
WITH_OWN_MASK = ("Embedding", "Masking", "TimeDistributed", "Bidirectional")
# Stands for the mask of outputs whose layer was not given the mask of its input.
LOST = "lost"


def is_operation(described: Any) -> bool:
    """Whether a node of a graph is an operation that masks are made of."""
    if not isinstance(described, dict):
        return False
    key = described.get("module"), described.get("class_name")
    config, name = described.get("config"), described.get("registered_name")
    return (
        all(isinstance(part, str) for part in key)
        and key in OPERATIONS
        and name in (None, key[1])
        and isinstance(config, dict)
        and set(config) <= {"name", "dtype", *OPERATIONS[key]}  # type: ignore[index]
    )


class Masks:
    """The masks of a graph, as terms. Equal terms have one number, so that comparing them takes no time.

    Args:
        described: The layers of the graph by name, operations included.
        history: Gives the call and the output that a tensor comes from.
        layer_classes: Our classes by the names of Keras' classes.
        compute_dtype: Gives the dtype that the config of a layer computes in.
    """

    def __init__(
        self,
        described: Mapping[str, Any],
        history: Callable[[Any], tuple[str, int, int]],
        layer_classes: Mapping[str, Any],
        compute_dtype: Callable[[Any], str],
    ):
        self.described, self.history, self.classes = described, history, layer_classes
        self.compute_dtype = compute_dtype
        self.operations = {name: layer["class_name"] for name, layer in described.items() if is_operation(layer)}
        self._numbers: dict[Any, int] = {}
        self._values: dict[Call, Any] = {}
        self._masks: dict[Call, Any] = {}

    def resolved(self, key: Call, call: dict[str, Any]) -> dict[str, Any] | None:
        """A call without the masks that its inputs have anyway; None for an operation. Calls come in order.

        Raises:
            ValueError: If a mask of operations is another one than that of the input.
        """
        layer = self.described[key[0]]
        if key[0] in self.operations:
            self._values[key] = self._operation(layer, call)
            return None
        kind, label = layer["class_name"], f"{layer['class_name'][:80]} {key[0][:80]!r}"
        inputs = self._inputs(kind, call)
        first = next(iter(inputs.values()), None)
        kept, given = {}, None
        for name, value in call["kwargs"].items():
            if (name == "mask" or name.endswith("_mask")) and self._uses_operation(value):
                if self._given(value) != self._mask_of(first if name == "mask" else inputs.get(name[:-5])):
                    raise ValueError(
                        f"{label} takes a mask that operations of Keras compute and that is not the mask of its input; "
                        "make the mask an input of the model"
                    )
            elif not (name == "mask" and (value is None or (kind not in self.classes and _are_none(value)))):
                kept[name] = value
                given = value if name == "mask" else given
        if given is None and self._takes_mask(kind) and LOST in _parts([self._mask_of(x) for x in inputs.values()]):
            raise ValueError(
                f"{label} takes a mask from behind a recurrent layer that was called with initial states, which gets "
                "no mask in Keras; make the mask an input of the model"
            )
        self._masks[key] = self._outputs(layer, inputs, given)
        if given is None and kind in (*RECURRENT, "Bidirectional") and self._mask_of(first) is not None:
            if sum(map(self._has_tensor, inputs.values())) > 1:
                kept["mask"] = None
                self._masks[key] = tuple(mask if mask is None else LOST for mask in self._masks[key])
        return call | {"kwargs": kept}

    def _takes_mask(self, kind: str) -> bool:
        """Whether a layer's numbers depend on the mask of its input."""
        if kind in (*MERGING, "Concatenate", "Dot"):
            return False
        if kind not in self.classes or kind == "TimeDistributed":
            return True
        return any(name.endswith("mask") for name in _arguments(self.classes[kind]))

    # ------------------------------------------------------------ terms

    def _number(self, *parts: Any) -> int:
        return self._numbers.setdefault(parts, len(self._numbers))

    def _operation(self, layer: Mapping[str, Any], call: Mapping[str, Any]) -> int:
        kind, config = layer["class_name"], layer["config"]
        given = list(map(self._term, [*call["args"], *sorted(call["kwargs"].items())]))
        if kind == "ConvertToTensor" and config.get("dtype") is None and len(given) == 1:
            return given[0]
        return self._made(kind, {name: config.get(name) for name in OPERATIONS[layer["module"], kind]}, *given)

    def _made(self, kind: str, config: Mapping[str, Any], *arguments: Any) -> int:
        return self._number("operation", kind, *map(self._term, sorted(config.items())), arguments)

    def _make(self, kind: str, config: Mapping[str, Any], *arguments: Any) -> int:
        """The term of an operation on terms; Keras concatenates what is in a list."""
        return self._made(kind, config, *([("list", *arguments)] if kind == "Concatenate" else arguments))

    def _term(self, value: Any) -> Any:
        """A value that can be compared: tensors as numbers, and what is in lists as tuples."""
        if _is_tensor(value):
            name, call, output = self.history(value)
            if name in self.operations:
                return self._values.get((name, call), -1)
            return self._number("tensor", name, call, output)
        if isinstance(value, list | tuple):
            return ("list", *map(self._term, value))
        if isinstance(value, dict):
            return ("dict", *((key, self._term(item)) for key, item in sorted(value.items())))
        return "constant", value

    def _has_tensor(self, value: Any) -> bool:
        return _is_tensor(value) or (isinstance(value, list) and any(map(self._has_tensor, value)))

    def _given(self, mask: Any) -> Any:
        """A mask, or a list of masks and None, as a call was given it."""
        if isinstance(mask, list):
            return ("list", *map(self._given, mask))
        return None if mask is None else self._term(mask)

    def _uses_operation(self, value: Any) -> bool:
        if _is_tensor(value):
            return self.history(value)[0] in self.operations
        return isinstance(value, list) and any(map(self._uses_operation, value))

    # ------------------------------------------------------------ masks as layers pass them on

    def _inputs(self, kind: str, call: Mapping[str, Any]) -> dict[str, Any]:
        """What a layer is called with by the names of its arguments, the first one first."""
        names = _arguments(self.classes[kind]) if kind in self.classes else ()
        named = {names[i] if i < len(names) else str(i): value for i, value in enumerate(call["args"])}
        return named | {name: value for name, value in call["kwargs"].items() if not name.endswith("mask")}

    def _mask_of(self, value: Any) -> Any:
        """The mask that goes with a tensor, or with each of a list; None where there is none."""
        if isinstance(value, list):
            found = [self._mask_of(item) for item in value]
            return ("list", *found) if any(mask is not None for mask in found) else None
        if not _is_tensor(value):
            return None
        name, call, output = self.history(value)
        masks = self._masks.get((name, call), ())
        return masks[output] if output < len(masks) else None

    def _outputs(self, layer: Mapping[str, Any], inputs: Mapping[str, Any], given: Any) -> tuple[Any, ...]:
        """The masks of a layer's outputs, as far as there are any."""
        kind, config = layer["class_name"], layer["config"]
        first = next(iter(inputs.values()), None)
        mask = self._mask_of(first) if given is None else self._given(given)
        if kind == "Embedding":
            masked = bool(config.get("mask_zero"))
            return (mask_operations.embedding_mask(self._make, self._term(first), self._term(0)),) if masked else ()
        if kind == "Masking":
            value = self._term(config.get("mask_value", 0.0))
            return (mask_operations.masking_mask(self._make, self._cast(config, first), value),)
        if kind in MERGING:
            return self._merged(mask)
        if kind == "Concatenate":
            return self._concatenated(config, first, mask)
        if kind in ATTENTION:
            return (_first(mask),)
        if kind in RECURRENT:
            return (_first(mask),) if config.get("return_sequences") else ()
        if kind == "Bidirectional":
            inner = config.get("layer")
            inner = inner.get("config") if isinstance(inner, dict) else None
            returned = isinstance(inner, dict) and inner.get("return_sequences")
            return (_first(mask),) * (2 if config.get("merge_mode", "concat") is None else 1) if returned else ()
        if kind == "TimeDistributed":
            inner = config.get("layer")
            inside = inner.get("class_name") if isinstance(inner, dict) else None
            known = inside in self.classes and inside not in WITH_OWN_MASK
            return (mask if known else self._unknown(),)
        if kind in self.classes:
            return (mask,) if self.classes[kind].SUPPORTS_MASKING else ()
        return (self._unknown(),) * 64  # a model: its layers decide when it runs

    def _merged(self, masks: Any) -> tuple[Any, ...]:
        parts = masks[1:] if isinstance(masks, tuple) and masks[0] == "list" else ()
        if not parts or any(part is None for part in parts):
            return ()
        if LOST in parts:
            return (LOST,)
        return (mask_operations.merged_mask(self._make, parts),)

    def _concatenated(self, config: Mapping[str, Any], inputs: Any, masks: Any) -> tuple[Any, ...]:
        if masks is None:
            return ()
        if not isinstance(inputs, list) or len(inputs) != len(masks) - 1 or not all(map(_is_sequence, inputs)):
            return (self._unknown(),)
        if LOST in masks:
            return (LOST,)
        values = [self._cast(config, value) for value in inputs]
        axis = config.get("axis", -1)
        return (mask_operations.concatenated_mask(self._make, values, masks[1:], axis, lambda value, mask: False),)

    def _cast(self, config: Mapping[str, Any], tensor: Any) -> Any:
        """A tensor as a layer takes it: numbers of floating point in the dtype of its computation."""
        if not _is_tensor(tensor):
            return self._term(tensor)
        dtype, wanted = tensor["config"].get("dtype"), self.compute_dtype(config)
        if not isinstance(dtype, str) or "float" not in dtype or dtype == wanted:
            return self._term(tensor)
        return self._made("Cast", {"dtype": wanted}, self._term(tensor))

    def _unknown(self) -> int:
        """A mask that is equal to no other one."""
        return self._number("unknown", len(self._numbers))


@functools.cache
def _arguments(cls: type) -> tuple[str, ...]:
    """The names of what the `compute` of a class takes."""
    return tuple(inspect.signature(cls.compute).parameters)[1:] if hasattr(cls, "compute") else ()


def _are_none(mask: Any) -> bool:
    """Whether a mask is a list of None. Keras writes it down for a model; it takes no mask away from the inputs."""
    return isinstance(mask, list) and all(part is None for part in mask)


def _first(mask: Any) -> Any:
    return mask[1] if isinstance(mask, tuple) and mask[0] == "list" and len(mask) > 1 else mask


def _parts(mask: Any) -> list[Any]:
    """A mask, or what is in a list of masks."""
    return [part for item in mask for part in _parts(item)] if isinstance(mask, list | tuple) else [mask]


def _is_sequence(tensor: Any) -> bool:
    """Whether a tensor is [B, T, F], where Keras' masks and ours are joined in the same way."""
    shape = tensor["config"].get("shape") if _is_tensor(tensor) else None
    return isinstance(shape, list) and len(shape) == 3


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"
