"""Callbacks written as classes: early stopping by hand, a schedule by epoch and hooks of evaluation and prediction."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(32)

    class Stop(keras.callbacks.Callback):
        def __init__(self, patience=0):
            super().__init__()
            self.patience = patience
            self.best_weights = None

        def on_train_begin(self, logs=None):
            self.wait, self.stopped_epoch, self.best = 0, 0, np.inf

        def on_epoch_end(self, epoch, logs=None):
            current = logs.get("loss")
            if np.less(current, self.best):
                self.best, self.wait = current, 0
                self.best_weights = self.model.get_weights()
            else:
                self.wait += 1
                if self.wait >= self.patience:
                    self.stopped_epoch = epoch
                    self.model.stop_training = True
                    self.model.set_weights(self.best_weights)

    class Rates(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            lr = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self.model.optimizer.learning_rate.assign(lr * 1.5 + 0.1 * epoch)

    class Events(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.events = []

        def on_test_begin(self, logs=None):
            self.events.append("test begin")

        def on_test_end(self, logs=None):
            self.events.append("test end")

        def on_predict_end(self, logs=None):
            self.events.append("predict end")

    x, y = rng.random((24, 4), dtype="float32"), rng.random((24, 1), dtype="float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.set_weights([rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.3), "mse", metrics=["mae"])
    stop, events = Stop(), Events()
    history = model.fit(x, y, batch_size=8, epochs=8, shuffle=False, verbose=0, callbacks=[stop, Rates()])
    evaluated = model.evaluate(x, y, batch_size=8, verbose=0, callbacks=[events])
    model.predict(x, batch_size=12, verbose=0, callbacks=[events])
    return {
        "history": list(history.history.values()),
        "stopped": stop.stopped_epoch,
        "best": stop.best,
        "evaluated": evaluated,
        "events": events.events,
        "rate": float(model.optimizer.learning_rate),
    }
