"""Keras' `keras.tree`: functions on nested lists, tuples, dictionaries and other containers.

Containers are list, tuple, named tuple, dict, OrderedDict, defaultdict and deque. None is a leaf. The values of dict
and defaultdict are visited in the order of their sorted keys, those of OrderedDict in their own order.
"""

import collections
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeGuard

from training.keras import refused

_MAPPINGS = (dict, collections.OrderedDict, collections.defaultdict)

Container: TypeAlias = list[object] | tuple[object, ...] | collections.deque[object] | dict[Hashable, object]
# The keys that lead to a part of a structure: those of mappings, and the positions in sequences.
Path: TypeAlias = tuple[object, ...]


class MAP_TO_NONE:
    """The value that a function for `traverse` returns to put None in a place."""


def _is_namedtuple(x: object) -> bool:
    return isinstance(x, tuple) and isinstance(getattr(type(x), "_fields", None), tuple)


def is_nested(structure: object) -> TypeGuard[Container]:
    """Returns whether a value is a container.

    Args:
        structure: Any value.

    References:
        Keras, `keras.tree.is_nested`.

    Example:
        >>> is_nested([1]), is_nested(1), is_nested(None)
        (True, False, False)
    """
    return type(structure) in (list, tuple, collections.deque, *_MAPPINGS) or _is_namedtuple(structure)


def _items(node: Container) -> list[tuple[object, object]]:
    """Returns the keys and the children of a container in the order of visits."""
    if not isinstance(node, dict):
        return list(enumerate(node))
    if isinstance(node, collections.OrderedDict):
        return list(node.items())
    keys: Any = node  # which may not be comparable
    try:
        return [(key, node[key]) for key in sorted(keys)]
    except TypeError:  # keys of several types, for example: they are grouped by their type
        return [(key, node[key]) for key in sorted(node, key=lambda k: f"{type(k).__module__}.{type(k).__qualname__}")]


def _rebuilt(node: Container, children: Iterable[object]) -> Container:
    """Returns a container like another one, with other children in the order of visits."""
    kind: Any = type(node)
    if isinstance(node, dict):
        values = dict(zip((key for key, _ in _items(node)), children, strict=True))
        ordered = [(key, values[key]) for key in node]
        if isinstance(node, collections.defaultdict):
            return collections.defaultdict(node.default_factory, ordered)
        return kind(ordered)
    if isinstance(node, collections.deque):
        return collections.deque(children, node.maxlen)
    return kind(*children) if _is_namedtuple(node) else kind(children)


