"""The losses, loss weights and metrics of each output, in one object of pure functions."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import VariableDict

from flaxmodels.building import Model
from flaxmodels.container import Container
from flaxmodels.layers.linen import training_flags
from training import losses, metrics
from training.forward import Outputs, forward
from training.losses import Loss, LossLike
from training.metrics import MetricLike
from training.metrics.base import RunningSum
from training.state import ArrayOrShape, ArrayOrShapeTree, Batch

Totals = dict[str, Any]
# The arguments about losses and metrics: for a model with one output, or for each output.
LossArgument: TypeAlias = LossLike | Sequence[LossLike | None] | Mapping[str, LossLike | None] | None
OutputMetrics: TypeAlias = MetricLike | Sequence[MetricLike] | None
MetricArgument: TypeAlias = OutputMetrics | Sequence[OutputMetrics] | Mapping[str, OutputMetrics]
WeightArgument: TypeAlias = float | Sequence[float | None] | Mapping[str, float | None] | None


class OutputMetric(NamedTuple):
    """A metric of one output.

    Attributes:
        name: The metric's name in the logs.
        own_name: The metric's name without output and number.
        output: Index of the output.
        metric: The metric.
        weighted: Whether to apply sample weights.
        example: Shapes of labels and outputs, from which some metrics derive the shapes of their states.
        entries: The names in the logs if the result is a dictionary, otherwise None.
    """

    name: str
    own_name: str
    output: int
    metric: Any
    weighted: bool
    example: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]
    entries: tuple[str, ...] | None = None

    @property
    def log_names(self) -> tuple[str, ...]:
        """The names in the logs."""
        return (self.name,) if self.entries is None else self.entries


class Measurement(NamedTuple):
    """The loss of a batch, and the inputs of the metrics; see `Objective.measure`.

    Attributes:
        loss: The weighted sum of the outputs' losses, plus the penalties of the layers.
        per_output_losses: The loss of each output, keyed by its name in the logs.
        labels: The labels of each output.
        predictions: Each output, in float32 if the model computes in half precision.
        weights: The sample weights of each output, or None.
        masks: The mask of each output, without padding rows, or None.
        rows: Number of examples.
        states: The metrics' states after the batch, if computing the loss has updated them; otherwise None.
    """

    loss: jax.Array
    per_output_losses: dict[str, jax.Array]
    labels: list[jax.Array]
    predictions: list[jax.Array]
    weights: list[jax.Array | None]
    masks: list[jax.Array | None]
    rows: jax.Array
    states: Any = None


class Objective(NamedTuple):
    """Losses and metrics, resolved against the outputs of one model by `Objective.of`.

    Attributes:
        names: Names of the outputs.
        losses: The loss of each output, or None.
        loss_weights: Factors of these losses.
        metrics: All metrics in the order of the logs.
        one_hot: For each output, the number of classes if integer labels become one-hot rows, else None.
        shapes: The shape of each output without the batch axis.
        has_labels: Whether the data has labels.
    """

    names: tuple[str, ...]
    losses: tuple[Any, ...]
    loss_weights: tuple[float, ...]
    metrics: tuple[OutputMetric, ...]
    one_hot: tuple[int | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    has_labels: bool = True

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Batch,
        loss: LossArgument = None,
        metrics: MetricArgument = None,
        weighted_metrics: MetricArgument = None,
        loss_weights: WeightArgument = None,
        num_classes: int | None = None,
        num_examples: int | None = None,
        variables: VariableDict | None = None,
    ) -> "Objective":
        """Resolves losses and metrics by name against the labels and outputs of a model.

        Args:
            model: Any linen module.
            example: A batch; shapes and dtypes suffice. Without labels, there are no metrics.
            loss: A loss by name or object for all outputs, or one per output in a list or a dictionary keyed by output
                name.
            metrics: Metrics by name or object: a list for one output, otherwise an entry per output in a list or a
                dictionary keyed by output name.
            weighted_metrics: Metrics to which sample and class weights apply, in the same form.
            loss_weights: Factors of the outputs' losses, a list or a dictionary keyed by output name.
            num_classes: The number of classes if the labels are known to be class indices, otherwise None. Losses that
                need one-hot labels then receive them.
            num_examples: Number of rows of the data in error messages, if it differs from that of the batch.
            variables: The model's variables, if there are any; shapes and dtypes suffice.

        Raises:
            ValueError: If a name is unknown, or labels, weights and outputs are incompatible.

        Example:
            >>> from flaxmodels import Sequential, layers
            >>> batch = Batch(jnp.ones((4, 3)), jnp.ones((4, 1)))
            >>> objective = Objective.of(Sequential([layers.Dense(1)]), batch, loss="mse", metrics=["mae"])
            >>> objective.log_names
            ['loss', 'mae']
        """
        if variables is None:
            rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
            variables = jax.eval_shape(lambda x: model.init(rngs, x, **training_flags(model, train=False)), example.x)
        tree = jax.eval_shape(lambda v, b: forward(model, v, b).values, variables, example)
        names = tuple(output_names(model, tree))
        outputs = ordered(tree, names)
        y = example.y
        if y is not None:
            check_per_output("y", y, names)
        true = ordered(y, names) if y is not None else [None] * len(names)
        resolved, factors = resolve_losses(loss, loss_weights, names, true, outputs)
        one_hot = tuple(
            num_classes if _needs_one_hot(l, t, p, num_classes) else None
            for l, t, p in zip(resolved, true, outputs, strict=True)
        )
        labels = [
            jax.ShapeDtypeStruct((t.shape[0], c), jnp.float32) if c else t for t, c in zip(true, one_hot, strict=True)
        ]
        measured = [] if y is None else output_metrics(metrics, weighted_metrics, names, labels, outputs)
        shapes = tuple(tuple(output.shape[1:]) for output in outputs)
        objective = cls(names, resolved, factors, tuple(measured), one_hot, shapes, y is not None)
        if example.weight is not None:
            check_per_output("sample_weight", example.weight, names)
        if y is not None:
            objective._check_shapes(y, outputs, num_examples)
            # Traces losses and metrics with shapes only, because they may be any functions.
            jax.eval_shape(
                lambda v, t, b: objective.update(t, objective.run(model, v, b, t)[1]),
                variables,
                objective.empty(),
                example,
            )
        return objective

    @property
    def loss_names(self) -> list[str]:
        """The losses in the logs: the total, and as in Keras each output's if several outputs have one."""
        each = [f"{name}_loss" for name, loss in zip(self.names, self.losses, strict=True) if loss is not None]
        return ["loss", *each] if len(each) > 1 else ["loss"]

    @property
    def log_names(self) -> list[str]:
        """All names in the logs, in their order."""
        return [*self.loss_names, *(name for m in self.metrics for name in m.log_names)]

    def place_of(self, name: str) -> str:
        """Returns the text by which Keras sorts a name in the logs: entries of a dictionary stand at their metric."""
        return next((m.name for m in self.metrics if m.entries is not None and name in m.entries), name)

    @property
    def mixes_rows(self) -> bool:
        """Whether the loss may be any function of the whole batch, which then gets no padding rows."""
        return any(loss is not None and loss.mixes_rows for loss in self.losses)

    def empty(self) -> Totals:
        """Returns the totals before the first step: sums of losses, number of rows, and the metrics' states."""
        return _empty(self)()  # new arrays at each call, because programs overwrite them

    def labels(self, y: ArrayOrShapeTree) -> list[Any]:
        """Returns the labels of each output, as one-hot rows if the loss needs them; None for data without labels."""
        if not self.has_labels:
            return [None] * len(self.names)
        return [
            leaf if classes is None else jax.nn.one_hot(leaf.reshape(leaf.shape[:1]), classes)
            for leaf, classes in zip(ordered(y, self.names), self.one_hot, strict=True)
        ]

    def run(
        self,
        model: nn.Module,
        variables: VariableDict,
        batch: Batch,
        totals: Totals,
        train: bool = False,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, Measurement]:
        """Runs a model on a batch and computes the loss; a subclass may compute another one.

        Args:
            model: Any linen module.
            variables: The model's variables.
            batch: The batch.
            totals: The totals before the batch.
            train: Whether the model runs in training mode.
            key: The key of dropout, needed in training mode.
        """
        outputs = forward(model, variables, batch, train, key)
        return outputs, self.measure(batch, outputs)

    def measure(self, batch: Batch, outputs: Outputs) -> Measurement:
        """Computes the loss of a batch: the weighted sum of the outputs' losses, plus the penalties of the layers."""
        labels = self.labels(batch.y)
        predictions = to_float32(ordered(outputs.values, self.names))
        weights, masks = weights_per_output(batch.weight, self.names), _masks(outputs.masks, self.names, batch.valid)
        total, per_output = jnp.zeros((), jnp.float32), {}
        arguments = zip(self.names, self.losses, self.loss_weights, labels, predictions, weights, masks, strict=True)
        for name, loss, factor, true, pred, weight, mask in arguments:
            value = jnp.zeros(()) if loss is None else loss(true, pred, sample_weight=weight, mask=mask)
            per_output[f"{name}_loss"] = value
            total = total + factor * value
        valid = batch.valid
        rows = jnp.sum(valid, dtype=jnp.float32) if valid is not None else jnp.float32(predictions[0].shape[0])
        return Measurement(total + outputs.regularization, per_output, labels, predictions, weights, masks, rows)

    def update(self, totals: Totals, measured: Measurement) -> Totals:
        """Adds a batch to the totals. As in Keras, the loss of a batch counts once per row."""
        values = {"loss": measured.loss, **measured.per_output_losses}
        states = [
            m.metric.update(
                state,
                measured.labels[m.output],
                measured.predictions[m.output],
                sample_weight=measured.weights[m.output] if m.weighted else None,
                mask=measured.masks[m.output],
            )
            for m, state in zip(self.metrics, totals["metrics"], strict=True)
        ]
        return {
            "rows": totals["rows"].add(measured.rows),
            "sums": {name: total.add(values[name] * measured.rows) for name, total in totals["sums"].items()},
            "metrics": states,
        }

    def logs(self, totals: Totals) -> dict[str, jax.Array]:
        """Returns the mean losses and the metrics of the totals, `loss` first."""
        means = {name: total.value / totals["rows"].value for name, total in totals["sums"].items()}
        for m, state in zip(self.metrics, totals["metrics"], strict=True):
            result = m.metric.compute(state)
            means |= flat_logs(result) if isinstance(result, Mapping) else {m.name: result}
        return means

    def _check_shapes(self, y: ArrayOrShapeTree, outputs: Sequence[ArrayOrShape], num_examples: int | None) -> None:
        """Raises if a loss or a metric cannot take labels and outputs of these shapes, and names the arrays."""
        arrays = ordered(y, self.names)
        batch = [
            jax.ShapeDtypeStruct((p.shape[0], *t.shape[1:]), t.dtype) for t, p in zip(arrays, outputs, strict=True)
        ]
        true = jax.eval_shape(self.labels, dict(zip(self.names, batch, strict=True)))
        compared = [(i, loss) for i, loss in enumerate(self.losses) if loss is not None]
        for i, function in [*compared, *((m.output, m.metric.empty_for) for m in self.metrics)]:
            try:
                jax.eval_shape(function, true[i], outputs[i])
            except losses.LabelShapeError as error:
                which = f" {self.names[i]!r}" if len(self.names) > 1 else ""
                rows = arrays[i].shape[0] if num_examples is None else num_examples
                true_shape, shape = (rows, *arrays[i].shape[1:]), (rows, *outputs[i].shape[1:])
                raise error.for_data(f"`y` of shape {true_shape}", f"the output{which} of shape {shape}") from None


