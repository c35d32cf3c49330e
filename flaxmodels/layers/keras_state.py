"""What a layer that is written as a Keras class keeps: its variables, its sublayers, and the calls in progress."""

import contextlib
import contextvars
import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, cast, overload

import flax.linen as nn
import jax
from flax.core import Scope
from flax.ids import FlaxId
from flax.linen import module as linen_module

from flaxmodels import initializers
from flaxmodels.layers.builds import BUILDS, Shapes
from flaxmodels.layers.symbolic import INFERRING
from flaxmodels.names import snake_case
from flaxmodels.trees import MaskTree
from flaxmodels.variables import Variable

if TYPE_CHECKING:
    from flaxmodels.layers.base import Layer
    from flaxmodels.layers.keras_style import KerasStyle

# The innermost layer that is being applied in this context. Code that it calls can draw from its random streams, as
# `flaxmodels.random` does.
CURRENT_LAYER: contextvars.ContextVar["Layer | None"] = contextvars.ContextVar("CURRENT_LAYER", default=None)

ModuleT = TypeVar("ModuleT", bound=nn.Module)
# What the attributes of a layer hold that has or is a weight.
Leaf = nn.Module | Variable

# The attribute that holds the `State`.
STATE = "_keras_state"
# Attributes that belong to flax or to the base class; the others are the user's.
OWN = {"name", "parent", "scope", "_id", "_state", "_parent_ref", "_origin", "_output_mask", "_bound", "built",
       "rows_per_example", "_compact_name_scope_modules", STATE}  # fmt: skip

# Attributes that do not determine what a layer computes; a package that keeps other state in layers adds their names.
UNTRACKED: set[str] = set()


class State:
    """The record of one instance.

    Attributes:
        variables: Its variables in order of creation.
        order: Serial numbers of its sublayers by id, in the order in which they were assigned.
        own_build: The number of variables that existed when the base class created its own weights, or None.
        arguments: The arguments of the constructor.
        shapes: The shapes for which the instance was built, by the name of the argument.
    """

    def __init__(self) -> None:
        self.variables: list[Variable] = []
        self.order: dict[int, int] = {}
        self.own_build: int | None = None
        self.arguments: tuple[tuple[object, ...], dict[str, object]] = ((), {})
        self.shapes: Shapes | None = None

    def copy(self) -> "State":
        """Returns a copy that may change independently."""
        copied = State()
        copied.__dict__.update(self.__dict__)
        copied.variables, copied.order = list(self.variables), dict(self.order)
        return copied

    def note(self, value: object) -> None:
        """Notes the order of the sublayers in a value that was assigned."""
        for module in modules_in(value):
            self.order.setdefault(id(module), len(self.order))


class TrackedList(list[object]):
    """A list of a layer, which notes the order in which sublayers are added."""

    def __init__(self, values: Iterable[object], state: State):
        super().__init__(values)
        self._state = state

    def append(self, value: object) -> None:
        self._state.note(value)
        super().append(tracked(value, self._state))

    def insert(self, index: SupportsIndex, value: object) -> None:
        self._state.note(value)
        super().insert(index, tracked(value, self._state))

    def extend(self, values: Iterable[object]) -> None:
        for value in values:
            self.append(value)

    def __iadd__(self, values: Iterable[object]) -> "TrackedList":
        self.extend(values)
        return self

    def __setitem__(self, key: SupportsIndex | slice, value: Any) -> None:
        self._state.note(value)
        super().__setitem__(key, value)

    def __reduce__(self) -> tuple[type[list[object]], tuple[list[object]]]:
        return list, (list(self),)


class TrackedDict(dict[object, object]):
    """A dictionary of a layer, which notes the order in which sublayers are added."""

    def __init__(self, values: Mapping[object, object], state: State):
        super().__init__(values)
        self._state = state

    def __setitem__(self, key: object, value: object) -> None:
        self._state.note(value)
        super().__setitem__(key, tracked(value, self._state))

    def update(self, *args: Any, **kwargs: object) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: object, default: object = None) -> object:
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce__(self) -> tuple[type[dict[object, object]], tuple[dict[object, object]]]:
        return dict, (dict(self),)


