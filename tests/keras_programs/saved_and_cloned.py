"""Weights files, saved models, clones, and configurations of models and layers."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(26)

    def make():
        inputs = keras.Input((6, 2), name="series")
        h = layers.Conv1D(3, 3, padding="causal", activation="relu", name="conv")(inputs)
        h = layers.GlobalAveragePooling1D(name="pool")(h)
        return keras.Model(inputs, layers.Dense(2, activation="softmax", name="out")(h), name="small")

    x, y = rng.random((20, 6, 2), dtype="float32"), rng.integers(0, 2, 20)
    model = make()
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    model.save("model.keras")
    model.save_weights("small.weights.h5")
    loaded = keras.saving.load_model("model.keras", compile=False)
    loaded.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    after = loaded.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    other = make()
    other.load_weights("small.weights.h5")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    seconds = loaded.optimizer.name.startswith("adam")
    text = keras.models.model_from_json(model.to_json())
    config = model.get_layer("conv").get_config()
    copied = layers.Conv1D.from_config(config)
    return {
        "predicted": model.predict(x[:3], verbose=0),
        "evaluated": loaded.evaluate(x, y, verbose=0),
        "after": list(after.history.values()),
        "other": other.predict(x[:3], verbose=0),
        "clone": clone.predict(x[:3], verbose=0),
        "again": again.predict(x[:3], verbose=0),
        "text": [layer.name for layer in text.layers],
        "config": [config["filters"], config["strides"][0], config["padding"] == "causal"],
        "copied": copied.name,
        "optimizer": seconds,
        "rate": float(loaded.optimizer.learning_rate),
    }
