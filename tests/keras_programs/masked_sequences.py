"""Padded sequences: an Embedding with masks, recurrent layers, and sample weights."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(5)
    lengths = rng.integers(2, 8, 30)
    ids = np.where(np.arange(7) < lengths[:, None], rng.integers(1, 12, (30, 7)), 0)
    y, weight = rng.integers(0, 2, (30, 1)).astype("float32"), rng.random(30).astype("float32")
    inputs = keras.Input((None,), dtype="int32")
    h = layers.Embedding(12, 4, mask_zero=True)(inputs)
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(h)
    outputs = layers.Dense(1, activation="sigmoid")(layers.GRU(4)(h))
    model = keras.Model(inputs, outputs)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], weighted_metrics=["mae"])
    history = model.fit(ids, y, sample_weight=weight, epochs=2, batch_size=8, shuffle=False, verbose=0)
    weighted = model.fit(ids, y, class_weight={0: 0.5, 1: 2.0}, epochs=1, batch_size=8, shuffle=False, verbose=0)
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "weighted": weighted.history["loss"],
        "predictions": model.predict(ids, verbose=0),
        "shorter": model.predict(ids[:, :5], verbose=0),
        "evaluated": model.evaluate(ids, y, sample_weight=weight, verbose=0),
        "shapes": [w.shape[0] for w in model.get_weights()],
    }
