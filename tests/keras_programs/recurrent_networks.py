"""Stacked LSTM and GRU with states, and an encoder whose states start a decoder."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(12)
    x, y = rng.random((24, 5, 3), dtype="float32"), rng.random((24, 2), dtype="float32")
    model = keras.Sequential()
    model.add(keras.Input((5, 3)))
    model.add(layers.LSTM(4, return_sequences=True))
    model.add(layers.GRU(3, dropout=0.0))
    model.add(layers.Dense(2))
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mae", metrics=["mse"])
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)

    source = keras.Input((None, 3))
    _, state_h, state_c = layers.LSTM(4, return_state=True, name="encoder")(source)
    target = keras.Input((None, 2))
    sequence, _, _ = layers.LSTM(4, return_sequences=True, return_state=True, name="decoder")(
        target, initial_state=[state_h, state_c]
    )
    outputs = layers.TimeDistributed(layers.Dense(2, activation="softmax"))(sequence)
    translator = keras.Model([source, target], outputs)
    translator.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in translator.get_weights()])
    translator.compile(optimizer="rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    words = keras.utils.to_categorical(rng.integers(0, 2, (24, 4)), 2)
    trained = translator.fit([x, words], words, batch_size=12, epochs=2, shuffle=False, verbose=0)
    return {
        "history": list(history.history.values()),
        "predicted": model.predict(x[:4], verbose=0),
        "names": list(history.history),
        "trained": list(trained.history.values()),
        "translated": translator.predict([x[:3], words[:3]], verbose=0),
    }
