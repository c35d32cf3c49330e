"""Losses and metrics of Keras' models: those of `compile`, and those that a model or its layers compute themselves.

The losses and metrics of most models are an `Objective` of the pure layer. A model that overrides `compute_loss`,
`compute_metrics` or `metrics`, or that holds metrics in its attributes or layers, has a `ModelObjective`, which calls
the model's methods. They run inside the compiled step, on traced values that take the places of the values in layers
and metrics.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import VariableDict

from flaxmodels.layers.keras_state import CURRENT_LAYER
from training import assigned
from training.forward import Outputs, forward
from training.keras import held_values
from training.keras.metric_state import FullState, MetricVariable, StatefulMetric, as_arrays, holding
from training.keras.metrics import stateful_class
from training.losses.base import MASKS
from training.metrics import Mean as PureMean
from training.metrics.base import MeanState
from training.objective import (
    LossArgument,
    Measurement,
    MetricArgument,
    Objective,
    OutputMetric,
    Totals,
    WeightArgument,
    check_per_output,
    flat_logs,
    ordered,
    output_metrics,
    output_names,
    resolve_losses,
    to_float32,
    weights_per_output,
)
from training.state import ArrayOrShapeTree, Batch

if TYPE_CHECKING:
    from training.keras.stateful import Stateful


class Step(NamedTuple):
    """What the methods of a model can read while they compute the loss of a batch.

    Attributes:
        losses: The losses that layers have added.
        masks: The mask of each output.
    """

    losses: Sequence[jax.Array]
    masks: list[jax.Array | None]


class CompileLoss:
    """The losses of `compile`.

    Args:
        loss: The losses.
        loss_weights: Their factors.

    Attributes:
        metrics: The mean losses of the outputs; empty for a single loss.
    """

    def __init__(self, loss: LossArgument, loss_weights: WeightArgument):
        self.loss, self.loss_weights = loss, loss_weights
        self.metrics: list[StatefulMetric] = []

    def __call__(
        self,
        model: nn.Module,
        y: ArrayOrShapeTree,
        y_pred: ArrayOrShapeTree,
        sample_weight: ArrayOrShapeTree,
        step: Step | None,
    ) -> jax.Array:
        """Returns the weighted sum of the outputs' losses, and adds each loss to its mean."""
        names = output_names(model, y_pred)
        if y is None:
            raise ValueError("The `loss` of compile needs labels, got none; write fit(x, y).")
        check_per_output("y", y, names)
        labels, predictions = ordered(y, names), to_float32(ordered(y_pred, names))
        weights = weights_per_output(sample_weight, names)
        resolved, factors = resolve_losses(self.loss, self.loss_weights, names, labels, predictions)
        given = [i for i, loss in enumerate(resolved) if loss is not None]
        self.build([names[i] for i in given])
        masks = [None] * len(names) if step is None else step.masks
        values = {
            f"{names[i]}_loss": resolved[i](labels[i], predictions[i], sample_weight=weights[i], mask=masks[i])
            for i in given
        }
        for tracker in self.metrics:
            tracker.update_state(values[tracker.name], sample_weight=len(predictions[0]))  # type: ignore[attr-defined]
        return sum((factors[i] * value for i, value in zip(given, values.values(), strict=True)), jnp.zeros(()))

    def build(self, names: Sequence[str]) -> None:
        """Makes the mean losses of several outputs, given the names of the outputs with losses."""
        if not self.metrics and len(names) > 1:
            self.metrics = [mean(f"{name}_loss") for name in names]


class CompileMetrics:
    """The metrics of `compile`, which are one entry of `model.metrics`.

    Args:
        metrics: The metrics.
        weighted_metrics: The metrics to which sample weights apply.
    """

    name = "compile_metrics"

    def __init__(self, metrics: MetricArgument, weighted_metrics: MetricArgument):
        self._given = metrics, weighted_metrics
        self._entries: Sequence[OutputMetric] = ()
        self._made: list[StatefulMetric] = []

    @property
    def own_names(self) -> list[str]:
        """The names of the metrics, without outputs and numbers."""
        return [entry.own_name for entry in self._entries]

    @property
    def metrics(self) -> list[StatefulMetric]:
        """The metrics; empty before the model is trained or evaluated."""
        if len(self._made) != len(self._entries):
            self._made = [with_state(entry) for entry in self._entries]
        return self._made

    def set_entries(self, entries: Sequence[OutputMetric]) -> None:
        """Sets the metrics after they were resolved."""
        if entries is not self._entries:
            self._entries, self._made = entries, []

    def build(self, names: Sequence[str], y: ArrayOrShapeTree, y_pred: ArrayOrShapeTree) -> None:
        """Resolves the metrics for labels and outputs."""
        if not self._entries:
            self.set_entries(output_metrics(*self._given, names, ordered(y, names), ordered(y_pred, names)))

    def update(
        self,
        model: nn.Module,
        y: ArrayOrShapeTree,
        y_pred: ArrayOrShapeTree,
        sample_weight: ArrayOrShapeTree,
        step: Step | None,
    ) -> None:
        """Adds a batch to all metrics."""
        names = output_names(model, y_pred)
        if y is None:
            raise ValueError("The metrics of compile need labels, got none; write fit(x, y).")
        self.build(names, y, y_pred)
        labels, predictions = ordered(y, names), to_float32(ordered(y_pred, names))
        weights = weights_per_output(sample_weight, names)
        masks = [None] * len(names) if step is None else step.masks
        for entry, metric in zip(self._entries, self.metrics, strict=True):
            i = entry.output
            options = {"sample_weight": weights[i] if entry.weighted else None}
            if not metric.is_custom and masks[i] is not None:
                options["mask"] = masks[i]
            metric.update_state(labels[i], predictions[i], **options)

    def result(self) -> dict[str, Any]:
        """Returns the values by their names in the logs."""
        return {entry.name: m.result() for entry, m in zip(self._entries, self.metrics, strict=True)}

    def reset_state(self) -> None:
        """Resets all metrics."""
        for metric in self.metrics:
            metric.reset_state()

    @property
    def variables(self) -> list[MetricVariable]:
        """The variables of all metrics."""
        return [variable for metric in self.metrics for variable in metric.variables]

    def adopt(self, entries: Sequence[OutputMetric], states: Sequence[Any]) -> None:
        """Sets the states of the metrics after a run."""
        self.set_entries(entries)
        for metric, state in zip(self.metrics, states, strict=True):
            metric.put_state(state if metric.is_custom else FullState(state, [], []))

    def __repr__(self) -> str:
        return f"<CompileMetrics name={self.name}>"


