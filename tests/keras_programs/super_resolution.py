"""Pixels moved from depth to space in images of any size, and a callback with hooks on test batches."""

import numpy as np


def program(keras):
    import math

    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(39)

    class DepthToSpace(layers.Layer):
        def __init__(self, block_size):
            super().__init__()
            self.block_size = block_size

        def call(self, input):
            batch, height, width, depth = ops.shape(input)
            depth = depth // (self.block_size**2)
            x = ops.reshape(input, [batch, height, width, self.block_size, self.block_size, depth])
            x = ops.transpose(x, [0, 1, 3, 2, 4, 5])
            return ops.reshape(x, [batch, height * self.block_size, width * self.block_size, depth])

    def get_model(upscale_factor=3, channels=1):
        conv_args = {"activation": "relu", "kernel_initializer": "orthogonal", "padding": "same"}
        inputs = keras.Input(shape=(None, None, channels))
        x = layers.Conv2D(6, 5, **conv_args)(inputs)
        x = layers.Conv2D(5, 3, **conv_args)(x)
        x = layers.Conv2D(channels * (upscale_factor**2), 3, **conv_args)(x)
        outputs = DepthToSpace(upscale_factor)(x)
        return keras.Model(inputs, outputs)

    x, y = r.random((16, 6, 6, 1), dtype="float32"), r.random((16, 18, 18, 1), dtype="float32")

    class ESPCNCallback(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.test_img = x[0]
            self.seen = []

        def on_epoch_begin(self, epoch, logs=None):
            self.psnr = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(np.mean(self.psnr))
            self.out = self.model.predict(self.test_img[None], verbose=0)

        def on_test_batch_end(self, batch, logs=None):
            self.psnr.append(10 * math.log10(1 / logs["loss"]))

    model = get_model()
    cb = ESPCNCallback()
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.001), loss=keras.losses.MeanSquaredError())
    h = model.fit(
        x,
        y,
        epochs=2,
        callbacks=[
            cb,
            keras.callbacks.EarlyStopping(monitor="loss", patience=10),
            keras.callbacks.ModelCheckpoint(
                filepath="c.weights.h5", save_weights_only=True, monitor="loss", mode="min", save_best_only=True
            ),
        ],
        validation_data=(x, y),
        batch_size=8,
        verbose=0,
        shuffle=False,
    )
    model.load_weights("c.weights.h5")
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "seen": cb.seen,
        "out": cb.out,
        "big": model.predict(r.random((1, 4, 7, 1), dtype="float32"), verbose=0),
        "weights": [str(w.shape) for w in model.weights],
    }
