"""Merge layers, compared with hand-computed values and Keras, with masks, in models, as functions, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, layers
from tests.support.layer_oracle import assert_arguments, assert_as_keras, numbers, truths
from tests.support.spatial_oracle import refuses

NAMES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot")
ELEMENTWISE = ("Add", "Multiply", "Average", "Maximum", "Minimum")


def merged(layer, *arrays, mask=None):
    y, mask = layer.apply({}, [jnp.asarray(x) for x in arrays], mask=mask, method="outputs_and_mask")
    return y.tolist(), None if mask is None else mask.tolist()


# ---------------------------------------------------------------- hand-computed values


@pytest.mark.parametrize(
    ("layer", "wanted"),
    [
        (layers.Add(), [[5.0, 1.0]]),
        (layers.Subtract(), [[-1.0, 5.0]]),
        (layers.Multiply(), [[6.0, -6.0]]),
        (layers.Average(), [[2.5, 0.5]]),
        (layers.Maximum(), [[3.0, 3.0]]),
        (layers.Minimum(), [[2.0, -2.0]]),
        (layers.Concatenate(), [[2.0, 3.0, 3.0, -2.0]]),
        (layers.Dot(axes=1), [[0.0]]),
    ],
)
def test_by_hand(layer, wanted):
    assert merged(layer, [[2.0, 3.0]], [[3.0, -2.0]]) == (wanted, None)


def test_arrays_with_fewer_axes_get_axes_after_the_batch():
    long, short = np.arange(12.0).reshape(2, 3, 2), np.array([[10.0, 20.0], [30.0, 40.0]])
    y, _ = merged(layers.Add(), long, short)
    assert y == (long + short[:, None]).tolist()
    y, _ = merged(layers.Multiply(), short[:, :1], long)
    assert y == (long * short[:, :1, None]).tolist()


def test_an_array_for_all_examples_is_broadcast():
    shared, each = np.array([[1.0, 2.0]]), np.array([[10.0, 20.0], [30.0, 40.0]])
    assert merged(layers.Add(), shared, each)[0] == (shared + each).tolist()
    assert merged(layers.Subtract(), each, shared)[0] == (each - shared).tolist()
    mask = [jnp.array([[True, False]]), jnp.array([[False, False], [True, False]])]
    _, out_mask = layers.Add().apply({}, [shared, each], mask=mask, method="outputs_and_mask")
    np.testing.assert_array_equal(out_mask, [[True, False], [True, False]])


def test_all_layers_but_average_keep_integers():
    a, b = jnp.array([[3, 4]]), jnp.array([[2, 7]])
    assert layers.Add().apply({}, [a, b]).dtype == jnp.int32
    assert layers.Add().apply({}, [a, b.astype(jnp.int16)]).dtype == jnp.int32
    assert layers.Add().apply({}, [a, b.astype(jnp.float32)]).dtype == jnp.float32
    assert merged(layers.Average(), a, b)[0] == [[2.5, 5.5]]


def test_normalized_dot_products_are_cosines():
    a, b = numbers(0, 3, 4), numbers(1, 3, 4)
    y = layers.Dot(axes=1, normalize=True).apply({}, [a, b])
    wanted = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(y[:, 0], wanted, rtol=1e-5)


def test_cosine_of_zeros_is_zero_with_a_finite_gradient():
    def cosine(x):
        return layers.Dot(axes=1, normalize=True).apply({}, [x, jnp.ones((1, 2))])[0, 0]

    y, grad = jax.value_and_grad(cosine)(jnp.zeros((1, 2)))
    assert y == 0
    assert np.isfinite(grad).all()


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 1), (1, 2), (-1, -2)])
def test_dot_by_a_loop(a, b):
    x, y = numbers(0, 2, 3, 3), numbers(1, 2, 3, 3)
    wanted = [np.tensordot(p, q, (a - 1 if a > 0 else a, b - 1 if b > 0 else b)) for p, q in zip(x, y, strict=True)]
    np.testing.assert_allclose(layers.Dot((a, b)).apply({}, [x, y]), wanted, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- masks


def test_outputs_are_masked_only_where_all_inputs_are():
    a, b = jnp.array([[True, True, False]]), jnp.array([[True, False, False]])
    x = np.ones((1, 3, 2), np.float32)
    for name in ELEMENTWISE:
        assert merged(getattr(layers, name)(), x, x, mask=[a, b])[1] == [[True, True, False]]
        assert merged(getattr(layers, name)(), x, x, mask=[a, None])[1] is None
    assert merged(layers.Dot(2), x, x, mask=[a, b])[1] is None


def test_masked_elements_are_ignored():
    x, y = [[[2.0], [3.0], [4.0]]], [[[-5.0], [7.0], [8.0]]]
    a, b = jnp.array([[True, True, False]]), jnp.array([[False, True, False]])
    assert merged(layers.Multiply(), x, y, mask=[a, b])[0] == [[[2], [21], [0]]]
    assert merged(layers.Multiply(), x, y, mask=[None, b])[0] == [[[2], [21], [4]]]
    assert merged(layers.Minimum(), x, y, mask=[a, b])[0] == [[[2], [3], [4]]]
    assert merged(layers.Maximum(), x, y, mask=[b, None])[0] == [[[-5], [7], [8]]]


def test_masks_have_the_leading_axes():
    x = numbers(0, 2, 3, 4, 5)
    mask = jnp.asarray(truths(1, 2, 3))
    y, _ = merged(layers.Multiply(), x, x, mask=[mask, mask])
    np.testing.assert_allclose(y, np.where(np.asarray(mask)[..., None, None], x * x, 0), rtol=1e-6)
    _, joined = merged(layers.Concatenate(axis=1), x, x, mask=[mask, None])
    assert joined == np.concatenate([mask, np.ones((2, 3), bool)], 1).tolist()
    # An array with fewer axes has a mask with fewer axes.
    _, both = merged(layers.Add(), numbers(0, 2, 5), numbers(1, 2, 3, 5), mask=[jnp.array([True, False]), mask])
    assert both == (np.array([[True], [False]]) | np.asarray(mask)).tolist()


def test_masks_in_a_model():
    a, b = Input((3,)), Input((3,))
    embedding = layers.Embedding(5, 2, mask_zero=True, embeddings_initializer="ones")
    pooled = layers.GlobalAveragePooling1D()(layers.Maximum()([embedding(a), embedding(b)]))
    model = Model([a, b], pooled)
    ids = [jnp.array([[1, 0, 0]]), jnp.array([[1, 2, 0]])]
    variables = model.init(jax.random.key(0), ids)
    _, mask = Model([a, b], layers.Add()([embedding(a), embedding(b)])).apply(variables, ids, method="outputs_and_mask")
    assert mask.tolist() == [[True, True, False]]
    assert model.apply(variables, ids).tolist() == [[1, 1]]


# ---------------------------------------------------------------- functions


@pytest.mark.parametrize("name", NAMES)
def test_functions_work_on_symbols_and_arrays(name):
    function, kwargs = getattr(layers, name.lower()), {"axes": 1} if name == "Dot" else {}
    x, y = Input((4,)), Input((4,))
    arrays = [jnp.asarray(numbers(i, 3, 4)) for i in range(2)]
    wanted = getattr(layers, name)(**kwargs).apply({}, arrays)
    np.testing.assert_array_equal(function(arrays, **kwargs), wanted)
    symbol = function([x, y], name="merged", **kwargs)
    model = Model([x, y], symbol)
    assert [layer.name for layer in model.layers] == ["merged"]
    np.testing.assert_array_equal(model.apply({}, arrays), wanted)


# ---------------------------------------------------------------- Keras


@pytest.mark.parametrize("name", NAMES)
def test_arguments_equal_those_of_keras(name):
    assert_arguments(name)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("given", [(True, True, True), (True, False, True)])
def test_masked_as_keras(name, given):
    masks = [truths(9 + i, 2, 3) if there else None for i, there in enumerate(given)]
    assert_as_keras(name, {}, [numbers(i, 2, 3, 4) for i in range(3)], masks=masks)


@pytest.mark.parametrize(
    ("name", "config", "shapes"),
    [
        ("Add", {}, [(2, 3, 4), (2, 1, 4), (2, 3, 1)]),
        ("Multiply", {}, [(2, 4), (2, 5, 3, 4)]),
        ("Maximum", {}, [(2, 4), (2, 3, 4)]),
        ("Subtract", {}, [(2, 3, 4), (2, 4)]),
        ("Average", {}, [(2, 4)]),
        ("Concatenate", {"axis": 1}, [(2, 3, 4), (2, 1, 4), (2, 2, 4)]),
        ("Concatenate", {"axis": -2}, [(2, 3, 4), (2, 1, 4)]),
        ("Dot", {"axes": (1, 3), "normalize": True}, [(2, 3, 4), (2, 6, 7, 3)]),
        ("Dot", {"axes": -1}, [(2, 3, 4), (2, 4)]),
        ("Dot", {"axes": 1}, [(2, 4), (2, 4)]),
    ],
)
def test_shapes_as_keras(name, config, shapes):
    assert_as_keras(name, config, [numbers(i, *shape) for i, shape in enumerate(shapes)])


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("given", [(True, True), (False, True)])
def test_concatenated_masks_as_keras(axis, given):
    masks = [truths(9 + i, 2, 3) if there else None for i, there in enumerate(given)]
    assert_as_keras("Concatenate", {"axis": axis}, [numbers(i, 2, 3, 4) for i in range(2)], masks=masks)


# ---------------------------------------------------------------- errors

X = jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("layer", "inputs", "mask", "sentence"),
    [
        (
            layers.Add(),
            X,
            None,
            "Add merges a list of at least 1 array, got inputs of type {array}; give a list such as [a, b].",
        ),
        (layers.Add(), [], None, "Add merges a list of at least 1 array, got 0; give a list such as [a, b]."),
        (
            layers.Subtract(),
            [X, X, X],
            None,
            "Subtract merges a list of exactly 2 arrays, got 3; give a list such as [a, b].",
        ),
        (
            layers.Multiply(),
            [X, jnp.ones((2, 4))],
            None,
            "Multiply merges arrays whose sizes are equal or 1 on every axis, got shapes [(2, 3), (2, 4)]; reshape "
            "them to agree on axis 1.",
        ),
        (
            layers.Add(),
            [X, jnp.ones((4, 3))],
            None,
            "Add merges arrays whose sizes are equal or 1 on every axis, got shapes [(2, 3), (4, 3)]; reshape them to "
            "agree on axis 0.",
        ),
        (
            layers.Add(),
            [X, X],
            [None],
            "Add takes a list of masks, one or None for each of its 2 inputs, got 1; give a list such as [mask, None].",
        ),
        (
            layers.Concatenate(),
            [X, jnp.ones((3, 3))],
            None,
            "Concatenate concatenates arrays that differ only on `axis`=-1, got shapes [(2, 3), (3, 3)]; reshape "
            "them, or choose another axis.",
        ),
        (
            layers.Concatenate(axis=2),
            [X, X],
            None,
            "Concatenate concatenates arrays that differ only on `axis`=2, got shapes [(2, 3), (2, 3)]; reshape "
            "them, or choose another axis.",
        ),
        (
            layers.Dot(axes=(1, 1)),
            [X, jnp.ones((2, 4))],
            None,
            "Dot takes two arrays of equal batch size and contracts one axis of each; these axes must have the same "
            "size, got shapes (2, 3) and (2, 4) with `axes`=(1, 1); reshape them, or choose other axes.",
        ),
        (
            layers.Dot(axes=0),
            [X, X],
            None,
            "Dot takes two arrays of equal batch size and contracts one axis of each; these axes must have the same "
            "size, got shapes (2, 3) and (2, 3) with `axes`=0; reshape them, or choose other axes.",
        ),
    ],
)
def test_error_messages(layer, inputs, mask, sentence):
    with refuses(sentence.format(array=type(X).__name__)):
        layer.apply({}, inputs, mask=mask)


def test_axes_of_dot_are_checked_at_construction():
    with pytest.raises(TypeError) as caught:
        layers.Dot(axes="1")
    message = "`axes` of Dot must be an integer or a pair of integers, got '1'; give, for example, -1."
    assert str(caught.value) == message
    with refuses(
        "`axes` of Dot must be an integer or a pair of integers, got (1, 2, 3); give one axis of each array, such "
        "as (1, 2)."
    ):
        layers.Dot(axes=[1, 2, 3])


def test_masks_with_fewer_axes_apply_to_whole_rows():
    masks = [np.array([[True, False, False], [False, False, True]]), np.array([False, True])]
    y, mask = layers.Add().bind({}).outputs_and_mask([np.ones((2, 3)), np.ones((2, 3))], mask=masks)
    assert mask.tolist() == [[True, False, False], [True, True, True]]
