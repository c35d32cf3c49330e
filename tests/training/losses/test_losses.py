"""Values and gradients of every loss, compared with hand-computed values, float64 loops and Keras."""

import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.loss_table import ROWS, Row
from training import losses

EPS = 1e-7


# ---------------------------------------------------------------- hand-computed values

HAND = [
    ("mean_squared_error", [[1.0, 2.0]], [[3.0, 2.0]], {}, [2.0]),
    ("mean_absolute_error", [[1.0, 2.0]], [[3.0, 1.0]], {}, [1.5]),
    ("mean_absolute_percentage_error", [[1.0, 2.0]], [[3.0, 1.0]], {}, [125.0]),
    ("mean_absolute_percentage_error", [[0.0]], [[1e-7]], {}, [100.0]),
    ("mean_squared_logarithmic_error", [[1.0]], [[math.e * 2 - 1.0]], {}, [1.0]),
    ("mean_squared_logarithmic_error", [[-5.0]], [[-9.0]], {}, [0.0]),
    ("huber", [[0.0, 0.0]], [[0.5, -3.0]], {}, [(0.125 + 2.5) / 2]),
    ("huber", [[0.0]], [[3.0]], {"delta": 2.0}, [4.0]),
    ("log_cosh", [[0.0]], [[1e4]], {}, [1e4 - math.log(2)]),
    ("poisson", [[2.0]], [[1.0]], {}, [1.0]),
    ("poisson", [[2.0]], [[0.0]], {}, [-2.0 * math.log(1e-7)]),
    ("cosine_similarity", [[0.0, 2.0]], [[3.0, 4.0]], {}, [-0.8]),
    ("cosine_similarity", [[0.0, 0.0]], [[3.0, 4.0]], {}, [0.0]),
    ("hinge", [[1.0, -1.0]], [[0.5, 2.0]], {}, [1.75]),
    ("hinge", [[1.0, 0.0]], [[0.5, 2.0]], {}, [1.75]),
    ("squared_hinge", [[1.0, -1.0]], [[0.5, 2.0]], {}, [4.625]),
    ("categorical_hinge", [[0.0, 1.0, 0.0]], [[0.7, 0.5, 0.1]], {}, [1.2]),
    ("binary_crossentropy", [[1.0, 0.0]], [[0.25, 0.25]], {}, [-(math.log(0.25) + math.log(0.75)) / 2]),
    ("binary_crossentropy", [[1.0]], [[0.0]], {}, [-math.log(1e-7)]),
    ("binary_crossentropy", [[0.0]], [[1e4]], {"from_logits": True}, [1e4]),
    ("binary_focal_crossentropy", [[1.0]], [[0.25]], {}, [-(0.75**2) * math.log(0.25)]),
    ("categorical_crossentropy", [[0.0, 1.0]], [[3.0, 1.0]], {}, [math.log(4)]),
    ("categorical_crossentropy", [[0.0, 1.0]], [[1.0, 0.0]], {}, [-math.log(1e-7)]),
    ("categorical_crossentropy", [[0.0, 1.0]], [[1e4, 0.0]], {"from_logits": True}, [1e4]),
    ("categorical_crossentropy", [[0.0, 1.0]], [[0.5, 0.5]], {"label_smoothing": 0.5}, [math.log(2)]),
    ("categorical_focal_crossentropy", [[0.0, 1.0]], [[0.5, 0.5]], {}, [0.25 * 0.25 * math.log(2)]),
    ("sparse_categorical_crossentropy", [1], [[3.0, 1.0]], {}, [math.log(4)]),
    ("sparse_categorical_crossentropy", [7], [[3.0, 1.0]], {}, [0.0]),
    ("sparse_categorical_crossentropy", [-1], [[3.0, 1.0]], {}, [0.0]),
    ("sparse_categorical_crossentropy", [1, 0], [[3.0, 1.0], [0.0, 1.0]], {"ignore_class": 0}, [math.log(4), 0.0]),
    ("categorical_generalized_cross_entropy", [0], [[0.25, 0.75]], {"q": 0.5}, [1.0]),
    ("categorical_generalized_cross_entropy", [0], [[0.0, 1.0]], {"q": 0.5}, [2.0]),
    ("kl_divergence", [[0.5, 0.5]], [[0.25, 0.75]], {}, [0.5 * math.log(2) + 0.5 * math.log(2 / 3)]),
    ("kl_divergence", [[1.0, 0.0]], [[0.0, 1.0]], {}, [math.log(1e7) + 1e-7 * math.log(1e-7)]),
    ("dice", [[1.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]], {}, 0.5),
    ("tversky", [[1.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]], {"alpha": 1.0, "beta": 2.0}, 0.75),
    ("circle", [0, 0], [[1.0, 0.0], [1.0, 0.0]], {"gamma": 1.0}, [0.0, 0.0]),  # no negative pair
    ("ctc", [[1, 0]], [[[0.0, 0.0], [0.0, 0.0]]], {}, [-math.log(3 / 4)]),  # 01, 10, 11 of four paths
]


