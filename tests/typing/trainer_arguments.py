"""The forms of the arguments of `Trainer` and its methods, checked by pyright in `make lint`; never run."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from training import Checkpoints, Trainer, callbacks, datasets, losses, metrics, optimizers


class Frame:
    """Converts itself to an array, like a data frame."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.ones((3, 4))


class BatchesByIndex:
    """Provides batches by index, like `keras.utils.PyDataset`."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((3, 4)), np.ones(3)


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches."""
    yield np.ones((3, 4)), np.ones(3)


def squared(y_true: jax.Array, y_pred: jax.Array) -> jax.Array:
    """Returns the squared error."""
    return jnp.square(y_true - y_pred)


class PrintEpochs(callbacks.Callback):
    """Overrides the methods that are no hooks."""

    def set_params(self, params: dict[str, Any]) -> None:
        print(params["epochs"] + 1)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"epochs": self.params["epochs"] + 1}


def losses_and_metrics(model: Any, variables: dict[str, Any]) -> list[Trainer]:
    """Makes trainers."""
    names, factors, by_output = ["accuracy", "mae"], [1, 2], {"a": "mse", "b": "mae"}
    return [
        Trainer(model, optax.adam(1e-3), squared, metrics=[squared, "mae", metrics.AUC, metrics.AUC()]),
        Trainer(model, optimizers.SGD(0.1), losses.MeanSquaredError, metrics=metrics.AUC()),
        Trainer(model, lambda grads, params: grads, losses.Huber(), metrics=names, loss_weights=factors),
        Trainer(model, "adam", ["mse", None], metrics=[["mae"], None], loss_weights=[1.0, 2], variables=variables),
        Trainer(model, "adam", {"a": "mse", "b": losses.Huber()}, metrics={"a": ["mae", squared], "b": "mse"}),
        Trainer(model, loss=by_output, weighted_metrics=by_output, loss_weights={"a": 0.5}),
        Trainer(model, loss=losses.mean_squared_error, metrics=[losses.mean_squared_error]),
    ]


def data(trainer: Trainer, x: np.ndarray) -> None:
    """Passes data in every form."""
    inputs, by_name, pair = [x, x], {"a": x}, (x, x)
    trainer.build(jax.ShapeDtypeStruct((3, 4), np.float32))
    trainer.fit(jnp.ones(3), [1, 2, 3], sample_weight=[1.0, 2.0, 3.0], validation_data=pair)
    trainer.fit([[1.0, 2.0], [3.0, 4.0]], [0, 1], validation_data=(inputs, by_name, x))
    trainer.fit(inputs, by_name, validation_data=[by_name, inputs])
    trainer.fit(by_name, inputs, callbacks=callbacks.EarlyStopping())
    trainer.fit(Frame(), Frame(), sample_weight=Frame(), callbacks=[PrintEpochs(), callbacks.TerminateOnNaN()])
    trainer.fit(batches(), validation_data=batches, resume="folder")
    trainer.fit(BatchesByIndex(), validation_data=BatchesByIndex(), resume=Checkpoints("folder"))
    trainer.fit(lambda epoch: iter([pair]), validation_data=datasets.load("digits").test)
    trainer.fit(zip([x], [x], strict=True), callbacks=[callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1)])
    trainer.evaluate(datasets.load("digits").test)
    trainer.predict(Frame())
