"""A loss, two metrics and a schedule written as classes, and metrics used outside of training."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(1)

    class Within(keras.metrics.Metric):
        def __init__(self, margin=0.5, name="within", **kwargs):
            super().__init__(name=name, **kwargs)
            self.margin = margin
            self.hits = self.add_weight(name="hits", initializer="zeros")
            self.count = self.add_weight(name="count", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            close = ops.abs(ops.reshape(y_true, (-1,)) - ops.reshape(y_pred, (-1,))) < self.margin
            self.hits.assign_add(ops.sum(ops.cast(close, "float32")))
            self.count.assign_add(ops.cast(ops.size(close), "float32"))

        def result(self):
            return self.hits / self.count

    class Twice(keras.metrics.MeanAbsoluteError):
        def result(self):
            return 2 * super().result()

    class Pinball(keras.losses.Loss):
        def __init__(self, q=0.7, **kwargs):
            super().__init__(**kwargs)
            self.q = q

        def call(self, y_true, y_pred):
            error = y_true - y_pred
            return ops.mean(ops.maximum(self.q * error, (self.q - 1) * error), axis=-1)

    class Halving(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 * 0.5 ** (ops.cast(step, "float32") / 4.0)

    x, y = rng.random((50, 6), dtype="float32"), rng.random((50, 1), dtype="float32")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, activation="relu"), layers.Dense(1)])
    model.compile(
        keras.optimizers.SGD(Halving(), momentum=0.9), Pinball(), metrics=[Within(0.2), Twice(name="t"), "mae"]
    )
    model.set_weights([(abs(rng.normal(size=w.shape)) * 0.3).astype("float32") for w in model.get_weights()])
    history = model.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0, validation_data=(x, y))
    error, within, mean = keras.metrics.MeanAbsoluteError(), Within(), keras.metrics.Mean(name="mean")
    error.update_state(y, y + 1)
    error.update_state(y, y + 2)
    within.update_state(y, y * 1.2)
    within.update_state(y, y * 3)
    mean.update_state([1.0, 2.0, 3.0])
    values = [float(error.result()), float(within.result()), float(mean.result())]
    error.reset_state()
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "evaluated": model.evaluate(x, y, verbose=0),
        "values": values,
        "after_reset": [float(error.result()), float(error(y, y + 3))],
        "metric_names": [error.name, within.name, mean.name],
    }
