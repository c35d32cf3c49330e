"""A model class that holds a graph, takes indices of nodes and has no training argument."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(13)
    nodes, classes = 15, 3

    def feed_forward(units, name=None):
        return keras.Sequential([layers.BatchNormalization(), layers.Dense(units, activation="gelu")], name=name)

    class GraphConvolution(layers.Layer):
        def __init__(self, units, aggregation, combination, **kwargs):
            super().__init__(**kwargs)
            self.aggregation = aggregation
            self.prepare = feed_forward(units)
            self.update = layers.GRU(units) if combination == "gru" else feed_forward(units)
            self.combination = combination

        def call(self, inputs):
            states, edges, weights = inputs
            messages = self.prepare(ops.take(states, edges[1], axis=0)) * ops.expand_dims(weights, -1)
            gathered = ops.segment_sum(messages, edges[0], num_segments=nodes)
            if self.aggregation == "mean":
                count = ops.segment_sum(ops.ones((edges.shape[1], 1)), edges[0], num_segments=nodes)
                gathered = gathered / ops.maximum(count, 1.0)
            join = ops.stack if self.combination == "gru" else ops.concatenate
            return ops.normalize(self.update(join([states, gathered], axis=1)), axis=-1)

    class NodeClassifier(keras.Model):
        def __init__(self, features, edges, units, **kwargs):
            super().__init__(**kwargs)
            self.features, self.edges = features, edges
            self.edge_weights = ops.ones(shape=edges.shape[1]) / edges.shape[1]
            self.preprocess = feed_forward(units, name="preprocess")
            self.first = GraphConvolution(units, "sum", "concat", name="first")
            self.second = GraphConvolution(units, "mean", "gru", name="second")
            self.logits = layers.Dense(classes, name="logits")

        def call(self, indices):
            x = self.preprocess(self.features)
            x = self.first((x, self.edges, self.edge_weights)) + x
            x = self.second((x, self.edges, self.edge_weights)) + x
            return self.logits(ops.take(x, indices, axis=0))

    features = ops.convert_to_tensor(rng.random((nodes, 6), dtype="float32"))
    model = NodeClassifier(features, rng.integers(0, nodes, (2, 40)), 5, name="classifier")
    first = model(ops.convert_to_tensor([1, 5, 9]))
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    x, y = np.arange(12), rng.integers(0, classes, 12)
    stopping = keras.callbacks.EarlyStopping(monitor="val_acc", patience=50, restore_best_weights=True)
    data = (x, y)
    history = model.fit(
        *data, epochs=2, batch_size=6, validation_data=data, callbacks=[stopping], shuffle=False, verbose=0
    )
    _, accuracy = model.evaluate(x=x, y=y, verbose=0)
    return {
        "first": first,
        "history": list(history.history.values()),
        "names": list(history.history),
        "accuracy": accuracy,
        "predicted": model.predict(ops.convert_to_tensor(x), verbose=0),
        "statistics": model.get_layer("preprocess").layers[0].moving_mean,
        "weights": [str(w.shape) for w in model.weights],
    }
