"""A user's program with `from training import keras`, checked by pyright in `make lint` and run by a test."""

import numpy as np

from training import keras


class Scale(keras.layers.Layer):
    """A custom layer, as in Keras."""

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, x):  # noqa: ANN001, ANN201
        return x * self.factor


def train() -> dict[str, list[float]]:
    """Builds, compiles, trains and uses models."""
    x, y = np.ones((8, 4), "float32"), np.eye(8, 1, dtype="float32")
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(
        keras.optimizers.Adam(learning_rate=0.1),
        keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.AUC(name="auc")],
    )
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[keras.callbacks.EarlyStopping("loss")])
    weights: list[np.ndarray] = model.layers[0].get_weights()
    model.layers[0].set_weights(weights)
    inputs = keras.Input((4,), name="features")
    functional = keras.Model(inputs, keras.layers.Dense(2)(Scale()(inputs)))
    functional.summary(print_fn=lambda line: None)
    metric = keras.metrics.Mean()
    metric.update_state([1.0, 2.0])
    metric.reset_state()
    assert keras.losses.get("mse") is keras.losses.mean_squared_error
    return history.history
