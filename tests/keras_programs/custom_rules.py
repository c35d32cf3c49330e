"""An initializer, a regularizer, a constraint and an activation of the program in a layer."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(19)

    class Ramp(keras.initializers.Initializer):
        def __init__(self, slope=0.1):
            self.slope = slope

        def __call__(self, shape, dtype=None, **kwargs):
            size = 1
            for n in shape:
                size *= n
            return ops.reshape(ops.arange(size, dtype=dtype or "float32") * self.slope, shape)

        def get_config(self):
            return {"slope": self.slope}

    class Spread(keras.regularizers.Regularizer):
        def __init__(self, strength):
            self.strength = strength

        def __call__(self, x):
            return self.strength * ops.sum(ops.square(x - ops.mean(x)))

        def get_config(self):
            return {"strength": self.strength}

    class Bounded(keras.constraints.Constraint):
        def __init__(self, bound):
            self.bound = bound

        def __call__(self, w):
            return ops.clip(w, -self.bound, self.bound)

        def get_config(self):
            return {"bound": self.bound}

    def swish(x):
        return x * ops.sigmoid(x)

    class Linear(layers.Layer):
        def __init__(self, units=3, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, input_shape):
            self.w = self.add_weight(
                shape=(input_shape[-1], self.units), initializer=Ramp(0.02), regularizer=Spread(0.1), trainable=True
            )
            self.b = self.add_weight(shape=(self.units,), initializer="zeros", constraint=Bounded(0.004))
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

        def call(self, inputs):
            return ops.matmul(inputs, self.w) + self.b

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    model = keras.Sequential([
        keras.Input((4,)),
        layers.Dense(3, activation=swish, kernel_initializer=Ramp(), kernel_regularizer=Spread(0.05),
                     bias_constraint=Bounded(0.002), activity_regularizer=keras.regularizers.L2(0.01)),
        Linear(2),
        layers.Dense(1, kernel_initializer=Ramp(0.3), kernel_constraint=keras.constraints.MaxNorm(0.4),
                     kernel_regularizer="l2"),
    ])  # fmt: skip
    model.compile(keras.optimizers.SGD(0.05), "mse")
    x, y = rng.random((24, 4), dtype="float32"), rng.random((24, 1), dtype="float32")
    first = model.get_weights()
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return {
        **{f"first{i}": w for i, w in enumerate(first)},
        **{f"last{i}": w for i, w in enumerate(model.get_weights())},
        "loss": history.history["loss"],
        "evaluated": model.evaluate(x, y, verbose=0),
        "names": [w.path.split("/")[-1] for w in model.layers[1].weights],
        "trained": len(model.trainable_variables),
    }
