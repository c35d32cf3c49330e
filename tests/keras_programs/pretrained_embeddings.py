"""A frozen embedding with given vectors under convolutions over texts of unknown length."""

import numpy as np


def program(keras):
    layers = keras.layers
    r = np.random.default_rng(63)
    vocab, dim = 30, 5
    matrix = r.normal(size=(vocab, dim)).astype("float32")
    emb = layers.Embedding(vocab, dim, trainable=False)
    emb.build((1,))
    emb.set_weights([matrix])
    inp = keras.Input(shape=(None,), dtype="int32")
    x = emb(inp)
    x = layers.Conv1D(6, 5, activation="relu")(x)
    x = layers.MaxPooling1D(2)(x)
    x = layers.Conv1D(6, 3, activation="relu", padding="valid", strides=2)(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.Dense(6, activation="relu")(x)
    x = layers.Dropout(0.0)(x)
    model = keras.Model(inp, layers.Dense(3, activation="softmax")(x))
    model.compile(loss="sparse_categorical_crossentropy", optimizer="rmsprop", metrics=["acc"])
    xs, ys = r.integers(0, vocab, (24, 16)), r.integers(0, 3, 24)
    h = model.fit(xs, ys, batch_size=8, epochs=2, validation_data=(xs, ys), verbose=0, shuffle=False)
    ids = keras.Input(shape=(16,), dtype="int64")
    e = layers.Embedding(vocab, dim, embeddings_initializer=keras.initializers.Constant(matrix), trainable=False)(ids)
    m2 = keras.Model(ids, layers.GlobalAveragePooling1D()(e))
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "same": float(np.abs(emb.get_weights()[0] - matrix).max()),
        "m2": m2.predict(xs, verbose=0),
        "prob": model.predict(xs[:1], verbose=0),
        "weights": [str(w.shape) for w in model.weights],
    }
