"""Weights of classes and examples, a loop of single batches, and metrics of an unbalanced problem."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(23)
    x, y = rng.random((40, 5), dtype="float32"), (rng.random((40, 1)) < 0.3).astype("float32")
    model = keras.Sequential([
        keras.Input((5,)), layers.Dense(4, activation="relu"), layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    metrics = [
        keras.metrics.FalseNegatives(name="fn"),
        keras.metrics.FalsePositives(name="fp"),
        keras.metrics.Precision(name="precision"),
        keras.metrics.Recall(name="recall"),
    ]
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy", metrics=metrics)
    history = model.fit(
        x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, validation_data=(x, y),
        class_weight={0: 0.5, 1: 2.0},
    )  # fmt: skip
    weights = rng.random(40, dtype="float32")
    weighted = model.fit(
        x, y, batch_size=16, epochs=1, shuffle=False, verbose=0, sample_weight=weights,
        validation_data=(x, y, weights),
    )  # fmt: skip
    losses = []
    for start in range(0, 40, 10):
        part = slice(start, start + 10)
        losses.append(model.train_on_batch(x[part], y[part], sample_weight=weights[part], return_dict=True)["loss"])
    balanced = model.train_on_batch(x[:10], y[:10], class_weight={0: 1.0, 1: 3.0})
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "weighted": list(weighted.history.values()),
        "losses": losses,
        "balanced": balanced,
        "evaluated": model.evaluate(x, y, sample_weight=weights, verbose=0),
    }
