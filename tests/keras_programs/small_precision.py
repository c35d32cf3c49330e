"""A model that computes in bfloat16 with float32 variables, by the program's policy and by arguments."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(31)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((4,))
        h = layers.Dense(3, activation="relu", name="small")(inputs)
        model = keras.Model(inputs, layers.Dense(2, activation="softmax", dtype="float32", name="full")(h))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    values = [rng.integers(-2, 3, w.shape).astype("float32") for w in model.get_weights()]
    model.set_weights(values)
    x = rng.integers(-2, 3, (8, 4)).astype("float32")
    model.compile("sgd", "sparse_categorical_crossentropy")
    small = model.get_layer("small")
    return {
        "predicted": model.predict(x, verbose=0),
        "loss": model.evaluate(x, np.arange(8) % 2, verbose=0),
        "dtypes": [str(np.dtype(small.compute_dtype)), small.variable_dtype, small.dtype_policy.name],
        "output": str(small.output.dtype),
        "weights": [w.dtype for w in model.weights],
    }
