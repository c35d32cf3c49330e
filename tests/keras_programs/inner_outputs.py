"""Features of inner layers, layers called on arrays, and weights that are read and assigned."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(7)
    x = rng.random((6, 10, 3), dtype="float32")
    inputs = keras.Input((10, 3))
    h = layers.Conv1D(4, 3, padding="causal", activation="relu", name="conv")(inputs)
    h = layers.LayerNormalization(name="norm")(h)
    outputs = layers.Dense(2, name="out")(layers.GlobalMaxPooling1D(name="pool")(h))
    model = keras.Model(inputs, outputs)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    features = keras.Model(model.input, [model.get_layer("conv").output, model.get_layer("pool").output])
    conv, pool = features.predict(x, verbose=0)
    dense = layers.Dense(3, activation="relu")
    before = np.asarray(dense(x)).shape
    dense.set_weights([np.full((3, 3), 0.5, "float32"), np.ones(3, "float32")])
    kernel = model.get_layer("out").weights[0]
    kernel.assign(kernel * 2.0)
    doubled = model.predict(x, verbose=0)
    model.get_layer(index=2).trainable = False
    return {
        "conv": conv,
        "pool": pool,
        "before": before,
        "dense": dense(x),
        "doubled": doubled,
        "kernel": kernel.numpy(),
        "trainable": [len(model.trainable_weights), len(model.non_trainable_weights)],
        "norm": model.get_layer("norm").get_weights()[0],
        "output_shape": [0 if n is None else n for n in model.output_shape],
        "training": model(x, training=False),
    }
