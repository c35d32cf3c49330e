"""A loss class that defines its call itself, and a frozen encoder in a second model."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(65)

    def create_encoder():
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, strides=2),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
            ],
            name="encoder",
        )

    def create_classifier(encoder, trainable=True):
        for layer in encoder.layers:
            layer.trainable = trainable
        inputs = keras.Input(shape=(8, 8, 3))
        f = encoder(inputs)
        f = layers.Dropout(0.0)(f)
        f = layers.Dense(6, activation="relu")(f)
        f = layers.Dropout(0.0)(f)
        m = keras.Model(inputs=inputs, outputs=layers.Dense(3, activation="softmax")(f), name="classifier")
        m.compile(
            optimizer=keras.optimizers.Adam(0.01, epsilon=1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(),
            metrics=[keras.metrics.SparseCategoricalAccuracy()],
        )
        return m

    class SupervisedContrastiveLoss(keras.losses.Loss):
        def __init__(self, temperature=1, name=None):
            super().__init__(name=name)
            self.temperature = temperature

        def __call__(self, labels, feature_vectors, sample_weight=None):
            f = ops.normalize(feature_vectors, axis=1, order=2)
            logits = ops.divide(ops.matmul(f, ops.transpose(f)), self.temperature)
            labels = ops.reshape(ops.cast(labels, "float32"), (-1, 1))
            same = ops.cast(ops.equal(labels, ops.transpose(labels)), "float32")
            same = same / ops.sum(same, 1, keepdims=True)
            return ops.mean(-ops.sum(same * ops.log_softmax(logits, axis=1), 1))

    x, y = r.random((24, 8, 8, 3), dtype="float32"), r.integers(0, 3, 24)
    encoder = create_encoder()
    inputs = keras.Input((8, 8, 3))
    proj = keras.Model(inputs, layers.Dense(5, activation="relu")(encoder(inputs)), name="with_head")
    proj.compile(optimizer=keras.optimizers.Adam(0.01, epsilon=1e-3), loss=SupervisedContrastiveLoss(0.05))
    h = proj.fit(x=x, y=y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    classifier = create_classifier(encoder, trainable=False)
    w = encoder.get_weights()[0]
    h2 = classifier.fit(x=x, y=y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    acc = classifier.evaluate(x, y, verbose=0)[1]
    return {
        "h": h.history["loss"],
        "h2": [h2.history[k] for k in h2.history],
        "acc": acc,
        "frozen": float(np.abs(w - encoder.get_weights()[0]).max()),
        "p": classifier.predict(x, verbose=0),
        "weights": [str(w.shape) for w in classifier.weights],
    }
