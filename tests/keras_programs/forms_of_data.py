"""Forms of data, weights and arguments of `fit`: dictionaries, generators, sequences, splits and counts of steps."""

import numpy as np


def program(keras):
    layers, rng, results = keras.layers, np.random.default_rng(11), {}
    x, y = rng.random((20, 3), dtype="float32"), rng.random((20, 1), dtype="float32")
    classes, weights = np.arange(20) % 3, rng.random(20).astype("float32")

    def fill(model):
        draw = np.random.default_rng(9)
        model.set_weights([draw.random(w.shape).astype("float32") for w in model.get_weights()])
        return model

    def small(outputs=1, activation=None, loss="mse", **options):
        model = fill(keras.Sequential([keras.Input((3,)), layers.Dense(outputs, activation=activation)]))
        model.compile("sgd", loss, metrics=["mae"] if loss == "mse" else ["accuracy"], **options)
        return model

    def note(name, history):
        results[f"{name}_names"] = list(history.history)
        results[f"{name}_values"] = np.concatenate([np.asarray(values) for values in history.history.values()])
        results[f"{name}_epochs"] = history.epoch

    def batches(size=5, endless=True):
        while True:
            for start in range(0, 20, size):
                yield x[start : start + size], y[start : start + size]
            if not endless:
                return

    class Items(keras.utils.PyDataset):
        def __init__(self, weighted=False, **kwargs):
            super().__init__(**kwargs)
            self.weighted = weighted

        def __len__(self):
            return 4

        def __getitem__(self, i):
            rows = slice(5 * i, 5 * i + 5)
            return (x[rows], y[rows], weights[rows]) if self.weighted else (x[rows], y[rows])

    plain = {"shuffle": False, "verbose": 0}
    note("split", small().fit(x, y, batch_size=6, validation_split=0.25, epochs=2, **plain))
    note("initial", small().fit(x, y, initial_epoch=2, epochs=4, **plain))
    note("generator", small().fit(batches(), steps_per_epoch=3, epochs=3, verbose=0))
    note("finite", small().fit(batches(endless=False), verbose=0))
    note("validated", small().fit(x, y, validation_data=Items(), validation_steps=2, epochs=2, **plain))
    note("frequent", small().fit(x, y, validation_data=(x, y), validation_freq=2, epochs=4, **plain))
    note("listed", small().fit(x, y, validation_data=[x, y], validation_freq=[1, 3], epochs=3, **plain))
    note("sequence", small().fit(Items(), **plain))
    note("workers", small().fit(Items(weighted=True), epochs=2, **plain))
    note("executed", small(steps_per_execution=3).fit(x, y, batch_size=4, epochs=2, **plain))
    note("weighted", small(weighted_metrics=["mse"]).fit(x, y, sample_weight=weights, validation_split=0.2, **plain))
    sparse = small(3, "softmax", "sparse_categorical_crossentropy")
    note("classes", sparse.fit(x, classes, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, **plain))
    one_hot = small(3, "softmax", "categorical_crossentropy")
    note("one_hot", one_hot.fit(x, keras.utils.to_categorical(classes), class_weight={0: 1.0, 1: 2.0, 2: 0.5}, **plain))
    binary = small(1, "sigmoid", "binary_crossentropy")
    note("binary", binary.fit(x, classes > 0, class_weight={0: 1.0, 1: 3.0}, **plain))
    model = small()
    results["evaluated"] = model.evaluate(batches(), steps=3, verbose=0)
    results["sequence"] = model.evaluate(Items(weighted=True), verbose=0)
    results["predicted"] = model.predict(Items(), verbose=0)
    results["predicted_steps"] = model.predict(x, batch_size=4, steps=2, verbose=0)
    results["double"] = model.predict(x.astype("float64"), verbose=0)
    results["lists"] = model.predict(np.asarray(x.tolist()), verbose=0)

    first, second = keras.Input((3,), name="first"), keras.Input((3,), name="second")
    joined = layers.Dense(4, activation="tanh")(layers.Concatenate()([first, second]))
    outputs = {"a": layers.Dense(1, name="a")(joined), "b": layers.Dense(2, name="b")(joined)}
    model = fill(keras.Model({"first": first, "second": second}, outputs))
    model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 0.5}, weighted_metrics={"a": ["mae"]})
    given = {"first": x, "second": x[:, ::-1]}
    labels = {"b": x[:, :2], "a": y}
    each = {"a": weights, "b": weights**2}
    note("dictionaries", model.fit(given, labels, validation_split=0.2, epochs=2, sample_weight=each, **plain))
    note("one_weight", model.fit(given, labels, sample_weight={"a": weights, "b": weights}, **plain))
    results["outputs"] = model.evaluate(given, labels, verbose=0)
    results["by_name"] = sorted(model.predict(given, verbose=0))
    return results
