"""A frozen base with a new head, which is then trained as a whole with a lower learning rate."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(22)
    base = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="relu", name="a"), layers.Dense(3, name="b")], name="base"
    )
    base.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in base.get_weights()])
    base.trainable = False
    inputs = keras.Input((4,))
    h = base(inputs, training=False)
    model = keras.Model(inputs, layers.Dense(1, name="head")(layers.Dropout(0.0)(h)))
    model.get_layer("head").set_weights([rng.normal(size=(3, 1)).astype("float32"), np.zeros(1, "float32")])
    counts = [len(model.trainable_weights), len(model.non_trainable_weights), len(base.trainable_weights)]
    model.compile(optimizer=keras.optimizers.Adam(), loss=keras.losses.MeanSquaredError())
    x, y = rng.random((24, 4), dtype="float32"), rng.random((24, 1), dtype="float32")
    first = model.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    frozen = base.get_weights()[0]
    base.trainable = True
    base.layers[0].trainable = False
    counts += [len(model.trainable_weights), len(model.non_trainable_weights), len(base.trainable_weights)]
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse", metrics=[keras.metrics.RootMeanSquaredError()])
    second = model.fit(x, y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    for layer in base.layers:
        layer.trainable = True
    model.compile(optimizer=keras.optimizers.Adam(1e-5), loss="mse")
    third = model.fit(x, y, epochs=1, batch_size=8, shuffle=False, verbose=0)
    return {
        "counts": counts,
        "first": first.history["loss"],
        "frozen": frozen,
        "second": list(second.history.values()),
        "third": third.history["loss"],
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]),
        "base": base.predict(x[:3], verbose=0),
        "flags": [layer.trainable for layer in model.layers],
    }
