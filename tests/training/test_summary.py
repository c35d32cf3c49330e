"""Tests the table of a trainer."""

import re

import numpy as np
import pytest

from flaxmodels import Sequential, layers
from training import Trainer, losses


def rows(trainer):
    return dict(re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", trainer._repr_html_()))


def distance(y_true, y_pred):
    return abs(y_true - y_pred)[:, 0]


@pytest.mark.parametrize(
    ("loss", "metrics", "shown"),
    [
        ("mse", None, ("mse", "none")),
        (losses.Huber(), ["mae", distance], ("Huber", "mae, distance")),
        ({"a": "mse", "b": None}, None, ("a: mse, b: none", "none")),
    ],
)
def test_a_notebook_shows_the_parts_of_a_trainer(loss, metrics, shown):
    found = rows(Trainer(Sequential([layers.Dense(1)]), loss=loss, metrics=metrics))
    assert found == {
        "model": "Sequential", "loss": shown[0], "metrics": shown[1], "parameters": "not initialized",
    }  # fmt: skip


def test_a_notebook_shows_parameters_and_steps():
    trainer = Trainer(Sequential([layers.Dense(1, input_shape=(2,))], name="line"), "sgd", "mse")
    trainer.fit(np.ones((10, 2), "float32"), np.ones((10, 1), "float32"), batch_size=5, epochs=2, verbose=0)
    found = rows(trainer)
    assert found == {
        "model": "line", "loss": "mse", "metrics": "none", "parameters": "3", "steps done": "4", "learning rate": "0.01",
    }  # fmt: skip
