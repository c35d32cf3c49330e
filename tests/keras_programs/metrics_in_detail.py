"""Names, numbers and states of metrics, results that are dictionaries, and methods of metrics."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(5)
    x, y = rng.random((10, 3), dtype="float32"), rng.random((10, 1), dtype="float32")
    classes, results = np.arange(10) % 4, {}

    class Both(keras.metrics.Metric):
        """Has a dictionary as its result, and a metric inside."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.largest = self.add_weight(name="largest", initializer="ones")
            self.inner = keras.metrics.Mean()

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.largest.assign(keras.ops.maximum(self.largest.value, keras.ops.max(y_true)))
            self.inner.update_state(y_pred)

        def result(self):
            return {"z_mean": self.inner.result(), "a_largest": self.largest.value}

    def filled(model):
        draw = np.random.default_rng(9)
        model.set_weights([draw.random(w.shape).astype("float32") for w in model.get_weights()])
        return model

    def measure(name, model, labels):
        history = model.fit(x, labels, batch_size=4, shuffle=False, verbose=0, validation_data=(x, labels))
        results[f"{name}_names"] = list(history.history)
        results[f"{name}_values"] = list(history.history.values())
        results[f"{name}_listed"] = model.evaluate(x, labels, verbose=0)
        results[f"{name}_keys"] = list(model.evaluate(x, labels, verbose=0, return_dict=True))
        results[f"{name}_metrics"] = model.metrics_names

    model = filled(keras.Sequential([keras.Input((3,)), layers.Dense(1)]))
    results["before"] = model.metrics_names
    given = keras.metrics.MeanAbsoluteError(name="given")
    model.compile("sgd", "mse", metrics=[Both(), "mae", Both(), given])
    results["compiled"] = model.metrics_names
    measure("dictionary", model, y)
    results["given"] = float(given.result())
    results["on_batch"] = [model.train_on_batch(x[:4], y[:4]), model.train_on_batch(x[:4], y[:4])]
    results["tested"] = model.test_on_batch(x[:4], y[:4])
    results["inner"] = [metric.name for metric in model.metrics[1].metrics]
    model.reset_metrics()
    results["reset"] = [float(model.metrics[0].result()), float(given.result())]
    model.compile("sgd", "mse")
    measure("compiled_again", model, y)
    model.compile("sgd")
    results["kept"] = list(model.fit(x, y, verbose=0).history)

    model = filled(keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="softmax")]))
    model.compile(
        "sgd", "sparse_categorical_crossentropy", metrics=["accuracy", "accuracy", "acc"], weighted_metrics=["accuracy"]
    )
    measure("repeated", model, classes)

    inputs = keras.Input((3,))
    model = filled(keras.Model(inputs, [layers.Dense(1, name="a")(inputs), layers.Dense(1, name="b")(inputs)]))
    for i, loss in enumerate((["mse", "mse"], {"a": "mse", "b": "mae"}, ["mse", None], "mae")):
        model.compile("sgd", loss, metrics=[["mae"], ["mae", "mse"]], weighted_metrics=[["mae"], []])
        measure(f"outputs_{i}", model, [y, y])

    alone = [keras.metrics.Mean(), keras.metrics.Sum(), keras.metrics.MeanSquaredError(), keras.metrics.AUC(), Both()]
    alone += [keras.metrics.Precision(), keras.metrics.Recall(thresholds=[0.3]), keras.metrics.FalsePositives()]
    for metric in alone:
        arguments = (y,) if metric.name in ("mean", "sum") else (y.round(), x[:, :1])
        metric.update_state(*arguments)
        label = type(metric).__name__
        state = [np.asarray(variable.value) for variable in metric.variables]
        results[f"{label}_variables"] = [variable.name for variable in metric.variables]
        results[f"{label}_state"] = np.concatenate([np.ravel(value) for value in state])
        updated = metric.stateless_update_state(state, *arguments)
        results[f"{label}_stateless"] = np.concatenate([np.ravel(value) for value in updated])
        if label != "Both":
            results[f"{label}_result"] = [float(metric.result()), float(metric.stateless_result(updated))]
            results[f"{label}_config"] = sorted(map(str, metric.get_config().items()))
            again = type(metric).from_config(metric.get_config())
            results[f"{label}_called"] = float(again(*arguments))
        metric.reset_state()
        results[f"{label}_reset"] = np.concatenate([np.ravel(variable.value) for variable in metric.variables])
    return results
