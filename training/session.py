"""The session of a trainer: model, state, optimizer, rules, compiled programs and policies, without input or output."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.typing import VariableDict

from flaxmodels.layers.keras_calls import build_like
from flaxmodels.layers.recurrent import reset_states, stateful_scopes
from training import advice, assigned, changes, optimizers, padding, steps
from training.data.checks import check_ids, check_inputs, check_labels
from training.data.examples import ArrayTree, Examples
from training.data.source import Feed, FeedOptions, Source
from training.forward import adds_losses
from training.nonfinite import NonfinitePolicy
from training.objective import Objective, Totals
from training.programs import Program, signature
from training.rules import Rules, merge_params, partition, read_rules
from training.state import ArrayOrShapeTree, TrainState, Variables, VariableTree


class Session:
    """The model of a trainer and everything that belongs to it.

    `Trainer` checks arguments and calls a session. A `FitRun` and an `Evaluation` hold the session of their trainer.

    Args:
        model: The model.
        optimizer: The optimizer.
        losses: The arguments of `Objective.of` about losses and metrics.
        seed: Seed of initialization, shuffling and dropout.
        nonfinite: How to handle steps that are not finite.
        train_step: Makes a training step from (model, objective, optimizer, rules, nonfinite).
        steps_per_execution: Steps in a chunk, or "auto".
        deterministic: Whether a GPU computes the same bits in every run.
        variables: Initial variables; None for fresh ones.
        make_objective: Resolves losses and metrics, as `Objective.of` does.

    Attributes:
        stop_training: Whether the current run ends after the running chunk of steps.
        stop_evaluating: Whether the current evaluation ends after the running chunk of steps.
        stop_predicting: Whether the current prediction ends after the running chunk of steps.
        chosen_rate: The learning rate that was set since the last run, or None.
        hooks_per_batch: Whether hooks of batches are called once per step, unless `steps_per_execution` is a number.
        steps_per_second: Speed of earlier runs, keyed by objective, batch size and number of examples.
        may_change: Whether the arguments of layers may change between two calls. Then each call compares them.
        measured: Losses and metrics of the last evaluation or epoch of training, with their totals; None before one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optax.GradientTransformation,
        losses: Mapping[str, Any],
        seed: int,
        nonfinite: NonfinitePolicy,
        train_step: Callable[..., steps.TrainStep],
        steps_per_execution: int | str,
        deterministic: bool,
        variables: VariableDict | None,
        make_objective: Callable[..., Objective] = Objective.of,
    ):
        self.model, self.optimizer, self.losses, self.seed = model, optimizer, losses, seed
        self.nonfinite, self.train_step = nonfinite, train_step
        self.steps_per_execution, self.deterministic = steps_per_execution, deterministic
        self.make_objective = make_objective
        self.measured: tuple[Objective, Totals] | None = None
        self.stop_training = self.stop_evaluating = self.stop_predicting = False
        self.hooks_per_batch = False
        self.may_change = True
        self.chosen_rate: float | None = None
        self.steps_per_second: dict[Any, float] = {}
        self._initial = variables
        self._state: TrainState | None = None
        self._rules = Rules({}, frozenset())
        self._shared = False  # whether the current variables were given to the user
        self._objectives: dict[Any, Objective] = {}
        self._settings: Any = None  # the arguments of all layers when the rules were read
        self._present_settings: tuple[Any, Any] | None = None
        self._known_settings: tuple[object, ...] | None = None
        self._programs: dict[Any, Any] = {}
        self._may_pad: dict[Any, bool] = {}
        # Programs and proofs, keyed by the settings of the layers, so that undoing a change compiles nothing.
        self._by_settings: dict[Any, tuple[dict[Any, Any], dict[Any, bool]]] = {}

    # ------------------------------------------------------------ state

    @property
    def is_built(self) -> bool:
        """Whether the model has parameters."""
        return self._state is not None

    @property
    def state(self) -> TrainState:
        """The state of training.

        Raises:
            ValueError: If there is none yet.
        """
        if self._state is None:
            raise ValueError("The optimizer has no state yet; call build(x) or fit first.")
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state = state

    @property
    def variables(self) -> Variables:
        """The model's variables: `params`, and `batch_stats` if it has any.

        Raises:
            ValueError: If there are none yet.
        """
        if self._state is not None:
            self._shared = True
            return self._state.variables
        if self._initial is not None:
            return dict(self._initial)
        raise ValueError("The model has no parameters yet; call fit, evaluate, predict or build first.")

    @variables.setter
    def variables(self, variables: VariableDict) -> None:
        given = jax.tree.map(jnp.array, dict(variables))
        if self._state is None:
            self._initial = given
        else:
            filled = steps.with_defaults(given, self.state.variables, self.model)
            self.state = self.state.replace(params=filled.get("params", {}), batch_stats=filled.get("batch_stats", {}))

    @property
    def frozen(self) -> frozenset[tuple[str, ...]]:
        """Paths of the parameters that are not trained."""
        return self._rules.frozen

    @property
    def rules(self) -> Rules:
        """The constraints and frozen parameters that the layers prescribe."""
        return self._rules

    @property
    def programs(self) -> dict[Any, Any]:
        """The programs for the present arguments of all layers, by any keys."""
        return self._programs

    def copy_shared_variables(self) -> None:
        """Copies variables that the user holds, if training would overwrite them in place."""
        if self._shared and not self.nonfinite.replays:
            self.state = self.state.replace(**_copies(self.state.variables))
        self._shared = False

    def build(self, x: ArrayTree | ArrayOrShapeTree) -> None:
        """Initializes the state for a batch of inputs like x, unless there is a state."""
        if self._state is None:
            example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), x)
            build_like(self.model, example)
            self._state, self._rules = steps.create_state(self.model, self.optimizer, example, self.seed, self._initial)
            self._initial, self._settings = None, changes.settings(self.model)

    def prepare(self, examples: Examples, rows: int, train: bool = False) -> TrainState:
        """Builds the state if needed, and applies changes of layers, such as `layer.trainable = False`.

        Args:
            examples: Examples that show shapes and dtypes.
            rows: Rows of a batch.
            train: Whether training follows, which reads the rules again.
        """
        check_inputs(self.model, examples.x)
        if self._state is None:
            self.build(examples.batch_of(rows).x)
        if self.may_change or self._known_settings is None:
            self._known_settings = changes.settings(self.model)
        now = self._known_settings
        if now != self._settings and (now, self._settings) not in self._by_settings:
            changes.check_variables(self.model, examples.batch_of(rows).x, self.state.variables)
        if now != self._settings and train:
            rules = read_rules(self.model, examples.batch_of(rows).x, self.state.params)
            if rules.frozen != self._rules.frozen:
                state = self.state
                opt_state = changes.transfer_opt_state(self.optimizer, state.opt_state, state.params, rules.frozen)
                self.state = state.replace(opt_state=opt_state)
            self._rules, self._settings = rules, now
        # Comparing the arguments of all layers is faster than hashing them.
        if self._present_settings is None or (now, self._settings) != self._present_settings:
            self._present_settings = now, self._settings
            self._programs, self._may_pad = self._by_settings.setdefault(self._present_settings, ({}, {}))
        return self.state

    # ------------------------------------------------------------ stateful layers

    @property
    def stateful(self) -> bool:
        """Whether a layer carries its states from batch to batch."""
        return bool(stateful_scopes(self.model))

    def reset_states(self) -> None:
        """Sets the states of stateful layers to zero."""
        if self.is_built:
            self.store_assigned({"batch_stats": reset_states(self.model, self.variables).get("batch_stats", {})})

    def store_assigned(self, changed: Variables) -> None:
        """Stores the variables that layers assigned in an evaluation or prediction."""
        if changed:
            self.state = self.state.replace(**assigned.merged(self.state.variables, changed))

    # ------------------------------------------------------------ learning rate and averages

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(optimizers.get_learning_rate(self.state.opt_state))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.state = self.state.replace(opt_state=optimizers.set_learning_rate(self.state.opt_state, value))
        self.chosen_rate = self.learning_rate

    def replace_trained(self, trained: VariableTree) -> None:
        """Replaces the values of the trained parameters."""
        _, rest = partition(self.state.params, self.frozen)
        self.state = self.state.replace(params=merge_params(trained, rest))

    def finish_averages(self) -> None:
        """Replaces the weights with their averages, if the optimizer keeps averages."""
        trained, _ = partition(self.state.params, self.frozen)
        averaged = optimizers.ema_weights(self.state.opt_state, trained)
        if averaged is not trained:
            # A copy, because the state is donated and also holds the average.
            self.replace_trained(jax.tree.map(jnp.copy, averaged))

    # ------------------------------------------------------------ losses, metrics and data

    def objective_for(self, examples: Examples, rows: int | None = None) -> Objective:
        """Returns losses and metrics for examples like these, after checking their labels and integers.

        Args:
            examples: The examples.
            rows: Rows of a batch on which losses and metrics are tried; by default all.
        """
        rows = len(examples) if rows is None else rows
        first_row = jax.tree.map(lambda a: a[:1], (examples.x, examples.y, examples.weight))
        key = (signature(first_row), examples.num_classes, examples.scale, rows if self.stateful else None)
        if key not in self._objectives:
            variables = self.prepare(examples, rows).variables
            batch = examples.batch_of(rows)
            objective = self.make_objective(
                self.model,
                batch,
                **self.losses,
                num_classes=examples.num_classes,
                num_examples=len(examples),
                variables=variables,
            )
            advice.warn(self.model, objective)
            self._objectives[key] = objective
        objective = self._objectives[key]
        check_labels(examples, objective)
        check_ids(examples, self.model)
        return objective

    @property
    def needs_labels(self) -> bool:
        """Whether the data must have labels, because there are losses or metrics of them."""
        return any(value is not None for value in self.losses.values())

    def check_loss(self, examples: Examples, objective: Objective, rows: int) -> None:
        """Raises if nothing determines a loss: neither the trainer nor a layer of the model.

        Raises:
            ValueError: If there is no loss.
        """
        if objective.mixes_rows or any(loss is not None for loss in objective.losses):
            return
        if not adds_losses(self.model, self.state.variables, examples.batch_of(rows)):
            raise ValueError(
                "Training needs a loss, got none and a model whose layers add none; write, for example, "
                "Trainer(model, loss='mse'), or call `add_loss` in a layer."
            )

    @property
    def counts_steps_per_hook(self) -> bool:
        """Whether a number of steps, and not the time, determines when hooks of batches are called."""
        return self.hooks_per_batch or self.steps_per_execution != "auto"

    def steps_per_hook(self, left: int) -> int:
        """Returns the number of steps between two calls of hooks of batches, at most `left`."""
        if self.steps_per_execution == "auto":
            return 1 if self.hooks_per_batch else left
        return min(left, int(self.steps_per_execution))

    def metric_direction(self, name: str) -> str | None:
        """Returns "up" if larger values of a metric are better, "down" if smaller ones are, or None if unknown."""
        for objective in self._objectives.values():
            for known in objective.metrics:
                if known.name == name:
                    return known.metric.direction
        return None

    def feed(
        self, source: Source, batch_size: int, objective: Objective | None, max_steps: int | None, train: bool = False
    ) -> Feed:
        """Makes the feed of a source for training or evaluation, or for a prediction if `objective` is None.

        Raises:
            ValueError: If a stateful layer would get batches of different sizes.
        """
        if self.stateful and source.length is not None and source.length % batch_size:
            raise ValueError(
                "A stateful layer keeps the states of one batch, so all batches must have the same size, got "
                f"{source.length} examples for batches of {batch_size}; give a multiple of {batch_size} examples."
            )
        check: Callable[[Examples], object] = self.objective_for
        if objective is None:
            check = functools.partial(check_ids, model=self.model)
        chunk = self.steps_per_execution if objective is not None else None
        options = FeedOptions(
            functools.partial(self._can_pad, source.example, batch_size, objective, train),
            check,
            max_steps,
            chunk if isinstance(chunk, int) else None,
            resident=objective is not None,
        )
        return source.feed(batch_size, options)

    def _can_pad(
        self, examples: Examples, batch_size: int, objective: Objective | None, train: bool, rows: int
    ) -> bool:
        """Returns whether padding may fill a batch of `rows` examples: see `padding.changes_nothing`."""
        if train and self.train_step is not steps.make_train_step:
            return False  # a custom step may use all rows of a batch
        if objective is not None and objective.mixes_rows:
            return False
        batch = examples.batch_of(batch_size)
        key = (signature(batch), objective, train, rows)
        if key not in self._may_pad:
            variables = self.state.variables
            self._may_pad[key] = padding.changes_nothing(self.model, objective, variables, batch, rows, train)
        return self._may_pad[key]

    # ------------------------------------------------------------ programs

    def train_program(self, feed: Feed, objective: Objective, length: int | None, log_each_step: bool) -> Program:
        """Returns the compiled program of training steps.

        Args:
            feed: The data.
            objective: Losses and metrics.
            length: Number of steps if it is fixed, see `steps.loop`.
            log_each_step: Whether the program returns the logs of every step.
        """
        scale, padded = feed.example.scale, feed.padded
        key = ("train", objective, scale, padded, length, log_each_step)
        if key not in self._programs:
            step = self.train_step(self.model, objective, self.optimizer, self._rules, self.nonfinite.step_policy)
            program = steps.make_train_program(step, objective, scale, padded, length, log_each_step)
            donated = () if self.nonfinite.replays else (0, 1)
            self._programs[key] = Program(program, donated, self.deterministic)
        return self._programs[key]

    def eval_program(self, feed: Feed, objective: Objective) -> Program:
        """Returns the compiled program of evaluation steps."""
        scale, padded = feed.example.scale, feed.padded
        key = ("eval", objective, scale, padded)
        if key not in self._programs:
            step = steps.make_eval_step(self.model, objective, self.frozen)
            assigns = assigned.may_assign(self.model) or objective.mixes_rows
            program = steps.make_eval_program(step, objective, scale, padded, assigns=assigns)
            self._programs[key] = Program(program, (1,), self.deterministic)
        return self._programs[key]

    def predict_program(self, feed: Feed) -> Program:
        """Returns the compiled program of prediction steps."""
        key = ("predict", feed.example.scale)
        if key not in self._programs:
            step = steps.make_predict_step(self.model, self.frozen)
            program = steps.make_predict_program(step, feed.example.scale, assigned.may_assign(self.model))
            self._programs[key] = Program(program, deterministic=self.deterministic)
        return self._programs[key]


@jax.jit
def _copies(tree: Variables) -> Variables:
    # One program for all arrays, because each call from Python takes longer than copying a small array.
    return jax.tree.map(jnp.copy, tree)
