"""Saved models that continue: arguments of `compile`, state of the optimizer, checkpoints, and classes in files."""

import numpy as np


def program(keras):
    rng = np.random.default_rng(31)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.integers(0, 3, 24)

    @keras.saving.register_keras_serializable(package="shop")
    class Gate(keras.layers.Layer):
        def __init__(self, units=4, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.value = keras.layers.Dense(units)
            self.gates = [keras.layers.Dense(units, activation="sigmoid"), keras.layers.Dense(units)]

        def call(self, inputs):
            return self.value(inputs) * self.gates[0](self.gates[1](inputs))

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    inputs = keras.Input((5,), name="features")
    hidden = Gate(6, name="gate")(inputs)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="out")(hidden), name="shop")
    model.set_weights([np.abs(rng.normal(0.4, 0.2, w.shape)).astype("float32") for w in model.get_weights()])
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 30)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_two")],
    )
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    checkpoint = keras.callbacks.ModelCheckpoint("best.keras", monitor="loss", mode="min", save_best_only=True)
    first = model.fit(x, y, epochs=3, callbacks=[checkpoint], **options)
    model.save_weights("run.weights.h5")
    loaded = keras.models.load_model("best.keras")
    second = loaded.fit(x, y, epochs=2, **options)
    plain = keras.models.load_model("best.keras", compile=False)
    model.load_weights("run.weights.h5")
    third = model.fit(x, y, epochs=1, **options)
    text = keras.models.model_from_json(loaded.to_json())
    text.set_weights(loaded.get_weights())
    compiled = loaded.get_compile_config()
    return {
        "first": list(first.history.values()),
        "second": list(second.history.values()),
        "third": list(third.history.values()),
        "iterations": int(loaded.optimizer.iterations),
        "evaluated": list(text.evaluate(x, y, verbose=0, return_dict=True).values()),
        "plain": plain.predict(x[:4], verbose=0),
        "is_compiled": [plain.compiled, loaded.compiled, text.compiled],
        "names": [layer.name for layer in loaded.layers],
        "loss": compiled["loss"]["class_name"],
        "rate": compiled["optimizer"]["config"]["learning_rate"]["class_name"],
    }
