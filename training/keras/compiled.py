"""`compile`, `fit`, `evaluate` and `predict` of Keras' models."""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self, SupportsIndex, TypeAlias

import jax
import numpy as np

from flaxmodels.interop.keras_weights import weight_paths
from flaxmodels.layers import keras_state
from training.callbacks import Callback, History
from training.callbacks import check as check_callbacks
from training.data.arguments import Data, ValidationData
from training.data.examples import ArrayTree
from training.data.readers import is_sequence, is_stream
from training.keras import config, convert, held_values, initialization, optimizers, seeds, state_trees
from training.keras.callbacks import CallbackList, PerBatch, SortLogs, has_batch_hooks, sorted_logs
from training.keras.held_values import gather, has_values, scatter
from training.keras.initialization import ensure_initialized, initialize, sizes
from training.keras.layers import stateful_class
from training.keras.measuring import MeasuredModel
from training.keras.objectives import objective_of
from training.keras.on_batch import BatchSteps
from training.objective import LossArgument, MetricArgument, WeightArgument
from training.state import TrainState
from training.steps import Objective
from training.trainer import Trainer

Callbacks: TypeAlias = CallbackList | Callback | Sequence[Callback] | None
# What this module keeps in a model, by name; it does not determine what the model computes.
_STATE = (
    "optimizer loss history _trainer _compiled _synchronized _flags _parts _carried _pulled _adopted _batch_steps "
    "_compile_loss _compile_metrics _loss_tracker _running_step _orders _checked"
).split()
keras_state.UNTRACKED.update((*_STATE, "_policy"))