def tracked(value: object, state: State) -> object:
    """Returns a list or dictionary that is empty or holds sublayers as one that notes additions."""
    if type(value) is list and (not value or modules_in(value)):
        return TrackedList([tracked(item, state) for item in value], state)
    if type(value) is dict and (not value or modules_in(value)):
        return TrackedDict({key: tracked(item, state) for key, item in value.items()}, state)
    return value


def copied(value: object, state: State) -> object:
    """Returns a value with copies of its lists, dictionaries and sets, so that a clone changes only its own."""
    if type(value) is list or type(value) is TrackedList:
        items = [copied(item, state) for item in value]
        return TrackedList(items, state) if type(value) is TrackedList else items
    if type(value) is dict or type(value) is TrackedDict:
        entries = {key: copied(item, state) for key, item in value.items()}
        return TrackedDict(entries, state) if type(value) is TrackedDict else entries
    return set(value) if type(value) is set else value


def state_of(layer: object) -> State:
    """Returns the record of an instance."""
    state: State | None = layer.__dict__.get(STATE)
    if state is None:
        state = State()
        object.__setattr__(layer, STATE, state)
    return state


# ---------------------------------------------------------------- values of attributes


def class_of(layer: object) -> type:
    """Returns the class of a layer; type checkers do not accept `type(layer)` as a key of a cache."""
    return type(layer)


@functools.cache
def field_names(cls: type["KerasStyle"]) -> dict[str, bool]:
    """Returns the names of the fields of a class, and whether its generated constructor takes them."""
    return {field.name: field.init for field in dataclasses.fields(cls)}


def attributes(layer: "KerasStyle") -> dict[str, object]:
    """Returns the user's attributes of an instance: those that are neither fields nor private to flax."""
    fields = field_names(class_of(layer))
    return {name: value for name, value in layer.__dict__.items() if name not in fields and name not in OWN}


def map_leaves(function: Callable[[Leaf, str], object], value: object, name: str) -> object:
    """Returns a value with its sublayers and variables replaced, also inside lists, tuples and dictionaries.

    Args:
        function: Maps a sublayer or variable and the name of its place, such as "blocks_0", to its replacement.
        value: The value of an attribute.
        name: The name of the attribute.
    """
    if isinstance(value, nn.Module | Variable):
        return function(value, name)
    if isinstance(value, list | tuple) and value:
        items: list[Any] = [map_leaves(function, item, f"{name}_{i}") for i, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict) and value:
        mapped = {key: map_leaves(function, item, f"{name}_{key}") for key, item in value.items()}
        return value if all(mapped[key] is value[key] for key in value) else mapped
    return value


def modules_in(value: object) -> list[nn.Module]:
    """Returns the sublayers in the value of an attribute."""
    found: list[nn.Module] = []
    map_leaves(lambda leaf, name: found.append(leaf) if isinstance(leaf, nn.Module) else None, value, "")
    return found


def leaves_in(value: object) -> list[Leaf]:
    """Returns the sublayers and variables in the value of an attribute."""
    found: list[Leaf] = []
    map_leaves(lambda leaf, name: found.append(leaf), value, "")
    return found


def sublayers(layer: "KerasStyle") -> list[tuple[str, nn.Module]]:
    """Returns the scope names and the sublayers in the user's attributes, in the order of assignment."""
    state = state_of(layer)
    taken = {variable.name for variable in state.variables} | set(layer.WEIGHTS)
    found: dict[int, tuple[str, nn.Module]] = {}

    def visit(leaf: Leaf, name: str) -> Leaf:
        origin = origin_of(leaf)
        if isinstance(leaf, nn.Module) and id(origin) not in found:
            unique = unused(name.replace("/", "_"), taken)
            taken.add(unique)
            found[id(origin)] = (unique, leaf)
        return leaf

    for name, value in attributes(layer).items():
        map_leaves(visit, value, name)
    return [found[key] for key in sorted(found, key=lambda key: state.order.get(key, len(found) + len(state.order)))]


