"""The loss and the metrics of Keras' models, as methods that a class may override."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxmodels.layers import keras_state
from flaxmodels.layers.keras_style import check_class, is_library
from training.keras.held_values import with_held
from training.keras.metric_state import StatefulMetric, metrics_in
from training.keras.objectives import CompileLoss, CompileMetrics, ModelObjective, Step, mean, mean_state
from training.keras.stateful import Stateful
from training.objective import LossArgument, MetricArgument, WeightArgument
from training.session import Session
from training.state import ArrayOrShapeTree

_OVERRIDABLE = ("compute_loss", "compute_metrics", "get_metrics_result", "metrics")


class MeasuredModel(Stateful):
    """Mixin of models: computes loss and metrics."""

    HONOURED: ClassVar[frozenset[str]] = Stateful.HONOURED | {"compute_loss"}

    def __init_subclass__(cls, **kwargs: object) -> None:
        if not is_library(cls):
            check_class(cls)
        super().__init_subclass__(**kwargs)

    def _compile_measures(
        self,
        loss: LossArgument,
        loss_weights: WeightArgument,
        metrics: MetricArgument,
        weighted_metrics: MetricArgument,
    ) -> None:
        """Sets losses and metrics of `compile`. As in Keras, those of an earlier call stay unless new ones follow."""
        self.__dict__["_loss_tracker"] = mean("loss")
        self.__dict__["_orders"] = {}  # the names of values in lists, by the names in logs
        if loss is not None:
            self.__dict__["_compile_loss"] = CompileLoss(loss, loss_weights)
            self.__dict__["loss"] = loss
        if metrics is not None or weighted_metrics is not None:
            self.__dict__["_compile_metrics"] = CompileMetrics(metrics, weighted_metrics)

    # ------------------------------------------------------------ methods that a class may override

    def compute_loss(
        self,
        x: ArrayOrShapeTree = None,
        y: ArrayOrShapeTree = None,
        y_pred: ArrayOrShapeTree = None,
        sample_weight: ArrayOrShapeTree = None,
        training: bool = True,
    ) -> jax.Array:
        """Returns the loss of a batch: the losses of `compile`, plus what layers have added.

        A class may override it. It runs inside the compiled step, on the whole batch without padding.

        Args:
            x: Inputs.
            y: Labels.
            y_pred: Outputs of the model.
            sample_weight: Factors of the examples.
            training: Whether the batch is for training.

        References:
            Keras, `keras.Model.compute_loss`.
        """
        found = [jnp.sum(jnp.asarray(loss)) for loss in self.losses]
        compiled: CompileLoss | None = self.__dict__.get("_compile_loss")
        if compiled is not None:
            found.append(compiled(self, y, y_pred, sample_weight, self._step))
        if not found:
            raise ValueError(
                "Training needs a loss, got none in compile and none from layers; pass `loss` to compile, or call "
                "`add_loss` in a layer."
            )
        return sum(found[1:], found[0])

    def compute_metrics(
        self,
        x: ArrayOrShapeTree,
        y: ArrayOrShapeTree,
        y_pred: ArrayOrShapeTree,
        sample_weight: ArrayOrShapeTree = None,
    ) -> dict[str, Any]:
        """Adds a batch to the metrics of `compile`, and returns the values of all metrics.

        A class may override it, and return further values.

        Args:
            x: Inputs.
            y: Labels.
            y_pred: Outputs of the model.
            sample_weight: Factors of the examples.

        References:
            Keras, `keras.Model.compute_metrics`.
        """
        compiled: CompileMetrics | None = self.__dict__.get("_compile_metrics")
        if compiled is not None:
            compiled.update(self, y, y_pred, sample_weight, self._step)
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the values of all metrics by name; those of a dictionary under their own names.

        References:
            Keras, `keras.Model.get_metrics_result`.
        """
        results: dict[str, Any] = {}
        for metric in self.metrics:
            result = metric.result()
            results |= result if isinstance(result, Mapping) else {metric.name: result}
        return results

    @property
    def metrics(self) -> list[Any]:
        """The mean loss, the metrics of `compile`, and those in the attributes of the model and its layers.

        References:
            Keras, `keras.Model.metrics`.
        """
        state = self.__dict__
        compiled = [state["_loss_tracker"]] if state.get("_loss_tracker") is not None else []
        if state.get("_compile_metrics") is not None:
            compiled.append(state["_compile_metrics"])
        if state.get("_compile_loss") is not None:
            compiled += state["_compile_loss"].metrics
        return compiled + self._own_metrics()

    @property
    def metrics_names(self) -> list[str]:
        """The names of `metrics`.

        References:
            Keras, `keras.Model.metrics_names`.
        """
        return [metric.name for metric in self.metrics]

    def reset_metrics(self) -> None:
        """Resets the states of all metrics.

        References:
            Keras, `keras.Model.reset_metrics`.
        """
        for metric in self.metrics:
            metric.reset_state()

    @property
    def losses(self) -> Sequence[jax.Array]:
        """The losses that layers have added: inside `compute_loss`, for the batch; elsewhere, for the last call.

        References:
            Keras, `keras.Layer.losses`.
        """
        return super().losses if self._step is None else list(self._step.losses)

    # ------------------------------------------------------------ for training

    @property
    def _step(self) -> Step | None:
        return self.__dict__.get("_running_step")

    @property
    def loss_tracker_of_compile(self) -> StatefulMetric:
        """The mean loss."""
        found: StatefulMetric = self.__dict__["_loss_tracker"]
        return found

    def call_compute_loss(
        self,
        x: ArrayOrShapeTree,
        y: ArrayOrShapeTree,
        y_pred: ArrayOrShapeTree,
        sample_weight: ArrayOrShapeTree,
        training: bool,
    ) -> jax.Array:
        """Calls `compute_loss`, whose override may have no argument `training`."""
        takes = inspect.signature(self.compute_loss).parameters
        flags = {"training": training} if "training" in takes else {}
        return self.compute_loss(x, y, y_pred, sample_weight, **flags)

    def overrides(self, method: str) -> bool:
        """Returns whether the class of the model overrides a method of this one."""
        return inspect.getattr_static(type(self), method) is not inspect.getattr_static(MeasuredModel, method)

    def measures_itself(self) -> bool:
        """Returns whether methods of the model compute loss or metrics, instead of an `Objective` alone."""
        return any(map(self.overrides, _OVERRIDABLE)) or bool(self._own_metrics())

    def tracked_metrics(self) -> list[StatefulMetric]:
        """Returns all metrics with a state, once each."""
        found = {id(self.loss_tracker_of_compile): self.loss_tracker_of_compile}
        compiled = [self.__dict__.get("_compile_metrics"), self.__dict__.get("_compile_loss")]
        of_compile = [metric for holder in compiled if holder is not None for metric in holder.metrics]
        for metric in [*of_compile, *self.metrics, *self._own_metrics()]:
            for one in metric.metrics if isinstance(metric, CompileMetrics) else [metric]:
                found.setdefault(id(one), one)
        return list(found.values())

    def _own_metrics(self) -> list[StatefulMetric]:
        """Returns the metrics in the attributes of the model and of all layers inside it."""
        found: dict[int, StatefulMetric] = {}
        for layer in with_held(self):
            state = {name: value for name, value in vars(layer).items() if name not in keras_state.UNTRACKED}
            found |= {id(metric): metric for metric in metrics_in(state)}
        return list(found.values())

    def _adopt_states(self, session: Session) -> None:
        """Gives the metrics the states that the last run has reached."""
        if session.measured is None or session.measured is self.__dict__.get("_adopted"):
            return
        self.__dict__["_adopted"] = session.measured
        objective, totals = session.measured
        if isinstance(objective, ModelObjective):
            objective.adopt(totals)
            return
        self.loss_tracker_of_compile.put_state(mean_state(totals, "loss"))
        compile_loss: CompileLoss | None = self.__dict__.get("_compile_loss")
        if compile_loss is not None:
            compile_loss.build([name.removesuffix("_loss") for name in objective.loss_names[1:]])
            for tracker in compile_loss.metrics:
                tracker.put_state(mean_state(totals, tracker.name))  # type: ignore[attr-defined]
        compile_metrics: CompileMetrics | None = self.__dict__.get("_compile_metrics")
        if compile_metrics is not None:
            compile_metrics.adopt(objective.metrics, totals["metrics"])

    def _listed(self, logs: Mapping[str, object]) -> Any:
        """Returns the values of logs in Keras' order: those of metrics by their own names, then the others by name."""
        orders: dict[tuple[str, ...], list[str]] = self.__dict__["_orders"]
        order = orders.get(tuple(logs))
        if order is None:
            names: list[str] = []
            for metric in self.metrics:
                names += metric.own_names if isinstance(metric, CompileMetrics) else [metric.name]
            order = [name for name in names if name in logs] + [name for name in sorted(logs) if name not in names]
            orders[tuple(logs)] = order
        return logs[order[0]] if len(order) == 1 else [logs[name] for name in order]
