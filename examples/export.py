"""Exports a trained model: as a program for any machine with JAX, and as a file for Keras.

python examples/export.py [--small]    needs flatbuffers and h5py: pip install flatbuffers h5py
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import flaxmodels
from flaxmodels import Sequential, layers
from training import Trainer, datasets


def main(small: bool) -> None:
    data = datasets.load("digits")
    model = Sequential([
        layers.Conv2D(16, 3, activation="relu", input_shape=(8, 8, 1)),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax"),
    ])  # fmt: skip
    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    trainer.fit(data.train, epochs=1 if small else 20, verbose=2)
    variables = trainer.variables

    # The program holds the variables, works for any number of examples, and needs JAX only.
    (batch,) = export.symbolic_shape("batch")
    predict = export.export(jax.jit(lambda x: model.apply(variables, x)), platforms=("cpu", "cuda"))
    program = predict(jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.float32))
    pathlib.Path("digits.stablehlo").write_bytes(program.serialize())

    images, _ = data.test
    loaded = export.deserialize(pathlib.Path("digits.stablehlo").read_bytes())
    difference = np.abs(loaded.call(images) - trainer.predict(images)).max()
    print(f"largest difference of the exported program: {difference:.1e}")

    # Keras reads this file with keras.models.load_model("digits.keras").
    trainer.save("digits.keras")
    again, variables = flaxmodels.load("digits.keras")
    difference = np.abs(again.apply(variables, images) - trainer.predict(images)).max()
    print(f"largest difference of the Keras file: {difference:.1e}")


if __name__ == "__main__":
    main(small="--small" in sys.argv)
