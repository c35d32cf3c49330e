"""Every metric compared with Keras, for any split into batches, with padding, inside jit, scan and vmap."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.metric_table import ROWS, Row
from training import losses, metrics

ONE_EACH = list({row.name: row for row in reversed(ROWS)}.values())


def make_metric(row: Row):
    return getattr(metrics, row.name)(**row.kwargs)


def state_after(m, *batches):
    """Returns the state after batches of (arrays, keyword arguments)."""
    state = m.empty()
    for arrays, kwargs in batches:
        state = m.update(state, *arrays, **kwargs)
    return state


def split(row: Row, sizes, weight=None):
    """Splits the data of a row into batches of these sizes."""
    arrays = row.arrays(batch=sum(sizes))
    edges = np.cumsum([0, *sizes])
    for a, b in zip(edges, edges[1:], strict=False):
        yield [x[a:b] for x in arrays], {} if weight is None else {"sample_weight": weight[a:b]}


def weights(n=7):
    return np.random.default_rng(5).choice([0.5, 1.0, 2.0], n).astype(np.float32)


def keras_metrics():
    import keras

    return keras.metrics


def keras_result(row: Row, batches):
    allowed = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with allowed[0], allowed[1], warnings.catch_warnings(action="ignore"):  # of int64
        m = getattr(keras_metrics(), row.name)(
            **{k: list(v) if isinstance(v, tuple) else v for k, v in row.kwargs.items()}
        )
        for arrays, kwargs in batches:
            m.update_state(*(jnp.asarray(x) for x in arrays), **kwargs)
        return np.asarray(m.result())


def test_directions_are_those_of_keras():
    for row in ONE_EACH:
        kwargs = {k: list(v) if isinstance(v, tuple) else v for k, v in row.kwargs.items()}
        theirs = getattr(keras_metrics(), row.name)(**kwargs)
        assert make_metric(row).direction == getattr(theirs, "_direction", None), row.name


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_results_of_several_batches_match_keras(row):
    batches = list(split(row, [4, 3]))
    m = make_metric(row)
    got = m.compute(state_after(m, *batches))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, keras_result(row, batches), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("row", [r for r in ROWS if r.weighted], ids=lambda r: r.id)
def test_weighted_results_match_keras(row):
    batches = list(split(row, [4, 3], weights()))
    m = make_metric(row)
    np.testing.assert_allclose(m.compute(state_after(m, *batches)), keras_result(row, batches), rtol=2e-6, atol=1e-6)


PER_VALUE = [r for r in ROWS if r.id in ("Mean-value_sequences", "Sum-value_sequences", "RootMeanSquaredError-reals")]
PER_VALUE += [r for r in ROWS if r.id in ("BinaryAccuracy-bits", "CategoricalCrossentropy-class_sequences")]


@pytest.mark.parametrize("row", PER_VALUE, ids=lambda r: r.id)
def test_weights_per_value_match_keras(row):
    shape = (7, 4) if row.data.__name__ in ("reals", "bits") else (7, 3)
    weight = np.random.default_rng(5).uniform(0, 2, shape).astype(np.float32)
    batches = list(split(row, [4, 3], weight))
    m = make_metric(row)
    np.testing.assert_allclose(m.compute(state_after(m, *batches)), keras_result(row, batches), rtol=2e-6)


# ---------------------------------------------------------------- splits and padding


def padded(arrays, kwargs, size, garbage=np.nan):
    """Pads a batch at its front to `size` examples with garbage, and returns it with the mask of the examples."""
    n = size - len(arrays[0])
    mask = np.arange(size) >= n
    full = [
        np.concatenate([np.full((n, *x.shape[1:]), 99 if x.dtype == np.int32 else garbage, x.dtype), x]) for x in arrays
    ]
    more = {k: np.concatenate([np.full(n, garbage, v.dtype), v]) for k, v in kwargs.items()}
    return full, {**more, "mask": mask}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_results_do_not_depend_on_splits_and_padding(row, weighted):
    m, weight = make_metric(row), weights() if weighted else None
    whole = m.compute(state_after(m, *split(row, [7], weight)))
    batches = list(split(row, [4, 3], weight))
    np.testing.assert_allclose(m.compute(state_after(m, *batches)), whole, rtol=2e-6, atol=1e-6)
    masked = [padded(*b, size=7) for b in batches]
    np.testing.assert_allclose(m.compute(state_after(m, *masked)), whole, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("row", ONE_EACH, ids=lambda r: r.id)
def test_merging_states_equals_updating_one_state(row):
    m = make_metric(row)
    first, second = list(split(row, [4, 3]))
    merged = m.merge(state_after(m, first), state_after(m, second))
    np.testing.assert_allclose(m.compute(merged), m.compute(state_after(m, first, second)), rtol=1e-6, atol=1e-7)
    none = m.empty_for(*first[0])
    np.testing.assert_array_equal(m.compute(m.merge(none, merged)), m.compute(merged))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_a_batch_of_padding_does_not_change_the_state(row):
    m = make_metric(row)
    arrays, _ = next(split(row, [4, 3]))
    garbage, _ = padded(arrays, {}, 7)
    nothing = m.update(m.empty(), *garbage, mask=np.zeros(7, bool))
    np.testing.assert_array_equal(m.compute(nothing), m.compute(m.empty_for(*arrays)))
    state = state_after(m, (arrays, {}))
    again = m.update(state, *garbage, mask=np.zeros(7, bool))
    np.testing.assert_array_equal(m.compute(again), m.compute(state))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_jit_scan_and_vmap_change_nothing(row):
    m, runs = make_metric(row), [[row.arrays(batch=4, seed=10 * r + i) for i in range(3)] for r in range(2)]
    stacked = [np.stack([[batch[k] for batch in run] for run in runs]) for k in range(len(runs[0][0]))]

    def evaluate(*arrays):  # [steps, B, ...]
        empty = m.empty_for(*(x[0] for x in arrays))
        return m.compute(jax.lax.scan(lambda s, batch: (m.update(s, *batch), None), empty, arrays)[0])

    got = jax.jit(jax.vmap(evaluate))(*stacked)
    expected = [m.compute(state_after(m, *((batch, {}) for batch in run))) for run in runs]
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("row", ONE_EACH, ids=lambda r: r.id)
def test_half_precision_is_summed_in_float32(row):
    m = make_metric(row)
    *labels, y_pred = (jnp.asarray(x) for x in row.arrays())
    half = y_pred.astype(jnp.bfloat16) if jnp.issubdtype(y_pred.dtype, jnp.floating) else y_pred
    got = m.compute(state_after(m, ((*labels, half), {})))
    assert got.dtype == jnp.float32
    exact = half.astype(jnp.float32) if jnp.issubdtype(half.dtype, jnp.floating) else half
    np.testing.assert_array_equal(got, m.compute(state_after(m, ((*labels, exact), {}))))


# ---------------------------------------------------------------- long sums


def test_counts_are_exact_beyond_the_integers_of_float32():
    m = metrics.Mean()
    empty = m.empty()
    state = empty._replace(weights=empty.weights.add(2.0**24), total=empty.total.add(2.0**24))

    def step(state, _):
        return m.update(state, jnp.ones(1)), None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, length=1000))(state)
    for s in state:
        assert int(s.total) + int(s.rest) == 2**24 + 1000
    assert m.compute(state) == 1.0


def test_long_sums_of_small_numbers_are_accurate():
    total, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: (s.add(0.1), None), s, length=100_000))(
        metrics.RunningSum.zeros()
    )
    assert abs(float(total.value) / (100_000 * float(np.float32(0.1))) - 1) < 1e-7
    merged = total.merge(total)
    assert abs(float(merged.value) / (200_000 * float(np.float32(0.1))) - 1) < 1e-7


def test_infinite_and_nan_values_are_kept():
    m = metrics.Mean()
    assert m.compute(m.update(m.empty(), jnp.asarray([1.0, jnp.inf]))) == jnp.inf
    assert np.isnan(m.compute(m.update(m.empty(), jnp.asarray([1.0, jnp.nan]))))


def test_predictions_without_a_feature_axis_are_examples():
    """Keras averages over the batch first, so its result depends on the split into batches."""
    m, y_true = metrics.MeanSquaredError(), jnp.zeros(3)
    y_pred = jnp.asarray([1.0, 2.0, 4.0])
    assert m.compute(m.update(m.empty(), y_true, y_pred)) == 7.0
    assert m.compute(m.update(m.update(m.empty(), y_true[:2], y_pred[:2]), y_true[2:], y_pred[2:])) == 7.0


# ---------------------------------------------------------------- names


def test_every_metric_of_keras_is_in_the_table():
    from keras.src.metrics import ALL_OBJECTS_DICT

    left_out = {"Metric", "metric", "MeanMetricWrapper", "mean_metric_wrapper"}  # base classes
    assert set(metrics.METRICS) == set(ALL_OBJECTS_DICT) - left_out
    assert {r.name for r in ROWS} == {m.__name__ for m in metrics.CLASSES}
    missing = {n for n in dir(keras_metrics()) if n[0] != "_"} - set(dir(metrics))
    assert missing == {"serialize", "deserialize"}


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_names_resolve_to_the_same_metric_as_in_keras(name):
    from keras.src.metrics import ALL_OBJECTS_DICT

    assert metrics.METRICS[name].__name__ == ALL_OBJECTS_DICT[name].__name__


@pytest.mark.parametrize("cls", metrics.CLASSES, ids=lambda c: c.__name__)
def test_argument_order_and_defaults_match_keras(cls):
    theirs = inspect.signature(getattr(keras_metrics(), cls.__name__)).parameters
    mine = inspect.signature(cls).parameters
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_metrics_are_hashable_and_named_as_in_keras(row):
    assert make_metric(row) == make_metric(row)
    assert hash(make_metric(row)) == hash(make_metric(row))
    keras_name = getattr(keras_metrics(), row.name)(**row.kwargs).name
    assert make_metric(row).name == keras_name.rstrip("0123456789").rstrip("_") or make_metric(row).name == keras_name


def test_get_accepts_names_metrics_classes_losses_and_functions():
    def off_by(y_true, y_pred):
        return jnp.abs(y_true - y_pred)

    m = metrics.AUC()
    assert metrics.get(m) is m
    assert metrics.get(metrics.AUC) == m
    assert metrics.get("MSE") == metrics.MeanSquaredError(name="MSE")
    assert metrics.get(off_by) == metrics.MeanMetricWrapper(off_by, name="off_by")
    assert metrics.get(losses.huber).name == "huber"
    huber = metrics.get(losses.Huber(delta=0.5))
    assert huber.name == "huber_loss"
    state = huber.update(huber.empty(), jnp.zeros((3, 1)), jnp.asarray([[1.0], [2.0], [9.0]]), mask=[True, True, False])
    np.testing.assert_allclose(huber.compute(state), (0.375 + 0.875) / 2)


def test_functions_receive_keyword_arguments():
    def within(y_true, y_pred, distance):
        return (jnp.abs(y_true - y_pred) <= distance).astype(jnp.float32)

    m = metrics.MeanMetricWrapper(within, distance=1.5)
    assert m.name == "within"
    assert m.compute(m.update(m.empty(), jnp.zeros(4), jnp.asarray([0.0, 1.0, 2.0, 3.0]))) == 0.5


@pytest.mark.parametrize("pred", [(4,), (4, 1), (4, 3), (4, 5, 1), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("true", [(4,), (4, 1), (4, 3), (4, 5, 1), (4, 5, 3), (4, 5)], ids=str)
@pytest.mark.parametrize("name", ["accuracy", "acc", "Accuracy", "ACC"])
def test_accuracy_is_resolved_by_shapes_as_keras_does(name, true, pred):
    from keras.src.trainers.compile_utils import get_metric

    theirs = get_metric(name, jnp.zeros(true), jnp.zeros(pred))
    for mine in (metrics.resolve(name, true, pred), metrics.resolve_accuracy(true, pred, name)):
        assert type(mine).__name__ == type(theirs).__name__
        assert mine.name == theirs.name == name


def test_crossentropy_is_resolved_by_shapes():
    assert metrics.resolve("ce", (4,), (4, 3)) == metrics.SparseCategoricalCrossentropy(name="ce")
    assert metrics.resolve("crossentropy", (4, 1), (4, 1)) == metrics.BinaryCrossentropy(name="crossentropy")
    assert metrics.resolve("mse", (4, 1), (4, 1)) == metrics.MeanSquaredError(name="mse")