@pytest.mark.parametrize(("name", "y_true", "y_pred", "kwargs", "expected"), HAND)
def test_values_match_hand_computed_values(name, y_true, y_pred, kwargs, expected):
    got = getattr(losses, name)(jnp.asarray(y_true), jnp.asarray(y_pred), **kwargs)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-7)


def test_circle_with_one_positive_and_one_negative_pair():
    y_pred = jnp.asarray([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    got = losses.circle(jnp.asarray([0, 0, 1]), y_pred, gamma=2.0, margin=0.25)[0]
    positive, negative = 1 - 0.6, 1.0  # distances of the first example from the second and the third
    exponent = -2 * (0.25 + positive) * (0.25 - positive) + 2 * (1.25 - negative) * (0.75 - negative)
    np.testing.assert_allclose(got, math.log1p(math.exp(exponent)), rtol=1e-6)


# ---------------------------------------------------------------- float64 loops


def over_last_axis(fn):
    """Applies a function of two vectors along `axis` of two arrays."""

    def values(t, p, axis=-1, **kwargs):
        t, p = np.moveaxis(t, axis, -1), np.moveaxis(p, axis, -1)
        return np.array([fn(a, b, **kwargs) for a, b in zip(rows_of(t), rows_of(p), strict=True)]).reshape(t.shape[:-1])

    return values


def rows_of(x):
    return x.reshape(-1, x.shape[-1])


def mean_over_last_axis(fn):
    return over_last_axis(lambda t, p, **kwargs: sum(fn(a, b, **kwargs) for a, b in zip(t, p, strict=True)) / len(t))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def clip(p):
    return min(max(p, EPS), 1 - EPS)


def entropy(t, p, from_logits=False, label_smoothing=0.0):
    t = t * (1 - label_smoothing) + label_smoothing / 2
    p = clip(sigmoid(p) if from_logits else p)
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def focal(t, p, from_logits=False, label_smoothing=0.0, gamma=2.0, alpha=0.25, apply_class_balancing=False):
    t = t * (1 - label_smoothing) + label_smoothing / 2
    p = sigmoid(p) if from_logits else p
    weight = t * alpha + (1 - t) * (1 - alpha) if apply_class_balancing else 1.0
    return weight * (1 - (t * p + (1 - t) * (1 - p))) ** gamma * entropy(t, p)


def normalized(p, from_logits):
    p = np.exp(p - p.max()) if from_logits else p
    return np.clip(p / p.sum(), EPS, 1 - EPS)


def categorical(t, p, from_logits=False, label_smoothing=0.0):
    t = t * (1 - label_smoothing) + label_smoothing / len(t)
    return -sum(a * math.log(b) for a, b in zip(t, normalized(p, from_logits), strict=True))


def categorical_focal(t, p, from_logits=False, label_smoothing=0.0, gamma=2.0, alpha=0.25):
    t, q = t * (1 - label_smoothing) + label_smoothing / len(t), normalized(p, from_logits)
    alphas = np.broadcast_to(alpha, len(t))
    return -sum(a * (1 - b) ** gamma * s * math.log(b) for s, b, a in zip(t, q, alphas, strict=True))


def sparse(t, p, from_logits=False, ignore_class=None):
    flat = [
        0.0 if k == ignore_class else -math.log(normalized(q, from_logits)[int(k)])
        for k, q in zip(t.reshape(-1), rows_of(p), strict=True)
    ]
    return np.array(flat).reshape(p.shape[:-1])


def generalized(t, p, q=0.5):
    flat = [(1 - row[int(k)] ** q) / q for k, row in zip(t.reshape(-1), rows_of(p), strict=True)]
    return np.array(flat).reshape(p.shape[:-1])


def cosine(t, p):
    return -sum(t * p) / (math.sqrt(sum(t * t)) * math.sqrt(sum(p * p)))


def divergence(t, p):
    t, p = np.clip(t, EPS, 1), np.clip(p, EPS, 1)
    return sum(a * math.log(a / b) for a, b in zip(t, p, strict=True))


def categorical_hinge(t, p):
    return max(0.0, max((1 - t) * p) - sum(t * p) + 1)


def signed(fn):
    def values(t, p, **kwargs):
        t = 2 * t - 1 if set(np.unique(t)) <= {0.0, 1.0} else t
        return mean_over_last_axis(lambda a, b: fn(max(0.0, 1 - a * b)))(t, p, **kwargs)

    return values


def overlap(fn):
    def values(t, p, axis=None, **kwargs):
        axes = set(range(t.ndim)) if axis is None else {a % t.ndim for a in np.atleast_1d(axis)}
        kept = [a for a in range(t.ndim) if a not in axes]
        out = np.zeros([t.shape[a] for a in kept])
        for place in np.ndindex(*out.shape):
            pick = tuple(place[kept.index(a)] if a in kept else slice(None) for a in range(t.ndim))
            out[place] = fn(t[pick].ravel(), p[pick].ravel(), **kwargs)
        return out

    return values


def dice(t, p):
    return 1 - 2 * sum(t * p) / (sum(t) + sum(p) + EPS)


def tversky(t, p, alpha=0.5, beta=0.5):
    return 1 - sum(t * p) / (sum(t * p) + alpha * sum(t * (1 - p)) + beta * sum((1 - t) * p) + EPS)


def circle(t, p, gamma=80.0, margin=0.4, remove_diagonal=True):
    out = []
    for i in range(len(t)):
        positive = negative = 0.0
        for j in range(len(t)):
            d = max(1 - p[i] @ p[j], 0.0)
            if t[i] != t[j]:
                negative += math.exp(gamma * max(1 + margin - d, 0) * (1 - margin - d))
            elif i != j or not remove_diagonal:
                positive += math.exp(-gamma * (margin + d) * (margin - d))
        out.append(math.log1p(positive * negative))
    return np.array(out)


def ctc(t, p):
    """Enumerates every path of classes and collapses it."""
    out = []
    for labels, logits in zip(t, p, strict=True):
        probability, target = 0.0, [int(k) for k in labels if k]
        q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        for path in itertools.product(range(q.shape[1]), repeat=len(q)):
            if [k for k, _ in itertools.groupby(path) if k] == target:
                probability += math.prod(q[i, k] for i, k in enumerate(path))
        out.append(-math.log(probability))
    return np.array(out)


LOOPS = {
    "MeanSquaredError": mean_over_last_axis(lambda t, p: (t - p) ** 2),
    "MeanAbsoluteError": mean_over_last_axis(lambda t, p: abs(t - p)),
    "MeanAbsolutePercentageError": mean_over_last_axis(lambda t, p: 100 * abs(t - p) / max(abs(t), EPS)),
    "MeanSquaredLogarithmicError": mean_over_last_axis(
        lambda t, p: (math.log1p(max(t, EPS)) - math.log1p(max(p, EPS))) ** 2
    ),
    "Huber": mean_over_last_axis(
        lambda t, p, delta=1.0: (t - p) ** 2 / 2 if abs(t - p) <= delta else delta * (abs(t - p) - delta / 2)
    ),
    "LogCosh": mean_over_last_axis(lambda t, p: math.log(math.cosh(t - p))),
    "Poisson": mean_over_last_axis(lambda t, p: p - t * math.log(p + EPS)),
    "CosineSimilarity": over_last_axis(cosine),
    "Hinge": signed(lambda x: x),
    "SquaredHinge": signed(lambda x: x * x),
    "CategoricalHinge": over_last_axis(categorical_hinge),
    "BinaryCrossentropy": mean_over_last_axis(entropy),
    "BinaryFocalCrossentropy": mean_over_last_axis(focal),
    "CategoricalCrossentropy": over_last_axis(categorical),
    "CategoricalFocalCrossentropy": over_last_axis(categorical_focal),
    "SparseCategoricalCrossentropy": sparse,
    "CategoricalGeneralizedCrossEntropy": generalized,
    "KLDivergence": over_last_axis(divergence),
    "Dice": overlap(dice),
    "Tversky": overlap(tversky),
    "Circle": circle,
    "CTC": ctc,
}


def float64(row: Row, y_true, y_pred):
    t, p = (np.asarray(y, np.float64) for y in (y_true, y_pred))
    t = t[:, None] if t.ndim < p.ndim and p.shape[-1] == 1 else t
    return LOOPS[row.name](t, p, **row.kwargs)


def make_loss(row: Row, **kwargs):
    return getattr(losses, row.name)(**row.kwargs, **kwargs)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_values_match_float64_loops(row):
    y_true, y_pred = row.arrays()
    expected = float64(row, y_true, y_pred)
    got = make_loss(row).values(y_true, y_pred)
    assert got.shape == expected.shape
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("row", [r for r in ROWS if r.name != "CTC"], ids=lambda r: r.id)
def test_gradients_match_float64_finite_differences(row):
    y_true, y_pred = row.arrays(batch=3)
    got = jax.grad(lambda p: jnp.sum(make_loss(row).values(y_true, p)))(jnp.asarray(y_pred))
    base, step = y_pred.astype(np.float64), 1e-6
    for place in np.ndindex(*y_pred.shape):
        up, down = base.copy(), base.copy()
        up[place], down[place] = base[place] + step, base[place] - step
        expected = (float64(row, y_true, up).sum() - float64(row, y_true, down).sum()) / (2 * step)
        np.testing.assert_allclose(got[place], expected, rtol=2e-4, atol=2e-5)


# ---------------------------------------------------------------- Keras


def keras_losses():
    import keras

    return keras.losses


def keras_value_and_grad(loss, y_true, y_pred, **kwargs):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return loss(y_true, y_pred, **kwargs), jax.grad(lambda p: jnp.sum(loss(y_true, p, **kwargs)))(y_pred)


def same_as_keras(row: Row, y_true, y_pred, reduction="sum_over_batch_size", rtol=1e-5, **kwargs):
    theirs = getattr(keras_losses(), row.name)(**row.kwargs, reduction=reduction)
    y_true, y_pred = jnp.asarray(y_true), jnp.asarray(y_pred)
    value, grad = keras_value_and_grad(theirs, y_true, y_pred, **kwargs)
    mine = make_loss(row, reduction=reduction)
    got, got_grad = mine(y_true, y_pred, **kwargs), jax.grad(lambda p: jnp.sum(mine(y_true, p, **kwargs)))(y_pred)
    assert got.shape == value.shape
    np.testing.assert_allclose(got, value, rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(got_grad, grad, rtol=rtol, atol=1e-6 * max(1.0, float(jnp.max(jnp.abs(grad)))))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_values_and_gradients_match_keras(row):
    same_as_keras(row, *row.arrays())


WEIGHTED = [r for r in ROWS if r.id in ("MeanSquaredError-reals", "Dice-bits", "Circle-embeddings")]


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "none", None, "mean_with_sample_weight"])
@pytest.mark.parametrize("weight_shape", [(5,), (5, 1), ()], ids=str)
@pytest.mark.parametrize("row", WEIGHTED, ids=lambda r: r.id)
def test_weights_and_reductions_match_keras(row, weight_shape, reduction):
    weight = np.random.default_rng(1).uniform(0.0, 2.0, weight_shape).astype(np.float32)
    same_as_keras(row, *row.arrays(), reduction=reduction, sample_weight=weight)


@pytest.mark.parametrize("weight_shape", [(5, 3), (5, 1), (5, 3, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none", "mean_with_sample_weight"])
def test_weights_per_time_step_match_keras(weight_shape, reduction):
    row = next(r for r in ROWS if r.name == "MeanSquaredError" and r.data.__name__ == "sequences")
    weight = np.random.default_rng(1).uniform(0.0, 2.0, weight_shape).astype(np.float32)
    same_as_keras(row, *row.arrays(), reduction=reduction, sample_weight=weight)


def test_example_weights_apply_to_all_time_steps():
    """Keras documents this, but multiplies [B, T] by [B]."""
    values, weight = jnp.arange(6.0).reshape(2, 3), jnp.asarray([1.0, 10.0])
    np.testing.assert_allclose(losses.reduce_values(values, weight), (0 + 1 + 2 + 30 + 40 + 50) / 6)


EXTREMES = {
    "probabilities": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5]]),
    "half clipped": ([[1, 0], [0, 1]], [[1 - 5e-8, 5e-8], [1.5e-7, 1 - 1.5e-7]]),
    "all labels zero": ([[0, 0, 0], [0, 0, 0]], [[0.2, 0.3, 0.5], [0, 0, 1]]),
    "all labels one": ([[1, 1, 1], [1, 1, 1]], [[0.2, 0.3, 0.5], [0, 0, 1]]),
    "large logits": ([[1, 0, 0], [0, 1, 0]], [[1e4, -1e4, 0], [1e4, -1e4, 0]]),
}
ELEMENTWISE = [r for r in ROWS if r.data.__name__ in ("bits", "classes", "bit_logits", "class_logits", "soft_classes")]


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda r: r.id)
def test_extreme_predictions_are_finite_and_match_keras(row, case):
    if "alpha" in row.kwargs and row.name.startswith("Categorical"):
        row = row._replace(kwargs={"alpha": 0.5})  # one alpha per class needs four classes
    y_true, y_pred = (np.asarray(y, np.float32) for y in EXTREMES[case])
    if case == "large logits" and not row.kwargs.get("from_logits"):
        y_pred = np.clip(y_pred, 0, 1)
    mine = make_loss(row)
    value, grad = jax.value_and_grad(lambda p: mine(y_true, p))(y_pred)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    same_as_keras(row, y_true, y_pred)


