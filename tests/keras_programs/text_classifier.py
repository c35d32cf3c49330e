"""A bidirectional LSTM over padded words with a mask from the embedding."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(13)
    sequences = [list(rng.integers(1, 20, n)) for n in (3, 6, 2, 8, 5, 7, 4, 1, 6, 3, 8, 2)]
    x = keras.utils.pad_sequences(sequences, maxlen=6, padding="post")
    y = rng.integers(0, 2, (12, 1)).astype("float32")
    inputs = keras.Input(shape=(None,), dtype="int32")
    h = layers.Embedding(20, 4, mask_zero=True)(inputs)
    h = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(h)
    h = layers.Bidirectional(layers.LSTM(3), merge_mode="sum")(h)
    outputs = layers.Dense(1, activation="sigmoid")(h)
    model = keras.Model(inputs, outputs)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()])
    history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, validation_data=(x, y))
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "predicted": model.predict(x, verbose=0),
        "evaluated": model.evaluate(x, y, batch_size=4, verbose=0),
        "weights": [w.path.split("/")[-1] for w in model.weights],
        "mask": np.asarray(model.layers[1].compute_mask(x)),
    }