@functools.lru_cache(maxsize=64)
def _empty(objective: Objective) -> Callable[[], Totals]:
    """Makes the function that returns empty totals; it is compiled because tracing the metrics takes a while."""

    def totals() -> Totals:
        return {
            "rows": RunningSum.zeros(),
            "sums": {name: RunningSum.zeros() for name in objective.loss_names},
            "metrics": [m.metric.empty_for(*m.example) for m in objective.metrics],
        }

    return jax.jit(totals)


def check_per_output(argument: str, tree: ArrayOrShapeTree, names: Sequence[str]) -> None:
    """Checks that there is an array for each output, or one array of weights for all outputs.

    Raises:
        ValueError: If the number of arrays or a key differs.
    """
    count = len(jax.tree.leaves(tree))
    if isinstance(tree, Mapping) and len(names) > 1 and set(tree) != set(names):
        raise ValueError(
            f"The keys of `{argument}` must be the names of the model's outputs {list(names)}, got {list(tree)}; give "
            "one array for each output under its name."
        )
    if count == len(names) or (count == 1 and argument == "sample_weight" and not isinstance(tree, Mapping)):
        return
    if len(names) == 1:
        raise ValueError(
            f"`{argument}` must be one array for a model with one output, got {count} arrays; give one array [N, "
            f"...], or make a model with {count} outputs."
        )
    raise ValueError(
        f"`{argument}` must have one array for each of the model's outputs {list(names)}, got {count}; give a list in "
        "this order, or a dictionary keyed by these names."
    )


