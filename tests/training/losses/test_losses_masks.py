"""Padding and masks do not change losses; custom losses; error messages."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras.src.losses.loss import reduce_weighted_values

from tests.support.loss_table import ROWS, Row
from training import losses


def make_loss(row: Row, **kwargs):
    return getattr(losses, row.name)(**row.kwargs, **kwargs)


def pad(x, garbage):
    """Adds two garbage rows before and one after the rows of x."""
    rows = np.full((3, *x.shape[1:]), garbage, x.dtype)
    return np.concatenate([rows[:2], x, rows[2:]])


def padded(y_true, y_pred, garbage):
    label = 99 if np.issubdtype(y_true.dtype, np.integer) else garbage
    mask = np.array([False] * 2 + [True] * len(y_true) + [False])
    return pad(y_true, label), pad(y_pred, garbage), mask


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_padding_does_not_change_value_and_gradient(row):
    y_true, y_pred = row.arrays()
    value, grad = jax.value_and_grad(lambda q: make_loss(row)(y_true, q))(y_pred)
    masked = jax.jit(jax.value_and_grad(lambda q, t, m: make_loss(row)(t, q, mask=m)))
    for garbage in (0.0, np.nan):
        t, p, mask = padded(y_true, y_pred, garbage)
        got, got_grad = masked(p, t, mask)
        np.testing.assert_allclose(got, value, rtol=2e-6, atol=1e-7)
        np.testing.assert_allclose(got_grad[mask], grad, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got_grad[~mask], np.zeros_like(got_grad[~mask]))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("row", [r for r in ROWS if "axis" not in r.kwargs or r.name != "Dice"], ids=lambda r: r.id)
def test_padding_does_not_change_weighted_losses(row, reduction):
    y_true, y_pred = row.arrays()
    weight = np.random.default_rng(2).uniform(0.5, 2.0, len(y_true)).astype(np.float32)
    t, p, mask = padded(y_true, y_pred, np.nan)
    loss = make_loss(row, reduction=reduction)
    expected = loss(y_true, y_pred, sample_weight=weight)
    got = loss(t, p, sample_weight=pad(weight, np.nan), mask=mask)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_loss_of_padding_alone_is_zero(row):
    y_true, y_pred = row.arrays()
    value, grad = jax.value_and_grad(lambda q: make_loss(row)(y_true, q, mask=np.zeros(len(y_true), bool)))(y_pred)
    assert value == 0.0
    np.testing.assert_array_equal(grad, np.zeros_like(y_pred))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_a_mask_of_ones_does_not_change_the_loss(row):
    y_true, y_pred = row.arrays()
    np.testing.assert_allclose(
        make_loss(row)(y_true, y_pred, mask=np.ones(len(y_true), bool)), make_loss(row)(y_true, y_pred), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["MeanSquaredError", "Hinge", "BinaryCrossentropy", "Huber"])
def test_predictions_without_a_feature_axis(name):
    """Keras averages over the batch here; with padding, the mean is over the examples."""
    loss = getattr(losses, name)()
    y_true, y_pred = np.array([0.0, 1.0, 0.0], np.float32), np.array([0.2, 0.4, 0.9], np.float32)
    t, p, mask = padded(y_true, y_pred, np.nan)
    assert loss.values(y_true, y_pred).shape == ()
    np.testing.assert_allclose(loss(t, p, mask=mask), loss(y_true, y_pred), rtol=1e-6)
    np.testing.assert_allclose(loss(t, p, mask=mask), loss(y_true[:, None], y_pred[:, None]), rtol=1e-6)


def test_hinge_ignores_padding_when_it_detects_binary_labels():
    loss, y_pred = losses.Hinge(), jnp.asarray([[0.5], [0.5], [0.5]])
    mask = jnp.asarray([True, True, False])
    zeros_and_ones = loss(jnp.asarray([[0.0], [1.0], [-1.0]]), y_pred, mask=mask)  # -1 is padding
    np.testing.assert_allclose(zeros_and_ones, (1.5 + 0.5) / 2)
    with_sign = loss(jnp.asarray([[0.0], [-1.0], [1.0]]), y_pred, mask=mask)  # not binary, so 0 stays 0
    np.testing.assert_allclose(with_sign, (1.0 + 1.5) / 2)


def test_circle_ignores_masked_examples_as_references():
    loss, y_pred = losses.Circle(gamma=2.0), jnp.eye(3)
    both = loss(jnp.asarray([0, 0, 1]), y_pred)
    assert both > 0
    assert (
        loss(jnp.asarray([0, 0, 1]), y_pred, mask=jnp.asarray([True, True, False])) == 0.0
    )  # no negative pair is left


# ---------------------------------------------------------------- masks of time steps, ignored classes


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "none", "mean_with_sample_weight"])
def test_time_step_masks_match_keras(reduction, weighted):
    import keras

    row = next(r for r in ROWS if r.id == "CategoricalCrossentropy-class_sequences")
    y_true, y_pred = (jnp.asarray(y) for y in row.arrays())
    mask = jnp.asarray(np.random.default_rng(3).random((5, 3)) < 0.6)
    weight = jnp.linspace(0.5, 2.0, 15).reshape(5, 3) if weighted else None
    expected = keras.losses.CategoricalCrossentropy(reduction=reduction)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        keras.src.backend.set_keras_mask(y_pred, mask)
        value = expected(y_true, y_pred, weight)
    got = losses.CategoricalCrossentropy(reduction=reduction)(y_true, y_pred, weight, mask)
    np.testing.assert_allclose(got, value, rtol=2e-6)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_example_masks_apply_to_all_time_steps(reduction):
    values, mask = jnp.arange(6.0).reshape(3, 2), jnp.asarray([True, False, True])
    expected = {"sum_over_batch_size": 10 / 4, "sum": 10.0, "none": [[0, 1], [0, 0], [4, 5]]}[reduction]
    np.testing.assert_allclose(losses.reduce_values(values, mask=mask, reduction=reduction), expected)
    np.testing.assert_allclose(losses.reduce_values(values, mask=mask[:, None], reduction=reduction), expected)
    alike = losses.reduce_values(values, mask=jnp.broadcast_to(mask[:, None], (3, 2)), reduction=reduction)
    np.testing.assert_allclose(alike, expected)


def test_mean_divides_by_the_number_of_values_not_by_the_weights():
    values, weight = jnp.asarray([1.0, 2.0, 6.0]), jnp.asarray([2.0, 0.0, 1.0])
    assert losses.reduce_values(values, weight) == 8 / 3
    assert losses.reduce_values(values, weight, reduction="mean_with_sample_weight") == 8 / 3
    weight = jnp.asarray([4.0, 0.0, 1.0])
    assert losses.reduce_values(values, weight, reduction="mean_with_sample_weight") == 10 / 5
    mask = jnp.asarray([True, True, False])
    assert losses.reduce_values(values, weight, mask) == 4 / 2
    assert losses.reduce_values(values, weight, mask, "mean_with_sample_weight") == 4 / 4
    assert losses.reduce_values(values, None, mask, "mean_with_sample_weight") == 3 / 2
    assert losses.reduce_values(values, jnp.zeros(3), None, "mean_with_sample_weight") == 0.0
    assert losses.reduce_values(jnp.zeros((0,))) == 0.0


def test_example_weights_count_once_per_time_step_in_the_sum_of_weights():
    """Weights of shape (2, 1), in contrast, are summed without repetition, as in Keras."""
    values, weight = jnp.asarray([[1.0, 2.0], [6.0, 8.0]]), jnp.asarray([2.0, 1.0])
    assert losses.reduce_values(values, weight) == (2 * 3 + 14) / 4
    assert losses.reduce_values(values, weight, reduction="mean_with_sample_weight") == (2 * 3 + 14) / (2 * 2 + 1 * 2)
    assert losses.reduce_values(values, weight[:, None], reduction="mean_with_sample_weight") == (2 * 3 + 14) / 3
    with jax.numpy_rank_promotion("allow"):
        keras_value = reduce_weighted_values(values, weight[:, None], reduction="mean_with_sample_weight")
    assert keras_value == (2 * 3 + 14) / 3


def test_ignored_classes_are_excluded_from_the_mean():
    y_pred = jnp.asarray([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1)
    y_true = jnp.asarray([0, 1, -1])
    np.testing.assert_allclose(loss(y_true, y_pred), -(np.log(0.5) + np.log(0.75)) / 2, rtol=1e-6)
    both = loss(y_true, y_pred, mask=jnp.asarray([True, False, True]))
    np.testing.assert_allclose(both, -np.log(0.5), rtol=1e-6)
    assert loss(jnp.asarray([-1, -1, -1]), y_pred) == 0.0


def test_predictions_for_ignored_labels_may_be_nan():
    loss = losses.SparseCategoricalCrossentropy(ignore_class=255)
    y_pred = jnp.asarray([[0.5, 0.5], [jnp.nan, 0.0]])
    value, grad = jax.value_and_grad(lambda p: loss(jnp.asarray([1, 255]), p))(y_pred)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(grad[1], [0.0, 0.0])


# ---------------------------------------------------------------- custom losses


def test_functions_are_reduced_and_masked_like_losses():
    def off_by(y_true, y_pred):
        return jnp.abs(y_true - y_pred)[:, 0]

    loss = losses.get(off_by)
    y_true, y_pred = np.zeros((3, 1), np.float32), np.array([[1.0], [2.0], [6.0]], np.float32)
    assert loss.name == "off_by"
    assert loss == losses.get(off_by)
    assert loss(y_true, y_pred) == 3.0
    t, p, mask = padded(y_true, y_pred, np.nan)
    value, grad = jax.value_and_grad(lambda q: loss(t, q, mask=mask))(p)
    assert value == 3.0
    np.testing.assert_allclose(grad[mask], np.full((3, 1), 1 / 3), rtol=1e-6)
    np.testing.assert_array_equal(grad[~mask], np.zeros((3, 1)))


def test_functions_receive_int32_labels_and_float32_predictions():
    seen = []
    loss = losses.get(lambda y_true, y_pred: seen.append((y_true.dtype, y_pred.dtype)) or y_pred[:, 0])
    loss(np.zeros(2, np.uint8), jnp.zeros((2, 3), jnp.bfloat16))
    assert seen == [(jnp.int32, jnp.float32)]


def test_functions_that_return_a_scalar_see_the_whole_batch():
    """A scalar cannot exclude examples. As in Keras, it is 0 only if every example is masked."""

    def mean_off(y_true, y_pred):
        return jnp.mean(y_true - y_pred)

    true, pred = jnp.array([[1.0], [4.0]]), jnp.zeros((2, 1))
    assert losses.get(mean_off)(true, pred) == 2.5
    assert losses.get(mean_off)(true, pred, mask=jnp.array([True, False])) == 2.5
    assert losses.get(mean_off)(true, pred, mask=jnp.zeros(2, bool)) == 0.0


def test_masks_are_rejected_if_axis_is_the_batch_axis():
    message = (
        "binary_crossentropy must return one number per example [B], so that a mask can exclude examples, "
        "got values of shape (2,); use another `axis`, or pass no mask."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        losses.BinaryCrossentropy(axis=0)(jnp.ones((2, 2)), jnp.ones((2, 2)), mask=jnp.ones(2, bool))


def test_subclasses_only_define_values():
    class Plain(losses.Loss):
        def values(self, y_true, y_pred):
            return (y_true - y_pred)[:, 0] ** 2

    @dataclasses.dataclass(frozen=True)
    class Scaled(losses.Loss):
        factor: float = 2.0
        reduction: str | None = "sum"

        def values(self, y_true, y_pred):
            return self.factor * (y_true - y_pred)[:, 0]

    y_true, y_pred = jnp.asarray([[3.0], [1.0]]), jnp.zeros((2, 1))
    assert Plain()(y_true, y_pred) == 5.0
    assert Plain()(y_true, y_pred, mask=jnp.asarray([True, False])) == 9.0
    assert Scaled()(y_true, y_pred) == 8.0
    assert Scaled(3.0)(y_true, y_pred, mask=jnp.asarray([False, True])) == 3.0


# ---------------------------------------------------------------- labels on the host


@pytest.mark.parametrize(
    ("y", "kwargs", "got"),
    [
        ([0, 1, 2, 3, 4, 12], {}, "12 at index 5"),
        ([-1, 3], {}, "-1 at index 0"),
        ([0, 10, 11], {}, "10 at index 1 and 1 more"),
        ([[0, 1], [255, 77]], {"ignore_class": 255}, "77 at index (1, 1)"),
        ([0.5], {}, "0.5 at index 0"),
        ([float("nan")], {}, "nan at index 0"),
        (10, {}, "10"),
    ],
)
def test_out_of_range_labels_are_rejected(y, kwargs, got):
    message = (
        f"Labels must lie in 0..9 for 10 classes, got {got}; "
        "number the classes from 0, give the last layer more units, or exclude a label with `ignore_class`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        losses.check_labels(y, 10, **kwargs)


def test_valid_labels_are_accepted():
    losses.check_labels(np.arange(10, dtype=np.uint8), 10)
    losses.check_labels(np.arange(10.0), 10)
    losses.check_labels([0, -1, 9], 10, ignore_class=-1)
    losses.check_labels([], 10)


# ---------------------------------------------------------------- errors

B = jnp.zeros((2, 3))
ERRORS = [
    (
        lambda: losses.mean_squared_error(B, jnp.zeros((2, 4))),
        "mean_squared_error takes labels and predictions of the same shape, got y_true of shape (2, 3) and y_pred of "
        "shape (2, 4); reshape the labels, or change the number of units of the last layer.",
    ),
    (
        lambda: losses.CategoricalCrossentropy()(jnp.zeros((2,)), B),
        "categorical_crossentropy takes labels and predictions of the same shape, got y_true of shape (2,) and y_pred "
        "of shape (2, 3); use sparse_categorical_crossentropy for class indices, or convert the labels to one-hot.",
    ),
    (
        lambda: losses.CategoricalCrossentropy()(jnp.zeros((2, 4)), B),
        "categorical_crossentropy takes labels and predictions of the same shape, got y_true of shape (2, 4) and "
        "y_pred of shape (2, 3); reshape the labels, or change the number of units of the last layer.",
    ),
    (
        lambda: losses.CategoricalHinge()(jnp.zeros((2, 1)), B),
        "categorical_hinge takes labels and predictions of the same shape, got y_true of shape (2, 1) and y_pred of "
        "shape (2, 3); use sparse_categorical_crossentropy for class indices, or convert the labels to one-hot.",
    ),
    (
        lambda: losses.ctc(jnp.zeros((2,)), B),
        "ctc takes class indices of shape [B, L] and logits of shape [B, T, C], got y_true of shape (2,) and y_pred of "
        "shape (2, 3); reshape them to these axes.",
    ),
    (
        lambda: losses.SparseCategoricalCrossentropy()(B, B),
        "sparse_categorical_crossentropy takes one class index for each row of predictions, got y_true of shape "
        "(2, 3) and y_pred of shape (2, 3); use categorical_crossentropy for one-hot labels.",
    ),
    (
        lambda: losses.SparseCategoricalCrossentropy()(jnp.zeros((4,)), B),
        "sparse_categorical_crossentropy takes one class index for each row of predictions, got y_true of shape "
        "(4,) and y_pred of shape (2, 3); pass one class index for each row of the predictions.",
    ),
    (
        lambda: losses.Huber(reduction="avg"),
        "`reduction` must be one of 'sum_over_batch_size', 'mean', 'mean_with_sample_weight', 'sum', 'none', None, "
        "got 'avg'.",
    ),
    (
        lambda: losses.Huber()(B, B, sample_weight=jnp.ones(3)),
        "`sample_weight` must have the shape of the loss values (2,) or of their leading axes, got (3,); "
        "pass one number per example.",
    ),
    (
        lambda: losses.reduce_values(jnp.ones(2), mask=jnp.ones((2, 3), bool)),
        "`mask` must have the shape of the loss values (2,) or of their leading axes, got (2, 3); "
        "pass one number per example.",
    ),
    (
        lambda: losses.CategoricalGeneralizedCrossEntropy(q=1.0),
        "`q` must be more than 0 and less than 1, got 1.0; 0.7 is a common choice.",
    ),
    (
        lambda: losses.circle(jnp.zeros(3), B),
        "`y_pred` of circle must have the shape [3, F], one row per label, got (2, 3).",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[m.split(";")[0][:50] for _, m in ERRORS])
def test_error_messages(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_unknown_names_list_the_known_names():
    known = ", ".join(repr(k) for k in sorted(losses.LOSSES))
    message = f"Unknown loss 'mes'. Did you mean 'mse'? Known: {known}. Or pass a function (y_true, y_pred) -> [B]."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        losses.get("mes")


@pytest.mark.parametrize("x", [3, None, int])
def test_invalid_loss_types_are_rejected(x):
    message = f"A loss must be a name, a Loss or a function (y_true, y_pred) -> [B], got {x!r}."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        losses.get(x)


def test_a_loss_without_values_raises():
    class Nothing(losses.Loss):
        pass

    message = "Nothing must define values(y_true, y_pred) -> [B], got a class without it."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Nothing()(B, B)


def test_a_single_class_warns():
    message = (
        "categorical_crossentropy needs two or more classes to be informative, got y_pred of shape (2, 1); "
        "use binary_crossentropy for a single binary output."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        losses.categorical_crossentropy(jnp.ones((2, 1)), jnp.ones((2, 1)))
