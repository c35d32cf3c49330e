"""Metrics as functions and classes with several names, and a loss for each output as a list."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(42)

    def error_share(y_true, y_pred):
        return ops.mean(ops.cast(ops.abs(y_true - y_pred) > 0.3, "float32"), axis=-1)

    class Positives(keras.metrics.Metric):
        def __init__(self, threshold=0.5, name="positives", **kwargs):
            super().__init__(name=name, **kwargs)
            self.threshold = threshold
            self.total = self.add_variable(shape=(), initializer="zeros", name="total")

        def update_state(self, y_true, y_pred, sample_weight=None):
            values = ops.cast(y_pred > self.threshold, "float32")
            if sample_weight is not None:
                values = values * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
            self.total.assign(self.total + ops.sum(values))

        def result(self):
            return self.total * 1.0

        def reset_state(self):
            self.total.assign(0.0)

    def scaled(factor):
        def loss(y_true, y_pred):
            return factor * keras.losses.mean_absolute_error(y_true, y_pred)

        return loss

    inputs = keras.Input((3,))
    h = layers.Dense(4, activation="sigmoid")(inputs)
    model = keras.Model(inputs, [layers.Dense(1, name="a")(h), layers.Dense(2, name="b")(h)])
    model.set_weights([rng.normal(0, 0.6, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(
        optimizer=keras.optimizers.Adadelta(1.0),
        loss=[scaled(2.0), "mse"],
        loss_weights=[0.5, 1.0],
        metrics=[[error_share, Positives()], [keras.metrics.MeanSquaredError(name="squared"), "mae"]],
    )
    x = rng.random((20, 3), dtype="float32")
    y = [rng.random((20, 1), dtype="float32"), rng.random((20, 2), dtype="float32")]
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(x, y))
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "evaluated_names": list(evaluated),
        "evaluated": list(evaluated.values()),
        "listed": model.evaluate(x, y, verbose=0),
        "single": model.predict_on_batch(x[:2])[1],
    }