def resolve_losses(
    loss: LossArgument,
    loss_weights: WeightArgument,
    names: Sequence[str],
    labels: Sequence[ArrayOrShape | None],
    outputs: Sequence[ArrayOrShape],
) -> tuple[tuple[Loss | None, ...], tuple[float, ...]]:
    """Returns the loss of each output, None without labels, and the factors of these losses.

    Raises:
        ValueError: If a name is unknown, or there is not one loss and one factor for each output.
    """
    given = _per_output("loss", loss, names)
    resolved = tuple(_loss(one, t, p) for one, t, p in zip(given, labels, outputs, strict=True))
    factors = [1.0 if w is None else _factor(w, names) for w in _per_output("loss_weights", loss_weights, names)]
    return resolved, tuple(factors)


def flat_logs(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of nested dictionaries of results in one dictionary, sorted as in Keras.

    Example:
        >>> flat_logs({"b": 1, "a": {"d": 2, "c": 3}})
        {'c': 3, 'd': 2, 'b': 1}
    """
    found: dict[str, Any] = {}
    for name, value in sorted(results.items()):
        found |= flat_logs(value) if isinstance(value, Mapping) else {name: value}
    return found


def _factor(weight: float, names: Sequence[str]) -> float:
    if np.ndim(weight) or isinstance(weight, str):
        raise ValueError(
            f"`loss_weights` must have one number for each of the outputs {list(names)}, got {weight!r}; give one "
            "number per output."
        )
    return float(weight)


def _loss(given: LossLike | None, true: ArrayOrShape | None, pred: ArrayOrShape) -> Loss | None:
    return None if given is None or true is None else losses.resolve(given, true.shape, pred.shape)


def _needs_one_hot(loss: Loss | None, true: ArrayOrShape, pred: ArrayOrShape, num_classes: int | None) -> bool:
    """Returns whether class indices become one-hot rows, because the loss takes one column per class."""
    if loss is None or num_classes is None or loss.labels == "index":
        return False
    return pred.shape[-1] == num_classes > 1 and true.ndim == 1


def output_metrics(
    metric: MetricArgument,
    weighted_metric: MetricArgument,
    names: Sequence[str],
    labels: Sequence[ArrayOrShape],
    outputs: Sequence[ArrayOrShape],
) -> list[OutputMetric]:
    """Returns the metrics of all outputs, in the order and with the names of Keras' logs."""
    found: list[OutputMetric] = []
    counts: collections.Counter[str] = collections.Counter()
    for weighted, given in ((False, metric), (True, weighted_metric)):
        argument = "weighted_metrics" if weighted else "metrics"
        for i, several in enumerate(_per_output(argument, given, names, several=True)):
            for one in several:
                resolved = metrics.resolve(one, labels[i].shape, outputs[i].shape)
                own_name = one if isinstance(one, str) else str(resolved.name)
                prefix = f"{names[i]}_" if len(names) > 1 else ""
                name = f"{prefix}{own_name}"
                if weighted and counts[name]:
                    name = f"{prefix}weighted_{own_name}"
                number = counts[name]
                counts[name] += 1
                name = f"{name}_{number}" if number else name
                example = (_like(labels[i]), _like(outputs[i]))
                found.append(OutputMetric(name, own_name, i, resolved, weighted, example, _entries(resolved, example)))
    return found


def _entries(metric: Any, example: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]) -> tuple[str, ...] | None:
    """Returns the names in the logs of a metric whose result is a dictionary, otherwise None."""
    if not metric.may_return_dictionary:
        return None
    result = jax.eval_shape(lambda: metric.compute(metric.empty_for(*example)))
    return tuple(flat_logs(result)) if isinstance(result, Mapping) else None


