"""Losses and metrics at extreme values: results are finite whenever Keras' are, and at least as accurate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import loss_table, metric_table
from tests.training.losses.test_losses import float64, keras_losses, keras_value_and_grad
from tests.training.metrics.test_metrics import keras_result, state_after
from training import losses, metrics


def upper_half(p):
    return p > np.median(p)


# Functions that replace labels and predictions with extreme ones. Class indices become all 0 or all 1, so the other
# classes are empty.
EXTREMES = {
    "probabilities 0 and 1": lambda t, p: (t, upper_half(p)),
    "certain and wrong": lambda t, p: (t, 1 - t if t.shape == p.shape else upper_half(-p)),
    "logits of 1e4": lambda t, p: (t, np.where(upper_half(p), 1e4, -1e4)),
    "labels 0": lambda t, p: (np.zeros_like(t), p),
    "labels 1": lambda t, p: (np.ones_like(t), p),
    "all 0": lambda t, p: (np.zeros_like(t), np.zeros_like(p)),
    "all 1": lambda t, p: (np.ones_like(t), np.ones_like(p)),
    "labels 0, predictions 1": lambda t, p: (np.zeros_like(t), np.ones_like(p)),
    "labels 1, predictions 0": lambda t, p: (np.ones_like(t), np.zeros_like(p)),
}
TYPES = (jnp.float32, jnp.bfloat16)


def extreme_of(row, extreme):
    """Returns arguments for a row of the table; the last ones are the predictions."""
    *labels, p = row.arrays()
    changed = EXTREMES[extreme](labels[0] if labels else p, p)[1 - len(labels) :]
    return [*changed[:-1], changed[-1].astype(p.dtype)]


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("row", loss_table.ROWS, ids=lambda r: r.id)
def test_losses_and_their_gradients(row, extreme):
    y_true, y_pred = map(jnp.asarray, extreme_of(row, extreme))
    mine = getattr(losses, row.name)(**row.kwargs, reduction="none")
    theirs = getattr(keras_losses(), row.name)(**row.kwargs, reduction="none")
    for dtype in TYPES:
        x = y_pred.astype(dtype)
        want, want_grad = (np.asarray(a, np.float64) for a in keras_value_and_grad(theirs, y_true, x))
        got, grad = mine(y_true, x), jax.grad(lambda p: jnp.sum(mine(y_true, p)))(x)
        got, grad = np.asarray(got, np.float64), np.asarray(grad, np.float64)
        finite, finite_grad = np.isfinite(want), np.isfinite(want_grad)
        assert np.isfinite(got[finite]).all() and np.isfinite(grad[finite_grad]).all()
        if dtype == jnp.float32:
            np.testing.assert_allclose(got[finite], want[finite], rtol=1e-5, atol=1e-6)
            scale = np.abs(want_grad[finite_grad]).max(initial=1.0)
            if row.name == "CTC":  # its gradient is a difference of values as large as the loss
                scale = np.abs(want).max()
            np.testing.assert_allclose(grad[finite_grad], want_grad[finite_grad], rtol=1e-5, atol=1e-6 * scale)
        if finite.all() and extreme != "logits of 1e4":  # the loops overflow for these logits
            with np.errstate(invalid="ignore"):  # the loop does not define the cosine of a zero vector
                exact = float64(row, np.asarray(y_true), np.asarray(x, np.float32))
            known = np.isfinite(exact)
            near = 1e-6 * np.abs(exact[known]).max(initial=0) + 1e-7  # allows for the rounding of a sum
            error, theirs_error = (np.abs(a - exact)[known].max(initial=0) for a in (got, want))
            assert error <= theirs_error + near


@pytest.mark.parametrize("extreme", [*EXTREMES, "weights 0"])
@pytest.mark.parametrize("row", metric_table.ROWS, ids=lambda r: r.id)
def test_metrics(row, extreme):
    if extreme == "weights 0":
        weighted = {"sample_weight": np.zeros(7, np.float32)} if row.weighted else {}
        *labels, y_pred = row.arrays()
    else:
        *labels, y_pred = extreme_of(row, extreme)
        weighted = {}
    mine = getattr(metrics, row.name)(**row.kwargs)
    for dtype in TYPES if np.issubdtype(y_pred.dtype, np.floating) else (y_pred.dtype,):
        batches = [([*labels, jnp.asarray(y_pred).astype(dtype)], weighted)]
        want, got = keras_result(row, batches), np.asarray(mine.compute(state_after(mine, *batches)))
        assert got.shape == want.shape
        finite = np.isfinite(want)
        assert np.isfinite(got[finite]).all()
        if dtype != jnp.bfloat16:  # Keras computes in bfloat16
            np.testing.assert_allclose(got[finite], want[finite], rtol=1e-5, atol=1e-6)
