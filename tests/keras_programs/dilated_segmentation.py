"""Dilated convolutions and resized branches that predict a class for each pixel."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(66)

    def conv_block(x, filters=4, kernel_size=3, dilation_rate=1, use_bias=False):
        x = layers.Conv2D(
            filters,
            kernel_size=kernel_size,
            dilation_rate=dilation_rate,
            padding="same",
            use_bias=use_bias,
            kernel_initializer=keras.initializers.HeNormal(),
        )(x)
        x = layers.BatchNormalization()(x)
        return ops.nn.relu(x)

    def aspp(dspp_input):
        dims = dspp_input.shape
        x = layers.AveragePooling2D(pool_size=(dims[-3], dims[-2]))(dspp_input)
        x = conv_block(x, kernel_size=1, use_bias=True)
        out_pool = layers.UpSampling2D(size=(dims[-3] // x.shape[1], dims[-2] // x.shape[2]), interpolation="bilinear")(
            x
        )
        outs = [out_pool] + [
            conv_block(dspp_input, kernel_size=k, dilation_rate=d) for k, d in ((1, 1), (3, 2), (3, 3))
        ]
        x = layers.Concatenate(axis=-1)(outs)
        return conv_block(x, kernel_size=1)

    inp = keras.Input(shape=(16, 16, 3))
    low = conv_block(inp, 4)
    high = layers.Conv2D(5, 3, strides=2, padding="same")(low)
    x = aspp(high)
    a = layers.UpSampling2D(size=(2, 2), interpolation="bilinear")(x)
    b = conv_block(low, filters=3, kernel_size=1)
    x = layers.Concatenate(axis=-1)([a, b])
    x = conv_block(x)
    outputs = layers.Conv2D(3, kernel_size=(1, 1), padding="same")(x)
    model = keras.Model(inputs=inp, outputs=outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.001, epsilon=1e-3), loss=loss, metrics=["accuracy"])
    xs, ys = r.random((8, 16, 16, 3), dtype="float32") * 2 - 1, r.integers(0, 3, (8, 16, 16, 1))
    h = model.fit(xs, ys, validation_data=(xs, ys), epochs=2, batch_size=4, verbose=0, shuffle=False)
    predictions = model.predict(np.expand_dims(xs[0], axis=0), verbose=0)
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "p": np.squeeze(predictions),
        "weights": [str(w.shape) for w in model.weights],
    }