def to_float32(outputs: list[jax.Array]) -> list[jax.Array]:
    """Converts outputs in half precision to float32, in which losses and metrics are computed."""
    return [y.astype(jnp.float32) if y.dtype in (jnp.bfloat16, jnp.float16) else y for y in outputs]


def _like(array: ArrayOrShape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _per_output(argument: str, given: object, names: Sequence[str], several: bool = False) -> list[Any]:
    """Returns what an argument of the Trainer gives for each output."""

    def tidy(one: object) -> object:
        if not several:
            return one
        return [] if one is None else list(one) if isinstance(one, list | tuple) else [one]

    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in names]
        if unknown:
            raise ValueError(
                f"The keys of `{argument}` must be the model's outputs {list(names)}, got {unknown[0]!r}; use these "
                "names, or give a list in this order."
            )
        return [tidy(given.get(name)) for name in names]
    if len(names) == 1:
        if not several and isinstance(given, list | tuple) and len(given) == 1:
            given = given[0]
        return [tidy(given)]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(
                f"`{argument}` must have one entry for each of the outputs {list(names)}, got {len(given)}; give a "
                "list of that length, or a dictionary keyed by output name."
            )
        return [tidy(one) for one in given]
    if argument == "loss" or given is None:
        return [tidy(given)] * len(names)
    raise ValueError(
        f"`{argument}` of a model with the outputs {list(names)} must be a list or a dictionary keyed by output name, "
        f"got {given!r}; write {{{names[0]!r}: {given!r}}}."
    )


