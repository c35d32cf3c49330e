"""The thin shell around the compiled steps: it resolves names, brings data to the device, and calls back."""

import math
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import saving
from flaxmodels.building import Container, Model
from training import callbacks as callbacks_module
from training import optimizers, steps
from training.batches import Data, Feed, as_data, check_labels, split_off
from training.callbacks import History
from training.fitting import Evaluation, Program, Run, signature
from training.objective import Objective, resolve
from training.progress import make_progress
from training.state import TrainState


class Trainer:
    """Trains, evaluates and runs a model: Keras' `compile`, `fit`, `evaluate` and `predict` for any linen module.

    Args:
        model: A model of our layers, or any linen module.
        optimizer: Name or optax transformation.
        loss: Name, loss or function (y_true, y_pred) -> [B]; a list or dictionary for several outputs.
        metrics: Names, metrics or functions; a list for one output, else by output.
        loss_weights: Factors of the outputs' losses.
        weighted_metrics: Metrics in which sample and class weights count.
        seed: Decides initialization, shuffling and dropout.
        variables: Variables to start from, such as `fm.load` gives, instead of fresh ones.
        steps_per_execution: Steps between two returns to Python; "auto" takes about half a second's worth on a CPU and
            the whole epoch elsewhere. Results do not depend on it.

    References:
        Keras, `keras.Model.compile`.

    Example:
        >>> from flaxmodels import Sequential, layers
        >>> x = np.linspace(-1, 1, 50, dtype="float32")[:, None]
        >>> model = Sequential([layers.Dense(1, input_shape=(1,))])
        >>> trainer = Trainer(model, optimizer="sgd", loss="mse")
        >>> history = trainer.fit(x, 2 * x + 1, epochs=200, batch_size=10, verbose=0)
        >>> history.history["loss"][-1] < 0.01
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        seed: int = 0,
        variables: Mapping[str, Any] | None = None,
        steps_per_execution: int | str = "auto",
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"A Trainer trains a linen module, got {model!r} of type {type(model).__name__}; "
                "give a Sequential, a Model, or an nn.Module object."
            )
        if steps_per_execution != "auto" and (not isinstance(steps_per_execution, int) or steps_per_execution < 1):
            raise ValueError(
                f"`steps_per_execution` is 'auto' or a positive integer, got {steps_per_execution!r}; use 'auto'."
            )
        self.model, self.seed = model, seed
        self.optimizer = optimizers.get(optimizer)
        self.loss, self.metrics = loss, metrics
        self.loss_weights, self.weighted_metrics = loss_weights, weighted_metrics
        self.steps_per_execution = steps_per_execution
        self.stop_training = False
        self.state: TrainState | None = None
        self.history = History()
        self._rules: steps.Rules | None = None
        self._start = variables
        self._objectives: dict[Any, tuple[Objective, list[Any]]] = {}
        self._programs: dict[Any, Program] = {}

    # ------------------------------------------------------------ state

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables as they are now: `params`, and `batch_stats` if it has any."""
        if self.state is not None:
            return self.state.variables
        if self._start is not None:
            return dict(self._start)
        raise ValueError("The model has no parameters yet; call fit, evaluate, predict or build first.")

    @variables.setter
    def variables(self, variables: Mapping[str, Any]) -> None:
        fresh = jax.tree.map(jnp.array, dict(variables))
        if self.state is None:
            self._start = fresh
        else:
            self.state = self.state.replace(params=fresh["params"], batch_stats=fresh.get("batch_stats", {}))

    def build(self, x: Any) -> None:
        """Makes the parameters and the optimizer's state for inputs like x [B, ...], unless they are there."""
        if self.state is None:
            example = jax.tree.map(_example, x)
            self.state, self._rules = steps.create_state(self.model, self.optimizer, example, self.seed, self._start)
            self._start = None

    def _build_for(self, data: Data) -> TrainState:
        if self.state is None:
            x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), data.x)
            self.build(_scaled(x, data.scale))
        return self.state  # type: ignore[return-value]

    def _objective(self, data: Data) -> Objective:
        """Losses and metrics for data like this, checked against its labels."""
        key = (
            signature(jax.tree.map(lambda a: a[:1], (data.x, data.y, data.weight))),
            data.num_classes,
            data.scale,
        )
        if key not in self._objectives:
            batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), data.batch())
            batch = batch._replace(x=_scaled(batch.x, data.scale))
            variables = self._build_for(data).variables
            outputs = jax.eval_shape(lambda v, b: steps.forward(self.model, v, b).values, variables, batch)
            objective = resolve(
                self.loss,
                self.metrics,
                self.weighted_metrics,
                self.loss_weights,
                output_names(self.model, outputs),
                batch.y,
                outputs,
                data.num_classes,
            )
            if batch.y is not None:
                jax.eval_shape(steps.make_eval_step(self.model, objective), variables, objective.empty(), batch)
            self._objectives[key] = objective, jax.tree.leaves(outputs)
        objective, outputs = self._objectives[key]
        check_labels(data, objective, outputs)
        return objective

    def metric_direction(self, name: str) -> str | None:
        """ "up" if more of a metric in the logs is better, "down" if less is, None if it does not say."""
        for objective, _ in self._objectives.values():
            for measured in objective.measured:
                if measured.name == name:
                    return getattr(measured.metric, "direction", None)
        return None

    # ------------------------------------------------------------ fit

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
    ) -> History:
        """Trains for some epochs.

        Args:
            x: Inputs [N, ...], a list or dictionary of them, or a `Split` of `datasets.load`.
            y: Labels [N, ...]; None for a `Split`.
            batch_size: Examples in a step; 32 by default.
            epochs: Number of the last epoch, counted from 1.
            verbose: 0 silent, 1 live, 2 a line per epoch, "auto" by the terminal.
            callbacks: Callbacks.
            validation_split: Fraction of the examples, the last ones, to validate on.
            validation_data: (x, y), (x, y, sample_weight) or a `Split` to validate on.
            shuffle: Whether each epoch has its own order.
            class_weight: Factors of the losses by class.
            sample_weight: Factors of the losses [N].
            initial_epoch: Number of epochs that are done.
            validation_batch_size: Examples in a step of validation; by default `batch_size`.
            validation_freq: Epochs from one validation to the next, or the numbers of the epochs, counted from 1.

        Returns:
            The history: `history.history["loss"]` has a value per epoch.

        Raises:
            ValueError: If data, labels and model do not fit together.
            TypeError: If a callback can't be honoured, or data is no array of numbers.

        References:
            Keras, `keras.Model.fit`.
        """
        called_back = callbacks_module.check(callbacks)
        if self.loss is None:
            raise ValueError(
                "Training needs a loss, and the Trainer has none; write Trainer(model, loss='mse') or the like."
            )
        data = _labelled(as_data(x, y, sample_weight, class_weight), "fit")
        validation = None if validation_data is None else _validation(validation_data)
        if validation is None and validation_split:
            data, validation = split_off(data, validation_split)
        self._build_for(data)
        objective = self._objective(data)
        batch_size = 32 if batch_size is None else batch_size
        feed = self._feed(data, batch_size)
        validate = None
        if validation is not None:
            validate = self._evaluation(validation, validation_batch_size or batch_size)
        progress = make_progress(verbose, epochs, feed.steps, feed.n, unit_of(data))
        self.history = History()
        run = Run(self, feed, objective, [*called_back, self.history], progress, shuffle, validate, validation_freq)
        run.set_params({"epochs": epochs, "steps": feed.steps, "verbose": verbose, "validation": validate is not None})
        run(range(initial_epoch, epochs))
        return self.history

    def _feed(self, data: Data, batch_size: int) -> Feed:
        limit = math.inf
        if jax.default_backend() != "cpu":
            memory = jax.local_devices()[0].memory_stats() or {}
            limit = 0.5 * memory.get("bytes_limit", math.inf)
        if isinstance(batch_size, int) and not isinstance(batch_size, bool):
            batch_size = min(batch_size, len(data))
        return Feed(data, batch_size, limit)

    def _train_program(self, feed: Feed, objective: Objective, length: int | None) -> Program:
        key = ("train", objective, feed.data.scale, feed.padded, length)
        if key not in self._programs:
            step = steps.make_train_step(self.model, objective, self.optimizer, self._rules)  # type: ignore[arg-type]
            program = steps.make_train_program(step, objective, feed.data.scale, feed.padded, length)
            self._programs[key] = Program(program, donate=(0, 1))
        return self._programs[key]

    # ------------------------------------------------------------ evaluate and predict

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = 0,
        sample_weight: Any = None,
    ) -> dict[str, float]:
        """Computes loss and metrics over all examples.

        Args:
            x: Inputs [N, ...] or a `Split`.
            y: Labels [N, ...]; None for a `Split`.
            batch_size: Examples in a step; 32 by default.
            verbose: 0 silent; 1, 2 or "auto" print the result.
            sample_weight: Factors of the losses [N].

        Returns:
            The values by name, `loss` first.

        References:
            Keras, `keras.Model.evaluate`.
        """
        data = _labelled(as_data(x, y, sample_weight), "evaluate")
        self._build_for(data)
        logs = self._evaluation(data, 32 if batch_size is None else batch_size)()
        if verbose:
            from training.progress import show

            print(show(logs))
        return logs

    def _evaluation(self, data: Data, batch_size: int) -> Evaluation:
        """What evaluates on this data, which is on the device from now on."""
        self._build_for(data)
        objective, feed = self._objective(data), self._feed(data, batch_size)
        key = ("eval", objective, data.scale, feed.padded)
        if key not in self._programs:
            step = steps.make_eval_step(self.model, objective)
            program = steps.make_eval_program(step, objective, data.scale, feed.padded)
            self._programs[key] = Program(program, donate=(1,))
        return Evaluation(self, objective, feed, self._programs[key])

    def predict(self, x: Any, batch_size: int | None = None, verbose: str | int = 0) -> Any:
        """Computes the outputs of all examples.

        Args:
            x: Inputs [N, ...] or a `Split`.
            batch_size: Examples in a step; 32 by default.
            verbose: Accepted as in Keras; anything but 0 prints how many examples were computed.

        Returns:
            A numpy array [N, ...], or a tree of them for several outputs.

        References:
            Keras, `keras.Model.predict`.
        """
        data = as_data(x)
        feed = Feed(Data(data.x, scale=data.scale), 32 if batch_size is None else batch_size, limit_bytes=0)
        variables = self._build_for(data).variables
        key = ("predict", data.scale)
        if key not in self._programs:
            step = steps.make_predict_step(self.model)
            self._programs[key] = Program(
                lambda v, chunk, order: step(v, steps.batch_at(chunk, order, jnp.int32(0), data.scale, True))
            )
        program = self._programs[key]
        found = [program(variables, chunk.data, chunk.order) for chunk in feed.chunks()]
        if verbose:
            print(f"{feed.n} examples predicted")
        return jax.tree.map(lambda *parts: np.concatenate([np.asarray(p) for p in parts])[: feed.n], *found)

    def save(self, path: str | os.PathLike[str], architecture: bool = True) -> None:
        """Writes the model and its variables as one safetensors file; see `fm.load`."""
        saving.save(path, self.model, self.variables, architecture)


