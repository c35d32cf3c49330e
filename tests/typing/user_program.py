"""A user's program, checked by pyright in `make lint` and run by `test_user_program.py`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.layers.symbolic import Symbol
from training import Trainer, callbacks, losses, metrics, optimizers, schedules


class PrintLoss(callbacks.Callback):
    """Prints the loss after each epoch."""

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if logs is not None:
            print(f"epoch {epoch}: loss {logs['loss']:.4f}")


class Residual(nn.Module):
    """A custom linen module that applies layers to arrays."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y: jax.Array = layers.Dense(4, activation="relu")(x)
        y = layers.Dropout(0.5)(y, train=train)
        total: jax.Array = layers.Add()([x, y])
        return total


def layers_on_arrays() -> jax.Array:
    """Applies a custom module and a layer to arrays."""
    x = jnp.ones((2, 4))
    residual, dense = Residual(), layers.Dense(3)
    y = residual.apply(residual.init(jax.random.key(0), x), x)
    assert isinstance(y, jax.Array)
    outputs = dense.apply(dense.init(jax.random.key(1), y), y)
    assert isinstance(outputs, jax.Array)
    return outputs


def layers_on_symbols() -> Model:
    """Builds a model with two inputs by calling layers on symbolic tensors."""
    left, right = Input((8, 8, 1), name="left"), Input((8, 8, 1), name="right")
    hidden: Symbol = layers.Dense(4, activation="relu")(layers.Flatten()(left))
    tower = Model(left, hidden)
    both: Symbol = layers.Concatenate()([tower(left), tower(right)])
    return Model([left, right], layers.Dense(1, activation="sigmoid")(both))


def sequences() -> jax.Array:
    """Applies recurrent layers, of which one also returns its state."""
    x = jnp.ones((2, 5, 3))
    lstm, gru = layers.LSTM(4, return_sequences=True, return_state=True), layers.GRU(4)
    results: Any = lstm.apply(lstm.init(jax.random.key(0), x), x)
    hs, h, c = results
    assert h.shape == c.shape == (2, 4)
    outputs = gru.apply(gru.init(jax.random.key(1), hs), hs)
    assert isinstance(outputs, jax.Array)
    return outputs


def train(folder: str) -> dict[str, Any]:
    """Trains, evaluates, predicts, saves and loads a small convolutional network."""
    model = Sequential()
    model.add(layers.Conv2D(4, kernel_size=(3, 3), activation="relu", input_shape=(8, 8, 1)))
    model.add(layers.MaxPooling2D(pool_size=(2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    model.summary()

    x, y = np.zeros((32, 8, 8, 1), np.float32), np.arange(32) % 10
    trainer = Trainer(
        model,
        optimizer=optimizers.Adam(learning_rate=schedules.CosineDecay(1e-3, 100)),
        loss=losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy", metrics.SparseTopKCategoricalAccuracy(k=3)],
        seed=0,
    )
    history = trainer.fit(
        x,
        y,
        batch_size=16,
        epochs=2,
        validation_split=0.25,
        callbacks=[callbacks.EarlyStopping(patience=1), PrintLoss()],
        verbose=0,
    )
    assert len(history.history["loss"]) == 2
    predictions: np.ndarray = trainer.predict(x)
    assert predictions.shape == (32, 10)
    path = f"{folder}/model.safetensors"
    trainer.save(path)
    loaded, variables = fm.load(path)
    assert np.allclose(loaded.apply(variables, x), predictions, atol=1e-6)
    results = trainer.evaluate(x, y)
    return results