def mean(name: str) -> StatefulMetric:
    """Returns a mean with a state."""
    made: Any = stateful_class(PureMean)
    return made(name=name)


def with_state(entry: OutputMetric) -> StatefulMetric:
    """Returns the metric of an output with a state: the user's object if it has one."""
    metric = entry.metric
    if isinstance(metric, StatefulMetric):
        return metric
    cls: Any = type(metric)
    made: Any = object.__new__(stateful_class(cls))
    made.__dict__.update(vars(metric), name=entry.own_name)
    return made


def mean_state(totals: Totals, name: str) -> FullState:
    """Returns the state of the mean of a loss, from the totals of an `Objective`."""
    return FullState(MeanState(totals["sums"][name], totals["rows"]), [], [])


class _Keys:
    """Gives random functions outside of layers the keys of a training step."""

    scope = True

    def __init__(self, key: jax.Array):
        self._key, self._drawn = key, 0

    def has_rng(self, name: str) -> bool:
        """Returns whether there is a key: always."""
        return True

    def make_rng(self, name: str) -> jax.Array:
        """Returns a new key."""
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn)


@contextlib.contextmanager
def _drawing_from(key: jax.Array) -> Iterator[None]:
    token = CURRENT_LAYER.set(_Keys(key))  # type: ignore[arg-type]
    try:
        yield
    finally:
        CURRENT_LAYER.reset(token)


class ModelObjective(Objective):
    """Losses and metrics that the methods of a Keras model compute, made by `objective_of`.

    The totals hold the states of the metrics in `tracked`, and the logs of the last step if the model overrides
    `compute_metrics`.
    """

    owner: Any
    tracked: list[StatefulMetric]
    initial: Totals
    names_in_logs: list[str]

    # Two objects are equal only if they are the same, because the methods of their models may differ.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def log_names(self) -> list[str]:
        """All names in the logs."""
        return self.names_in_logs

    @property
    def mixes_rows(self) -> bool:
        """Whether the loss may be any function of the whole batch."""
        return True

    def empty(self) -> Totals:
        """Returns the totals before the first step."""
        return jax.tree.map(jnp.array, self.initial)  # copies, which programs overwrite

    def run(
        self,
        model: nn.Module,
        variables: VariableDict,
        batch: Batch,
        totals: Totals,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Measurement]:
        """Runs a model on a batch, and computes loss and metrics by the model's methods."""
        owner, rows = self.owner, jnp.float32(len(jax.tree.leaves(batch.x)[0]))
        with holding(self.tracked, totals["states"]):
            outputs = forward(model, variables, batch, train, key)
            params = variables.get("params", {}) if outputs.params is None else outputs.params
            present = {"params": params, "batch_stats": outputs.batch_stats}
            if key is None:
                # Batches of an evaluation differ in the number of examples so far.
                seen = owner.loss_tracker_of_compile.full_state().inner.weights.value
                key_of_step = jax.random.fold_in(jax.random.key(0), seen.astype(jnp.uint32))
            else:
                # Layers fold other numbers into the key of a step.
                key_of_step = jax.random.fold_in(key, np.uint32(2**32 - 1))
            step = Step(outputs.added_losses, masks_per_output(outputs.masks, self.names))
            with contextlib.ExitStack() as stack:
                stack.enter_context(held_values.holding_values(owner, present))
                stack.enter_context(_reading(owner, step))
                stack.enter_context(_drawing_from(key_of_step))
                stack.enter_context(_masking(outputs.values, step.masks))
                loss = jnp.asarray(owner.call_compute_loss(batch.x, batch.y, outputs.values, batch.weight, train))
                if loss.ndim:
                    raise ValueError(
                        f"`compute_loss` of {type(owner).__name__} must return one number, got shape {loss.shape}; "
                        "return the mean."
                    )
                after = assigned.merged(present, assigned.changes(present, held_values.present_values(owner)))
                owner.loss_tracker_of_compile.update_state(loss, sample_weight=rows)
                logs = owner.compute_metrics(batch.x, batch.y, outputs.values, batch.weight)
            new: Totals = {"states": [metric.full_state() for metric in self.tracked], "logs": {}}
        if owner.overrides("compute_metrics"):
            new["logs"] = flat_logs(as_arrays(logs))
        measured = Measurement(loss.astype(jnp.float32), {}, [], [], [], [], rows, new)
        return outputs._replace(batch_stats=after.get("batch_stats", {}), params=after.get("params", {})), measured

    def update(self, totals: Totals, measured: Measurement) -> Totals:
        """Returns the totals after the batch."""
        return measured.states

    def logs(self, totals: Totals) -> dict[str, jax.Array]:
        """Returns the values of the metrics, or what `compute_metrics` returned after the last step."""
        if totals["logs"]:
            return dict(totals["logs"])
        with holding(self.tracked, totals["states"]):
            return flat_logs(as_arrays(self.owner.get_metrics_result()))

    def adopt(self, totals: Totals) -> None:
        """Gives the metrics of the model their states after a run."""
        for metric, state in zip(self.tracked, totals["states"], strict=True):
            metric.put_state(state)