def ordered(tree: ArrayOrShapeTree, names: Sequence[str]) -> list[Any]:
    """Returns the arrays of each output in order; a dictionary is ordered by the names of the outputs."""
    if isinstance(tree, Mapping) and set(tree) == set(names):
        return [tree[name] for name in names]
    return jax.tree.leaves(tree)


def weights_per_output(weight: ArrayOrShapeTree, names: Sequence[str]) -> list[Any]:
    """Returns the sample weights of each output, or None."""
    leaves = ordered(weight, names)
    return (leaves or [None]) * len(names) if len(leaves) < len(names) else leaves


def _masks(masks: ArrayOrShapeTree, names: Sequence[str], valid: jax.Array | None) -> list[jax.Array | None]:
    """Returns the mask of each output without padding rows, or None if every value counts."""
    if isinstance(masks, Mapping) and set(masks) == set(names):
        masks = [masks[name] for name in names]
    found = jax.tree.leaves(masks, is_leaf=lambda m: m is None) or [None]
    found = found * len(names) if len(found) < len(names) else found

    def both(mask: jax.Array | None) -> jax.Array | None:
        if mask is None or valid is None:
            return valid if mask is None else mask
        return mask & jnp.expand_dims(valid, tuple(range(1, mask.ndim)))

    return [both(mask) for mask in found]


def output_names(model: nn.Module, outputs: ArrayOrShapeTree) -> list[str]:
    """Returns names of the outputs: keys of a dictionary, layers of a graph, otherwise output_0, output_1 and so on."""
    n = len(jax.tree.leaves(outputs))
    if isinstance(outputs, Mapping) and len(outputs) == n:
        return sorted(outputs)
    if isinstance(model, Model) and isinstance(model, Container) and model.graph is not None:
        names = [
            model.graph.names.get(id(s.node.layer)) if s.node else s.name for s in jax.tree.leaves(model.graph.outputs)
        ]
        if all(names) and len(set(names)) == n:
            return [str(name) for name in names]
    return ["output"] if n == 1 else [f"output_{i}" for i in range(n)]
