"""Metrics compared with hand-computed values, loops and scikit-learn; the confusion matrix; complete error messages."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from training import metrics


def result(m, *arrays, **kwargs):
    return m.compute(m.update(m.empty(), *(jnp.asarray(a) for a in arrays), **kwargs))


BITS, SCORES = [1, 1, 0, 0, 1], [0.9, 0.4, 0.6, 0.1, 0.5]
HAND = [
    (metrics.Mean(), ([1.0, 3.0],), {}, 2.0),
    (metrics.Mean(), (5.0,), {}, 5.0),
    (metrics.Mean(), ([[1.0, 3.0], [5.0, 7.0]],), {"sample_weight": [1.0, 3.0]}, (2.0 + 18.0) / 4),
    (metrics.Mean(), ([[1.0, 3.0], [5.0, 7.0]],), {"mask": [[True, False], [True, True]]}, 13 / 3),
    (metrics.Sum(), ([[1.0, 3.0], [5.0, 7.0]],), {"mask": [[True, False], [True, True]]}, 13.0),
    (metrics.Sum(), ([1.0, 3.0],), {"sample_weight": 2.0}, 8.0),
    (metrics.Accuracy(), ([1, 2, 3], [1, 5, 3]), {}, 2 / 3),
    (metrics.BinaryAccuracy(), (BITS, SCORES), {}, 2 / 5),  # 0.5 does not exceed 0.5
    (metrics.BinaryAccuracy(threshold=0.4), ([[True]], [[0.5]]), {}, 1.0),
    (
        metrics.CategoricalAccuracy(),
        ([[0, 1], [1, 0]], [[0.4, 0.6], [0.5, 0.5]]),
        {},
        1.0,
    ),  # the first of equal predictions
    (metrics.SparseCategoricalAccuracy(), ([1, 1], [[0.4, 0.6], [0.5, 0.5]]), {}, 0.5),
    (metrics.SparseCategoricalAccuracy(), ([1.0, 0.5], [[0.4, 0.6], [0.6, 0.4]]), {}, 0.5),
    (metrics.SparseCategoricalAccuracy(), (np.uint8([255]), np.eye(1, 300, 255)), {}, 1.0),
    (metrics.SparseTopKCategoricalAccuracy(k=2), ([0, 1], [[3.0, 2, 1], [3.0, 1, 2]]), {}, 0.5),
    (metrics.SparseTopKCategoricalAccuracy(k=1), ([2], [[1.0, 1.0, 1.0]]), {}, 1.0),  # equal predictions share a rank
    (metrics.RootMeanSquaredError(), ([[0.0, 0.0]], [[3.0, 4.0]]), {}, math.sqrt(12.5)),
    (metrics.CosineSimilarity(), ([[0.0, 2.0]], [[3.0, 4.0]]), {}, 0.8),
    (metrics.TruePositives(), (BITS, SCORES), {}, 1.0),
    (metrics.FalsePositives(), (BITS, SCORES), {}, 1.0),
    (metrics.TrueNegatives(), (BITS, SCORES), {}, 1.0),
    (metrics.FalseNegatives(), (BITS, SCORES), {"sample_weight": [1.0, 2.0, 4.0, 8.0, 16.0]}, 18.0),
    (metrics.Precision(thresholds=[0.3, 0.55]), (BITS, SCORES), {}, [3 / 4, 1 / 2]),
    (metrics.Recall(thresholds=(0.3, 0.55)), (BITS, SCORES), {}, [1.0, 1 / 3]),
    (metrics.Precision(), ([1], [0.1]), {}, 0.0),  # no positive predictions
    (metrics.Precision(top_k=1), ([[0, 1, 0]], [[0.1, 0.2, 0.15]]), {}, 1.0),
    (metrics.IoU(num_classes=2, target_class_ids=[1]), ([0, 1, 1], [0, 1, 0]), {}, 0.5),
    (metrics.MeanIoU(num_classes=3), ([0, 1, 1], [0, 1, 0]), {}, 0.5),  # class 2 does not occur
    (metrics.MeanIoU(num_classes=2), ([0, 1], [0, 1]), {"sample_weight": [0.5, 0.25]}, 1.0),
    (metrics.MeanIoU(num_classes=2), ([0, 1, 1], [0, 1, 0]), {"sample_weight": [0.5, 0.5, 1.5]}, (0.25 + 0.25) / 2),
    (metrics.MeanIoU(num_classes=2, dtype="int32"), ([0, 1, 1], [0, 1, 0]), {"sample_weight": [1.5, 1.5, 1.5]}, 0.5),
    (metrics.R2Score(), ([[1.0], [2.0], [3.0]], [[1.0], [2.0], [2.0]]), {}, 0.5),
    (metrics.R2Score(num_regressors=1), ([[1.0], [2.0], [3.0]], [[1.0], [2.0], [2.0]]), {}, 0.0),
    (
        metrics.R2Score(num_regressors=2),
        ([[1.0], [2.0], [3.0]], [[1.0], [2.0], [2.0]]),
        {},
        0.5,
    ),  # no degrees of freedom
]


@pytest.mark.parametrize(("m", "arrays", "kwargs", "expected"), HAND, ids=lambda x: getattr(x, "name", ""))
def test_results_match_hand_computed_values(m, arrays, kwargs, expected):
    np.testing.assert_allclose(result(m, *arrays, **kwargs), expected, rtol=1e-5, atol=2e-7)


def test_dtype_sets_the_dtype_of_the_result():
    assert result(metrics.Mean(dtype=jnp.bfloat16), [1.0]).dtype == jnp.bfloat16
    assert result(metrics.AUC(dtype="float16"), BITS, SCORES).dtype == jnp.float16


# ---------------------------------------------------------------- scikit-learn and NumPy


def scores(n=60, labels=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n,) if labels is None else (n, labels)
    true = rng.integers(0, 2, shape)
    return true, np.clip(np.round(rng.normal(0.4 + 0.2 * true, 0.2), 2), 0.0, 1.0)


# The thresholds separate any two different scores with two digits, so the sums are exact.
EXACT = {"thresholds": np.arange(0.005, 1.0, 0.01)}


@pytest.mark.parametrize("weighted", [False, True])
def test_area_under_roc_is_the_fraction_of_ordered_pairs(weighted):
    true, pred = scores()
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(true)) if weighted else np.ones(len(true))
    pairs = area = 0.0
    for i in np.flatnonzero(true == 1):
        for j in np.flatnonzero(true == 0):
            pairs += weight[i] * weight[j]
            area += weight[i] * weight[j] * ((pred[i] > pred[j]) + 0.5 * (pred[i] == pred[j]))
    np.testing.assert_allclose(result(metrics.AUC(**EXACT), true, pred, sample_weight=weight), area / pairs, rtol=1e-5)


def test_multi_label_area_under_roc_matches_scikit_learn():
    true, pred = scores(labels=3)
    weights = [1.0, 2.0, 3.0]
    each = [sklearn_metrics.roc_auc_score(true[:, i], pred[:, i]) for i in range(3)]
    m = metrics.AUC(multi_label=True, **EXACT)
    np.testing.assert_allclose(result(m, true, pred), np.mean(each), rtol=1e-5)
    m = metrics.AUC(multi_label=True, label_weights=weights, **EXACT)
    np.testing.assert_allclose(result(m, true, pred), np.average(each, weights=weights), rtol=1e-5)


def test_interpolated_area_is_between_lower_and_upper_sums():
    true, pred = scores()
    kinds = {
        k: result(metrics.AUC(curve="PR", summation_method=k, **EXACT), true, pred) for k in ("minoring", "majoring")
    }
    average = sklearn_metrics.average_precision_score(true, pred)
    assert kinds["minoring"] <= average <= kinds["majoring"]
    assert kinds["minoring"] <= result(metrics.AUC(curve="PR", **EXACT), true, pred) <= kinds["majoring"]
    np.testing.assert_allclose(kinds["minoring"], average, atol=0.05)


def test_perfectly_ordered_scores_have_an_area_of_one():
    true, pred = [0, 0, 1, 1], [0.0, 0.3, 0.7, 1.0]
    for curve in ("ROC", "PR", "PRGAIN"):
        np.testing.assert_allclose(result(metrics.AUC(curve=curve), true, pred), 1.0, rtol=1e-6)
    np.testing.assert_allclose(result(metrics.AUC(), true, 1 - np.asarray(pred)), 0.0, atol=1e-6)
    np.testing.assert_allclose(result(metrics.AUC(from_logits=True), true, [-9.0, -1.0, 1.0, 9.0]), 1.0, rtol=1e-6)


def test_constrained_maxima_match_a_search_over_all_thresholds():
    true, pred = scores()
    found = {"precision": 0.0, "recall": 0.0, "specificity": 0.0, "sensitivity": 0.0}
    for threshold in np.arange(200) / 199:
        yes = pred > threshold
        tp, fp = np.sum(yes & (true == 1)), np.sum(yes & (true == 0))
        recall, precision = tp / np.sum(true == 1), tp / max(tp + fp, 1)
        specificity = 1 - fp / np.sum(true == 0)
        found["precision"] = max(found["precision"], precision * (recall >= 0.6))
        found["recall"] = max(found["recall"], recall * (precision >= 0.6))
        found["specificity"] = max(found["specificity"], specificity * (recall >= 0.6))
        found["sensitivity"] = max(found["sensitivity"], recall * (specificity >= 0.6))
    assert 0 < min(found.values())
    for name, m in (
        ("precision", metrics.PrecisionAtRecall(0.6)),
        ("recall", metrics.RecallAtPrecision(0.6)),
        ("specificity", metrics.SpecificityAtSensitivity(0.6)),
        ("sensitivity", metrics.SensitivityAtSpecificity(0.6)),
    ):
        np.testing.assert_allclose(result(m, true, pred), found[name], rtol=1e-6)


@pytest.mark.parametrize("average", [None, "micro", "macro", "weighted"])
def test_f_scores_match_scikit_learn(average):
    true, pred = scores(labels=3)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(true)).astype(np.float32)
    for beta in (0.5, 1.0, 2.0):
        m = metrics.FBetaScore(average=average, beta=beta, threshold=0.5)
        expected = sklearn_metrics.fbeta_score(true, pred > 0.5, beta=beta, average=average, sample_weight=weight)
        np.testing.assert_allclose(result(m, true, pred, sample_weight=weight), expected, rtol=1e-5)
    best = pred >= pred.max(axis=1, keepdims=True)  # all classes with the largest prediction
    expected = sklearn_metrics.f1_score(true, best, average=average)
    np.testing.assert_allclose(result(metrics.F1Score(average=average), true, pred), expected, rtol=1e-5)


@pytest.mark.parametrize("multioutput", ["uniform_average", "variance_weighted_average", None])
def test_r2_matches_scikit_learn(multioutput):
    rng = np.random.default_rng(0)
    true = rng.normal(size=(50, 3)) * [1.0, 2.0, 3.0]
    pred, weight = true + rng.normal(size=(50, 3)), rng.uniform(0.5, 2.0, 50)
    theirs = {"variance_weighted_average": "variance_weighted", None: "raw_values"}.get(multioutput, multioutput)
    expected = sklearn_metrics.r2_score(true, pred, sample_weight=weight, multioutput=theirs)
    np.testing.assert_allclose(
        result(metrics.R2Score(multioutput), true, pred, sample_weight=weight), expected, rtol=1e-5
    )


def test_correlations_match_numpy():
    rng = np.random.default_rng(0)
    true, pred = rng.normal(size=(4, 20)), rng.normal(size=(4, 20))
    pearson = [np.corrcoef(t, p)[0, 1] for t, p in zip(true, pred, strict=True)]
    np.testing.assert_allclose(metrics.pearson_correlation(true, pred), pearson, rtol=1e-5)
    concordance = [
        2 * np.cov(t, p, bias=True)[0, 1] / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
        for t, p in zip(true, pred, strict=True)
    ]
    np.testing.assert_allclose(metrics.concordance_correlation(true, pred), concordance, rtol=1e-5)


@pytest.mark.parametrize("ignore", [None, 1])
def test_iou_matches_a_loop_over_pixels(ignore):
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 4, (5, 6, 7)), rng.integers(0, 4, (5, 6, 7))
    valid, shares = true != ignore if ignore is not None else np.ones_like(true, bool), []
    for k in range(4):
        union = ((true == k) | (pred == k)) & valid
        if union.any():
            shares.append(np.sum((true == k) & (pred == k) & valid) / union.sum())
    m = metrics.MeanIoU(num_classes=4, ignore_class=ignore)
    np.testing.assert_allclose(result(m, true, pred), np.mean(shares), rtol=1e-5)
    one_hot = metrics.OneHotMeanIoU(num_classes=4, ignore_class=ignore)
    np.testing.assert_allclose(result(one_hot, np.eye(4)[true], np.eye(4)[pred]), np.mean(shares), rtol=1e-5)


def test_out_of_range_classes_are_ignored():
    inside = result(metrics.MeanIoU(num_classes=2), [0, 1, 1], [0, 1, 0])
    np.testing.assert_array_equal(
        result(metrics.MeanIoU(num_classes=2), [0, 1, 1, -1, 5, 0], [0, 1, 0, 0, 1, 7]), inside
    )


def test_masked_pixels_are_ignored():
    true, pred = np.array([[0, 1], [1, 1]]), np.array([[0, 0], [1, 0]])
    mask = np.array([[True, True], [True, False]])
    for m in (metrics.MeanIoU(num_classes=2), metrics.Precision(), metrics.BinaryAccuracy()):
        np.testing.assert_array_equal(result(m, true, pred, mask=mask), result(m, true[mask], pred[mask]))


# ---------------------------------------------------------------- the confusion matrix


def test_confusion_matrix_matches_scikit_learn():
    rng = np.random.default_rng(0)
    true, scores = rng.integers(0, 4, 100), rng.normal(size=(100, 5)).astype(np.float32)
    expected = sklearn_metrics.confusion_matrix(true, scores.argmax(1), labels=range(5))
    for y_true, y_pred in (
        (true, scores),
        (np.eye(5)[true], scores),
        (true, scores.argmax(1)),
        (true[:, None], scores),
    ):
        got = metrics.confusion_matrix(jnp.asarray(y_true), y_pred, num_classes=5)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.int64
    assert metrics.confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_plot_of_a_confusion_matrix(tmp_path):
    import matplotlib.pyplot as plt

    matrix = np.array([[8, 2], [0, 0]])
    figure = metrics.plot_confusion_matrix(matrix, class_names=["cat", "dog"], path=tmp_path / "matrix.png")
    axes = figure.axes[0]
    assert (
        [t.get_text() for t in axes.get_xticklabels()]
        == [t.get_text() for t in axes.get_yticklabels()]
        == ["cat", "dog"]
    )
    assert [t.get_text() for t in axes.texts] == ["8", "2", "0", "0"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2], [0.0, 0.0]])
    picture = plt.imread(tmp_path / "matrix.png")
    assert picture.shape[0] > 100 and picture.std() > 0
    assert plt.get_fignums() == []  # nothing is left open


def test_plot_of_a_large_matrix_has_no_counts():
    figure = metrics.plot_confusion_matrix(np.eye(41, dtype=int))
    assert list(figure.axes[0].texts) == []
    assert figure.axes[0].get_xticklabels()[40].get_text() == "40"


# ---------------------------------------------------------------- errors

FLAT, ROWS = jnp.zeros(4), jnp.zeros((4, 3))
ERRORS = [
    (
        lambda: result(metrics.Mean(), FLAT, sample_weight=jnp.ones(3)),
        "`sample_weight` must have the shape of the metric's values (4,) or of their leading axes, got (3,); "
        "pass one number per example.",
    ),
    (
        lambda: result(metrics.get(lambda t, p: jnp.mean(p)), FLAT, FLAT, mask=jnp.ones(4, bool)),
        "`mask` must have the shape of the metric's values () or of their leading axes, got (4,); "
        "pass one number per example.",
    ),
    (
        lambda: result(metrics.SparseCategoricalAccuracy(), ROWS, ROWS),
        "sparse_categorical_accuracy takes labels and predictions with one class per position, got y_true of "
        "shape (4, 3) and y_pred of shape (4,); use sparse_categorical_accuracy for class indices and "
        "categorical_accuracy for one-hot labels.",
    ),
    (
        lambda: result(metrics.SparseTopKCategoricalAccuracy(), ROWS, ROWS),
        "sparse_top_k_categorical_accuracy takes one class index for each row of predictions, got y_true of shape "
        "(4, 3) and y_pred of shape (4, 3); use top_k_categorical_accuracy for one-hot labels.",
    ),
    (
        lambda: result(metrics.R2Score(), FLAT, FLAT),
        "r2_score takes labels and predictions of shape [B, F], got y_true of shape (4,) and y_pred of shape (4,); "
        "reshape them to (-1, 1) for a single output.",
    ),
    (
        lambda: metrics.R2Score("mean"),
        "`class_aggregation` must be one of ('uniform_average', 'variance_weighted_average', None), got 'mean'.",
    ),
    (
        lambda: metrics.R2Score(num_regressors=-1),
        "`num_regressors` must be at least 0, got -1; 0 does not adjust the score.",
    ),
    (
        lambda: metrics.Precision(thresholds=[0.5, 1.5]),
        "`thresholds` must lie in [0, 1], got [1.5]; apply a sigmoid to logits first.",
    ),
    (
        lambda: result(metrics.Precision(), FLAT, ROWS),
        "A confusion metric takes labels and predictions of the same shape, got y_true of shape (4,) and y_pred of "
        "shape (4, 3); make the labels one-hot.",
    ),
    (
        lambda: result(metrics.Precision(class_id=0), FLAT, FLAT),
        "A confusion metric takes labels and predictions of the same shape [B, ..., C], got y_true of shape (4,) and "
        "y_pred of shape (4,); make the labels one-hot.",
    ),
    (
        lambda: result(metrics.AUC(multi_label=True), FLAT, FLAT),
        "A confusion metric takes labels and predictions of the same shape [B, C], got y_true of shape (4,) and "
        "y_pred of shape (4,); make the labels one-hot.",
    ),
    (
        lambda: metrics.RecallAtPrecision(60),
        "`precision` must lie in [0, 1], got 60; pass a fraction instead of a percentage.",
    ),
    (
        lambda: metrics.PrecisionAtRecall(0.5, num_thresholds=0),
        "`num_thresholds` must be at least 1, got 0; 200 is the default.",
    ),
    (lambda: metrics.AUC(num_thresholds=1), "`num_thresholds` must be at least 2, got 1; 200 is the default."),
    (lambda: metrics.AUC(curve="roc curve"), "`curve` must be one of ('ROC', 'PR', 'PRGAIN'), got 'roc curve'."),
    (
        lambda: metrics.AUC(summation_method="simpson"),
        "`summation_method` must be one of ('interpolation', 'minoring', 'majoring'), got 'simpson'.",
    ),
    (
        lambda: metrics.AUC(num_labels=3),
        "`num_labels` needs multi_label=True, got num_labels=3 without it; set it, or remove `num_labels`.",
    ),
    (
        lambda: metrics.F1Score(average="mean"),
        "`average` of F1Score must be one of (None, 'micro', 'macro', 'weighted'), got 'mean'.",
    ),
    (
        lambda: metrics.FBetaScore(beta=2),
        "`beta` of FBetaScore must be a positive float, got 2; 1.0 gives precision and recall the same weight.",
    ),
    (
        lambda: metrics.F1Score(threshold=1.5),
        "`threshold` of F1Score must be a float in (0, 1], got 1.5; None predicts the best class of each example.",
    ),
    (
        lambda: result(metrics.F1Score(), FLAT, FLAT),
        "f1_score takes labels and predictions of the same shape [B, C], got y_true of shape (4,) and y_pred of shape "
        "(4,); make the labels one-hot.",
    ),
    (
        lambda: metrics.IoU(num_classes=2, target_class_ids=[2]),
        "`target_class_ids` must lie in 0..1 for 2 classes, got [2]; use MeanIoU for all classes.",
    ),
    (
        lambda: result(metrics.MeanIoU(num_classes=3), FLAT, ROWS),
        "mean_io_u takes labels and predictions with one class per position, got y_true of shape (4,) and y_pred "
        "of shape (4, 3); set `sparse_y_true` or `sparse_y_pred` to False for arrays with a class axis.",
    ),
    (
        lambda: metrics.confusion_matrix([0, 1], [0], 2),
        "confusion_matrix takes one label for each prediction, got the shapes (2,) and (1,); scores need a last axis of size 2.",
    ),
    (
        lambda: metrics.plot_confusion_matrix(np.zeros((2, 3))),
        "A confusion matrix must be square, got shape (2, 3); use confusion_matrix.",
    ),
    (
        lambda: metrics.plot_confusion_matrix(np.zeros((2, 2)), class_names=["one"]),
        "`class_names` must have one name for each of 2 classes, got 1.",
    ),
    (
        lambda: metrics.resolve_accuracy((4,), (4, 3), "precision"),
        "Unknown metric chosen by shapes 'precision'. Known: 'acc', 'accuracy', 'ce', 'crossentropy'.",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[m.split(";")[0][:60] for _, m in ERRORS])
def test_error_messages(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_a_confusion_matrix_checks_its_labels():
    message = (
        "Labels must lie in 0..1 for 2 classes, got 2 at index 1; "
        "number the classes from 0, give the last layer more units, or exclude a label with `ignore_class`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metrics.confusion_matrix([0, 2], [0, 1], 2)


def test_unknown_names_list_the_known_names():
    known = ", ".join(repr(k) for k in sorted(metrics.METRICS))
    message = (
        f"Unknown metric 'acuracy'. Did you mean 'accuracy'? Known: {known}. "
        "Or pass a function (y_true, y_pred) -> [B]."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        metrics.get("acuracy")


@pytest.mark.parametrize("x", [3, None, int])
def test_invalid_metric_types_are_rejected(x):
    message = f"A metric must be a name, a Metric or a function (y_true, y_pred) -> [B], got {x!r}."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        metrics.get(x)


@pytest.mark.parametrize("method", ["empty", "update", "compute"])
def test_a_metric_without_its_methods_raises(method):
    class Nothing(metrics.Metric):
        pass

    message = f"Nothing must define empty, update and compute, got a class without {method}."
    arguments = {"empty": (), "update": (None, FLAT, FLAT), "compute": (None,)}[method]
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        getattr(Nothing(), method)(*arguments)


def test_states_of_custom_metrics_may_be_plain_arrays():
    class Count(metrics.Metric):
        def empty(self):
            return jnp.zeros((), jnp.int32)

        def update(self, state, y_true, y_pred, sample_weight=None, mask=None):
            return state + y_true.shape[0]

        def compute(self, state):
            return state

    m = Count()
    assert m.name == "count"
    one = m.update(m.empty(), FLAT, FLAT)
    assert m.compute(m.merge(one, one)) == 8
    assert jax.jit(m.update)(one, FLAT, FLAT) == 8
