"""The thin shell around the compiled steps: it resolves names, brings data to the device, and calls back."""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import files
from flaxmodels.layers.recurrent import reset_states, stateful_scopes
from training import advice, changes, optimizers, padding, steps
from training import callbacks as callbacks_module
from training.arguments import (
    check_epochs,
    check_inputs,
    check_steps,
    checkpoints_for,
    given_data,
    given_validation,
    in_memory,
    in_precision,
)
from training.batches import Data, Feed, as_data, batch_size_for, check_ids, check_labels, split_off, unit_of
from training.callbacks import Callback, History, ProgbarLogger
from training.checkpoints import Checkpoints
from training.fitting import Evaluation, Program, Run, Walk, signature
from training.objective import Objective, check_per_output, check_shapes, ordered, output_names, resolve
from training.process import check_not_forked
from training.progress import make_progress
from training.sources import is_stream
from training.state import TrainState
from training.streams import Stream, StreamFeed

# What of the inputs `predict` holds on the device at a time: a piece in use, one on its way, one to let go.
PREDICTED_BYTES = 3 * 2**24


class Trainer:
    """Trains, evaluates and runs a model: Keras' `compile`, `fit`, `evaluate` and `predict` for any linen module.

    Args:
        model: A model of our layers, or any linen module.
        optimizer: Name, optax transformation, or function (grads, params) -> updates.
        loss: Name, loss or function (y_true, y_pred) -> [B]; a list or dictionary for several outputs.
        metrics: Names, metrics or functions; a list for one output, else by output.
        loss_weights: Factors of the outputs' losses.
        weighted_metrics: Metrics in which sample and class weights count.
        seed: Decides initialization, shuffling and dropout.
        variables: Variables to start from, such as `fm.load` gives; those that are missing, such as a new head on a
            trained base, get fresh values.
        steps_per_execution: Steps between two returns to Python; "auto" takes about half a second's worth on a CPU and
            the whole epoch elsewhere. Results do not depend on it.
        nonfinite: What happens at a step whose loss or gradients are not finite, found inside the compiled program.
            "stop" leaves it out and ends the run, "restore" also goes back to the begin of the epoch, "skip" leaves it
            out and goes on, "ignore" lets the numbers in, as Keras does.
        deterministic: Whether a GPU gives the same bits in every run of the same seed, which costs some speed; a CPU
            does so anyway, with the same number of cores.
        precision: "mixed_bfloat16" or "mixed_float16" has the model compute in half precision, with parameters, losses,
            metrics and statistics in float32; the latter also scales the loss. None leaves the model as it is.
        train_step: A function (model, objective, optimizer, rules, nonfinite) that makes a step of one's own,
            (state, totals, batch) -> (state, totals); begin with that of `steps.make_train_step`.

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
        nonfinite: str = "stop",
        deterministic: bool = False,
        precision: str | None = None,
        train_step: Callable[..., Any] = steps.make_train_step,
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
        if nonfinite not in ("stop", "restore", "skip", "ignore"):
            raise ValueError(
                f"`nonfinite` is 'stop', 'restore', 'skip' or 'ignore', got {nonfinite!r}; use one of them."
            )
        if not isinstance(deterministic, bool):
            raise TypeError(f"`deterministic` is True or False, got {deterministic!r}; give True for the same bits.")
        if not callable(train_step):
            raise TypeError(
                "`train_step` is a function (model, objective, optimizer, rules, nonfinite) that makes a step, "
                f"got {train_step!r}; give one like training.steps.make_train_step."
            )
        if variables is not None and not isinstance(variables, Mapping):
            raise TypeError(
                "`variables` is a dictionary of collections such as {'params': ...}, got "
                f"{type(variables).__name__}; give what `init` or `fm.load` returns."
            )
        self.model, self.seed, self.nonfinite, self.train_step = model, seed, nonfinite, train_step
        self.optimizer = optimizers.get(optimizer)
        if precision is not None:
            self.model = in_precision(model, precision)
            if precision == "mixed_float16":
                self.optimizer = optimizers.LossScaleOptimizer(self.optimizer)
        self.loss, self.metrics = loss, metrics
        self.loss_weights, self.weighted_metrics = loss_weights, weighted_metrics
        self.steps_per_execution, self.deterministic = steps_per_execution, deterministic
        self.stop_training = False
        self._shared = False  # whether somebody was given the variables as they are now
        self.chosen_rate: float | None = None  # to which the learning rate was set since the last run
        self.state: TrainState | None = None
        self.history = History()
        self._rules: steps.Rules | None = None
        self._start = variables
        self._objectives: dict[Any, tuple[Objective, list[Any]]] = {}
        self._settings: Any = None  # of the model, when its rules were read
        self._programs: dict[Any, Program] = {}
        self._speeds: dict[Any, float] = {}
        self._padding: dict[Any, bool] = {}
        # Both by the settings and rules that they were made with.
        self._made: dict[Any, tuple[dict[Any, Program], dict[Any, bool]]] = {}

    # ------------------------------------------------------------ state

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables as they are now: `params`, and `batch_stats` if it has any."""
        if self.state is not None:
            self._shared = True
            return self.state.variables
        if self._start is not None:
            return dict(self._start)
        raise ValueError("The model has no parameters yet; call fit, evaluate, predict or build first.")

    @variables.setter
    def variables(self, variables: Mapping[str, Any]) -> None:
        given = jax.tree.map(jnp.array, dict(variables))
        if self.state is None:
            self._start = given
        else:
            filled = steps.filled_in(given, self.state.variables)
            self.state = self.state.replace(params=filled.get("params", {}), batch_stats=filled.get("batch_stats", {}))

    def keep_shared_variables(self) -> None:
        """Gives training a copy of variables that somebody else has, where it would overwrite them in place."""
        if self._shared and not self._goes_back:
            variables = jax.tree.map(jnp.copy, self.state.variables)  # type: ignore[union-attr]
            self.state = self.state.replace(**variables)  # type: ignore[union-attr]
        self._shared = False

    def build(self, x: Any) -> None:
        """Makes the parameters and the optimizer's state for inputs like x [B, ...], unless they are there."""
        check_not_forked()
        if self.state is None:
            example = jax.tree.map(_example, x)
            self.state, self._rules = steps.create_state(self.model, self.optimizer, example, self.seed, self._start)
            self._start, self._settings = None, changes.settings(self.model)

    @property
    def _stateful(self) -> bool:
        """Whether a layer carries its states from batch to batch."""
        return bool(stateful_scopes(self.model))

    def reset_states(self) -> None:
        """Sets the states of stateful layers to zero, as before a new sequence; callbacks may call it, too.

        References:
            Keras, `keras.layers.RNN.reset_state`.
        """
        if self.state is not None:
            self.take_states({"batch_stats": reset_states(self.model, self.variables).get("batch_stats", {})})

    def take_states(self, changed: Mapping[str, Any]) -> None:
        """Takes the states of stateful layers that an evaluation or prediction ended with."""
        if changed:
            self.state = self.state.replace(batch_stats=changed["batch_stats"])  # type: ignore[union-attr]

    def _batch_size(self, data: Data, given: int | None, steps: int | None) -> int:
        """The batch size: the one given, or the model's own, or one that covers the data in so many steps, or 32."""
        inputs = jax.tree.leaves(getattr(self.model, "input_spec", None))
        fixed = {symbol.shape[0] for symbol in inputs if symbol.shape and symbol.shape[0] is not None}
        own = fixed.pop() if len(fixed) == 1 else None
        return batch_size_for(data, own if given is None else given, steps)

    def _build_for(self, data: Data, rows: int, train: bool = False) -> TrainState:
        """Makes the state unless it is there, and takes notice of changes of the model; those of rules in training."""
        check_inputs(self.model, data.x)
        x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), data.x)
        x = _scaled(x, data.scale)
        if self.state is None:
            self.build(x)
        state: TrainState = self.state  # type: ignore[assignment]
        now = changes.settings(self.model)
        if now != self._settings and (now, self._settings) not in self._made:
            changes.check_variables(self.model, x, state.variables)
        if now != self._settings and train:
            rules = steps.read_rules(self.model, x)
            if rules.frozen != self._rules.frozen:  # type: ignore[union-attr]
                opt_state = changes.carried_over(self.optimizer, state.opt_state, state.params, rules.frozen)
                self.state = state = state.replace(opt_state=opt_state)
            self._rules, self._settings = rules, now
        made = self._made.setdefault((now, self._settings), ({}, {}))
        self._programs, self._padding = made
        return state

    def _objective(self, data: Data, rows: int | None = None) -> Objective:
        """Losses and metrics for data like this, tried on batches of so many rows, checked against its labels."""
        rows = len(data) if rows is None else rows
        key = (
            signature(jax.tree.map(lambda a: a[:1], (data.x, data.y, data.weight))),
            data.num_classes,
            data.scale,
            rows if self._stateful else None,
        )
        if key not in self._objectives:
            batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype), data.batch())
            batch = batch._replace(x=_scaled(batch.x, data.scale))
            variables = self._build_for(data, rows).variables
            outputs = jax.eval_shape(lambda v, b: steps.forward(self.model, v, b).values, variables, batch)
            names = output_names(self.model, outputs)
            objective = resolve(
                self.loss,
                self.metrics,
                self.weighted_metrics,
                self.loss_weights,
                names,
                batch.y,
                outputs,
                data.num_classes,
            )
            outputs = ordered(outputs, objective.names)
            if batch.weight is not None:
                check_per_output("sample_weight", batch.weight, names)
            if batch.y is not None:
                check_shapes(objective, data.y, outputs)
            advice.warn(self.model, objective, outputs)
            if batch.y is not None:
                jax.eval_shape(steps.make_eval_step(self.model, objective), variables, objective.empty(), batch)
            self._objectives[key] = objective, outputs
        objective, outputs = self._objectives[key]
        check_labels(data, objective, outputs)
        check_ids(data, self.model)
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
        shuffle: bool | None = None,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
        resume: str | os.PathLike[str] | Checkpoints | None = None,
    ) -> History:
        """Trains for some epochs.

        Args:
            x: Inputs [N, ...], a list or dictionary of them, or a `Split` of `datasets.load`; or a stream of batches
                (x, y) or (x, y, sample_weight): a loader, an iterator, a sequence of batches such as
                `keras.utils.PyDataset`, or a function that makes a loader or an iterator. Of an iterator, only the
                batches that are used are taken, so the next call continues with the next batch.
            y: Labels [N, ...]; None for a `Split` and a stream.
            batch_size: Examples in a step; by default as many as make `steps_per_epoch` steps of the data if that is
                given, else 32. A stream has its own.
            epochs: Number of the last epoch, counted from 1.
            verbose: 0 silent, 1 live, 2 a line per epoch, "auto" by the terminal.
            callbacks: Callbacks.
            validation_split: Fraction of the examples, the last ones, to validate on.
            validation_data: (x, y), (x, y, sample_weight), a `Split` or a stream to validate on.
            shuffle: Whether each epoch has its own order of the examples, or of the batches of a sequence; every
                other stream has its own. By default they are shuffled unless a layer is stateful: its states belong to
                the examples at the same places of the next batch.
            class_weight: Factors of the losses by class, in training alone.
            sample_weight: Factors of the losses [N], in training and in what `validation_split` takes off.
            initial_epoch: Number of epochs that are done.
            steps_per_epoch: Steps in an epoch; by default a pass through the data. The next epoch goes on where the
                last one ended.
            validation_steps: Steps of each validation; by default all. Each validation starts anew, but continues
                with the next batches if `validation_data` is an iterator.
            validation_batch_size: Examples in a step of validation; by default `batch_size`, or as that is chosen.
            validation_freq: Epochs from one validation to the next, or the numbers of the epochs, counted from 1.
            resume: A folder for checkpoints, or `Checkpoints`: the run goes on from the newest one there, also from
                inside an epoch, and ends in the same bits as if it had never been interrupted, on a CPU with the same
                number of cores. A learning rate that was not the one at the start of the run is taken, with a warning;
                another optimizer is refused.

        Returns:
            The history: `history.history["loss"]` has a value per epoch.

        Raises:
            ValueError: If data, labels and model do not fit together.
            TypeError: If a callback can't be honoured, or data is no array of numbers.

        References:
            Keras, `keras.Model.fit`.
        """
        check_not_forked()
        called_back = callbacks_module.check(callbacks)
        if self.loss is None:
            raise ValueError(
                "Training needs a loss, and the Trainer has none; write Trainer(model, loss='mse') or the like."
            )
        shuffle = not self._stateful if shuffle is None else shuffle
        check_epochs(epochs, initial_epoch, validation_freq, shuffle)
        check_steps("steps_per_epoch", steps_per_epoch)
        check_steps("validation_steps", validation_steps)
        data = given_data(x, y, sample_weight, class_weight, "fit", batch_size)
        validation = None if validation_data is None else given_validation(validation_data)
        if validation is None and validation_split:
            data, validation = split_off(in_memory(data), validation_split, class_weight is not None)
        example = data.example if isinstance(data, Stream) else data
        size = self._batch_size(example, batch_size, steps_per_epoch)
        self._build_for(example, _rows(data, size), train=True)
        objective = self._objective(example, _rows(data, size))
        feed = self._feed(data, size, objective, steps_per_epoch, train=True)
        validate = None
        if isinstance(validation, Stream) and validation_batch_size is not None:
            raise ValueError(
                "A stream brings its own batch_size, but fit got `validation_batch_size` as well; leave it out."
            )
        if validation is not None:
            validate = self._evaluation(validation, validation_batch_size or batch_size, validation_steps)
        if any(isinstance(callback, ProgbarLogger) for callback in called_back):
            verbose = 1
        progress = make_progress(verbose, epochs, steps_per_epoch or feed.steps, unit_of(example))
        self.history = History()
        called_back = [*called_back, self.history]
        run = Run(
            self,
            feed,
            objective,
            called_back,
            progress,
            shuffle,
            validate,
            validation_freq,
            steps_per_epoch,
            checkpoints_for(resume, called_back),
        )
        run.set_params(
            {
                "epochs": epochs,
                "steps": steps_per_epoch or feed.steps,
                "verbose": verbose,
                "validation": validate is not None,
            }
        )
        run(range(initial_epoch, epochs))
        return self.history

    def _feed(
        self, data: Data | Stream, batch_size: int, objective: Objective, limit: int | None, train: bool
    ) -> Feed | StreamFeed:
        if isinstance(data, Stream):
            piece = self.steps_per_execution if isinstance(self.steps_per_execution, int) else None
            pads = functools.partial(self._pads, data.example, data.batch_size, objective, train)
            return StreamFeed(data, self._objective, piece, pads, limit)
        bytes_limit = math.inf
        if jax.default_backend() != "cpu":
            memory = jax.local_devices()[0].memory_stats() or {}
            bytes_limit = 0.5 * memory.get("bytes_limit", math.inf)
        self._check_multiple(len(data), batch_size)
        batch_size = _rows(data, batch_size)
        pads = functools.partial(self._pads, data, batch_size, objective, train)
        return Feed(data, batch_size, bytes_limit, pads=pads)

    def _check_multiple(self, examples: int, batch_size: int) -> None:
        """Raises where a stateful layer would be given a batch of another size."""
        if self._stateful and examples % batch_size:
            raise ValueError(
                f"A stateful layer keeps the states of one batch, so that all batches have one size, got {examples} "
                f"examples for batches of {batch_size}; give a multiple of {batch_size} examples."
            )

    def _pads(self, data: Data, batch_size: int, objective: Objective | None, train: bool, rows: int) -> bool:
        """Whether a batch of so many rows may be filled up with padding: see `padding.changes_nothing`."""
        if train and self.train_step is not steps.make_train_step:
            return False  # a custom step may do anything with a batch
        batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((batch_size, *a.shape[1:]), a.dtype), data.batch())
        batch = batch._replace(x=_scaled(batch.x, data.scale))
        key = (signature(batch), objective, train, rows)
        if key not in self._padding:
            variables = self.state.variables  # type: ignore[union-attr]
            self._padding[key] = padding.changes_nothing(self.model, objective, variables, batch, rows, train)
        return self._padding[key]

    def replace_trained(self, trained: Any) -> None:
        """Puts other values into the place of the parameters that are trained."""
        _, rest = steps.partition(self.state.params, self._rules.frozen)  # type: ignore[union-attr]
        self.state = self.state.replace(params=steps.joined(trained, rest))  # type: ignore[union-attr]

    def finish_averages(self) -> None:
        """Puts the averages of the weights, if there are any, into the weights' place: the end of `fit`."""
        trained, _ = steps.partition(self.state.params, self._rules.frozen)  # type: ignore[union-attr]
        averaged = optimizers.ema_weights(self.state.opt_state, trained)  # type: ignore[union-attr]
        if averaged is not trained:
            # A copy, because the state is donated, and holds the average still.
            self.replace_trained(jax.tree.map(jnp.copy, averaged))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step; it can be set while a run goes on, and nothing is compiled anew."""
        return float(optimizers.get_learning_rate(self._opt_state()))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        opt_state = optimizers.set_learning_rate(self._opt_state(), value)
        self.state = self.state.replace(opt_state=opt_state)  # type: ignore[union-attr]
        self.chosen_rate = self.learning_rate

    def learning_rates(self) -> dict[str, float]:
        """All learning rates by name, where optimizers differ by path; none where an optimizer does not tell."""
        return optimizers.learning_rates(self._opt_state())

    def _opt_state(self) -> Any:
        if self.state is None:
            raise ValueError("The optimizer has no state yet; call build(x) or fit first.")
        return self.state.opt_state

    @property
    def _goes_back(self) -> bool:
        """Whether a run stops by going back to the begin of a chunk of steps, instead of choosing states in each step.

        On a CPU that choice is passes through memory, and one program does any number of the steps again.
        """
        ours = self.train_step is steps.make_train_step
        return ours and self.nonfinite in ("stop", "restore") and jax.default_backend() == "cpu"

    def _train_program(self, feed: Any, objective: Objective, length: int | None, each: bool) -> Program:
        key = ("train", objective, feed.data.scale, feed.padded, length, each)
        if key not in self._programs:
            nonfinite = "note" if self._goes_back else "stop" if self.nonfinite == "restore" else self.nonfinite
            step = self.train_step(self.model, objective, self.optimizer, self._rules, nonfinite)
            program = steps.make_train_program(step, objective, feed.data.scale, feed.padded, length, each)
            self._programs[key] = Program(program, () if self._goes_back else (0, 1), self.deterministic)
        return self._programs[key]

    # ------------------------------------------------------------ evaluate and predict

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: str | int = 0,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
    ) -> dict[str, float]:
        """Computes loss and metrics over all examples.

        Args:
            x: Inputs [N, ...], a `Split`, or a stream of batches.
            y: Labels [N, ...]; None for a `Split` and a stream.
            batch_size: Examples in a step; by default as many as make `steps` of the data if that is given, else 32.
                A stream has its own.
            verbose: 0 silent; 1, 2 or "auto" print the result.
            sample_weight: Factors of the losses [N].
            steps: How many batches to evaluate; by default all.
            callbacks: Callbacks, for their hooks `on_test_begin` and `on_test_end`.

        Returns:
            The values by name, `loss` first.

        References:
            Keras, `keras.Model.evaluate`.
        """
        check_not_forked()
        check_steps("steps", steps)
        data = given_data(x, y, sample_weight, None, "evaluate", batch_size)
        evaluation = self._evaluation(data, batch_size, steps)
        called_back = self._called_back(callbacks, "on_test_begin")
        logs = evaluation()
        for callback in called_back:
            callback.on_test_end(logs)
        if verbose:
            from training.progress import show

            print(show(logs))
        return logs

    def _called_back(self, given: Any, hook: str) -> list[Callback]:
        """The callbacks of an evaluation or prediction, after their first hook."""
        called_back = callbacks_module.check(given)
        for callback in called_back:
            callback.set_trainer(self)
            getattr(callback, hook)({})
        return called_back

    def _evaluation(self, data: Data | Stream, batch_size: int | None, limit: int | None = None) -> Evaluation:
        """What evaluates on this data, which is on the device from now on."""
        example = data.example if isinstance(data, Stream) else data
        batch_size = self._batch_size(example, batch_size, limit)
        self._build_for(example, _rows(data, batch_size))
        objective = self._objective(example, _rows(data, batch_size))
        feed = self._feed(data, batch_size, objective, limit, train=False)
        key = ("eval", objective, example.scale, feed.padded)
        if key not in self._programs:
            step = steps.make_eval_step(self.model, objective)
            scale = example.scale
            program = steps.make_eval_program(step, objective, scale, feed.padded, stateful=self._stateful)
            self._programs[key] = Program(program, (1,), self.deterministic)
        return Evaluation(self, objective, feed, self._programs[key], limit)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = 0,
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Computes the outputs of all examples.

        Args:
            x: Inputs [N, ...], a `Split`, or a stream of batches.
            batch_size: Examples in a step; by default as many as make `steps` of the data if that is given, else 32.
                A stream has its own.
            verbose: Accepted as in Keras; anything but 0 prints how many examples were computed.
            steps: How many batches to compute; by default all.
            callbacks: Callbacks, for their hooks `on_predict_begin` and `on_predict_end`.

        Returns:
            A numpy array [N, ...], or a tree of them for several outputs.

        References:
            Keras, `keras.Model.predict`.
        """
        check_not_forked()
        check_steps("steps", steps)
        feed = self._unlabelled_feed(x, batch_size, steps)
        called_back = self._called_back(callbacks, "on_predict_begin")
        program = self._predict_program(feed.data.scale)
        found, computing, walk = [], None, Walk(feed)
        limit = math.inf if steps is None else steps
        with contextlib.closing(walk):
            while walk.first < limit and (chunk := walk.chunk(limit - walk.first)) is not None:
                stop = int(min(chunk.steps, limit - chunk.first))
                outputs, changed = program(self.state.variables, chunk.data, chunk.order, np.int32(0), np.int32(stop))  # type: ignore[union-attr]
                self.take_states(changed)
                walk.first += stop
                # One chunk behind, so that the device has the next one to work on meanwhile.
                found += _fetched(computing)
                computing = outputs, chunk.sizes[:stop], chunk.order.shape[1]
            walk.turn()
        found += _fetched(computing)
        for callback in called_back:
            callback.on_predict_end({})
        predicted = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        if verbose:
            print(f"{len(jax.tree.leaves(predicted)[0])} examples predicted")
        return predicted

    def _unlabelled_feed(self, x: Any, batch_size: int | None, steps: int | None) -> Feed | StreamFeed:
        """The inputs of `predict`; labels that come with them are left aside."""
        if is_stream(x):
            if batch_size is not None:
                raise ValueError(
                    "A stream brings its own batch_size, but predict got `batch_size` as well; leave it out."
                )
            stream = Stream(x).without_labels()
            self._build_for(stream.example, stream.batch_size)
            pads = functools.partial(self._pads, stream.example, stream.batch_size, None, False)
            return StreamFeed(stream, functools.partial(check_ids, model=self.model), pads=pads, limit=steps)
        data = as_data(x)
        data = Data(data.x, scale=data.scale)
        size = self._batch_size(data, batch_size, steps)
        self._build_for(data, size)
        check_ids(data, self.model)
        self._check_multiple(len(data), size)
        pads = functools.partial(self._pads, data, size, None, False)
        return Feed(data, size, limit_bytes=PREDICTED_BYTES, whole=False, pads=pads)

    def _predict_program(self, scale: float) -> Program:
        key = ("predict", scale)
        if key not in self._programs:
            step = steps.make_predict_step(self.model)
            program = steps.make_predict_program(step, scale, self._stateful)
            self._programs[key] = Program(program, deterministic=self.deterministic)
        return self._programs[key]

    def save(self, path: str | os.PathLike[str], architecture: bool | None = None) -> None:
        """Writes the model and its variables into one file, in the format that its name says; see `fm.save`."""
        files.save(path, self.model, self.variables, architecture)


def _rows(data: Data | Stream, batch_size: int) -> int:
    """How many rows the largest batch has."""
    if isinstance(data, Stream):
        return data.batch_size
    return min(batch_size, len(data))


def _example(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) if not hasattr(leaf, "dtype") else leaf


def _scaled(x: Any, scale: float) -> Any:
    """Shapes and dtypes of inputs after their factor is applied."""
    return x if scale == 1 else jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), x)


def _fetched(computed: tuple[Any, np.ndarray, int] | None) -> list[Any]:
    """The outputs of a chunk on the host, without rows that are padding; none if there is no chunk."""
    if computed is None:
        return []
    outputs, sizes, batch_size = computed
    padded = np.any(sizes != batch_size)

    def fetch(array: Any) -> np.ndarray:
        array = np.asarray(array)[: len(sizes)]
        if padded:
            return array[np.arange(batch_size) < sizes[:, None]]
        return array.reshape(-1, *array.shape[2:])

    return [jax.tree.map(fetch, outputs)]
