"""Quantile losses of named outputs, weights of losses, a schedule by epoch and a later continuation."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(70)

    @keras.saving.register_keras_serializable(package="fd70")
    def pinball(q):
        def loss(y_true, y_pred):
            e = y_true - y_pred
            return ops.mean(ops.maximum(q * e, (q - 1) * e), axis=-1)

        return loss

    class LastValue(layers.Layer):
        def call(self, x):
            return x[:, -1, :1]

    inputs = keras.Input((8, 2))
    h = layers.LayerNormalization()(inputs)
    h = layers.GRU(5, return_sequences=True, reset_after=True)(h)
    h = layers.TimeDistributed(layers.Dense(4, activation="tanh"))(h)
    h = layers.Flatten()(h)
    last = LastValue()(inputs)
    outs = {
        f"q{int(q * 100)}": layers.Add(name=f"q{int(q * 100)}")([last, layers.Dense(1)(h)]) for q in (0.1, 0.5, 0.9)
    }
    model = keras.Model(inputs, outs)
    model.compile(
        keras.optimizers.Nadam(0.01),
        loss={k: pinball(int(k[1:]) / 100) for k in outs},
        metrics={"q50": ["mae", keras.metrics.RootMeanSquaredError(name="rmse")]},
        loss_weights={"q10": 0.5, "q50": 1.0, "q90": 0.5},
    )
    x, y = np.cumsum(r.normal(size=(32, 8, 2)), 1).astype("float32"), r.normal(size=(32, 1)).astype("float32")
    t = {k: y for k in outs}
    lr = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.5 if epoch else lr)
    h1 = model.fit(x, t, batch_size=8, epochs=2, validation_data=(x, t), callbacks=[lr], verbose=0, shuffle=False)
    h2 = model.fit(x, t, batch_size=8, epochs=4, initial_epoch=2, verbose=0, shuffle=False)
    p = model.predict(x, verbose=0)
    return {
        "h": [h1.history[k] for k in h1.history],
        "n": list(h1.history),
        "h2": [h2.history[k] for k in h2.history],
        "ep": h2.epoch,
        "pk": list(p),
        "p": p["q90"],
        "ev": model.evaluate(x, t, verbose=0),
        "evd": list(model.evaluate(x, t, verbose=0, return_dict=True)),
        "weights": [str(w.shape) for w in model.weights],
    }
