"""Models that compute their loss or their metrics, losses that layers add alone, and metrics in attributes."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(3)
    x, y = rng.random((22, 4), dtype="float32"), rng.random((22, 2), dtype="float32")
    weights = rng.random(22).astype("float32")
    results = {}

    class Penalized(keras.Model):
        """Adds to the loss of `compile`, and tracks it."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.tracker = keras.metrics.Mean(name="own")

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            loss = loss + 0.1 * ops.sum(ops.square(self.trainable_variables[0])) + (0.5 if training else 0.0)
            self.tracker.update_state(loss)
            return loss

    class Contrast(keras.Model):
        """Replaces the loss and adds a value to the logs; calls a layer again inside of the loss."""

        def __init__(self):
            super().__init__()
            self.encoder, self.norm = layers.Dense(3, activation="tanh"), layers.BatchNormalization()

        def call(self, inputs, training=None):
            return self.norm(self.encoder(inputs), training=training)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            moved = self.encoder(x + 0.1)
            return ops.mean(ops.square(y_pred - moved)) + ops.mean(ops.matmul(y_pred, ops.transpose(moved)))

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            return super().compute_metrics(x, y, y_pred, sample_weight) | {"largest": ops.max(y_pred)}

    class Own(keras.Model):
        """Has its own list of metrics."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.total, self.error = keras.metrics.Mean(name="total"), keras.metrics.MeanAbsoluteError(name="error")

        @property
        def metrics(self):
            return [self.total, self.error]

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = ops.mean((y_pred - y) ** 2) + sum(self.losses)
            self.total.update_state(loss)
            self.error.update_state(y, y_pred, sample_weight)
            return loss

    class Sparse(layers.Layer):
        """Adds a loss."""

        def call(self, inputs):
            self.add_loss(ops.mean(ops.abs(inputs)))
            return inputs

    def fill(model):
        draw = np.random.default_rng(9)
        model.set_weights([draw.random(w.shape).astype("float32") for w in model.get_weights()])

    def run(name, model, labels=y, **options):
        model.compile(keras.optimizers.SGD(0.05, momentum=0.5), **options)
        given = {"validation_data": (x,) if labels is None else (x, labels, weights)}
        if labels is not None:
            given["sample_weight"] = weights
        history = model.fit(x, labels, batch_size=8, epochs=2, shuffle=False, verbose=0, **given)
        results[f"{name}_names"] = list(history.history)
        results[f"{name}_history"] = list(history.history.values())
        results[f"{name}_evaluated"] = model.evaluate(x, labels, batch_size=8, verbose=0)
        results[f"{name}_metrics"] = [metric.name for metric in model.metrics]
        results[f"{name}_on_batch"] = model.train_on_batch(x[:5], None if labels is None else labels[:5])
        results[f"{name}_predicted"] = model.predict(x[:3], verbose=0)
        results[f"{name}_state"] = [
            float(metric.result()) for metric in model.metrics if metric.name != "compile_metrics"
        ]

    inputs = keras.Input((4,))
    for name, cls in (("penalized", Penalized), ("own", Own)):
        hidden = layers.Dense(3, kernel_regularizer="l2")(inputs)
        model = cls(inputs, layers.Dense(2)(hidden))
        fill(model)
        run(name, model, loss="mse", metrics=["mae"], weighted_metrics=["mse"])
    model = Contrast()
    model(x[:1])
    fill(model)
    run("contrast", model, labels=None)
    model = keras.Model(inputs, Sparse()(layers.Dense(2)(inputs)))
    fill(model)
    run("added", model, labels=None)

    class Masked(keras.Model):
        """Uses losses and metrics of its own on outputs with a mask."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.loss_fn, self.error = keras.losses.MeanSquaredError(), keras.metrics.MeanAbsoluteError(name="error")

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            self.error.update_state(y, y_pred)
            return self.loss_fn(y, y_pred, sample_weight)

    tokens = rng.integers(0, 4, (22, 5))
    symbols = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(4, 3, mask_zero=True)(symbols)
    model = Masked(symbols, layers.Dense(2)(layers.LSTM(3, return_sequences=True)(hidden)))
    fill(model)
    model.compile("sgd")
    labels = rng.random((22, 5, 2)).astype("float32")
    masked = model.fit(tokens, labels, batch_size=11, epochs=2, shuffle=False, verbose=0)
    results["masked_names"], results["masked"] = list(masked.history), list(masked.history.values())
    results["total"] = float(model.metrics[0].result())
    return results
