"""What is minimized and measured: losses, weights and metrics of each output, in one object of pure functions."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.building import Container, Model
from training import losses, metrics
from training.metrics.base import RunningSum


class Measured(NamedTuple):
    """A metric in the logs: what it is called, which output it looks at, whether sample weights count.

    `example` holds the shapes of labels and outputs, by which some metrics shape their states.
    """

    name: str
    output: int
    metric: Any
    weighted: bool
    example: Any


class Objective(NamedTuple):
    """Losses and metrics, resolved against the outputs of one model; see `resolve`."""

    names: tuple[str, ...]
    losses: tuple[Any, ...]
    loss_weights: tuple[float, ...]
    measured: tuple[Measured, ...]
    # Number of classes where integer labels are to be spread into one-hot rows, else None.
    one_hot: tuple[int | None, ...]

    @property
    def loss_names(self) -> list[str]:
        """The losses in the logs: the whole, and each output's where there are several."""
        return ["loss", *(f"{name}_loss" for name in self.names)] if len(self.names) > 1 else ["loss"]

    @property
    def log_names(self) -> list[str]:
        """All names in the logs, in their order."""
        return [*self.loss_names, *(m.name for m in self.measured)]

    def empty(self) -> dict[str, Any]:
        """Totals before the first step: sums of losses times rows, rows, and the metrics' states."""
        return _empty(self)()  # fresh arrays each time, because programs are given them

    def labels(self, y: Any) -> list[jax.Array]:
        """The labels of each output, class indices spread where the loss wants it."""
        return [
            leaf if classes is None else jax.nn.one_hot(leaf.reshape(leaf.shape[:1]), classes)
            for leaf, classes in zip(ordered(y, self.names), self.one_hot, strict=True)
        ]

    def loss(
        self, y: Any, y_pred: Any, weight: Any, masks: Any, valid: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum of the outputs' losses over the batch, and each output's own, by name in the logs."""
        total, own = jnp.zeros((), jnp.float32), {}
        arguments = zip(
            self.losses,
            self.loss_weights,
            self.labels(y),
            _wide(ordered(y_pred, self.names)),
            _weights(weight, self.names),
            _masks(masks, self.names, valid),
            self.names,
            strict=True,
        )
        for loss, factor, true, pred, w, mask, name in arguments:
            value = jnp.zeros(()) if loss is None else loss(true, pred, sample_weight=w, mask=mask)
            own[f"{name}_loss"] = value
            total = total + factor * value
        return total, own

    def update(
        self,
        totals: dict[str, Any],
        loss: jax.Array,
        own: dict[str, jax.Array],
        y: Any,
        y_pred: Any,
        weight: Any,
        masks: Any,
        valid: jax.Array | None,
    ) -> dict[str, Any]:
        """Adds a batch to the totals. A batch's loss counts once per row, as in Keras."""
        true, pred = self.labels(y), _wide(ordered(y_pred, self.names))
        weights, masks = _weights(weight, self.names), _masks(masks, self.names, valid)
        rows = jnp.sum(valid, dtype=jnp.float32) if valid is not None else jnp.float32(pred[0].shape[0])
        values = {"loss": loss, **own}
        states = [
            m.metric.update(
                state,
                true[m.output],
                pred[m.output],
                sample_weight=weights[m.output] if m.weighted else None,
                mask=masks[m.output],
            )
            for m, state in zip(self.measured, totals["metrics"], strict=True)
        ]
        return {
            "rows": totals["rows"].add(rows),
            "sums": {name: total.add(values[name] * rows) for name, total in totals["sums"].items()},
            "metrics": states,
        }

    def logs(self, totals: dict[str, Any]) -> dict[str, jax.Array]:
        """The means and metrics that the totals amount to, `loss` first."""
        means = {name: total.value / totals["rows"].value for name, total in totals["sums"].items()}
        return means | {
            m.name: m.metric.compute(state) for m, state in zip(self.measured, totals["metrics"], strict=True)
        }


@functools.lru_cache(maxsize=64)
def _empty(objective: Objective) -> Callable[[], dict[str, Any]]:
    """Makes the empty totals. A program, because finding the shapes of the metrics' states takes a while."""

    def totals() -> dict[str, Any]:
        return {
            "rows": RunningSum.zeros(),
            "sums": {name: RunningSum.zeros() for name in objective.loss_names},
            "metrics": [m.metric.empty_for(*m.example) for m in objective.measured],
        }

    return jax.jit(totals)


def resolve(
    loss: Any,
    metric: Any,
    weighted_metric: Any,
    loss_weights: Any,
    names: Sequence[str],
    y: Any,
    y_pred: Any,
    num_classes: int | None = None,
) -> Objective:
    """Resolves names of losses and metrics against the shapes of labels and outputs.

    Args:
        loss: A loss by name or object for every output, or a list or dictionary of them by output.
        metric: Metrics by name or object: a list for one output, else a list per output or a dictionary.
        weighted_metric: Likewise; sample and class weights count in these.
        loss_weights: Factors of the outputs' losses, a list or dictionary.
        names: Names of the outputs.
        y: Labels, of which shape and dtype count; None if there are none.
        y_pred: Outputs, likewise.
        num_classes: Given if the labels are known to be class indices, which then fit every loss.

    Raises:
        ValueError: If a name is unknown or labels do not fit an output.
    """
    n, outputs = len(names), ordered(y_pred, tuple(names))
    if y is not None:
        check_per_output("y", y, names)
    true = ordered(y, tuple(names)) if y is not None else [None] * n
    each = _per_output("loss", loss, names)
    resolved = tuple(_loss(given, t, p) for given, t, p in zip(each, true, outputs, strict=True))
    one_hot = tuple(
        num_classes if _spread(l, t, p, num_classes) else None for l, t, p in zip(resolved, true, outputs, strict=True)
    )
    labels = [
        jax.ShapeDtypeStruct((t.shape[0], c), jnp.float32) if c else t for t, c in zip(true, one_hot, strict=True)
    ]
    factors = [1.0 if w is None else _factor(w, names) for w in _per_output("loss_weights", loss_weights, names)]
    measured = [] if y is None else _measured(metric, weighted_metric, names, labels, outputs)
    return Objective(tuple(names), resolved, tuple(factors), tuple(measured), one_hot)


def check_per_output(argument: str, tree: Any, names: Sequence[str]) -> None:
    """Raises unless there is an array for each output, or one array of weights for all.

    Raises:
        ValueError: If the number of arrays, or the key of one, is another.
    """
    count = len(jax.tree.leaves(tree))
    if isinstance(tree, Mapping) and len(names) > 1 and set(tree) != set(names):
        raise ValueError(
            f"The keys of `{argument}` are the names of the model's outputs {list(names)}, got {list(tree)}; "
            "give one array for each output under its name."
        )
    if count == len(names) or (count == 1 and argument == "sample_weight" and not isinstance(tree, Mapping)):
        return
    if len(names) == 1:
        raise ValueError(
            f"`{argument}` is one array for a model with one output, got {count} arrays; give one array [N, ...], or "
            f"make a model with {count} outputs."
        )
    raise ValueError(
        f"`{argument}` has one array for each of the model's outputs {list(names)}, got {count}; "
        "give a list in this order, or a dictionary by these names."
    )


def check_shapes(objective: Objective, y: Any, outputs: Sequence[Any]) -> None:
    """Raises where a loss or a metric cannot take labels and outputs of these shapes, and names the arrays.

    Args:
        objective: Losses and metrics.
        y: All labels, of which shape and dtype count.
        outputs: The outputs for a batch of any size, likewise.

    Raises:
        LabelShapeError: If shapes do not fit.
    """
    arrays = ordered(y, objective.names)
    batch = [jax.ShapeDtypeStruct((p.shape[0], *t.shape[1:]), t.dtype) for t, p in zip(arrays, outputs, strict=True)]
    true = jax.eval_shape(objective.labels, dict(zip(objective.names, batch, strict=True)))
    compared = [(i, loss) for i, loss in enumerate(objective.losses) if loss is not None]
    for i, function in [*compared, *((m.output, m.metric.empty_for) for m in objective.measured)]:
        try:
            jax.eval_shape(function, true[i], outputs[i])
        except losses.LabelShapeError as error:
            which = f" {objective.names[i]!r}" if len(objective.names) > 1 else ""
            shape = (None, *outputs[i].shape[1:])
            raise error.for_data(
                f"`y` of shape {tuple(arrays[i].shape)}", f"the output{which} of shape {shape}"
            ) from None


def _factor(weight: Any, names: Sequence[str]) -> float:
    if np.ndim(weight) or isinstance(weight, str):
        raise ValueError(
            f"`loss_weights` has one number for each of the outputs {list(names)}, got {weight!r}; "
            "give numbers, as many as there are outputs."
        )
    return float(weight)


def _loss(given: Any, true: Any, pred: Any) -> Any:
    return None if given is None or true is None else losses.resolve(given, true.shape, pred.shape)


def _spread(loss: Any, true: Any, pred: Any, num_classes: int | None) -> bool:
    """Whether class indices become one-hot rows: the output has a column per class, and the loss takes columns."""
    if loss is None or num_classes is None or loss.labels == "index":
        return False
    return pred.shape[-1] == num_classes > 1 and true.ndim == 1


def _measured(
    metric: Any, weighted_metric: Any, names: Sequence[str], labels: Sequence[Any], outputs: Sequence[Any]
) -> list[Measured]:
    found: list[Measured] = []
    for weighted, given in ((False, metric), (True, weighted_metric)):
        argument = "weighted_metrics" if weighted else "metrics"
        for i, several in enumerate(_per_output(argument, given, names, several=True)):
            for one in several:
                resolved = metrics.resolve(one, labels[i].shape, outputs[i].shape)
                stem = one if isinstance(one, str) else str(resolved.name)
                name = f"{names[i]}_{stem}" if len(names) > 1 else stem
                taken = {m.name for m in found}
                if name in taken and weighted:
                    name = f"weighted_{stem}" if len(names) == 1 else f"{names[i]}_weighted_{stem}"
                copies = sum(m.name == name or m.name.startswith(f"{name}_") for m in found)
                name = f"{name}_{copies}" if name in taken else name
                found.append(Measured(name, i, resolved, weighted, (_like(labels[i]), _like(outputs[i]))))
    return found


def _wide(outputs: list[jax.Array]) -> list[jax.Array]:
    """Outputs in half precision as float32, in which losses and metrics are computed."""
    return [y.astype(jnp.float32) if y.dtype in (jnp.bfloat16, jnp.float16) else y for y in outputs]


def _like(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _per_output(argument: str, given: Any, names: Sequence[str], several: bool = False) -> list[Any]:
    """What an argument of the Trainer says of each output."""

    def tidy(one: Any) -> Any:
        if not several:
            return one
        return [] if one is None else list(one) if isinstance(one, list | tuple) else [one]

    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in names]
        if unknown:
            raise ValueError(
                f"`{argument}` goes by the model's outputs {list(names)}, got {unknown[0]!r}; "
                "use these names, or a list in their order."
            )
        return [tidy(given.get(name)) for name in names]
    if len(names) == 1:
        if not several and isinstance(given, list | tuple) and len(given) == 1:
            given = given[0]
        return [tidy(given)]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(
                f"`{argument}` has one entry for each of the outputs {list(names)}, got {len(given)}; "
                "give a list of that length, or a dictionary by name."
            )
        return [tidy(one) for one in given]
    if argument == "loss" or given is None:
        return [tidy(given)] * len(names)
    raise ValueError(
        f"`{argument}` of a model with the outputs {list(names)} is a list or a dictionary by output, got {given!r}; "
        f"write {{{names[0]!r}: {given!r}}}."
    )


def ordered(tree: Any, names: Sequence[str]) -> list[Any]:
    """The arrays of each output, in order: dictionaries by the outputs' names, else as they stand."""
    if isinstance(tree, Mapping) and set(tree) == set(names):
        return [tree[name] for name in names]
    return jax.tree.leaves(tree)


def _weights(weight: Any, names: Sequence[str]) -> list[Any]:
    leaves = ordered(weight, names)
    return (leaves or [None]) * len(names) if len(leaves) < len(names) else leaves


def _masks(masks: Any, names: Sequence[str], valid: jax.Array | None) -> list[Any]:
    """For each output what counts in it: the output's own mask, and of a padded batch the rows that are examples."""
    if isinstance(masks, Mapping) and set(masks) == set(names):
        masks = [masks[name] for name in names]
    found = jax.tree.leaves(masks, is_leaf=lambda m: m is None) or [None]
    found = found * len(names) if len(found) < len(names) else found

    def both(mask: Any) -> Any:
        if mask is None or valid is None:
            return valid if mask is None else mask
        return mask & jnp.expand_dims(valid, tuple(range(1, mask.ndim)))

    return [both(mask) for mask in found]


def output_names(model: nn.Module, outputs: Any) -> list[str]:
    """What a model's outputs are called: keys of a dictionary, the layers of a graph, else output_0, output_1."""
    n = len(jax.tree.leaves(outputs))
    if isinstance(outputs, Mapping) and len(outputs) == n:
        return sorted(outputs)
    if isinstance(model, Model) and isinstance(model, Container):
        names = [
            model.graph.names.get(id(s.node.layer)) if s.node else s.name for s in jax.tree.leaves(model.graph.outputs)
        ]
        if all(names) and len(set(names)) == n:
            return [str(name) for name in names]
    return ["output"] if n == 1 else [f"output_{i}" for i in range(n)]