def _leaves(structure: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    if not is_nested(structure):
        yield path, structure
        return
    for key, child in _items(structure):
        yield from _leaves(child, (*path, key))


def flatten(structure: object) -> list[Any]:
    """Returns the leaves of a structure in order.

    Args:
        structure: A structure, or a leaf.

    References:
        Keras, `keras.tree.flatten`.

    Example:
        >>> flatten({"b": [1, None], "a": 2}), flatten(3)
        ([2, 1, None], [3])
    """
    return [leaf for _, leaf in _leaves(structure)]


def flatten_with_path(structure: object) -> list[tuple[Path, Any]]:
    """Returns the leaves of a structure in order, each with the keys that lead to it.

    Args:
        structure: A structure, or a leaf.

    References:
        Keras, `keras.tree.flatten_with_path`.

    Example:
        >>> flatten_with_path([{"a": 5}])
        [((0, 'a'), 5)]
    """
    return list(_leaves(structure))


def pack_sequence_as(structure: object, flat_sequence: Iterable[object]) -> Any:
    """Returns a structure like another one with given leaves; the inverse of `flatten`.

    Args:
        structure: The structure whose shape the result has.
        flat_sequence: The leaves in order.

    Raises:
        TypeError: If `flat_sequence` cannot be iterated over.
        ValueError: If there are more or fewer leaves than the structure has.

    References:
        Keras, `keras.tree.pack_sequence_as`.

    Example:
        >>> pack_sequence_as({"b": 0, "a": [0, 0]}, [1, 2, 3])
        {'b': 3, 'a': [1, 2]}
    """
    values = list(flat_sequence)
    expected = len(flatten(structure))
    if len(values) != expected:
        raise ValueError(f"`flat_sequence` must have {expected} leaves, like `structure`, got {len(values)}.")
    rest = iter(values)

    def fill(node: object) -> object:
        if not is_nested(node):
            return next(rest)
        return _rebuilt(node, [fill(child) for _, child in _items(node)])

    return fill(structure)


def _check_alike(a: Container, b: object) -> list[object]:
    """Returns the children of `b` in the order of those of `a`; raises unless both are the same kind of container."""
    same_kind = isinstance(a, dict) and isinstance(b, dict) if isinstance(a, dict) else type(a) is type(b)
    if not is_nested(b) or not same_kind:
        raise ValueError(
            f"The structures must be nested in the same way, got {type(a).__name__} and {type(b).__name__} in the "
            "same place."
        )
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            raise ValueError(f"Dictionaries must have the same keys, got {list(a)} and {list(b)} in the same place.")
        return [b[key] for key, _ in _items(a)]
    if len(a) != len(b):
        raise ValueError(f"Sequences must have the same length, got {len(a)} and {len(b)} in the same place.")
    return list(b)


def _map(func: Callable[..., object], first: object, *others: object, none_is_leaf: bool = True) -> object:
    if not is_nested(first):
        for other in others:
            if is_nested(other) or (not none_is_leaf and (other is None) != (first is None)):
                raise ValueError(
                    f"The structures must be nested in the same way, got {type(first).__name__} and "
                    f"{type(other).__name__} in the same place."
                )
        return None if first is None and not none_is_leaf else func(first, *others)
    columns = [[child for _, child in _items(first)], *(_check_alike(first, other) for other in others)]
    return _rebuilt(first, [_map(func, *row, none_is_leaf=none_is_leaf) for row in zip(*columns, strict=True)])


def map_structure(func: Callable[..., object], *structures: object, none_is_leaf: bool = True) -> Any:
    """Applies a function to the leaves of structures that are nested in the same way.

    Args:
        func: Takes one leaf of each structure.
        *structures: The structures.
        none_is_leaf: Whether the function is also called with None; otherwise None stays in its place.

    Returns:
        A structure like the first one.

    Raises:
        TypeError: If `func` is not callable.
        ValueError: If there is no structure, or they differ.

    References:
        Keras, `keras.tree.map_structure`.

    Example:
        >>> map_structure(lambda x, y: x + y, {"a": [1, 2]}, {"a": [10, 20]})
        {'a': [11, 22]}
    """
    _check_callable(func)
    if not structures:
        raise ValueError("`map_structure` must receive at least one structure, got none; pass one after `func`.")
    return _map(func, *structures, none_is_leaf=none_is_leaf)


def map_structure_up_to(shallow_structure: object, func: Callable[..., object], *structures: object) -> Any:
    """Applies a function to the parts of structures that are in the places of the leaves of a shallower structure.

    Args:
        shallow_structure: A structure whose containers all structures have.
        func: Takes one part of each structure.
        *structures: The structures, which may be nested more deeply.

    Returns:
        A structure like the shallow one.

    Raises:
        TypeError: If `func` is not callable.
        ValueError: If there is no structure, or one differs from the shallow one.

    References:
        Keras, `keras.tree.map_structure_up_to`.

    Example:
        >>> map_structure_up_to([None, None], len, [[1, 2], [3]])
        [2, 1]
    """
    _check_callable(func)
    if not structures:
        raise ValueError("`map_structure_up_to` must receive at least one structure, got none; pass one after `func`.")

    def visit(shallow: object, parts: Sequence[object]) -> object:
        if not is_nested(shallow):
            return func(*parts)
        columns = [[child for _, child in _items(shallow)], *(_check_alike(shallow, part) for part in parts)]
        return _rebuilt(shallow, [visit(inner, row) for inner, *row in zip(*columns, strict=True)])

    return visit(shallow_structure, structures)


def assert_same_structure(a: object, b: object, check_types: bool | None = None) -> None:
    """Raises unless two structures have the same containers with the same keys; all dictionaries are one kind.

    Args:
        a: A structure.
        b: Another structure.
        check_types: Without effect, as in Keras, which warns too.

    Raises:
        ValueError: If they differ.

    References:
        Keras, `keras.tree.assert_same_structure`.

    Example:
        >>> assert_same_structure([(0, 1)], [(2, None)])
    """
    if check_types is not None:
        warnings.warn(
            "`check_types` has no effect; leave it out, or use assert_same_paths to compare the keys only.",
            DeprecationWarning,
            stacklevel=2,
        )
    _map(lambda x, y: None, a, b)


def assert_same_paths(a: object, b: object) -> None:
    """Raises unless the leaves of two structures have the same keys; the kinds of containers may differ.

    Args:
        a: A structure.
        b: Another structure.

    Raises:
        ValueError: If the keys differ.

    References:
        Keras, `keras.tree.assert_same_paths`.

    Example:
        >>> assert_same_paths([0, 1], (2, 3))
    """
    first, second = ({path for path, _ in _leaves(structure)} for structure in (a, b))
    if first != second:
        only = [sorted(map(str, paths)) for paths in (first - second, second - first)]
        raise ValueError(f"`a` and `b` must have the same paths, got {only[0]} only in `a` and {only[1]} only in `b`.")


def traverse(func: Callable[[Any], object], structure: object, top_down: bool = True) -> Any:
    """Visits all containers and leaves of a structure, and replaces those for which a function returns a value.

    Args:
        func: Returns None to keep a part, `MAP_TO_NONE` to replace it by None, or another value to replace it.
        structure: The structure.
        top_down: Whether a container is visited before its children, which are left out if it is replaced.

    Raises:
        TypeError: If `func` is not callable.

    References:
        Keras, `keras.tree.traverse`.

    Example:
        >>> traverse(lambda x: tuple(x) if isinstance(x, list) else None, [[1], {"a": [2]}], top_down=False)
        ((1,), {'a': (2,)})
    """
    _check_callable(func)

    def inside(node: object) -> object:
        if not is_nested(node):
            return node
        return _rebuilt(node, [traverse(func, child, top_down) for _, child in _items(node)])

    if top_down:
        found = func(structure)
        found = inside(structure) if found is None else found
    else:
        visited = inside(structure)
        found = func(visited)
        found = visited if found is None else found
    return None if found is MAP_TO_NONE else found


def lists_to_tuples(structure: object) -> Any:
    """Returns a structure with tuples in the place of lists.

    Args:
        structure: The structure.

    References:
        Keras, `keras.tree.lists_to_tuples`.

    Example:
        >>> lists_to_tuples([1, {"a": [2]}])
        (1, {'a': (2,)})
    """
    return traverse(lambda x: tuple(x) if isinstance(x, list) else None, structure, top_down=False)


def map_shape_structure(func: Callable[[Any], object], structure: object) -> Any:
    """Applies a function to the shapes in a structure: tuples and lists of integers and None.

    Args:
        func: Takes a shape.
        structure: Nested containers of shapes.

    References:
        Keras, `keras.tree.map_shape_structure`.

    Example:
        >>> map_shape_structure(len, {"a": (None, 3), "b": [(1,), (2, 2)]})
        {'a': 2, 'b': [1, 2]}
    """
    _check_callable(func)

    def is_shape(x: object) -> bool:
        return isinstance(x, list | tuple) and all(size is None or isinstance(size, int) for size in x)

    def visit(node: object) -> object:
        if is_shape(node) or not is_nested(node):
            return func(node)
        return _rebuilt(node, [visit(child) for _, child in _items(node)])

    return visit(structure)


def _check_callable(func: object) -> None:
    if not callable(func):
        raise TypeError(f"`func` must be a function, got {func!r}; pass one, such as lambda x: x.")


__all__ = [
    "MAP_TO_NONE", "assert_same_paths", "assert_same_structure", "flatten", "flatten_with_path", "is_nested",
    "lists_to_tuples", "map_shape_structure", "map_structure", "map_structure_up_to", "pack_sequence_as", "traverse",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
