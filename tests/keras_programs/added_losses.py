"""Layers whose calls add losses, and a loss that a regularizer of activities adds."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(21)

    class Penalty(layers.Layer):
        def __init__(self, rate=0.1):
            super().__init__()
            self.rate = rate

        def call(self, inputs):
            self.add_loss(self.rate * ops.mean(ops.square(inputs)))
            return inputs

    x, y = rng.random((24, 4), dtype="float32"), rng.random((24, 2), dtype="float32")
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L1(0.01)),
            Penalty(),
            layers.ActivityRegularization(l2=0.01),
            layers.Dense(2),
        ]
    )
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(optimizer=keras.optimizers.Adagrad(0.1), loss="mse", metrics=["mae"])
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(x, y))
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "evaluated": model.evaluate(x, y, verbose=0),
        "predicted": model.predict(x[:3], verbose=0),
    }
