"""Named inputs and outputs with losses, weights and metrics of their own."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(2)
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    hidden = layers.Concatenate(name="both")([layers.Dense(5, activation="tanh", name="wide")(left), right])
    price = layers.Dense(1, name="price")(hidden)
    kind = layers.Dense(3, activation="softmax", name="kind")(hidden)
    model = keras.Model(inputs=[left, right], outputs=[price, kind], name="two_heads")
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(
        optimizer=keras.optimizers.RMSprop(0.01),
        loss={"price": "mse", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"price": 0.5, "kind": 2.0},
        metrics={"price": ["mae"], "kind": ["accuracy"]},
    )
    x = {"left": rng.random((30, 4), dtype="float32"), "right": rng.random((30, 3), dtype="float32")}
    y = {"price": rng.random((30, 1), dtype="float32"), "kind": rng.integers(0, 3, 30)}
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    predicted = model.predict(x, verbose=0)
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "price": predicted[0],
        "kind": predicted[1],
        "layers": [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)],
        "outputs": [tuple(0 if n is None else n for n in output.shape) for output in model.outputs],
        "name": model.name,
    }
