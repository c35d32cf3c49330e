"""Graph convolutions and an LSTM over nodes in a layer that moves axes."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(19)
    nodes, steps, horizon = 5, 6, 2
    edges = rng.integers(0, nodes, 12), rng.integers(0, nodes, 12)

    class GraphConvolution(layers.Layer):
        def __init__(self, features, units, edges, activation=None, **kwargs):
            super().__init__(**kwargs)
            self.edges = edges
            glorot = keras.initializers.GlorotUniform()
            self.weight = self.add_weight(initializer=glorot, shape=(features, units), dtype="float32", trainable=True)
            self.activation = layers.Activation(activation)

        def call(self, features):
            neighbours = ops.take(features, self.edges[1], axis=0)
            gathered = ops.segment_sum(neighbours, self.edges[0], num_segments=nodes)
            own, others = ops.matmul(features, self.weight), ops.matmul(gathered, self.weight)
            return self.activation(ops.concatenate([own, others], axis=-1))

    class GraphLSTM(layers.Layer):
        def __init__(self, units, horizon, edges, convolution=None, **kwargs):
            super().__init__(**kwargs)
            self.convolution = GraphConvolution(1, 3, edges, **(convolution or {}))
            self.lstm = layers.LSTM(units, activation="relu")
            self.dense = layers.Dense(horizon)
            self.horizon = horizon

        def call(self, inputs):
            x = self.convolution(ops.transpose(inputs, [2, 0, 1, 3]))
            shape = ops.shape(x)
            rows, batch = shape[0], shape[1]
            x = ops.reshape(x, (batch * rows, shape[2], shape[3]))
            x = ops.reshape(self.dense(self.lstm(x)), (rows, batch, self.horizon))
            return ops.transpose(x, [1, 2, 0])

    inputs = layers.Input((steps, nodes, 1))
    model = keras.models.Model(inputs, GraphLSTM(4, horizon, edges, {"activation": "tanh"})(inputs))
    model.compile(optimizer=keras.optimizers.RMSprop(learning_rate=0.002), loss=keras.losses.MeanSquaredError())
    x, y = rng.normal(size=(24, steps, nodes, 1)).astype("float32"), rng.normal(size=(24, horizon, nodes))
    history = model.fit(
        x, y, validation_data=(x, y), epochs=2, batch_size=8, verbose=0, shuffle=False,
        callbacks=[keras.callbacks.EarlyStopping(patience=10)],
    )  # fmt: skip
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "predicted": model.predict(x, verbose=0),
        "layers": [layer.name for layer in model.layers],
        "shape": str(model.output_shape),
        "weights": [str(w.shape) for w in model.weights],
    }
