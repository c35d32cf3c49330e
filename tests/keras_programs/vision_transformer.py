"""A vision transformer with patches and their encoding as classes, and attention written with operations."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(15)

    class Patches(layers.Layer):
        def __init__(self, patch_size):
            super().__init__()
            self.patch_size = patch_size

        def call(self, images):
            input_shape = ops.shape(images)
            height, width, channels = input_shape[1], input_shape[2], input_shape[3]
            rows, columns = height // self.patch_size, width // self.patch_size
            patches = keras.ops.image.extract_patches(images, size=self.patch_size)
            return ops.reshape(patches, (input_shape[0], rows * columns, self.patch_size * self.patch_size * channels))

        def get_config(self):
            config = super().get_config()
            config.update({"patch_size": self.patch_size})
            return config

    class PatchEncoder(layers.Layer):
        def __init__(self, num_patches, projection_dim):
            super().__init__()
            self.num_patches = num_patches
            self.projection = layers.Dense(units=projection_dim)
            self.position_embedding = layers.Embedding(input_dim=num_patches, output_dim=projection_dim)

        def call(self, patch):
            positions = ops.expand_dims(ops.arange(start=0, stop=self.num_patches, step=1), axis=0)
            return self.projection(patch) + self.position_embedding(positions)

    def mlp(x, hidden_units, dropout_rate):
        for units in hidden_units:
            x = layers.Dense(units, activation=keras.activations.gelu)(x)
            x = layers.Dropout(dropout_rate)(x)
        return x

    inputs = keras.Input(shape=(8, 8, 2))
    patches = Patches(4)(inputs)
    encoded = PatchEncoder(4, 6)(patches)
    x1 = layers.LayerNormalization(epsilon=1e-6)(encoded)
    attention = layers.MultiHeadAttention(num_heads=2, key_dim=3, dropout=0.0)(x1, x1)
    x2 = layers.Add()([attention, encoded])
    x3 = layers.LayerNormalization(epsilon=1e-6)(x2)
    encoded = layers.Add()([mlp(x3, [8, 6], 0.0), x2])
    logits = layers.Dense(3)(layers.Flatten()(encoded))
    model = keras.Model(inputs=inputs, outputs=logits)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=0.001, weight_decay=0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top-2-accuracy"),
        ],
    )
    x, y = rng.random((20, 8, 8, 2), dtype="float32"), rng.integers(0, 3, (20, 1))
    history = model.fit(x, y, batch_size=8, epochs=2, validation_split=0.2, shuffle=False, verbose=0)
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "predicted": model.predict(x[:4], verbose=0),
        "patches": Patches(4)(x[:2]),
        "config": model.layers[1].get_config()["patch_size"],
    }
