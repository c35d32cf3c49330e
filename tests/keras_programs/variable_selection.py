"""Gated residual networks and the selection of variables from a dictionary of inputs."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(32)

    class GatedUnit(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.linear = layers.Dense(units)
            self.gate = layers.Dense(units, activation="sigmoid")

        def call(self, inputs):
            return self.linear(inputs) * self.gate(inputs)

        def build(self, input_shape):
            self.built = True

    class GatedResidual(layers.Layer):
        def __init__(self, units, rate):
            super().__init__()
            self.units = units
            self.hidden, self.linear = layers.Dense(units, activation="elu"), layers.Dense(units)
            self.dropout, self.gated, self.norm = layers.Dropout(rate), GatedUnit(units), layers.LayerNormalization()
            self.project = layers.Dense(units)

        def call(self, inputs):
            x = self.dropout(self.linear(self.hidden(inputs)))
            if inputs.shape[-1] != self.units:
                inputs = self.project(inputs)
            return self.norm(inputs + self.gated(x))

        def build(self, input_shape):
            self.built = True

    class Selection(layers.Layer):
        def __init__(self, features, units, rate):
            super().__init__()
            self.networks = [GatedResidual(units, rate) for _ in range(features)]
            self.joined = GatedResidual(units, rate)
            self.softmax = layers.Dense(units=features, activation="softmax")

        def call(self, inputs):
            values = [value * ops.ones((1, 2)) for value in inputs.values()]
            weights = ops.expand_dims(self.softmax(self.joined(layers.concatenate(values))), axis=-1)
            x = ops.stack([network(value) for network, value in zip(self.networks, values, strict=True)], axis=1)
            return ops.squeeze(ops.matmul(ops.transpose(weights, axes=[0, 2, 1]), x), axis=1)

        def build(self, input_shape):
            self.built = True

    names = ("age", "income", "weeks")
    inputs = {name: layers.Input(name=name, shape=(1,)) for name in names}
    outputs = layers.Dense(units=1, activation="sigmoid")(Selection(3, 4, 0.0)(inputs))
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=0.005),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy")],
    )
    x, y = {name: rng.random((30, 1), dtype="float32") for name in names}, rng.integers(0, 2, (30, 1))
    history = model.fit(
        x, y, epochs=2, batch_size=8, validation_data=(x, y), verbose=0, shuffle=False,
        callbacks=[keras.callbacks.EarlyStopping(monitor="val_loss", patience=5, restore_best_weights=True)],
    )  # fmt: skip
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "predicted": model.predict(x, verbose=0),
        "layers": [layer.name for layer in model.layers],
        "weights": [str(w.shape) for w in model.weights],
    }
