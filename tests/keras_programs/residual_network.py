"""A functional residual network with operators and functions on symbols, and layers found by name."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(11)

    def block(x, filters, stride=1):
        shortcut = x
        h = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        h = layers.BatchNormalization()(h)
        h = keras.activations.relu(h)
        h = layers.Conv2D(filters, 3, padding="same", use_bias=False)(h)
        if stride != 1 or x.shape[-1] != filters:
            shortcut = layers.Conv2D(filters, 1, strides=stride, padding="same")(x)
        return layers.Activation("relu")(h + shortcut)

    inputs = keras.Input((8, 8, 1))
    h = layers.Conv2D(2, 3, padding="same")(inputs * 2.0 - 1.0)
    h = block(h, 2)
    h = block(h, 4, stride=2)
    pooled = ops.mean(h, axis=(1, 2))
    both = ops.concatenate([pooled, layers.GlobalMaxPooling2D()(h)], axis=-1)
    outputs = layers.Dense(3, name="logits")(both) / 2.0
    model = keras.Model(inputs, outputs)
    model.set_weights([abs(rng.normal(0, 0.3, w.shape)).astype("float32") for w in model.get_weights()])
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate=0.01, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    x, y = rng.random((24, 8, 8, 1), dtype="float32"), rng.integers(0, 3, 24)
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    features = keras.Model(model.input, model.get_layer("logits").output)
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "predicted": model.predict(x[:5], verbose=0),
        "features": features.predict(x[:5], verbose=0),
        "weights": len(model.weights),
        "trained": len(model.trainable_weights),
    }
