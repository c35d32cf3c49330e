"""Options of models and callbacks of training.keras are honoured, or say that they have no effect."""

import re

import numpy as np
import pytest

from training import keras
from training.keras.callbacks import PerBatch

X, Y = np.ones((6, 2), "float32"), np.ones((6, 1), "float32")


class Watch(keras.callbacks.Callback):
    def __init__(self):
        self.chunks, self.batches = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)

    def on_chunk_end(self, step, logs=None):
        self.chunks.append(step)

    def get_state(self):
        return {"batches": self.batches}


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_batch_hooks_change_the_steps_of_their_own_fit_only(model):
    watch = Watch()
    model.fit(X, Y, batch_size=2, verbose=0, callbacks=[watch])
    assert (watch.batches, watch.chunks) == ([0, 1, 2], [1, 2, 3])
    assert model._trainer.steps_per_execution == "auto"


def test_a_callback_with_batch_hooks_keeps_its_state():
    watch = Watch()
    watch.batches = [4]
    assert PerBatch(watch).get_state() == {"batches": [4]}


def test_options_without_effect_are_named(model, tmp_path):
    message = "`zipped` must be True, because a model is one file, got False; leave it out."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.save(tmp_path / "model.keras", zipped=False)
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="^`safe_mode=False` of load_model has no effect"):
        keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
