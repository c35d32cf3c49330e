"""Losses that look only at images, by functions and by a Loss class without a reduction."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(40)

    def color_constancy_loss(x):
        mean_rgb = ops.mean(x, axis=(1, 2), keepdims=True)
        mr, mg, mb = mean_rgb[:, :, :, 0], mean_rgb[:, :, :, 1], mean_rgb[:, :, :, 2]
        d_rg, d_rb, d_gb = ops.square(mr - mg), ops.square(mr - mb), ops.square(mb - mg)
        return ops.sqrt(ops.square(d_rg) + ops.square(d_rb) + ops.square(d_gb) + 1e-9)

    def exposure_loss(x, mean_val=0.6):
        x = ops.mean(x, axis=3, keepdims=True)
        mean = ops.average_pool(x, pool_size=4, strides=4, padding="valid")
        return ops.mean(ops.square(mean - mean_val))

    def illumination_smoothness_loss(x):
        shape = ops.shape(x)
        count_h, count_w = (shape[2] - 1) * shape[3], shape[2] * (shape[3] - 1)
        h_tv = ops.sum(ops.square(x[:, 1:, :, :] - x[:, : shape[1] - 1, :, :]))
        w_tv = ops.sum(ops.square(x[:, :, 1:, :] - x[:, :, : shape[2] - 1, :]))
        batch = ops.cast(shape[0], dtype="float32")
        return 2 * (h_tv / count_h + w_tv / count_w) / batch

    class SpatialConsistencyLoss(keras.losses.Loss):
        def __init__(self, **kwargs):
            super().__init__(reduction="none", **kwargs)
            self.left = ops.reshape(
                ops.convert_to_tensor([[[[0, 0, 0]], [[-1, 1, 0]], [[0, 0, 0]]]], dtype="float32"), (3, 3, 1, 1)
            )
            self.up = ops.reshape(
                ops.convert_to_tensor([[[[0, -1, 0]], [[0, 1, 0]], [[0, 0, 0]]]], dtype="float32"), (3, 3, 1, 1)
            )

        def call(self, y_true, y_pred):
            a, b = (
                ops.average_pool(ops.mean(v, 3, keepdims=True), pool_size=2, strides=2, padding="same")
                for v in (y_true, y_pred)
            )
            total = 0.0
            for kernel in (self.left, self.up):
                d1 = ops.conv(a, kernel, strides=1, padding="same")
                d2 = ops.conv(b, kernel, strides=1, padding="same")
                total = total + ops.square(d1 - d2)
            return total

    spatial = SpatialConsistencyLoss()

    def total_loss(y_true, y_pred):
        image = y_true
        for i in range(2):
            a = y_pred[..., 3 * i : 3 * i + 3]
            image = image + a * (ops.square(image) - image)
        parts = illumination_smoothness_loss(y_pred) + exposure_loss(image) + ops.mean(color_constancy_loss(image))
        return parts + ops.mean(spatial(y_true, image), axis=(1, 2, 3)) + ops.mean(y_pred, axis=(1, 2, 3)) * 0

    x = keras.Input((8, 8, 3))
    c1 = layers.Conv2D(4, (3, 3), activation="relu", padding="same")(x)
    c2 = layers.Conv2D(4, (3, 3), activation="relu", padding="same")(c1)
    cat = layers.Concatenate(axis=-1)([c2, c1])
    out = layers.Conv2D(6, (3, 3), activation="tanh", padding="same")(cat)
    model = keras.Model(x, out)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=total_loss)
    xs = r.random((12, 8, 8, 3), dtype="float32")
    h = model.fit(xs, xs, epochs=2, batch_size=4, verbose=0, shuffle=False, validation_data=(xs, xs))
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "p": model.predict(xs, verbose=0),
        "s": spatial(xs, xs * 0.5),
        "weights": [str(w.shape) for w in model.weights],
    }
