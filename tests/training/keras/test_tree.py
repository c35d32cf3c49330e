"""`training.keras.tree` against Keras' `keras.tree`, over structures of all containers."""

import collections

import keras
import numpy as np
import pytest

from training.keras import tree

Point = collections.namedtuple("Point", ["x", "y"])
Other = collections.namedtuple("Other", ["x", "y"])
ARRAY = np.arange(3)

STRUCTURES = [
    1,
    None,
    "text",
    [],
    (),
    {},
    [1],
    [None],
    (1, [2, (3, None)], {"b": 4, "a": [5]}),
    {"b": 1, "a": 2, "c": {"z": None, "y": ()}},
    collections.OrderedDict([("b", 1), ("a", [2, 3])]),
    collections.defaultdict(list, {"b": 1, "a": 2}),
    collections.deque([1, [2]], maxlen=5),
    Point(1, [2, 3]),
    [{1: "a", 0: "b"}, Point({"k": 1}, ())],
    {2: [1, {}], 1: ((),)},
]


def outcome(function):
    """Returns the result of a call, or the type of its error."""
    try:
        return function()
    except (ValueError, TypeError) as error:
        return type(error)


def check_same(ours, theirs):
    assert repr(ours) == repr(theirs)
    assert type(ours) is type(theirs)


@pytest.mark.spread
@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_functions_of_one_structure_agree_with_keras(structure):
    for name in ("flatten", "flatten_with_path", "is_nested", "lists_to_tuples"):
        check_same(getattr(tree, name)(structure), getattr(keras.tree, name)(structure))
    leaves = list(range(len(tree.flatten(structure))))
    check_same(tree.pack_sequence_as(structure, leaves), keras.tree.pack_sequence_as(structure, leaves))
    for none_is_leaf in (True, False):
        check_same(
            tree.map_structure(lambda x: (x, "seen"), structure, none_is_leaf=none_is_leaf),
            keras.tree.map_structure(lambda x: (x, "seen"), structure, none_is_leaf=none_is_leaf),
        )


@pytest.mark.parametrize("top_down", [True, False])
def test_traverse_visits_in_the_order_of_keras(top_down):
    for structure in STRUCTURES:
        seen, expected = [], []
        ours = tree.traverse(lambda x: seen.append(x), structure, top_down)  # noqa: B023
        theirs = keras.tree.traverse(lambda x: expected.append(x), structure, top_down)  # noqa: B023
        check_same(ours, theirs)
        check_same(seen, expected)


def test_traverse_replaces_parts():
    def replace(module):
        return lambda x: module.MAP_TO_NONE if isinstance(x, tuple) else "dict" if isinstance(x, dict) else None

    for structure in STRUCTURES:
        for top_down in (True, False):
            check_same(
                tree.traverse(replace(tree), structure, top_down),
                keras.tree.traverse(replace(keras.tree), structure, top_down),
            )


def test_functions_of_two_structures_agree_with_keras():
    """Every pair of structures: both accept it with the same result, or both refuse it."""
    more = [*STRUCTURES, Other(1, [2, 3]), [1, 2], (1, 2), {"a": 1, "b": 2}, collections.OrderedDict(b=1, a=2)]
    for a in more:
        for b in more:
            for name in ("assert_same_structure", "assert_same_paths"):
                ours, theirs = (outcome(lambda: getattr(m, name)(a, b)) for m in (tree, keras.tree))  # noqa: B023
                assert ours == theirs, (name, a, b)
            ours, theirs = (outcome(lambda: m.map_structure(lambda x, y: [x, y], a, b)) for m in (tree, keras.tree))  # noqa: B023
            assert repr(ours) == repr(theirs), (a, b)


def test_map_structure_up_to_agrees_with_keras():
    cases = [
        ([0, 0], [[1, 2], [3]]),
        ([0, [0, 0]], [[1, 1], [2, (2, 3)]]),
        ({"a": 0, "b": (0,)}, {"b": ([1],), "a": {"x": 2}}),
        (0, [1, 2]),
        ([0, 0], [1]),
        ([0, 0], (1, 2)),
        ([[0]], [1]),
    ]
    for shallow, deep in cases:
        ours, theirs = (outcome(lambda: m.map_structure_up_to(shallow, str, deep)) for m in (tree, keras.tree))  # noqa: B023
        assert repr(ours) == repr(theirs), (shallow, deep)
    # Keras' documentation has None as a leaf here, but its function refuses it.
    assert tree.map_structure_up_to([None, None], len, [[1, 1], [2]]) == [2, 1]


def test_map_shape_structure_agrees_with_keras():
    for structure in [(None, 3), [1, 2], {"a": (1,), "b": [(2, None), [3]]}, ((1, 2), (3,)), [(), ((),)]]:
        ours, theirs = (m.map_shape_structure(len, structure) for m in (tree, keras.tree))
        check_same(ours, theirs)


def test_arrays_are_leaves():
    assert [leaf is ARRAY for leaf in tree.flatten([ARRAY, {"a": ARRAY}])] == [True, True]


def test_wrong_arguments_are_refused():
    cases = {
        "`func` must be a function, got 3; pass one, such as lambda x: x.": lambda: tree.map_structure(3, [1]),
        "`map_structure` must receive at least one structure, got none; pass one after `func`.": lambda: (
            tree.map_structure(len)
        ),
        "`flat_sequence` must have 2 leaves, like `structure`, got 3.": lambda: tree.pack_sequence_as(
            [1, 2], [1, 2, 3]
        ),
        "Sequences must have the same length, got 1 and 2 in the same place.": lambda: tree.assert_same_structure(
            [1], [1, 2]
        ),
        "Dictionaries must have the same keys, got ['a'] and ['b'] in the same place.": lambda: (
            tree.assert_same_structure({"a": 1}, {"b": 1})
        ),
        "The structures must be nested in the same way, got list and tuple in the same place.": lambda: (
            tree.assert_same_structure([1], (1,))
        ),
        "`a` and `b` must have the same paths, got ['(1,)'] only in `a` and [] only in `b`.": lambda: (
            tree.assert_same_paths([1, 2], (1,))
        ),
    }
    for sentence, call in cases.items():
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert str(caught.value) == sentence


def test_check_types_warns_as_in_keras():
    with pytest.warns(DeprecationWarning, match="`check_types` has no effect; leave it out, or use assert_same_paths"):
        tree.assert_same_structure([1], [2], check_types=True)
