"""Windows of a time series as data, a recurrent forecast, and a run that continues at a later epoch."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(41)
    series = rng.random((40, 2), dtype="float32")
    x = np.stack([series[i : i + 4] for i in range(34)])
    y = series[6:, :1]
    inputs = layers.Input(shape=(4, 2))
    h = layers.LSTM(3, activation="tanh")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(h))
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.01), loss="mse")
    callbacks = [
        keras.callbacks.BackupAndRestore("backup"),
        keras.callbacks.ModelCheckpoint("all.weights.h5", save_weights_only=True),
    ]
    history = model.fit(
        x,
        y,
        batch_size=8,
        epochs=2,
        validation_freq=2,
        shuffle=False,
        verbose=0,
        validation_data=(x, y),
        callbacks=callbacks,
    )
    late = model.fit(x, y, batch_size=8, initial_epoch=2, epochs=3, shuffle=False, verbose=0)
    before = model.predict(x, verbose=0)
    model.load_weights("all.weights.h5")
    return {
        "names": list(history.history),
        "history": np.concatenate(list(history.history.values())),
        "late": late.history["loss"],
        "late_epochs": late.epoch,
        "before": before,
        "predicted": model.predict(x, verbose=0),
    }
