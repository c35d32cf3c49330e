"""A siamese network: one embedding for both inputs, used alone afterwards, and a transferred base."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(6)
    a, b = rng.random((24, 6), dtype="float32"), rng.random((24, 6), dtype="float32")
    y = rng.integers(0, 2, 24).astype("float32")
    embed = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(3)], name="embed")
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    distance = layers.Dot(axes=1, normalize=True)([embed(first), embed(second)])
    model = keras.Model([first, second], layers.Dense(1, activation="sigmoid", name="same")(distance))
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(), metrics=[keras.metrics.AUC(name="auc")])
    history = model.fit([a, b], y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    inputs = keras.Input((6,))
    head = keras.Model(inputs, layers.Dense(2, name="head")(embed(inputs)))
    head.get_layer("head").set_weights([np.full((3, 2), 0.2, "float32"), np.zeros(2, "float32")])
    for layer in embed.layers[:1]:
        layer.trainable = False
    head.compile("sgd", "mse")
    before = [w.copy() for w in embed.get_weights()]
    head.fit(a, np.stack([y, 1 - y], axis=1), batch_size=8, epochs=1, shuffle=False, verbose=0)
    moved = [float(np.abs(new - old).max()) for new, old in zip(embed.get_weights(), before, strict=True)]
    copy = keras.models.clone_model(embed)
    copy.set_weights(embed.get_weights())
    again = keras.models.model_from_json(embed.to_json())
    again.set_weights(embed.get_weights())
    return {
        "loss": history.history["loss"],
        "auc": history.history["auc"],
        "moved": np.array(moved) > 0,
        "shared": model.predict([a, b], verbose=0),
        "embedded": embed.predict(a, verbose=0),
        "copy": copy.predict(a, verbose=0),
        "again": again.predict(a, verbose=0),
        "head": head.predict(a, verbose=0),
        "names": [layer.name for layer in head.layers][1:],
    }
