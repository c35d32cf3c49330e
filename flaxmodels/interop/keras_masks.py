"""Masks in the config of a functional Keras model.

When a layer that takes a mask is called on a symbol that has one, Keras writes the mask as an argument of the call. The
operations that compute the mask become nodes of the graph: `NotEqual` for an Embedding with `mask_zero`, `LogicalOr`
for an Add of two masked inputs, and so on. Models of this library pass masks from layer to layer implicitly. The
explicit argument is therefore dropped if it equals the implicit mask of the input. Any other computed mask stays an
argument.

Nothing is computed for this comparison. Each mask is a symbolic term over the tensors of the graph: the explicit mask
as the config defines it, the implicit mask as the layers compute it. The two terms must be equal.

Keras gives no mask to a recurrent layer that is called with initial states. Such a call gets `mask=None` here, so that
its results equal those of Keras, and its outputs have no mask.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypedDict, TypeGuard

from flaxmodels import mask_operations
from flaxmodels.layers.base import Layer
from flaxmodels.saving.format import Json

Call = tuple[str, int]
Term: TypeAlias = int | float | str | None | tuple["Term", ...]

# The operations that compute masks, with the arguments that a config contains.
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
# Layers that compute a new mask: a TimeDistributed that contains one does not pass on the mask of its inputs.
WITH_NEW_MASK = ("Embedding", "Masking", "TimeDistributed", "Bidirectional")
# The mask of outputs whose layer did not receive the mask of its inputs.
LOST = "lost"


class Description(TypedDict):
    """A layer or operation in a config, whose values were checked to have these types."""

    module: str
    class_name: str
    config: dict[str, Json]


class Arguments(TypedDict):
    """The arguments of a call in a config."""

    args: list[Json]
    kwargs: dict[str, Json]


class MaskTerms:
    """The masks of a graph as symbolic terms; equal terms have equal numbers, so that comparisons are fast.

    Args:
        described: Configs of the layers and operations, keyed by name.
        history: Returns the (layer, call, output) of a tensor.
        layer_classes: This library's classes, keyed by the names of Keras' classes.
        compute_dtype: Returns the compute dtype of a layer, given its config.
        is_operation: Returns whether a description is that of an operation.
    """

    def __init__(
        self,
        described: Mapping[str, Description],
        history: Callable[[Json], tuple[str, int, int]],
        layer_classes: Mapping[str, type[Layer]],
        compute_dtype: Callable[[Mapping[str, Json]], str],
        is_operation: Callable[[object], bool],
    ):
        self.described, self.history, self.classes = described, history, layer_classes
        self.compute_dtype = compute_dtype
        self.operations = {name: layer["class_name"] for name, layer in described.items() if is_operation(layer)}
        self._numbers: dict[Term, int] = {}
        self._values: dict[Call, Term] = {}
        self._masks: dict[Call, tuple[Term, ...]] = {}

    def resolve_call(self, key: Call, call: Arguments) -> Arguments:
        """Returns a call without the masks that equal those of its inputs; the call of an operation is unchanged.

        Args:
            key: Name of the layer and index of the call; calls must be resolved in topological order.
            call: Arguments of the call.

        Raises:
            ValueError: If the layer would take a mask that Keras does not give it.
        """
        layer = self.described[key[0]]
        if key[0] in self.operations:
            self._values[key] = self._operation(layer, call)
            return call
        kind, label = layer["class_name"], f"{layer['class_name'][:80]} {key[0][:80]!r}"
        inputs = self._named_inputs(kind, call)
        first = next(iter(inputs.values()), None)
        kept: dict[str, Json] = {}
        given: Json = None
        for name, value in call["kwargs"].items():
            is_mask = name == "mask" or name.endswith("_mask")
            if (
                is_mask
                and self._uses_operation(value)
                and self._is_implicit(value, first if name == "mask" else inputs.get(name[:-5]))
            ):
                continue
            if not (name == "mask" and (value is None or (kind not in self.classes and _is_list_of_none(value)))):
                kept[name] = value
                given = value if name == "mask" else given
        if given is None and self._takes_mask(kind) and LOST in _flatten([self._mask_of(x) for x in inputs.values()]):
            raise ValueError(
                f"{label} takes the mask of a recurrent layer that is called with initial states, which has no mask in "
                "Keras; make the mask an input of the model"
            )
        self._masks[key] = self._output_masks(layer, inputs, given)
        if given is None and kind in (*RECURRENT, "Bidirectional") and self._mask_of(first) is not None:
            if sum(map(self._has_tensor, inputs.values())) > 1:
                kept["mask"] = None
                self._masks[key] = tuple(mask if mask is None else LOST for mask in self._masks[key])
        return {"args": call["args"], "kwargs": kept}

    def _is_implicit(self, mask: Json, inputs: Json) -> bool:
        """Returns whether an explicit mask equals the implicit mask of the inputs."""
        return self._mask_term(mask) == self._mask_of(inputs)

    def _takes_mask(self, kind: str) -> bool:
        """Returns whether the outputs of a layer depend on the mask of its input."""
        if kind in (*MERGING, "Concatenate", "Dot"):
            return False
        if kind not in self.classes or kind == "TimeDistributed":
            return True
        return any(name.endswith("mask") for name in self._arguments(kind))

    def _arguments(self, kind: str) -> tuple[str, ...]:
        """Returns the names of the parameters of a layer's `compute`; none for an unknown layer."""
        cls: type | None = self.classes.get(kind)
        return () if cls is None else _arguments(cls)

    # ------------------------------------------------------------ terms

    def _number(self, *parts: Term) -> int:
        return self._numbers.setdefault(parts, len(self._numbers))

    def _operation(self, layer: Description, call: Arguments) -> Term:
        kind, config = layer["class_name"], layer["config"]
        given = list(map(self._term, [*call["args"], *sorted(call["kwargs"].items())]))
        if kind == "ConvertToTensor" and config.get("dtype") is None and len(given) == 1:
            return given[0]
        if (layer["module"], kind) not in OPERATIONS:
            settings = {name: value for name, value in config.items() if name != "name"}
            return self._operation_term(f"{layer['module']}.{kind}", settings, *given)
        return self._operation_term(
            kind, {name: config.get(name) for name in OPERATIONS[layer["module"], kind]}, *given
        )

    def _operation_term(self, kind: str, config: Mapping[str, Json], *arguments: Term) -> int:
        return self._number("operation", kind, *map(self._term, sorted(config.items())), arguments)

    def _make_term(self, kind: str, config: Mapping[str, Json], *arguments: Term) -> int:
        """Returns the term of an operation on terms; in Keras, the arguments of Concatenate are a list."""
        return self._operation_term(kind, config, *([("list", *arguments)] if kind == "Concatenate" else arguments))

    def _term(self, value: Json | tuple[str, Json]) -> Term:
        """Returns a hashable term for a value: tensors become numbers, lists and dictionaries become tuples."""
        if _is_tensor(value):
            name, call, output = self.history(value)
            if name in self.operations:
                made = self._values.get((name, call), -1)
                return self._number("output", made, output) if output else made
            return self._number("tensor", name, call, output)
        if isinstance(value, list | tuple):
            return ("list", *map(self._term, value))
        if isinstance(value, dict):
            return ("dict", *((key, self._term(item)) for key, item in sorted(value.items())))
        return "constant", value

    def _has_tensor(self, value: Json) -> bool:
        return _is_tensor(value) or (isinstance(value, list) and any(map(self._has_tensor, value)))

    def _mask_term(self, mask: Json) -> Term:
        """Returns the term of a mask, or of a list of masks and None."""
        if isinstance(mask, list):
            return ("list", *map(self._mask_term, mask))
        return None if mask is None else self._term(mask)

    def _uses_operation(self, value: Json) -> bool:
        if _is_tensor(value):
            return self.history(value)[0] in self.operations
        return isinstance(value, list) and any(map(self._uses_operation, value))

    # ------------------------------------------------------------ implicit masks

    def _named_inputs(self, kind: str, call: Arguments) -> dict[str, Json]:
        """Returns the inputs of a call, keyed by the names of the layer's parameters, the first input first."""
        names = self._arguments(kind)
        named = {names[i] if i < len(names) else str(i): value for i, value in enumerate(call["args"])}
        return named | {name: value for name, value in call["kwargs"].items() if not name.endswith("mask")}

    def _mask_of(self, value: Json) -> Term:
        """Returns the implicit mask of a tensor or of each tensor of a list; None for no mask."""
        if isinstance(value, list):
            parts = [self._mask_of(item) for item in value]
            return ("list", *parts) if any(mask is not None for mask in parts) else None
        if not _is_tensor(value):
            return None
        name, call, output = self.history(value)
        masks = self._masks.get((name, call), ())
        return masks[output] if output < len(masks) else None

    def _output_masks(self, layer: Description, inputs: Mapping[str, Json], given: Json) -> tuple[Term, ...]:
        """Returns the implicit masks of a layer's outputs; trailing outputs without a mask are left out."""
        kind, config = layer["class_name"], layer["config"]
        first = next(iter(inputs.values()), None)
        mask = self._mask_of(first) if given is None else self._mask_term(given)
        if kind == "Embedding":
            masked = bool(config.get("mask_zero"))
            return (
                (mask_operations.embedding_mask(self._make_term, self._term(first), self._term(0)),) if masked else ()
            )
        if kind == "Masking":
            value = self._term(config.get("mask_value", 0.0))
            return (mask_operations.masking_mask(self._make_term, self._cast(config, first), value),)
        if kind in MERGING:
            return self._merged_mask(mask)
        if kind == "Concatenate":
            return self._concatenated_mask(config, first, mask)
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
            keeps_mask = inside in self.classes and inside not in WITH_NEW_MASK
            return (mask if keeps_mask else self._unknown_mask(),)
        if kind in self.classes:
            return (mask,) if self.classes[kind].SUPPORTS_MASKING else ()
        return (self._unknown_mask(),) * 64  # the masks of a nested model are not analyzed

    def _merged_mask(self, masks: Term) -> tuple[Term, ...]:
        parts = masks[1:] if isinstance(masks, tuple) and masks[0] == "list" else ()
        if not parts or any(part is None for part in parts):
            return ()
        if LOST in parts:
            return (LOST,)
        merged: Any = mask_operations.merged_mask(self._make_term, parts)
        return (merged,)

    def _concatenated_mask(self, config: Mapping[str, Json], inputs: Json, masks: Any) -> tuple[Term, ...]:
        if masks is None:
            return ()
        if not isinstance(inputs, list) or len(inputs) != len(masks) - 1 or not all(map(_is_sequence, inputs)):
            return (self._unknown_mask(),)
        if LOST in masks:
            return (LOST,)
        values = [self._cast(config, value) for value in inputs]
        axis: Any = config.get("axis", -1)
        return (mask_operations.concatenated_mask(self._make_term, values, masks[1:], axis, lambda value, mask: False),)

    def _cast(self, config: Mapping[str, Json], tensor: Json) -> Term:
        """Returns the term of a tensor as the layer receives it: cast to its compute dtype if it is floating-point."""
        if not _is_tensor(tensor):
            return self._term(tensor)
        dtype, compute_dtype = tensor["config"].get("dtype"), self.compute_dtype(config)
        if not isinstance(dtype, str) or "float" not in dtype or dtype == compute_dtype:
            return self._term(tensor)
        return self._operation_term("Cast", {"dtype": compute_dtype}, self._term(tensor))

    def _unknown_mask(self) -> int:
        """Returns a term that equals no other term."""
        return self._number("unknown", len(self._numbers))


@functools.cache
def _arguments(cls: type) -> tuple[str, ...]:
    """Returns the names of the parameters of a layer's `compute`."""
    return tuple(inspect.signature(cls.compute).parameters)[1:] if hasattr(cls, "compute") else ()


def _is_list_of_none(mask: Json) -> bool:
    """Returns whether a mask is a list of None, which Keras writes for a model and which has no effect."""
    return isinstance(mask, list) and all(part is None for part in mask)


def _first(mask: Term) -> Term:
    return mask[1] if isinstance(mask, tuple) and mask[0] == "list" and len(mask) > 1 else mask


def _flatten(mask: Term | list[Term]) -> list[Term]:
    """Returns the masks in a nested list."""
    return [part for item in mask for part in _flatten(item)] if isinstance(mask, list | tuple) else [mask]


def _is_sequence(tensor: Json) -> bool:
    """Returns whether a tensor is [B, T, F]; for such tensors, Keras and this library concatenate masks equally."""
    shape = tensor["config"].get("shape") if _is_tensor(tensor) else None
    return isinstance(shape, list) and len(shape) == 3


def _is_tensor(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and value.get("class_name") == "__keras_tensor__"