def _example(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) if not hasattr(leaf, "dtype") else leaf


def _scaled(x: Any, scale: float) -> Any:
    """Shapes and dtypes of inputs after their factor is applied."""
    return x if scale == 1 else jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), x)


def _labelled(data: Data, method: str) -> Data:
    if data.y is None:
        raise ValueError(f"`{method}` needs labels, got none; write {method}(x, y), or give a Split of datasets.load.")
    return data


def _validation(given: Any) -> Data:
    if isinstance(given, tuple | list):
        if len(given) not in (2, 3):
            raise ValueError(
                f"`validation_data` is (x, y), (x, y, sample_weight) or a Split, got {len(given)} entries; "
                "give one of them."
            )
        return _labelled(as_data(*given), "validation_data")
    return _labelled(as_data(given), "validation_data")


def output_names(model: nn.Module, outputs: Any) -> list[str]:
    """What a model's outputs are called: keys of a dictionary, the layers of a graph, else output_0, output_1."""
    n = len(jax.tree.leaves(outputs))
    if isinstance(outputs, Mapping):
        return sorted(outputs)
    if isinstance(model, Model) and isinstance(model, Container):
        names = [
            model.graph.names.get(id(s.node.layer)) if s.node else s.name for s in jax.tree.leaves(model.graph.outputs)
        ]
        if all(names) and len(set(names)) == n:
            return [str(name) for name in names]
    return ["output"] if n == 1 else [f"output_{i}" for i in range(n)]


def unit_of(data: Data) -> str:
    """What an example is called in rates: images, sequences, or just examples."""
    leaves = jax.tree.leaves(data.x)
    return {4: "images", 3: "sequences"}.get(leaves[0].ndim, "examples") if len(leaves) == 1 else "examples"
