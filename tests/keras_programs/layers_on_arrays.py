"""Layers used without a model: calls on arrays, weights, variables and copies."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(34)

    class Antirectifier(layers.Layer):
        def __init__(self, initializer="ones", **kwargs):
            super().__init__(**kwargs)
            self.initializer = initializer

        def build(self, input_shape):
            self.kernel = self.add_weight(
                shape=(input_shape[-1] * 2, 3),
                initializer=keras.initializers.get(self.initializer),
                name="kernel",
                trainable=True,
            )

        def call(self, inputs):
            inputs = inputs - ops.mean(inputs, axis=-1, keepdims=True)
            return ops.matmul(ops.concatenate([ops.relu(inputs), ops.relu(-inputs)], axis=-1), self.kernel)

        def get_config(self):
            return {**super().get_config(), "initializer": self.initializer}

    x = rng.random((3, 4), dtype="float32")
    anti = Antirectifier(name="anti")
    before = anti.built
    outputs = anti(x)
    dense = layers.Dense(2)
    dense.build((None, 4))
    dense.set_weights([np.ones((4, 2)), np.array([1.0, 2.0])])
    dense.kernel.assign(dense.kernel * 2)
    dense.bias.assign_add(np.array([0.5, 0.5], "float32"))
    dense.trainable = False
    copy = Antirectifier.from_config(anti.get_config())
    norm = layers.BatchNormalization()
    trained = norm(x, training=True)
    return {
        "before": [before, anti.built],
        "outputs": outputs,
        "copy": copy(x),
        "copy_name": copy.name,
        "dense": dense(x),
        "kernel": ops.convert_to_numpy(dense.kernel),
        "counts": [len(dense.trainable_weights), len(dense.non_trainable_weights), dense.count_params()],
        "trained": trained,
        "mean": norm.moving_mean,
        "tested": norm(x),
        "names": [w.name for w in norm.weights],
        "shapes": [str(dense.compute_output_shape((None, 4))), str(tuple(anti.kernel.shape))],
        "attention": layers.Attention()([x[None], x[None]]),
        "pooled": layers.MaxPooling1D(2)(x[None, :, :]),
        "softmax": layers.Softmax()(x),
        "dropped": layers.Dropout(0.5)(x),
    }