def unused(name: str, taken: Iterable[str]) -> str:
    """Returns the name, with a number if it is taken."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


@overload
def origin_of(leaf: ModuleT) -> ModuleT: ...
@overload
def origin_of(leaf: Leaf) -> Leaf: ...
def origin_of(leaf: Leaf) -> Leaf:
    """Returns the object that a bound sublayer or variable is a clone of; an unbound one is returned unchanged."""
    if isinstance(leaf, Variable):
        return leaf.descriptor
    origin: nn.Module = leaf.__dict__.get("_origin", leaf)
    return origin


def unbound(value: object) -> object:
    """Returns the value of an attribute with the objects that the user made in place of bound clones."""
    return map_leaves(lambda leaf, name: origin_of(leaf), value, "")


# ---------------------------------------------------------------- binding


def scope_of(layer: nn.Module) -> Scope:
    """Returns the scope of a bound layer."""
    return cast(Scope, layer.scope)


@contextlib.contextmanager
def may_create(layer: nn.Module) -> Iterator[None]:
    """Lets a bound module create parameters and submodules outside of its compact methods."""
    before, layer._state.is_initialized = layer._state.is_initialized, False
    try:
        yield
    finally:
        layer._state.is_initialized = before


def clones_of(root: Scope) -> MutableMapping[FlaxId, nn.Module]:
    """Returns the bound clones in a scope's tree by the id of the module that they are clones of."""
    cache = linen_module._caches.get(root)
    if cache is None:
        cache = linen_module._caches[root] = weakref.WeakValueDictionary()
    return cache


def note_origin(clone: nn.Module, module: nn.Module) -> None:
    """Notes the module that a clone stands for; flax recognizes shared modules by their `_id`."""
    origin = origin_of(module)
    object.__setattr__(clone, "_origin", origin)
    object.__setattr__(clone, "_id", origin._id)
    if clone.scope is not None:
        note_clone(clone)


def note_clone(bound: nn.Module) -> None:
    """Notes a module that was bound as the clone of its original, which the model may hold in other places."""
    cache = clones_of(scope_of(bound).root)
    origin = origin_of(bound)
    if origin is not bound:
        cache.setdefault(origin._id, bound)


def bind_module(layer: "KerasStyle", module: nn.Module, name: str) -> nn.Module:
    """Returns the clone of a sublayer that is bound to a layer; a shared sublayer has one clone.

    A shared sublayer is frozen if it is inside a frozen layer in any place.
    """
    cache = clones_of(scope_of(layer).root)
    key = origin_of(module)._id
    known = cache.get(key)
    if known is not None:
        if layer.frozen:
            object.__setattr__(known, "trainable", False)
        return known
    with may_create(layer):
        clone = module.clone(parent=layer, name=name)
    note_origin(clone, module)
    return clone


def bind_attributes(layer: "KerasStyle") -> None:
    """Replaces the variables and sublayers in the attributes of a bound layer by bound ones."""
    state = state_of(layer)
    state.variables = [bind_variable(layer, variable) for variable in state.variables]
    bind_sublayers(layer)


def bind_sublayers(layer: "KerasStyle") -> None:
    """Binds the sublayers in the attributes of a bound layer that are not bound yet."""
    variables = {id(variable.descriptor): variable for variable in state_of(layer).variables}
    names = {id(origin_of(module)): name for name, module in sublayers(layer)}

    for name, module in sublayers(layer):  # in the order of `children`, on which the scope of a shared layer depends
        if module.scope is None:
            bind_module(layer, module, name)

    def bind(leaf: Leaf, name: str) -> Leaf:
        if isinstance(leaf, Variable):
            return variables.get(id(leaf.descriptor), leaf)
        return leaf if leaf.scope is not None else bind_module(layer, leaf, names[id(origin_of(leaf))])

    for name, value in attributes(layer).items():
        mapped = map_leaves(bind, value, name)
        if mapped is not value:
            object.__setattr__(layer, name, mapped)