def check_created(owner: "Stateful", missing: Sequence["Stateful"]) -> None:
    """Raises if layers that had no variables have some now, because only the loss has called them.

    Args:
        owner: The model.
        missing: Layers inside it that had no variables before the loss was computed.
    """
    for layer in missing:
        if layer is not owner and jax.tree.leaves(held_values.present_values(layer)):
            raise ValueError(
                f"A layer that only `compute_loss` calls must have its weights before the training, got {layer.name!r} "
                f"of {type(owner).__name__} without weights; build it first, or start it with an Input."
            )


def masks_per_output(masks: ArrayOrShapeTree, names: Sequence[str]) -> list[jax.Array | None]:
    """Returns the mask of each output, or None."""
    if isinstance(masks, Mapping) and set(masks) == set(names):
        return [masks[name] for name in names]
    found = jax.tree.leaves(masks, is_leaf=lambda mask: mask is None) or [None]
    return found * len(names) if len(found) < len(names) else found


@contextlib.contextmanager
def _masking(values: ArrayOrShapeTree, masks: Sequence[jax.Array | None]) -> Iterator[None]:
    """Lets losses and metrics find the masks of the outputs."""
    pairs = zip(jax.tree.leaves(values), masks, strict=False)
    token = MASKS.set(tuple((array, mask) for array, mask in pairs if mask is not None))
    try:
        yield
    finally:
        MASKS.reset(token)


@contextlib.contextmanager
def _reading(owner: object, step: Step) -> Iterator[None]:
    """Lets the methods of a model read what belongs to a step."""
    before = owner.__dict__.get("_running_step")
    owner.__dict__["_running_step"] = step
    try:
        yield
    finally:
        owner.__dict__["_running_step"] = before


def objective_of(owner: Any) -> Callable[..., ModelObjective]:
    """Returns a function like `Objective.of` for a model whose methods compute loss and metrics.

    Args:
        owner: The Keras model.
    """

    def make(model: nn.Module, example: Batch, variables: VariableDict, **given: object) -> ModelObjective:
        tree = jax.eval_shape(lambda v, b: forward(model, v, b).values, variables, example)
        names = tuple(output_names(model, tree))
        outputs = ordered(tree, names)
        nothing: tuple[Any, ...] = (None,) * len(names)
        shapes = tuple(tuple(output.shape[1:]) for output in outputs)
        has_labels = example.y is not None
        objective = ModelObjective(names, nothing, (1.0,) * len(names), (), nothing, shapes, has_labels)
        objective.owner = owner
        # The first trace makes the metrics of `compile`, which depend on the shapes of labels and outputs.
        objective.tracked, objective.initial = [], {"states": [], "logs": {}}
        before = [layer for layer in held_values.with_held(owner) if not held_values.has_values(layer)]
        jax.eval_shape(lambda v, b: objective.run(model, v, b, objective.initial), variables, example)
        check_created(owner, before)
        objective.tracked = owner.tracked_metrics()
        for metric in objective.tracked:
            metric.reset_state()  # removes traced values
        states = [metric.initial_state() for metric in objective.tracked]
        # Some metrics derive the shapes of their states from the first batch.
        shaped = jax.eval_shape(
            lambda v, b: objective.run(model, v, b, {"states": states, "logs": {}})[1].states, variables, example
        )
        full = jax.tree.map(lambda a, s: np.broadcast_to(np.asarray(a, s.dtype), s.shape), states, shaped["states"])
        logs = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shaped["logs"])
        objective.initial = {"states": full, "logs": logs}
        objective.names_in_logs = list(jax.eval_shape(objective.logs, objective.initial))
        return objective

    return make
