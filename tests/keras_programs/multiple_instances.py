"""Attention over a list of instances with shared layers, regularized weights and class weights."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(11)

    class GatedScores(layers.Layer):
        def __init__(self, size, initializer="glorot_uniform", regularizer=None, **kwargs):
            super().__init__(**kwargs)
            self.size = size
            # One initializer for all weights: those of equal shapes start with equal values.
            self.initializer = keras.initializers.get(initializer)
            self.regularizer = keras.regularizers.get(regularizer)

        def build(self, input_shape):
            shared = {"initializer": self.initializer, "regularizer": self.regularizer, "trainable": True}
            features = input_shape[0][1]
            self.v = self.add_weight(shape=(features, self.size), name="v", **shared)
            self.w = self.add_weight(shape=(self.size, 1), name="w", **shared)
            self.u = self.add_weight(shape=(features, self.size), name="u", **shared)
            self.input_built = True

        def call(self, inputs):
            weights = ops.softmax(ops.stack([self.score(instance) for instance in inputs]), axis=0)
            return [weights[i] for i in range(weights.shape[0])]

        def score(self, instance):
            gate = ops.sigmoid(ops.tensordot(instance, self.u, axes=1))
            return ops.tensordot(ops.tanh(ops.tensordot(instance, self.v, axes=1)) * gate, self.w, axes=1)

    inputs, embeddings = [], []
    first, second = layers.Dense(6, activation="relu"), layers.Dense(4, activation="relu")
    for _ in range(3):
        inputs.append(layers.Input((4, 4)))
        embeddings.append(second(first(layers.Flatten()(inputs[-1]))))
    scores = GatedScores(5, regularizer=keras.regularizers.L2(0.01), name="scores")(embeddings)
    weighted = [layers.multiply([scores[i], embeddings[i]]) for i in range(len(scores))]
    outputs = layers.Dense(2, activation="softmax")(layers.concatenate(weighted, axis=1))
    model = keras.Model(inputs, outputs)
    start = [w.numpy() for w in model.get_layer("scores").weights]
    x, y = [rng.random((20, 4, 4), dtype="float32") for _ in range(3)], (rng.random(20) > 0.7).astype(int)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=10, mode="min"),
        keras.callbacks.ModelCheckpoint("best.weights.h5", "val_loss", 0, True, True, "min"),
    ]
    history = model.fit(
        x, y, validation_data=(x, y), epochs=2, batch_size=8, class_weight={0: 0.6, 1: 1.7}, callbacks=callbacks,
        verbose=0, shuffle=False,
    )  # fmt: skip
    model.load_weights("best.weights.h5")
    weights = keras.Model(model.input, model.get_layer("scores").output).predict(x, verbose=0)
    return {
        "equal": bool((start[0] == start[2]).all()),
        "history": list(history.history.values()),
        "names": list(history.history),
        "weights": np.squeeze(np.swapaxes(weights, 1, 0)),
        "predicted": model.predict(x, verbose=0),
        "evaluated": model.evaluate(x, y, verbose=0),
        "layers": [layer.name for layer in model.layers],
    }