def variable_named(layer: "KerasStyle", name: str) -> Variable | None:
    """Returns the variable of a name that the user's code created, or None."""
    return next((variable for variable in state_of(layer).variables if variable.name == name), None)


def bind_variable(layer: "KerasStyle", variable: Variable) -> Variable:
    """Returns a variable that is bound to a layer; creates its value under `init`, otherwise checks its shape."""
    scope = scope_of(layer)
    if layer.is_initializing() or scope.has_variable(variable.collection, variable.name):
        with may_create(layer):
            scope.reservations.pop(variable.name, None)
            if variable.trainable:
                layer.create_weight(variable.name, variable.shape)
            else:
                _create_statistic(layer, variable)
    is_mixed = layer.compute_dtype != jax.numpy.dtype(layer.param_dtype)
    # As in Keras, a frozen parameter keeps what is assigned. Training drops what is assigned to a trained one.
    return variable.bind(scope, layer.compute_dtype if is_mixed else None, layer.ASSIGNS_PARAMS or layer.frozen)


def _create_statistic(layer: "KerasStyle", variable: Variable) -> None:
    """Creates the value of a variable that is not trainable."""
    stored = layer.variable(
        "batch_stats",
        variable.name,
        lambda: initializers.key_first(layer.argument(variable.name, "initializer"))(
            layer.make_rng("params"), variable.shape, variable.stored_dtype
        ),
    )
    if jax.numpy.shape(stored.value) != variable.shape:
        raise ValueError(
            f"`{variable.name}` of {layer.label} has shape {jax.numpy.shape(stored.value)}, but inputs of this size "
            f"need {variable.shape}; give inputs of the size that the variables were made for, or call `init` again."
        )


# Returns the paths of the trainable and of the other weights of a module in Keras' order, and the shapes of its
# variables, given the module and the arguments of its call. That order is known above the layers, so
# `flaxmodels.interop.keras_weights` registers the function when it is imported.
Path = tuple[str, ...]
split_weights: (
    Callable[[nn.Module, tuple[object, ...], Mapping[str, object]], tuple[list[Path], list[Path], Mapping[str, object]]]
    | None
) = None


# ---------------------------------------------------------------- calls in progress


class Frame:
    """One call of a bound instance that is in progress.

    Attributes:
        layer: The bound instance.
        train: The training flag, None if nobody gave one.
        masks: By the id of an array, the array and its mask.
        made: The layers that were made during the call.
    """

    def __init__(self, layer: "KerasStyle", train: bool | None):
        self.layer, self.train = layer, train
        self.masks: dict[int, tuple[object, jax.Array | None]] = {}
        self.made: list[nn.Module] = []

    def is_caller(self) -> bool:
        """Returns whether the layer that is called now was called by the layer of this frame itself."""
        return linen_module._context.module_stack[-2] is self.layer

    def inherited(
        self, inputs: object, args: Sequence[object], kwargs: dict[str, object], names: tuple[str, ...]
    ) -> dict[str, object]:
        """Returns the keyword arguments of a call inside this one, with the training flag and the masks of the inputs.

        Args:
            inputs: The first argument.
            args: Further positional arguments.
            kwargs: The keyword arguments that were given.
            names: The parameters of the layer.
        """
        if kwargs.get("train") is None and self.train is not None:
            kwargs = kwargs | {"train": self.train}
        if not self.masks or not self.is_caller():
            return kwargs
        further = [*zip(names[1:], args, strict=False), *kwargs.items()]
        masks = {f"{name}_mask": self.mask_of(value) for name, value in further if f"{name}_mask" in names}
        masks |= {"mask": self.mask_of(inputs)}
        return kwargs | {name: mask for name, mask in masks.items() if mask is not None and kwargs.get(name) is None}

    def mask_of(self, tree: object) -> MaskTree:
        """Returns the masks of arrays in their structure, or None if there are none."""
        if isinstance(tree, jax.Array):
            return self.masks.get(id(tree), (None, None))[1]
        masks = jax.tree.map(lambda leaf: self.masks.get(id(leaf), (None, None))[1], tree)
        return masks if jax.tree.leaves(masks) else None

    def set_masks(self, arrays: object, masks: object) -> None:
        """Attaches masks to arrays that have none yet."""
        leaves = jax.tree.leaves(arrays)
        flat: list[Any] = [masks] if len(leaves) == 1 and hasattr(masks, "shape") else _flat_masks(masks)
        for array, mask in zip(leaves, flat, strict=False):
            if mask is not None and id(array) not in self.masks:
                self.masks[id(array)] = (array, mask)


