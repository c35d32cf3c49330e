"""Trains a CNN on images of digits, evaluates it and saves it.

python examples/mnist_cnn.py [--small]    --small uses the embedded 8 x 8 digits instead of downloading MNIST
"""

import sys

import flaxmodels
import training
from flaxmodels import Sequential, layers
from training import Trainer, callbacks, datasets


def main(small: bool) -> None:
    training.compilation_cache()  # the next start compiles nothing
    data = datasets.load("digits" if small else "mnist")
    model = Sequential([
        layers.Conv2D(32, 3, activation="relu", padding="same", input_shape=data.info.input_shape),
        layers.MaxPooling2D(2),
        layers.Conv2D(64, 3, activation="relu", padding="same"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.summary()

    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", metrics=["accuracy"], seed=0)
    history = trainer.fit(
        data.train,
        batch_size=128,
        epochs=3 if small else 12,
        validation_data=data.test,
        callbacks=[callbacks.EarlyStopping(patience=3, restore_best_weights=True)],
    )
    history.plot("CNN").savefig("mnist_cnn.png")
    print(trainer.evaluate(data.test))

    trainer.save("mnist_cnn.safetensors")
    model, variables = flaxmodels.load("mnist_cnn.safetensors")
    images, labels = data.test[:10]
    print("predicted", model.apply(variables, images).argmax(axis=-1), "labels", labels)


if __name__ == "__main__":
    main(small="--small" in sys.argv)
