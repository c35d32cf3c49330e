"""Several steps per execution, clipped gradients, accumulated gradients and moving averages of weights."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(27)
    x, y = rng.random((40, 4), dtype="float32"), rng.random((40, 1), dtype="float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="gelu"), layers.Dense(1)])
    start = [rng.normal(0, 0.5, w.shape).astype("float32") for w in model.get_weights()]
    results = {}
    cases = {
        "steps": ({"clipnorm": 0.1}, {"steps_per_execution": 5}),
        "jit": ({"clipvalue": 0.05}, {"jit_compile": True}),
        "accumulated": ({"gradient_accumulation_steps": 2}, {}),
        "decayed": ({"weight_decay": 0.01, "global_clipnorm": 1.0}, {}),
    }
    for name, (arguments, options) in cases.items():
        model.set_weights(start)
        model.compile(optimizer=keras.optimizers.Adam(0.01, **arguments), loss="mse", **options)
        history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        results[name] = history.history["loss"]
        results[f"{name}_weights"] = np.concatenate([w.ravel() for w in model.get_weights()])
        results[f"{name}_iterations"] = int(model.optimizer.iterations)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=3, decay_rate=0.5, staircase=True)
    model.set_weights(start)
    model.compile(optimizer=keras.optimizers.SGD(learning_rate=rate), loss=keras.losses.mean_squared_error)
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    results["scheduled"] = history.history["loss"]
    results["schedule"] = [float(rate(step)) for step in range(8)]
    return results
