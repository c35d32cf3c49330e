"""A model written as a class, with its own layers, state, configuration and calls on arrays."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(20)

    class Block(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.dense = layers.Dense(units, activation="relu")
            self.norm = layers.BatchNormalization()

        def call(self, x, training=False):
            return self.norm(self.dense(x), training=training)

    class Net(keras.Model):
        def __init__(self, hidden=4, **kwargs):
            super().__init__(**kwargs)
            self.hidden = hidden
            self.blocks = [Block(hidden) for _ in range(2)]
            self.head = layers.Dense(2, name="head")

        def call(self, inputs, training=False):
            x = inputs
            for block in self.blocks:
                x = x + block(x, training=training)
            return self.head(x)

        def get_config(self):
            return {"hidden": self.hidden}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    model = Net(4)
    x, y = rng.random((24, 4), dtype="float32"), rng.random((24, 2), dtype="float32")
    model(x[:1])
    model.set_weights([abs(rng.normal(0, 0.4, w.shape)).astype("float32") for w in model.get_weights()])
    model.compile(optimizer="adamax", loss="log_cosh", metrics=["cosine_similarity"])
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(x, y))
    called, trained = model(x[:3]), model(x[:3], training=True)
    other = Net.from_config(model.get_config())
    other(x[:1])
    other.set_weights(model.get_weights())
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "called": called,
        "training": trained,
        "statistics": model.blocks[0].norm.moving_mean,
        "predicted": model.predict(x[:3], verbose=0),
        "other": other.predict(x[:3], verbose=0),
        "weights": [str(w.shape) for w in model.weights],
        "layers": len(model.layers),
        "head": model.get_layer("head").kernel,
        "sum": float(ops.sum(ops.abs(model.head.bias))),
        "built": model.built,
    }
