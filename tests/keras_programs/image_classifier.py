"""A small convolutional classifier with a validation split, `summary` and weights of single layers."""

import numpy as np


def program(keras):
    layers, rng = keras.layers, np.random.default_rng(10)
    x = rng.random((48, 8, 8, 3), dtype="float32")
    y = keras.utils.to_categorical(rng.integers(0, 4, 48), 4)
    model = keras.Sequential(
        [
            keras.Input(shape=(8, 8, 3)),
            layers.Conv2D(4, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.0),
            layers.Dense(4, activation="softmax"),
        ]
    )
    values = [rng.normal(0, 0.3, w.shape).astype("float32") for w in model.get_weights()]
    model.set_weights([w if w.ndim > 1 else abs(w) for w in values])
    lines = []
    model.summary(print_fn=lambda line, **kwargs: lines.append(line))
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=16, epochs=2, validation_split=0.25, shuffle=False, verbose=0)
    score = model.evaluate(x, y, verbose=0)
    kernel, bias = model.layers[0].get_weights()
    return {
        "history": list(history.history.values()),
        "names": list(history.history),
        "epochs": history.epoch,
        "loss": score[0],
        "accuracy": score[1],
        "kernel": kernel,
        "bias": bias,
        "statistics": model.layers[2].get_weights()[2],
        "shapes": [str(layer.output.shape) for layer in model.layers],
        "names_of_layers": [layer.name for layer in model.layers],
        "parameters": model.count_params(),
        "summary": sum("Total params: 280" in line for line in "\n".join(lines).split("\n")),
        "input": str(model.input_shape),
        "output": str(model.output_shape),
    }
