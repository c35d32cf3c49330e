"""A wide part and a deep part with crosses of symbols, slices of symbols and shared embeddings."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(43)
    user, item = keras.Input((1,), name="user", dtype="int32"), keras.Input((1,), name="item", dtype="int32")
    dense = keras.Input((4,), name="numbers")
    table = layers.Embedding(7, 3, embeddings_regularizer=keras.regularizers.l2(1e-3), name="table")
    users, items = layers.Flatten()(table(user)), layers.Flatten()(table(item))
    dot = layers.Dot(axes=1, normalize=True)([users, items])
    x0 = layers.concatenate([users, items, dense[:, 1:3], dot])
    cross = x0
    for _ in range(2):
        cross = x0 * layers.Dense(9)(cross) + cross
    deep = layers.Dense(4)(layers.BatchNormalization()(layers.Dense(5, activation="leaky_relu")(x0)))
    deep = layers.PReLU()(deep)
    merged = ops.concatenate([cross, deep, -dense[:, :1], ops.sqrt(ops.abs(dense))], axis=-1)
    output = ops.sigmoid(layers.Dense(1)(merged) - 0.1 * ops.sum(dense, axis=-1, keepdims=True))
    model = keras.Model([user, item, dense], output)
    values = [rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()]
    model.set_weights([w if w.ndim > 1 else abs(w) for w in values])
    model.compile(keras.optimizers.Ftrl(0.1), "binary_crossentropy", metrics=[keras.metrics.BinaryAccuracy(name="acc")])
    x = [rng.integers(0, 7, (20, 1)), rng.integers(0, 7, (20, 1)), rng.random((20, 4), dtype="float32")]
    y = rng.integers(0, 2, (20, 1)).astype("float32")
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "predicted": model.predict(x, verbose=0),
        "table": model.get_layer("table").get_weights()[0],
        "embedded": ops.convert_to_numpy(model.get_layer("table").embeddings)[:2],
    }
