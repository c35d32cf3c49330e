"""Data from a PyDataset, from generators, and with steps of a fixed number."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(24)
    x, y = rng.random((30, 4), dtype="float32"), rng.random((30, 1), dtype="float32")

    class Batches(keras.utils.PyDataset):
        def __init__(self, x, y, batch_size, **kwargs):
            super().__init__(**kwargs)
            self.x, self.y, self.batch_size = x, y, batch_size

        def __len__(self):
            return -(-len(self.x) // self.batch_size)

        def __getitem__(self, index):
            part = slice(index * self.batch_size, (index + 1) * self.batch_size)
            return self.x[part], self.y[part]

    def generator():
        while True:
            for start in range(0, 30, 10):
                yield x[start : start + 10], y[start : start + 10]

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="elu"), layers.Dense(1)])
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    model.compile("sgd", "mse", metrics=["mae"])
    data = Batches(x, y, 8)
    history = model.fit(data, epochs=2, shuffle=False, verbose=0, validation_data=Batches(x, y, 16))
    streamed = model.fit(generator(), steps_per_epoch=3, epochs=2, verbose=0, validation_data=Batches(x, y, 16))
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "streamed": list(streamed.history.values()),
        "evaluated": model.evaluate(Batches(x, y, 8), verbose=0),
        "stream_evaluated": model.evaluate(generator(), steps=2, verbose=0),
        "predicted": model.predict(Batches(x, y, 8), verbose=0),
        "stream_predicted": model.predict(generator(), steps=2, verbose=0),
    }
