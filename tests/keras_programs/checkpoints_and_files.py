"""Early stopping with the best weights, checkpoints of two kinds, and files that are read again."""

import os

import numpy as np


def build(keras):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.BatchNormalization(),
            layers.Dense(2, activation="softmax"),
        ]
    )


def program(keras):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(48, 5)).astype("float32"), rng.integers(0, 2, 48)
    model = build(keras)
    model.set_weights([(np.abs(rng.normal(0, 0.4, w.shape)) + 0.1).astype("float32") for w in model.get_weights()])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint("best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.ModelCheckpoint("last.weights.h5", save_weights_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1),
    ]
    history = model.fit(
        x[:32],
        y[:32],
        epochs=8,
        batch_size=8,
        shuffle=False,
        verbose=0,
        validation_data=(x[32:], y[32:]),
        callbacks=callbacks,
    )
    best = keras.models.load_model("best.keras")
    last = build(keras)
    last.load_weights("last.weights.h5")
    model.save("whole.keras")
    model.save_weights("own.weights.h5")
    whole = keras.saving.load_model("whole.keras")
    own = build(keras)
    own.load_weights("own.weights.h5")
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "restored": model.predict(x, verbose=0),
        "best": best.predict(x, verbose=0),
        "last": last.predict(x, verbose=0),
        "whole": whole.predict(x, verbose=0),
        "own": own.predict(x, verbose=0),
        "files": sorted(os.listdir()),
        "layers": [layer.name for layer in whole.layers],
    }
