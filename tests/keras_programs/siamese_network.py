"""Two images through one network, compared by a distance, with a contrastive loss."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(17)

    def euclidean_distance(vects):
        x, y = vects
        sum_square = ops.sum(ops.square(x - y), axis=1, keepdims=True)
        return ops.sqrt(ops.maximum(sum_square, keras.backend.epsilon()))

    def loss(margin=1):
        def contrastive_loss(y_true, y_pred):
            square_pred = ops.square(y_pred)
            margin_square = ops.square(ops.maximum(margin - (y_pred), 0))
            return ops.mean((1 - y_true) * square_pred + (y_true) * margin_square)

        return contrastive_loss

    image = keras.Input((6, 6, 1))
    h = layers.BatchNormalization()(image)
    h = layers.Conv2D(2, (3, 3), activation="tanh")(h)
    h = layers.AveragePooling2D(pool_size=(2, 2))(h)
    h = layers.Flatten()(h)
    embedding = keras.Model(image, layers.Dense(3, activation="tanh")(h))
    first, second = keras.Input((6, 6, 1)), keras.Input((6, 6, 1))
    distance = layers.Lambda(euclidean_distance, output_shape=(1,))([embedding(first), embedding(second)])
    outputs = layers.Dense(1, activation="sigmoid")(layers.BatchNormalization()(distance))
    siamese = keras.Model(inputs=[first, second], outputs=outputs)
    siamese.set_weights([abs(rng.normal(0, 0.4, w.shape)).astype("float32") for w in siamese.get_weights()])
    siamese.compile(loss=loss(margin=1), optimizer="RMSprop", metrics=["accuracy"])
    a, b = rng.random((2, 24, 6, 6, 1), dtype="float32")
    y = rng.integers(0, 2, 24).astype("float32")
    history = siamese.fit([a, b], y, validation_data=([a, b], y), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "results": siamese.evaluate([a, b], y, batch_size=8, verbose=0),
        "predictions": siamese.predict([a[:4], b[:4]], verbose=0),
        "embedded": embedding.predict(a[:4], verbose=0),
    }
