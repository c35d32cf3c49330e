"""Keras' callbacks: stopping, checkpoints, rates, logs and functions."""

import csv
import os

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(25)
    x, y = rng.random((32, 4), dtype="float32"), rng.random((32, 1), dtype="float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh"), layers.Dense(1)])
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.5), "mse", metrics=["mae"])
    seen, ends = [], []
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True, start_from_epoch=1),
        keras.callbacks.ModelCheckpoint("best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint("{epoch:02d}-{val_loss:.1f}.weights.h5", save_weights_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=0.01, min_lr=1e-3),
        keras.callbacks.CSVLogger("log.csv"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])),
            on_train_end=lambda logs: ends.append(sorted(set(logs) - {"learning_rate"})),
        ),
    ]
    history = model.fit(
        x, y, batch_size=8, epochs=5, shuffle=False, verbose=0, validation_data=(x, y), callbacks=callbacks
    )
    with open("log.csv") as file:
        rows = list(csv.reader(file))
    best = keras.models.load_model("best.keras", compile=False)
    best.compile(loss="mse", metrics=["mae"])
    rates = []

    def schedule(epoch, lr):
        rates.append(lr)
        return lr * 0.5 if epoch else 0.2

    scheduled = model.fit(
        x, y, batch_size=8, epochs=3, shuffle=False, verbose=0,
        callbacks=[keras.callbacks.LearningRateScheduler(schedule)],
    )  # fmt: skip
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "seen": seen,
        "ends": ends[0],
        "header": rows[0],
        "rows": np.asarray(rows[1:], "float32"),
        "files": sorted(name for name in os.listdir() if name.endswith(".h5")),
        "best": best.predict(x[:3], verbose=0),
        "best_loss": best.evaluate(x, y, verbose=0),
        "rates": rates,
        "scheduled_names": list(scheduled.history),
        "scheduled": list(scheduled.history.values()),
        "rate": float(model.optimizer.learning_rate),
    }
