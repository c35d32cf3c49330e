"""Inputs and outputs as dictionaries, with losses, weights of examples and metrics by name."""

import numpy as np


def program(keras):
    layers, ops, rng = keras.layers, keras.ops, np.random.default_rng(18)
    inputs = {
        "age": keras.Input((), name="age"),
        "kind": keras.Input((), name="kind", dtype="int32"),
        "rest": keras.Input((3,), name="rest"),
    }
    h = layers.concatenate([ops.expand_dims(inputs["age"], -1), layers.Embedding(5, 2)(inputs["kind"]), inputs["rest"]])
    h = layers.Dense(4, activation="selu")(h)
    outputs = {"risk": layers.Dense(1, activation="sigmoid", name="risk")(h), "cost": layers.Dense(2, name="cost")(h)}
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.set_weights([rng.normal(0, 0.4, w.shape).astype("float32") for w in model.get_weights()])
    model.compile(
        optimizer="nadam",
        loss={"risk": "binary_crossentropy", "cost": keras.losses.Huber(delta=0.5)},
        loss_weights={"risk": 1.0, "cost": 0.3},
        metrics={"risk": ["accuracy"], "cost": [keras.metrics.MeanAbsoluteError(name="mae"), "mse"]},
        weighted_metrics={"cost": ["mae"]},
    )
    x = {
        "age": rng.random(20, dtype="float32"),
        "kind": rng.integers(0, 5, 20),
        "rest": rng.random((20, 3), dtype="float32"),
    }
    y = {"risk": rng.integers(0, 2, (20, 1)).astype("float32"), "cost": rng.random((20, 2), dtype="float32")}
    w = {"risk": rng.random(20, dtype="float32"), "cost": rng.random(20, dtype="float32")}
    history = model.fit(x, y, sample_weight=w, batch_size=8, epochs=2, shuffle=False, verbose=0)
    predicted = model.predict(x, verbose=0)
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    return {
        "names": list(history.history),
        "history": list(history.history.values()),
        "keys": sorted(predicted),
        "risk": predicted["risk"],
        "cost": predicted["cost"],
        "evaluated_names": list(evaluated),
        "evaluated": list(evaluated.values()),
        "called": model({name: value[:2] for name, value in x.items()})["cost"],
    }
