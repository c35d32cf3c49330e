"""Training, evaluation and prediction of single batches, each as one compiled step."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.inspection import lookups_of
from flaxmodels.kernels.dispatch import kernels_allowed
from flaxmodels.kernels.recurrence import requested
from training import assigned, steps
from training.data.checks import check_ids, check_labels
from training.data.examples import ArrayTree, Examples, as_examples
from training.objective import Objective, Totals
from training.programs import compiler_options, signature
from training.session import Session
from training.state import ArrayOrShapeTree, Batch, TrainState, Variables

Logs = dict[str, Any]
Step: TypeAlias = Callable[..., Any]  # a compiled step: its arguments and results are trees of arrays
Packed: TypeAlias = tuple[dict[str, None], jax.Array, dict[str, jax.Array]]


class BatchSteps:
    """The compiled steps of a session on single batches.

    A step is compiled once for each shape of its batch. Unlike a run over many steps, it does not overwrite the state
    in place, so that layers can keep the arrays that they hold.

    Args:
        session: The session.
    """

    def __init__(self, session: Session):
        self.session = session
        self._objectives: dict[Hashable, Objective] = {}
        self._prepared: set[Hashable] = set()
        self._looks_up: bool | None = None

    def train(
        self,
        x: ArrayTree,
        y: ArrayTree | None,
        sample_weight: ArrayTree | None,
        class_weight: Mapping[int, float] | None,
    ) -> Logs:
        """Does one training step and returns loss and metrics of the batch.

        Args:
            x: Inputs.
            y: Labels.
            sample_weight: Factors of the examples' losses.
            class_weight: Factors of the losses, keyed by class.
        """
        session = self.session
        examples = as_examples(x, y, sample_weight, class_weight, is_full_dataset=False)
        objective = self._objective_for(examples, train=True)
        step = self._step("train", objective, self._train_step)
        session.state, totals, logs = step(session.state, examples.batch())
        session.measured = objective, totals
        return _on_host(logs)

    def test(self, x: ArrayTree, y: ArrayTree | None, sample_weight: ArrayTree | None) -> Logs:
        """Returns loss and metrics of a batch.

        Args:
            x: Inputs.
            y: Labels.
            sample_weight: Factors of the examples' losses.
        """
        session = self.session
        examples = as_examples(x, y, sample_weight)
        objective = self._objective_for(examples)
        step = self._step("test", objective, self._test_step)
        changed, totals, logs = step(session.state.variables, examples.batch())
        session.store_assigned(changed)
        session.measured = objective, totals
        return _on_host(logs)

    def predict(self, x: ArrayTree) -> Any:
        """Returns the outputs of a batch as NumPy arrays.

        Args:
            x: Inputs.
        """
        session = self.session
        examples = as_examples(x)
        self._prepare(examples, train=False)
        self._check_ids(examples)
        step = self._step("predict", None, lambda objective: self._predict_step())
        changed, outputs = step(session.state.variables, examples.batch())
        session.store_assigned(changed)
        return jax.tree.map(np.asarray, outputs)

    def _objective_for(self, examples: Examples, train: bool = False) -> Objective:
        """Returns losses and metrics for a batch, after checking its labels and integers."""
        session, rows = self.session, len(examples)
        key = self._prepare(examples, train)
        if key not in self._objectives:
            objective = session.objective_for(examples, rows)
            if train:
                session.check_loss(examples, objective, rows)
            self._objectives[key] = objective
        objective = self._objectives[key]
        check_labels(examples, objective)
        self._check_ids(examples)
        return objective

    def _prepare(self, examples: Examples, train: bool) -> Hashable:
        """Prepares the session for a batch, unless this was done for its shapes; returns the key of the shapes."""
        key = (signature(examples.batch()), train)
        if self.session.may_change or key not in self._prepared:
            self.session.prepare(examples, len(examples), train=train)
            self._prepared.add(key)
        return key

    def _check_ids(self, examples: Examples) -> None:
        if self._looks_up is None:
            self._looks_up = bool(lookups_of(self.session.model))
        if self._looks_up:
            check_ids(examples, self.session.model)

    def _step(self, kind: str, objective: Objective | None, make: Callable[[Any], Step]) -> Step:
        """Returns a compiled step; a change of the layers compiles a new one."""
        key = ("on batch", kind, id(objective), kernels_allowed(), requested())
        programs = self.session.programs
        if key not in programs:
            options = compiler_options(self.session.deterministic)
            programs[key] = jax.jit(make(objective), compiler_options=options)
        return programs[key]

    def _train_step(self, objective: Objective) -> Step:
        session = self.session
        step = session.train_step(
            session.model, objective, session.optimizer, session.rules, session.nonfinite.step_policy
        )

        def run(state: TrainState, batch: Batch) -> tuple[TrainState, Totals, Packed]:
            state, totals = step(state, objective.empty(), batch)
            return state, totals, _packed(objective.logs(totals))

        return run

    def _test_step(self, objective: Objective) -> Step:
        session = self.session
        step = steps.make_eval_step(session.model, objective, session.frozen)

        def run(variables: Variables, batch: Batch) -> tuple[Variables, Totals, Packed]:
            after, totals = step(variables, objective.empty(), batch)
            return assigned.changes(variables, after), totals, _packed(objective.logs(totals))

        return run

    def _predict_step(self) -> Step:
        session = self.session
        step = steps.make_predict_step(session.model, session.frozen)

        def run(variables: Variables, batch: Batch) -> tuple[Variables, ArrayOrShapeTree]:
            after, outputs = step(variables, batch)
            return assigned.changes(variables, after), outputs

        return run


def _packed(logs: Mapping[str, jax.Array]) -> Packed:
    """Returns the names and values of the scalars as one array, which moves to the host at once, and the other logs."""
    scalars = {name: value for name, value in logs.items() if jnp.ndim(value) == 0}
    values = [jnp.asarray(scalars[name], jnp.float32) for name in sorted(scalars)]
    rest = {name: value for name, value in logs.items() if name not in scalars}
    return dict.fromkeys(scalars), jnp.stack(values) if values else jnp.zeros(0), rest


def _on_host(packed: Packed) -> Logs:
    """Returns the logs as Python numbers, sorted by name as in Keras."""
    names, values, rest = packed
    logs: Logs = dict(zip(sorted(names), np.asarray(values).tolist(), strict=True))
    logs |= {name: np.asarray(value) for name, value in rest.items()}
    return dict(sorted(logs.items()))
