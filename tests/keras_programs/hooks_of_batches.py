"""The order and the logs of all hooks, with and without `steps_per_execution`, and a list of callbacks."""

import numpy as np

HOOKS = [f"on_{stage}_{end}" for stage in ("train", "test", "predict") for end in ("begin", "end")]
POSITIONED = [
    f"on_{stage}_{end}" for stage in ("epoch", "train_batch", "test_batch", "predict_batch") for end in ("begin", "end")
]


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(6)
    x, y = rng.random((10, 3), dtype="float32"), rng.random((10, 1), dtype="float32")
    seen, values = [], []

    def note(name, position, logs):
        kinds = {key: type(value).__name__ for key, value in (logs or {}).items()}
        seen.append(f"{name} {position} {kinds}")
        values.extend(float(value) for key, value in (logs or {}).items() if key not in ("outputs", "learning_rate"))

    class Watch(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            note("predict_batch_end", batch, logs)
            values.append(float(np.sum(logs["outputs"])))

    for hook in HOOKS:
        setattr(Watch, hook, lambda self, logs=None, hook=hook: note(hook, "", logs))
    for hook in POSITIONED:
        if hook != "on_predict_batch_end":
            setattr(Watch, hook, lambda self, position, logs=None, hook=hook: note(hook, position, logs))

    class Stop(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            self.model.stop_evaluating = batch == 1

        def on_predict_batch_begin(self, batch, logs=None):
            self.model.stop_predicting = batch == 1

    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.set_weights([rng.random(w.shape).astype("float32") for w in model.get_weights()])
    parameters = []
    for steps, rows in ((1, 10), (2, 8)):
        model.compile("sgd", "mse", metrics=["mae"], steps_per_execution=steps)
        watch, schedule = Watch(), keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        history = model.fit(
            x[:rows],
            y[:rows],
            batch_size=4,
            epochs=2,
            shuffle=False,
            verbose=0,
            validation_data=(x[:rows], y[:rows]),
            callbacks=[watch, schedule],
        )
        parameters += [str(watch.params), str(history.params), str(history.epoch), str(history.model is model)]
        seen.append(str(list(history.history)))
        model.evaluate(x[:rows], y[:rows], batch_size=4, verbose=0, callbacks=[watch])
        parameters.append(str(watch.params))
        model.predict(x[:rows], batch_size=4, verbose=0, callbacks=[watch])
        parameters.append(str(watch.params))
    model.compile("sgd", "mse")
    stopped = model.evaluate(x, y, batch_size=4, verbose=0, callbacks=[Stop()])
    predicted = len(model.predict(x, batch_size=4, verbose=0, callbacks=[Stop()]))

    lines = []
    calls = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: lines.append(f"{epoch} {logs}"))
    several = keras.callbacks.CallbackList(
        [calls, Watch()], add_history=True, model=model, epochs=2, steps=3, verbose=0
    )
    several.on_train_begin()
    several.on_epoch_begin(0)
    several.on_train_batch_begin(0)
    several.on_train_batch_end(0, {"b": np.float32(0.5), "a": {"d": 1, "c": np.ones(())}})
    several.on_epoch_end(0, {"loss": np.float32(0.25)})
    several.on_train_end()
    lines += [str(model.history.history), str(calls.params), str(len(several.callbacks))]
    given = keras.callbacks.History()
    returned = model.fit(x, y, epochs=2, verbose=0, callbacks=[given], initial_epoch=1)
    lines += [str(returned is given), str(given.epoch), str(model.history is given)]
    return {
        "seen": seen,
        "values": values,
        "parameters": parameters,
        "stopped": stopped,
        "predicted": predicted,
        "lines": lines,
    }
