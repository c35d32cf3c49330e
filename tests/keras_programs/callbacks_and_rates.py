"""Batch hooks, a changed learning rate, a stopped run, and training on single batches."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(0)
    x, y = rng.random((50, 6), dtype="float32"), rng.random((50, 1), dtype="float32")

    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.batches, self.epochs = [], []

        def on_train_batch_end(self, batch, logs=None):
            self.batches.append((batch, logs["loss"]))

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append((epoch, float(np.sum(self.model.get_weights()[0]))))
            self.names = list(logs)
            self.model.optimizer.learning_rate = 0.05
            if epoch == 1:
                self.model.stop_training = True

    model = keras.Sequential([layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"])
    model.build((None, 6))
    model.set_weights([(abs(rng.normal(size=w.shape)) * 0.3).astype("float32") for w in model.get_weights()])
    watch = Watch()
    history = model.fit(
        x, y, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=[watch], validation_data=(x, y)
    )
    return {
        "names": list(history.history),
        "log_names": watch.names,
        "history": list(history.history.values()),
        "batches": watch.batches,
        "epochs": watch.epochs,
        "evaluated": model.evaluate(x, y, verbose=0),
        "dictionary": list(model.evaluate(x, y, verbose=0, return_dict=True).values()),
        "trained": model.train_on_batch(x[:8], y[:8]),
        "trained_again": model.train_on_batch(x[8:16], y[8:16]),
        "tested": model.test_on_batch(x[:8], y[:8]),
        "predicted": model.predict_on_batch(x[:3]),
        "called": model(x[:3]),
        "parameters": model.count_params(),
        "layers": [layer.name for layer in model.layers],
        "trainable": len(model.trainable_weights),
        "rate": float(model.optimizer.learning_rate),
    }