@pytest.mark.parametrize("name", ["SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"])
def test_extreme_predictions_for_class_indices(name):
    y_true, y_pred = jnp.asarray([0, 1, 2]), jnp.asarray([[1.0, 0, 0], [1.0, 0, 0], [0, 0.5, 0.5]])
    mine, theirs = getattr(losses, name)(), getattr(keras_losses(), name)()
    np.testing.assert_allclose(mine(y_true, y_pred), theirs(y_true, y_pred), rtol=1e-6)
    # Keras' gradient of the generalized loss is not finite.
    assert np.isfinite(jax.grad(lambda p: mine(y_true, p))(y_pred)).all()


def test_minus_infinity_logits_exclude_a_class():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    value, grad = jax.value_and_grad(lambda p: loss(jnp.asarray([0]), p))(jnp.asarray([[0.0, 0.0, -jnp.inf]]))
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, [[-0.5, 0.5, 0.0]], atol=1e-6)


def test_gradient_is_zero_outside_the_clipping_range():
    grad = jax.grad(lambda p: jnp.sum(losses.binary_crossentropy(jnp.ones((1, 3)), p)))
    np.testing.assert_array_equal(grad(jnp.asarray([[0.0, 5e-8, 1.0]])), [[0.0, 0.0, 0.0]])
    assert grad(jnp.asarray([[2e-7, 0.5, 0.5]]))[0, 0] < -1e6