def _flat_masks(masks: object) -> list[jax.Array | None]:
    return jax.tree.leaves(masks, is_leaf=lambda leaf: leaf is None)


class _Frames(threading.local):
    """What is in progress in a thread: calls, bindings, and calls of classes that flax transformed."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.bindings = 0
        self.transformed: list[KerasStyle] = []


frames = _Frames()


@contextlib.contextmanager
def binding() -> Iterator[None]:
    """Notes that a module is bound, so that the clones of the modules inside it stand for their originals."""
    frames.bindings += 1
    try:
        yield
    finally:
        frames.bindings -= 1


def is_binding() -> bool:
    """Returns whether a module is being bound."""
    return frames.bindings > 0


def current_frame() -> Frame | None:
    """Returns the innermost call in progress in this thread, or None."""
    return frames.stack[-1] if frames.stack else None


def detach_from_call(layer: nn.Module) -> Frame | None:
    """Leaves a layer that is made inside a call without a parent, so that the call can name it; returns the call."""
    frame = current_frame()
    top = linen_module._context.module_stack[-1]
    if frame is None or top not in (None, frame.layer) or layer.parent not in (None, linen_module._unspecified_parent):
        return None
    object.__setattr__(layer, "parent", None)
    return frame


def bound_in_call(layer: nn.Module, frame: Frame) -> nn.Module | None:
    """Returns the bound clone of a layer that belongs to the model in whose call it is called; None for others."""
    known = clones_of(scope_of(frame.layer).root).get(origin_of(layer)._id)
    if known is not None or not any(layer is made for made in frame.made):
        return known
    names = {id(module): name for name, module in sublayers(frame.layer)}
    taken = {*frame.layer._state.children, *names.values(), *(v.name for v in state_of(frame.layer).variables)}
    name = names.get(id(layer)) or unused(layer.name or snake_case(type(layer).__name__), taken)
    return bind_module(frame.layer, layer, name)


@contextlib.contextmanager
def calling(frame: Frame) -> Iterator[None]:
    """Makes a call the innermost one."""
    frames.stack.append(frame)
    try:
        yield
    finally:
        frames.stack.pop()


@contextlib.contextmanager
def without_parent() -> Iterator[None]:
    """Makes modules without a parent, whatever module is being called."""
    stack = linen_module._context.module_stack
    stack.append(None)
    try:
        yield
    finally:
        stack.pop()


@contextlib.contextmanager
def outside_calls() -> Iterator[None]:
    """Runs code as if no layer were being called and nothing were being traced."""
    stack = linen_module._context.module_stack
    calls, frames.stack = frames.stack, []
    modules, stack[:] = list(stack), [None]
    layer, builds, inferring = CURRENT_LAYER.set(None), BUILDS.set(None), INFERRING.set(False)
    try:
        with jax.ensure_compile_time_eval():
            yield
    finally:
        CURRENT_LAYER.reset(layer)
        BUILDS.reset(builds)
        INFERRING.reset(inferring)
        stack[:], frames.stack = modules, calls
