"""Trains any linen module: checks arguments, makes sources of data, and calls a session, a run or an evaluation."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.typing import VariableDict

from flaxmodels import files
from training import callbacks as callbacks_module
from training import optimizers, steps, summary
from training.arguments import check_epochs, check_steps, checkpoints_for, in_precision
from training.callbacks import Callback, History, ProgbarLogger
from training.checkpoints import Checkpoints
from training.data.arguments import (
    Data,
    ValidationData,
    choose_batch_size,
    labelled_source,
    unlabelled_source,
    validation_source,
)
from training.data.checks import check_ids
from training.data.examples import ArrayTree
from training.data.source import Source
from training.evaluation import Evaluation
from training.losses import LossesLike
from training.metrics import MetricsLike
from training.nonfinite import NonfinitePolicy
from training.optimizers import OptimizerLike
from training.prediction import Prediction
from training.process import check_not_forked
from training.progress import example_unit, format_logs, make_progress
from training.run import FitRun, Validation
from training.session import Session
from training.state import TrainState

LossWeights: TypeAlias = float | Sequence[float | None] | Mapping[str, float | None]


class Trainer:
    """Trains, evaluates and runs a model: Keras' `compile`, `fit`, `evaluate` and `predict` for any linen module.

    Args:
        model: A model of this library, or any linen module.
        optimizer: Name, optax transformation, or function (grads, params) -> updates.
        loss: Name, loss or function (y_true, y_pred) -> [B]; a list or dictionary for several outputs.
        metrics: Names, metrics or functions; a list for one output, otherwise a list or dictionary with an entry per
            output.
        loss_weights: Factors of the outputs' losses.
        weighted_metrics: Metrics to which sample and class weights apply.
        seed: Determines initialization, shuffling and dropout.
        variables: Initial variables, for example from `fm.load`. Missing ones, such as a new head on a trained base,
            are initialized.
        steps_per_execution: Steps that run before control returns to Python. "auto" chooses about half a second's
            worth on a CPU, and a whole epoch elsewhere. Results do not depend on it.
        nonfinite: How to handle a step whose loss or gradients are not finite. "stop" skips the step and ends the
            run. "restore" also returns to the state at the start of the epoch. "skip" skips the step and continues.
            "ignore" uses the numbers, as Keras does.
        deterministic: Whether a GPU computes the same bits in every run of the same seed, which costs some speed. A CPU
            always does, given the same number of cores.
        precision: "mixed_bfloat16" or "mixed_float16" makes the model compute in half precision, with parameters,
            losses, metrics and statistics in float32; the latter also scales the loss. None keeps the model's dtype.
        train_step: Factory for a custom training step: a function (model, objective, optimizer, rules, nonfinite) that
            returns a function (state, totals, batch) -> (state, totals). The default is `steps.make_train_step`.
        make_objective: Resolves losses and metrics, as `Objective.of` does. A subclass of `Objective` may compute
            another loss from the whole batch.

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
        optimizer: OptimizerLike = "rmsprop",
        loss: LossesLike | None = None,
        metrics: MetricsLike | None = None,
        loss_weights: LossWeights | None = None,
        weighted_metrics: MetricsLike | None = None,
        seed: int = 0,
        variables: VariableDict | None = None,
        steps_per_execution: int | str = "auto",
        nonfinite: str = "stop",
        deterministic: bool = False,
        precision: str | None = None,
        train_step: Callable[..., steps.TrainStep] = steps.make_train_step,
        make_objective: Callable[..., steps.Objective] = steps.Objective.of,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"A Trainer trains a linen module, got {model!r} of type {type(model).__name__}; "
                "give a Sequential, a Model, or an nn.Module object."
            )
        if steps_per_execution != "auto" and (not isinstance(steps_per_execution, int) or steps_per_execution < 1):
            raise ValueError(
                f"`steps_per_execution` must be 'auto' or a positive integer, got {steps_per_execution!r}; use 'auto'."
            )
        if not isinstance(deterministic, bool):
            raise TypeError(
                f"`deterministic` must be True or False, got {deterministic!r}; give True for bit-identical runs."
            )
        if not callable(train_step):
            raise TypeError(
                "`train_step` must be a function (model, objective, optimizer, rules, nonfinite) that makes a step, "
                f"got {train_step!r}; give one like training.steps.make_train_step."
            )
        if variables is not None and not isinstance(variables, Mapping):
            raise TypeError(
                f"`variables` must be a dictionary of collections such as {{'params': ...}}, got "
                f"{type(variables).__name__}; give what `init` or `fm.load` returns."
            )
        made = optimizers.get(optimizer)
        if precision is not None:
            model = in_precision(model, precision)
            if precision == "mixed_float16":
                made = optimizers.LossScaleOptimizer(made)
        self.history = History()
        self.session = Session(
            model,
            made,
            {"loss": loss, "metrics": metrics, "weighted_metrics": weighted_metrics, "loss_weights": loss_weights},
            seed,
            NonfinitePolicy(nonfinite, train_step),
            train_step,
            steps_per_execution,
            deterministic,
            variables,
            make_objective,
        )

    def _repr_html_(self) -> str:
        """Returns a table of model, loss, metrics and state for a notebook."""
        return summary.as_html(self.model, self.loss, self.metrics, self.state)

    # ------------------------------------------------------------ state

    @property
    def model(self) -> nn.Module:
        """The model, in the precision in which it computes."""
        return self.session.model

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer, an optax transformation."""
        return self.session.optimizer

    @property
    def loss(self) -> LossesLike | None:
        """The loss as it was given."""
        return self.session.losses["loss"]

    @property
    def metrics(self) -> MetricsLike | None:
        """The metrics as they were given."""
        return self.session.losses["metrics"]

    @property
    def weighted_metrics(self) -> MetricsLike | None:
        """The metrics in which sample weights count, as they were given."""
        return self.session.losses["weighted_metrics"]

    @property
    def loss_weights(self) -> LossWeights | None:
        """The factors of the outputs' losses, as they were given."""
        return self.session.losses["loss_weights"]

    @property
    def nonfinite(self) -> str:
        """What happens at a step with non-finite numbers."""
        return self.session.nonfinite.choice

    @property
    def steps_per_execution(self) -> int | str:
        """The number of steps between two returns to Python, or "auto"."""
        return self.session.steps_per_execution

    @property
    def deterministic(self) -> bool:
        """Whether a GPU computes the same bits in every run."""
        return self.session.deterministic

    @property
    def train_step(self) -> Callable[..., steps.TrainStep]:
        """The factory of training steps."""
        return self.session.train_step

    @property
    def seed(self) -> int:
        """The seed of initialization, shuffling and dropout."""
        return self.session.seed

    @property
    def state(self) -> TrainState | None:
        """The state of training; None before the first call."""
        return self.session.state if self.session.is_built else None

    @state.setter
    def state(self, state: TrainState) -> None:
        self.session.state = state

    @property
    def variables(self) -> dict[str, Any]:
        """The model's current variables: `params`, and `batch_stats` if it has any."""
        return self.session.variables

    @variables.setter
    def variables(self, variables: VariableDict) -> None:
        self.session.variables = dict(variables)

    @property
    def stop_training(self) -> bool:
        """Whether the current run ends after the running chunk of steps; callbacks set it."""
        return self.session.stop_training

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        self.session.stop_training = stop

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step. It can be set at any time without recompilation."""
        return self.session.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.session.learning_rate = value

    def learning_rates(self) -> dict[str, float]:
        """Returns the learning rates keyed by name: several with `by_path`, none if they are unknown."""
        return optimizers.learning_rates(self.session.state.opt_state)

    def build(self, x: ArrayTree | jax.ShapeDtypeStruct) -> None:
        """Initializes parameters and optimizer for inputs like x [B, ...], unless this was done before."""
        check_not_forked()
        self.session.build(x)

    def reset_states(self) -> None:
        """Sets the states of stateful layers to zero, as before a new sequence. Callbacks may call it.

        References:
            Keras, `keras.layers.RNN.reset_state`.
        """
        self.session.reset_states()

    def replace_trained(self, trained: optax.Params) -> None:
        """Replaces the values of the trained parameters, for example by averages."""
        self.session.replace_trained(trained)

    def metric_direction(self, name: str) -> str | None:
        """Returns "up" if larger values of a metric are better, "down" if smaller ones are, or None if unknown."""
        return self.session.metric_direction(name)

    # ------------------------------------------------------------ fit

    def fit(
        self,
        x: Data,
        y: ArrayTree | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: ValidationData | None = None,
        shuffle: bool | None = None,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: ArrayTree | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
        resume: str | os.PathLike[str] | Checkpoints | None = None,
    ) -> History:
        """Trains the model.

        Args:
            x: Inputs [N, ...], a list or dictionary of inputs, a `Split` of `datasets.load`, or a stream of batches
                (x, y) or (x, y, sample_weight). A stream is a loader, an iterator, a sequence of batches such as
                `keras.utils.PyDataset`, or a function that returns a loader or an iterator. From an iterator, `fit`
                takes only the batches that it uses, so the next call continues with the next batch.
            y: Labels [N, ...]; None for a `Split` or a stream.
            batch_size: Examples in a step. The default divides the data into `steps_per_epoch` steps if that is given,
                otherwise it is 32. A stream has its own batch size.
            epochs: Number of the last epoch, counted from 1.
            verbose: 0 silent, 1 live, 2 a line per epoch, "auto" by the terminal.
            callbacks: Callbacks.
            validation_split: Fraction of the examples for validation, taken from the end.
            validation_data: Data for validation: (x, y), (x, y, sample_weight), a `Split` or a stream.
            shuffle: Whether to shuffle the examples, or the batches of a sequence, in each epoch. Other streams have
                their own order. The default is True unless a layer is stateful: its states belong to the examples at
                the same positions of the next batch.
            class_weight: Factors of the losses, keyed by class, only in training.
            sample_weight: Factors of the losses [N], in training and for the examples of `validation_split`.
            initial_epoch: Number of completed epochs before this call.
            steps_per_epoch: Steps in an epoch; by default a pass through the data. The next epoch continues where this
                one ends.
            validation_steps: Steps of each validation; by default all. Each validation starts at the first batch,
                unless `validation_data` is an iterator, which continues with its next batch.
            validation_batch_size: Examples in a step of validation; by default like `batch_size`.
            validation_freq: Epochs between validations, or the numbers of the epochs, counted from 1.
            resume: A folder for checkpoints, or `Checkpoints`. The run resumes from the newest checkpoint there, also
                from inside an epoch. On a CPU with the same number of cores, the result is bit-for-bit identical to
                an uninterrupted run. A new learning rate is used, with a warning. Another optimizer is refused.

        Returns:
            The history: `history.history["loss"]` has a value per epoch.

        Raises:
            ValueError: If data, labels and model are incompatible.
            TypeError: If a callback has a hook that does not exist, or data is not an array of numbers.

        References:
            Keras, `keras.Model.fit`.
        """
        check_not_forked()
        session = self.session
        user_callbacks = callbacks_module.check(callbacks)
        shuffle = not session.stateful if shuffle is None else shuffle
        check_epochs(epochs, initial_epoch, validation_freq, shuffle)
        check_steps("steps_per_epoch", steps_per_epoch)
        check_steps("validation_steps", validation_steps)
        source = labelled_source(x, y, sample_weight, class_weight, "fit", session.needs_labels)
        held_out = None if validation_data is None else validation_source(validation_data, session.needs_labels)
        if held_out is None and validation_split:
            source, held_out = source.split_off(validation_split, by_class=class_weight is not None)
        example = source.example
        rows = choose_batch_size(source, self.model, batch_size, steps_per_epoch, "fit")
        session.prepare(example, rows, train=True)
        objective = session.objective_for(example, rows)
        session.check_loss(example, objective, rows)
        feed = session.feed(source, rows, objective, steps_per_epoch, train=True)
        validation = None
        if held_out is not None:
            if validation_batch_size is None and held_out.batch_size is None:
                validation_batch_size = batch_size
            validation_rows = choose_batch_size(
                held_out, self.model, validation_batch_size, validation_steps, "fit", "validation_batch_size"
            )
            validation = Validation(self._evaluation(held_out, validation_rows, validation_steps), validation_freq)
        if any(isinstance(callback, ProgbarLogger) for callback in user_callbacks):
            verbose = 1
        self.history = next((c for c in user_callbacks if isinstance(c, History)), None) or History()
        epoch_steps = steps_per_epoch or feed.steps
        params: dict[str, object] = {"verbose": verbose, "epochs": epochs, "steps": epoch_steps}
        for callback in [*user_callbacks, self.history]:
            callback.set_trainer(self)
            callback.set_params(params)
            callback.has_validation = validation is not None
        run = FitRun(
            session,
            feed,
            objective,
            user_callbacks,
            self.history,
            make_progress(verbose, epochs, epoch_steps, example_unit(example.x)),
            shuffle=shuffle,
            validation=validation,
            steps_per_epoch=steps_per_epoch,
            checkpoints=checkpoints_for(resume, user_callbacks),
        )
        run(range(initial_epoch, epochs))
        return self.history

    # ------------------------------------------------------------ evaluate and predict

    def evaluate(
        self,
        x: Data,
        y: ArrayTree | None = None,
        batch_size: int | None = None,
        verbose: str | int = 0,
        sample_weight: ArrayTree | None = None,
        steps: int | None = None,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> dict[str, float]:
        """Computes loss and metrics over all examples.

        Args:
            x: Inputs [N, ...], a `Split`, or a stream of batches.
            y: Labels [N, ...]; None for a `Split` or a stream.
            batch_size: Examples in a step. The default divides the data into `steps` steps if that is given, otherwise
                it is 32. A stream has its own batch size.
            verbose: 0 is silent; 1, 2 and "auto" print the result.
            sample_weight: Factors of the losses [N].
            steps: How many batches to evaluate; by default all.
            callbacks: Callbacks, for their hooks of evaluation, such as `on_test_end`.

        Returns:
            The values keyed by name, `loss` first.

        References:
            Keras, `keras.Model.evaluate`.
        """
        check_not_forked()
        check_steps("steps", steps)
        source = labelled_source(x, y, sample_weight, None, "evaluate", self.session.needs_labels)
        evaluation = self._evaluation(
            source, choose_batch_size(source, self.model, batch_size, steps, "evaluate"), steps
        )
        user_callbacks = self._start_callbacks(callbacks, "on_test_begin", verbose, steps or evaluation.feed.steps)
        logs = evaluation(callbacks=user_callbacks)
        for callback in user_callbacks:
            callback.on_test_end(logs)
        if verbose:
            print(format_logs(logs))
        return logs

    def _start_callbacks(
        self, given: Callback | Sequence[Callback] | None, hook: str, verbose: str | int, steps: int | None
    ) -> list[Callback]:
        """Returns the callbacks of an evaluation or prediction, after their first hook."""
        user_callbacks = callbacks_module.check(given)
        for callback in user_callbacks:
            callback.set_trainer(self)
            callback.set_params({"verbose": verbose, "epochs": 1, "steps": steps})
        for callback in user_callbacks:
            getattr(callback, hook)({})
        return user_callbacks

    def _evaluation(self, source: Source, rows: int, max_steps: int | None) -> Evaluation:
        """Returns the evaluation of this data in batches of `rows`; it moves to the device now if it fits."""
        self.session.prepare(source.example, rows)
        objective = self.session.objective_for(source.example, rows)
        return Evaluation(self.session, objective, self.session.feed(source, rows, objective, max_steps), max_steps)

    def predict(
        self,
        x: Data,
        batch_size: int | None = None,
        verbose: str | int = 0,
        steps: int | None = None,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> Any:
        """Computes the outputs of all examples.

        Args:
            x: Inputs [N, ...], a `Split`, or a stream of batches.
            batch_size: Examples in a step. The default divides the data into `steps` steps if that is given, otherwise
                it is 32. A stream has its own batch size.
            verbose: 0 is silent; other values print the number of examples.
            steps: How many batches to compute; by default all.
            callbacks: Callbacks, for their hooks of prediction, such as `on_predict_end`.

        Returns:
            A numpy array [N, ...], or a tree of them for several outputs.

        References:
            Keras, `keras.Model.predict`.
        """
        check_not_forked()
        check_steps("steps", steps)
        session, source = self.session, unlabelled_source(x)
        rows = choose_batch_size(source, self.model, batch_size, steps, "predict")
        session.prepare(source.example, rows)
        check_ids(source.example, self.model)
        feed = session.feed(source, rows, None, steps)
        user_callbacks = self._start_callbacks(callbacks, "on_predict_begin", verbose, steps or feed.steps)
        parts = Prediction(session, feed, steps)(user_callbacks)
        for callback in user_callbacks:
            callback.on_predict_end({})
        predicted = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        if verbose:
            print(f"{len(jax.tree.leaves(predicted)[0])} examples predicted")
        return predicted

    def save(self, path: str | os.PathLike[str], architecture: bool | None = None) -> None:
        """Writes the model and its variables to one file, in the format of its suffix; see `fm.save`."""
        files.save(path, self.model, self.variables, architecture)