def test_cosine_similarity_of_a_zero_vector_is_finite():
    value, grad = jax.value_and_grad(lambda p: losses.cosine_similarity(jnp.ones((1, 2)), p)[0])(jnp.zeros((1, 2)))
    assert value == 0.0
    assert np.isfinite(grad).all()


# ---------------------------------------------------------------- half precision, transformations


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_half_precision_is_computed_in_float32(row):
    y_true, y_pred = row.arrays()
    half = jnp.asarray(y_pred).astype(jnp.bfloat16)
    got = make_loss(row)(y_true, half)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, make_loss(row)(y_true, half.astype(jnp.float32)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_probability_of_one_has_a_finite_loss(dtype):
    """1 - 1e-7 is 1 in half precision, where Keras' logarithm is infinite."""
    value, grad = jax.value_and_grad(lambda p: losses.BinaryCrossentropy()(jnp.zeros((1, 1)), p))(
        jnp.ones((1, 1), dtype)
    )
    np.testing.assert_allclose(value, -math.log(2**-23), rtol=1e-6)
    assert grad.dtype == dtype
    assert np.isfinite(grad.astype(jnp.float32)).all()


def test_dtype_sets_the_dtype_of_the_result():
    assert losses.MeanSquaredError(dtype=jnp.bfloat16)(jnp.zeros((2, 1)), jnp.ones((2, 1))).dtype == jnp.bfloat16


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_jit_and_vmap_change_nothing(row):
    batches = [row.arrays(seed=s) for s in (0, 1)]
    y_true, y_pred = (jnp.stack([jnp.asarray(b[i]) for b in batches]) for i in (0, 1))
    alone = [make_loss(row)(*b) for b in batches]
    np.testing.assert_allclose(jax.jit(jax.vmap(make_loss(row)))(y_true, y_pred), alone, rtol=2e-6, atol=1e-7)


def test_losses_are_hashable_values():
    assert losses.Huber(0.5) == losses.Huber(delta=0.5) != losses.Huber()
    assert len({losses.Dice(axis=[1, 2]), losses.Dice(axis=(1, 2)), losses.get("dice")}) == 2
    assert hash(losses.CategoricalFocalCrossentropy(alpha=np.array([0.5, 0.5]))) is not None


# ---------------------------------------------------------------- names


def test_every_loss_of_keras_is_in_the_tables():
    theirs = {n for n in dir(keras_losses()) if n[0] != "_"} - {"Loss", "get", "serialize", "deserialize"}
    aliases = {"bce", "BCE", "kld", "KLD", "mae", "MAE", "mape", "MAPE", "mse", "MSE", "msle", "MSLE"}
    assert set(losses.LOSSES) == theirs | aliases
    assert {r.name for r in ROWS} == set(LOOPS) == {c.__name__ for c in losses.FUNCTIONS.values()}


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_names_resolve_to_the_same_loss_as_in_keras(name):
    mine = losses.get(name)
    if "eneralized" not in name:  # Keras exports this loss, but does not find it by name
        theirs = keras_losses().get(name)
        assert getattr(losses, getattr(theirs, "__name__", type(theirs).__name__)) in (
            type(mine),
            *(f for f, c in losses.FUNCTIONS.items() if c is type(mine)),
        )
    assert losses.get(mine) is mine
    assert losses.get(type(mine)) == mine


@pytest.mark.parametrize("name", sorted({c.__name__ for c in losses.FUNCTIONS.values()}))
def test_argument_order_and_defaults_match_keras(name):
    theirs = inspect.signature(getattr(keras_losses(), name)).parameters
    mine = inspect.signature(getattr(losses, name)).parameters
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("function", losses.FUNCTIONS, ids=lambda f: f.__name__)
def test_function_arguments_match_keras(function):
    theirs = inspect.signature(getattr(keras_losses(), function.__name__)).parameters
    mine = dict(inspect.signature(function).parameters)
    mine.pop("ref_mask", None)  # an additional argument here, for padded batches
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize("function", losses.FUNCTIONS, ids=lambda f: f.__name__)
def test_functions_and_classes_return_the_same_values(function):
    loss = losses.get(function)
    row = next(r for r in ROWS if r.name == type(loss).__name__ and not r.kwargs)
    kwargs = {"q": 0.5} if "generalized" in function.__name__ else {}
    np.testing.assert_array_equal(function(*row.arrays(), **kwargs), loss.values(*row.arrays()))


SHAPES = [((4,), (4, 1)), ((4, 1), (4, 1)), ((4,), (4, 3)), ((4, 1), (4, 3)), ((4, 3), (4, 3)), ((4, 5, 1), (4, 5, 3))]


@pytest.mark.parametrize(("true", "pred"), SHAPES)
@pytest.mark.parametrize("name", ["crossentropy", "ce", "CE"])
def test_crossentropy_is_resolved_by_shapes_as_keras_does(name, true, pred):
    from keras.src.trainers.compile_utils import get_loss

    theirs = get_loss(name, jnp.zeros(true), jnp.zeros(pred))
    assert losses.resolve(name, true, pred) == losses.get(theirs.fn.__name__)
    assert losses.resolve("mse", true, pred) == losses.MeanSquaredError()


def test_labels_attribute_marks_losses_of_class_indices():
    index = {c.__name__ for c in losses.FUNCTIONS.values() if c.labels == "index"}
    assert index == {"SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"}
