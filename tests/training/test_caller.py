"""Warnings point to the line of the user's program, whatever path the call takes through the library."""

import numpy as np
import pytest

from flaxmodels import Sequential, layers
from training import Trainer, callbacks

X = np.ones((8, 3), np.float32)


def trainer(loss="mse", **arguments):
    return Trainer(Sequential([layers.Dense(1, input_shape=(3,))]), "sgd", loss, **arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda: trainer(nonfinite="ignore").fit(X, 1e38 * X[:, :1], epochs=1, batch_size=4, verbose=0),
        lambda: trainer().fit(X, 1e38 * X[:, :1], batch_size=4, verbose=0),
        lambda: trainer().fit([(X, X[:, :1])].__iter__, steps_per_epoch=2, verbose=0),
        lambda: trainer().evaluate(iter([(X, X[:, :1])]), steps=2),
        lambda: trainer("binary_crossentropy").fit(X, X[:, :1], verbose=0),
        lambda: trainer("binary_crossentropy").evaluate(X, X[:, :1]),
        lambda: trainer().fit(X, X[:, :1], verbose=0, callbacks=[callbacks.EarlyStopping("other", mode="max")]),
    ],
    ids=["ignored", "stopped", "too few steps", "too few steps of an evaluation", "loss", "loss evaluated", "monitor"],
)
def test_a_warning_names_the_users_line(call):
    with pytest.warns() as warned:
        call()
    assert {w.filename for w in warned} == {__file__}