class CompiledModel(MeasuredModel):
    """Mixin of models: trains the values that their layers hold through a `Trainer`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _STATE:
            self.__dict__.setdefault(name, None)
        self.__dict__.setdefault("_policy", config.dtype_policy())

    @property
    def dtype_policy(self) -> config.DTypePolicy:
        """The policy of the model's own `dtype`, otherwise that of the program when the model was made."""
        policy: config.DTypePolicy = self.__dict__["_policy"]
        return policy if self.own_dtype is None else super().dtype_policy

    # ------------------------------------------------------------ compile

    def compile(
        self,
        optimizer: optimizers.OptimizerLike = "rmsprop",
        loss: LossArgument = None,
        loss_weights: WeightArgument = None,
        metrics: MetricArgument = None,
        weighted_metrics: MetricArgument = None,
        run_eagerly: bool = False,
        steps_per_execution: int | str = "auto",
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Sets optimizer, loss and metrics of the training.

        Args:
            optimizer: An optimizer of `keras.optimizers`, its name, or an optax transformation.
            loss: A loss, its name, a function (y_true, y_pred) -> values, or a list or dictionary keyed by output.
            loss_weights: Factors of the outputs' losses.
            metrics: Metrics, names or functions.
            weighted_metrics: Metrics to which sample and class weights apply.
            run_eagerly: Only False: steps are always compiled.
            steps_per_execution: Steps between two returns to Python; "auto" chooses about half a second's worth.
            jit_compile: Accepted as in Keras; steps are always compiled.
            auto_scale_loss: Whether to wrap the optimizer in a `LossScaleOptimizer` if the model computes in
                "mixed_float16".

        References:
            Keras, `keras.Model.compile`.
        """
        made = optimizers.get(optimizer)
        is_scaled = isinstance(made, optimizers.LossScaleOptimizer)
        if auto_scale_loss and made is not None and not is_scaled and self.dtype_policy.name == "mixed_float16":
            made = optimizers.LossScaleOptimizer(made, name="loss_scale_optimizer")
        if made is None:
            raise TypeError("`optimizer` of compile must be an optimizer or its name, got None; pass one.")
        trainer = self.__dict__["_trainer"]
        if made is self.__dict__["optimizer"] and trainer is not None and trainer.state is not None:
            object.__setattr__(self, "_carried", trainer.state)  # the optimizer keeps its state
            made.keep_learning_rate()
        object.__setattr__(self, "optimizer", made)
        self._compile_measures(loss, loss_weights, metrics, weighted_metrics)
        # As in Keras, losses and metrics of an earlier call stay unless new ones are given.
        compiled = dict(self.__dict__["_compiled"] or {})
        if loss is not None or not compiled:
            compiled |= {"loss": loss, "loss_weights": loss_weights}
        if metrics is not None or weighted_metrics is not None or "metrics" not in compiled:
            compiled |= {"metrics": metrics, "weighted_metrics": weighted_metrics}
        object.__setattr__(self, "_compiled", compiled | {"steps_per_execution": steps_per_execution})
        for name in ("_trainer", "_flags", "_synchronized", "_batch_steps", "_adopted"):
            object.__setattr__(self, name, None)
        made.attach(self)
        if run_eagerly:
            _warn_compiled("run_eagerly=True", 3)

    @property
    def run_eagerly(self) -> bool:
        """Always False: training steps are compiled."""
        return False

    @run_eagerly.setter
    def run_eagerly(self, value: bool) -> None:
        if value:
            _warn_compiled("run_eagerly=True", 3)

    @property
    def jit_compile(self) -> bool:
        """Always True: XLA compiles the training steps."""
        return True

    @jit_compile.setter
    def jit_compile(self, value: bool | str) -> None:
        if not value:
            _warn_compiled("jit_compile=False", 3)

    @property
    def steps_per_execution(self) -> int | str:
        """The number of steps between two returns to Python, or "auto"; 1 before `compile`."""
        found: int | str = (self.__dict__["_compiled"] or {}).get("steps_per_execution", 1)
        return found

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called."""
        return self.__dict__.get("_compiled") is not None

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Returns a model with copies of the layers, of their values and of what `compile` was given."""
        made = self._copy()
        if self.compiled:
            self.__dict__["optimizer"].keep_learning_rate()
            optimizer, arguments = copy.deepcopy((self.__dict__["optimizer"], self.__dict__["_compiled"]), memo)
            made.compile(optimizer, **arguments)
            trainer = self.__dict__["_trainer"]
            if trainer is not None and trainer.state is not None:
                # The next step of this model reuses the memory of its state.
                opt_state, step = jax.tree.map(_copied, (trainer.state.opt_state, trainer.state.step))
                object.__setattr__(made, "_carried", trainer.state.replace(opt_state=opt_state, step=step))
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"Models cannot be pickled, got {self.name}; use its `save`, and keras.models.load_model.")

    def _copy(self) -> Self:
        """Returns a model with copies of the layers and of their values."""
        if type(self).pure_class() is type(self):
            raise TypeError(
                f"Only Sequential and functional models can be copied, got the class {type(self).__name__}; make a new "
                "object and call its set_weights."
            )
        ensure_initialized(self)
        made = convert.rebuild(self, stateful_class)
        scatter(made, jax.tree.map(_copied, gather(self)))
        return made

    def _trainer_of(self, needs_loss: bool) -> Trainer:
        """Returns the trainer with the values of the layers; makes it at the first call after `compile`."""
        if needs_loss and not self.compiled:
            raise ValueError("You must call `compile()` before training or evaluating a model; choose a loss there.")
        parts = [id(layer) for layer in held_values.with_held(self)]
        if self.__dict__["_trainer"] is None or self.__dict__["_parts"] != parts:  # a layer was added or removed
            for layer in list(held_values.with_held(self)):
                ensure_initialized(layer)
            parts = [id(layer) for layer in held_values.with_held(self)]
            self.__dict__["_trainer"] = None
        self.__dict__["_parts"] = parts
        if self.__dict__["_trainer"] is None:
            compiled = dict(self.__dict__["_compiled"] or {})
            make_objective: Any = Objective.of
            if compiled and self.measures_itself():
                # The methods of the model know the losses and metrics.
                compiled = {"steps_per_execution": compiled["steps_per_execution"]}
                make_objective = objective_of(self)
            optimizer = self.__dict__["optimizer"]
            values = gather(self)
            trained = convert.to_trained(self)
            trainer = Trainer(
                trained,
                "rmsprop" if optimizer is None else optimizer.make(),
                seed=seeds.next_seed(),
                variables=values if any(values.values()) else None,
                nonfinite="ignore",
                make_objective=make_objective,
                **compiled,
            )
            trainer.session.hooks_per_batch = True
            trainer.session.may_change = not convert.is_private(self, trained)
            self.__dict__["_trainer"] = trainer
            self.__dict__["_synchronized"] = _leaves(values)
            self.__dict__["_checked"] = None
            self._carry_optimizer_state(trainer)
        else:
            self.push_values()
        return self.__dict__["_trainer"]

    def _check_flags(self) -> None:
        """Lets a first fit use the present `trainable` flags; raises if they changed after the optimizer had steps."""
        flags = [layer.trainable for layer in held_values.with_held(self)]
        trainer = self.__dict__["_trainer"]
        known = self.__dict__.get("_flags")
        if trainer is not None and known is not None and known != flags:
            if trainer.state is not None and int(trainer.state.step) > 0:
                raise ValueError(
                    "`trainable` must stay as it was at the first step after compile, got another value for a layer of "
                    f"{type(self).__name__}; call compile() again."
                )
            self.pull_values()
            self.__dict__["_trainer"] = None
        self.__dict__["_flags"] = flags

    def _carry_optimizer_state(self, trainer: Trainer) -> None:
        """Continues with the state of an optimizer that `compile` got a second time, if it fits the parameters."""
        old = self.__dict__.pop("_carried", None)
        new = None if old is None else self._build(trainer)
        if old is not None and new is not None and _shapes(new.opt_state) == _shapes(old.opt_state):
            trainer.state = new.replace(opt_state=old.opt_state, step=old.step)
            self.__dict__["optimizer"].apply_learning_rate(trainer)

    def _build(self, trainer: Trainer) -> TrainState | None:
        """Makes the state of a trainer, and returns it; None if the inputs of the model are not known."""
        inputs = initialization.known_inputs(self)
        if trainer.state is None and inputs is not None:
            trainer.build(jax.tree.map(lambda symbol: jax.ShapeDtypeStruct(sizes(symbol.shape), symbol.dtype), inputs))
        return trainer.state

    def built_trainer(self) -> Trainer | None:
        """Returns the trainer of a compiled model with its state; None if the inputs of the model are not known."""
        trainer = self._trainer_of(needs_loss=False)
        return None if self._build(trainer) is None else trainer

    def push_values(self) -> None:
        """Gives the trainer the values of the layers, if they changed since they were last the same."""
        if self.__dict__["_checked"] == held_values.changes():
            return
        values = held_values.present_values(self)
        leaves = _leaves(values)
        self.__dict__["_checked"] = held_values.changes()
        if self.__dict__["_trainer"] is not None and not _same(leaves, self.__dict__["_synchronized"]):
            self.__dict__["_trainer"].variables = values
            self.__dict__["_synchronized"] = leaves

    def pull_values(self) -> None:
        """Gives the layers the values of the trainer, if it has changed them."""
        trainer = self.__dict__["_trainer"]
        if trainer is None or trainer.state is None or trainer.state is self.__dict__.get("_pulled"):
            return
        scatter(self, trainer.variables)
        self.__dict__["_pulled"] = trainer.state
        self.__dict__["_synchronized"] = _leaves(held_values.present_values(self))
        self.__dict__["_checked"] = held_values.changes()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Lets the layers follow the trainer while it runs."""
        held_values.TRAINING.append(self)
        try:
            yield
        finally:
            held_values.TRAINING.remove(self)
            self.pull_values()
            if self.compiled:
                self._adopt_states(self.__dict__["_trainer"].session)

    # ------------------------------------------------------------ fit, evaluate, predict

    def fit(
        self,
        x: Data | None = None,
        y: ArrayTree | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Callbacks = None,
        validation_split: float = 0.0,
        validation_data: ValidationData | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: ArrayTree | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
    ) -> History:
        """Trains the model; see `training.Trainer.fit`.

        References:
            Keras, `keras.Model.fit`.
        """
        self._build_for(x)
        self._check_flags()
        trainer = self._trainer_of(needs_loss=True)
        _start_passes(x)
        own = [SortLogs(trainer.session), *self._own(callbacks)]
        with self._running():
            history = trainer.fit(
                _given(x), y, batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=own,
                validation_split=validation_split, validation_data=validation_data, shuffle=shuffle,
                class_weight=class_weight, sample_weight=sample_weight, initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch, validation_steps=validation_steps,
                validation_batch_size=validation_batch_size, validation_freq=validation_freq,
            )  # fmt: skip
        object.__setattr__(self, "history", history)
        history.model = self
        return history

    def _own(self, callbacks: Callbacks) -> list[Callback]:
        """Returns the callbacks, after giving them the model; batch hooks are called once per batch."""
        given = check_callbacks(callbacks.callbacks if isinstance(callbacks, CallbackList) else callbacks)
        for callback in given:
            callback.set_model(self)
        return [PerBatch(callback) if has_batch_hooks(callback) else callback for callback in given]

    def evaluate(
        self,
        x: Data | None = None,
        y: ArrayTree | None = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: ArrayTree | None = None,
        steps: int | None = None,
        callbacks: Callbacks = None,
        return_dict: bool = False,
    ) -> Any:
        """Computes loss and metrics.

        Returns:
            The loss if there are no metrics, otherwise a list of the loss and the metrics in order; with
            `return_dict`, a dictionary by name.

        References:
            Keras, `keras.Model.evaluate`.
        """
        self._build_for(x)
        trainer = self._trainer_of(needs_loss=True)
        own = self._own(callbacks)
        _start_passes(x)
        with self._running():
            logs = trainer.evaluate(
                _given(x), y, batch_size=batch_size, verbose=_shown(verbose), sample_weight=sample_weight, steps=steps,
                callbacks=own,
            )  # fmt: skip
        return sorted_logs(logs, trainer.session) if return_dict else self._listed(logs)

    def predict(
        self,
        x: Data,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Callbacks = None,
    ) -> Any:
        """Computes the outputs of all examples as NumPy arrays.

        References:
            Keras, `keras.Model.predict`.
        """
        self._build_for(x)
        trainer = self._trainer_of(needs_loss=False)
        own = self._own(callbacks)
        with self._running():
            return trainer.predict(x, batch_size=batch_size, verbose=_shown(verbose), steps=steps, callbacks=own)

    def train_on_batch(
        self,
        x: ArrayTree,
        y: ArrayTree | None = None,
        sample_weight: ArrayTree | None = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Does one training step and returns the loss, or a list of the loss and the metrics.

        References:
            Keras, `keras.Model.train_on_batch`.
        """
        self._build_for(x)
        self._check_flags()
        logs = self._batch_steps_of(needs_loss=True).train(x, y, sample_weight, class_weight)
        self.pull_values()
        self._adopt_states(self.__dict__["_trainer"].session)
        return logs if return_dict else self._listed(logs)

    def test_on_batch(
        self,
        x: ArrayTree,
        y: ArrayTree | None = None,
        sample_weight: ArrayTree | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Returns the loss of one batch, or a list of the loss and the metrics.

        References:
            Keras, `keras.Model.test_on_batch`.
        """
        self._build_for(x)
        logs = self._batch_steps_of(needs_loss=True).test(x, y, sample_weight)
        self.pull_values()  # layers may assign variables
        self._adopt_states(self.__dict__["_trainer"].session)
        return logs if return_dict else self._listed(logs)

    def predict_on_batch(self, x: ArrayTree) -> Any:
        """Returns the outputs of one batch.

        References:
            Keras, `keras.Model.predict_on_batch`.
        """
        self._build_for(x)
        outputs = self._batch_steps_of(needs_loss=False).predict(x)
        self.pull_values()  # layers may assign variables
        return outputs

    def trained_paths(self) -> list[tuple[tuple[str, ...], str]]:
        """Returns the paths of the trained parameters in Keras' order, each with a name such as "dense_kernel"."""
        weights = self.weights
        paths = weight_paths(self, gather(self))
        frozen = self.__dict__["_trainer"].session.frozen
        return [
            (tuple(path), weight.path.replace("/", "_"))
            for (collection, *path), weight in zip(paths, weights, strict=True)
            if collection == "params" and tuple(path) not in frozen
        ]

    def get_state_tree(self, value_format: str = "backend_tensor") -> state_trees.Tree:
        """Returns the values of all variables as nested dictionaries by the parts of their paths.

        Args:
            value_format: "backend_tensor" for JAX arrays, or "numpy_array".

        Raises:
            ValueError: If the format is another one, or two variables have the same path.

        References:
            Keras, `keras.Model.get_state_tree`.
        """
        return state_trees.values_of(self, value_format)

    def set_state_tree(self, state_tree: Mapping[str, object]) -> None:
        """Sets the variables to the values that `get_state_tree` returned; a tree may hold some of them.

        Args:
            state_tree: The nested dictionaries.

        Raises:
            ValueError: If the tree names an unknown group or variable.

        References:
            Keras, `keras.Model.set_state_tree`.
        """
        state_trees.assign(self, state_tree)

    def _batch_steps_of(self, needs_loss: bool) -> BatchSteps:
        """Returns the steps on single batches of the present trainer."""
        trainer = self._trainer_of(needs_loss)
        steps = self.__dict__["_batch_steps"]
        if steps is None or steps.session is not trainer.session:
            steps = self.__dict__["_batch_steps"] = BatchSteps(trainer.session)
        return steps

    def _build_for(self, x: object) -> None:
        """Creates the variables of a model whose input is not known, for the shape of the data."""
        known = self.__dict__["_trainer"] is not None or getattr(self, "input_spec", None) is not None
        if known or has_values(self):
            return
        inputs = first_batch(x)
        if inputs is not None:
            initialize(self, inputs)

    @property
    def stop_training(self) -> bool:
        """Whether the run ends after the running steps; callbacks set it."""
        return self._stops("stop_training")

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        self._stop("stop_training", stop)

    @property
    def stop_evaluating(self) -> bool:
        """Whether the evaluation ends after the running steps; callbacks set it."""
        return self._stops("stop_evaluating")

    @stop_evaluating.setter
    def stop_evaluating(self, stop: bool) -> None:
        self._stop("stop_evaluating", stop)

    @property
    def stop_predicting(self) -> bool:
        """Whether the prediction ends after the running steps; callbacks set it."""
        return self._stops("stop_predicting")

    @stop_predicting.setter
    def stop_predicting(self, stop: bool) -> None:
        self._stop("stop_predicting", stop)

    def _stops(self, name: str) -> bool:
        trainer = self.__dict__.get("_trainer")
        return trainer is not None and bool(getattr(trainer.session, name))

    def _stop(self, name: str, stop: bool) -> None:
        trainer = self.__dict__.get("_trainer")
        if trainer is not None:
            setattr(trainer.session, name, stop)


def _warn_compiled(setting: str, stacklevel: int) -> None:
    warnings.warn(
        f"`{setting}` has no effect, because training steps are always compiled; use jax.debug.print to print values.",
        stacklevel=stacklevel,
    )


def _copied(leaf: object) -> Any:
    return leaf.copy() if isinstance(leaf, jax.Array) else leaf


def _start_passes(x: object) -> None:
    """Calls `on_epoch_end` of a sequence, which Keras also does before the first pass of `fit` and of `evaluate`."""
    if is_stream(x) and is_sequence(x) and hasattr(x, "on_epoch_end"):
        x.on_epoch_end()


def _given(x: Data | None) -> Data:
    """Returns the inputs.

    Raises:
        ValueError: If they are None.
    """
    if x is None:
        raise ValueError("There are no inputs: `x` is empty or None; give an array [N, ...].")
    return x


def _shown(verbose: str | int) -> int:
    return 0 if verbose in (0, "auto") else 1


def _leaves(values: object) -> list[object]:
    return jax.tree.leaves(values)


def _shapes(tree: object) -> tuple[object, list[tuple[int, ...]]]:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [np.shape(leaf) for leaf in leaves]


def _same(a: Sequence[object], b: Sequence[object] | None) -> bool:
    return b is not None and len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def first_batch(x: object) -> Any:
    """Returns inputs of the first batch, or all inputs; None for a stream that can be read only once."""
    if hasattr(x, "shape") or isinstance(x, Mapping):
        return x
    if isinstance(x, list | tuple):
        return x if all(hasattr(item, "shape") for item in x) else np.asarray(x)
    if hasattr(x, "x") and hasattr(x, "y"):
        return x.x
    if not hasattr(x, "__iter__") or iter(x) is x:
        return None
    batch = x[0] if hasattr(x, "__getitem__") else next(iter(x))
    return batch[0] if isinstance(batch, list | tuple) else batch
