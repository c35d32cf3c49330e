"""Keras' optimizers as objects, whose learning rate can be read and set while a model trains."""

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from flaxmodels.graph import snake_case
from flaxmodels.names import lookup
from training import optimizers as pure
from training.keras import naming, refused, serialization
from training.keras.docstrings import without_example
from training.keras.optimizer_state import (
    Assignable,
    Iterations,
    LearningRate,
    OptimizerVariable,
    Outside,
    as_number,
    as_patterns,
    update_count,
    variables_before,
    variables_of,
)
from training.keras.optimizer_values import HasVariables
from training.keras.optimizers import schedules as schedules
from training.keras.refused_methods import raise_refused


def _no_model() -> None:
    """Returns None: no model uses the optimizer."""


class Optimizer(HasVariables):
    """Base class of optimizers: the arguments of a transformation, and its state while a model trains."""

    factory: ClassVar[Callable[..., optax.GradientTransformation] | None] = None

    def __init__(self, *args: object, **kwargs: object):
        if self.factory is None:
            raise TypeError(
                f"{type(self).__name__} has no rule, got a class without one; use an optimizer such as Adam, or pass "
                "an optax transformation to compile."
            )
        signature = inspect.signature(self.factory)
        unknown = [name for name in kwargs if name not in signature.parameters]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} takes the arguments {', '.join(signature.parameters)}, got {unknown[0]!r}; "
                "leave it out."
            )
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.arguments: dict[str, Any] = bound.arguments
        self.name = self.arguments.get("name") or naming.automatic_name(snake_case(type(self).__name__))
        self._model: Callable[[], Any] = _no_model
        self._outside: Outside | None = None
        self.make()  # raises if an argument is out of range

    def make(self) -> optax.GradientTransformation:
        """Returns the transformation with the present arguments."""
        return type(self).factory(**self.arguments)

    def __getattr__(self, name: str) -> Any:
        """Returns an argument, such as `momentum`."""
        arguments = self.__dict__.get("arguments", {})
        if name not in arguments:
            raise_refused(self, name)
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}; its arguments are {', '.join(arguments)}.",
                name=name,
                obj=self,
            )
        return arguments[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("arguments", {}) and name not in ("learning_rate", "name"):
            if self._trainer is not None:
                raise AttributeError(
                    f"`{name}` of {type(self).__name__} is part of the compiled training step, got a new value after "
                    "the first step; set it before, or compile the model with a new optimizer."
                )
            self.arguments[name] = value
            self.make()  # raises if the argument is out of range
        else:
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_model", "_outside")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _model=_no_model, _outside=None)

    def attach(self, model: object) -> None:
        """Makes a model the one whose training this optimizer follows."""
        self._model = weakref.ref(model)

    @property
    def _trainer(self) -> Any:
        model = self._model()
        trainer = None if model is None else model.__dict__.get("_trainer")
        return trainer if trainer is not None and trainer.state is not None else None

    @property
    def opt_state(self) -> optax.OptState | None:
        """The state of the transformation: that of training, or of `build` and `apply`; None before either."""
        if self._trainer is not None:
            return self._trainer.state.opt_state
        return None if self._outside is None else self._outside.opt_state

    @opt_state.setter
    def opt_state(self, state: optax.OptState) -> None:
        trainer = self._trainer
        if trainer is not None:
            trainer.state = trainer.state.replace(opt_state=state)
        elif self._outside is not None:
            self._outside.opt_state = state

    @property
    def learning_rate(self) -> LearningRate:
        """The learning rate of the next step."""
        rate = self.arguments["learning_rate"]
        if callable(rate):  # the state holds the rate of the last update, also after a change of `iterations`
            return LearningRate(float(rate(update_count(self.opt_state))), self)
        return LearningRate(float(rate if self.opt_state is None else pure.get_learning_rate(self.opt_state)), self)

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        if callable(self.arguments["learning_rate"]) and not callable(value):
            raise TypeError(
                f"The learning rate of {type(self).__name__} follows a schedule, got the value {value!r}; make the "
                "optimizer with a number to set the rate."
            )
        rate: Any = value if callable(value) else as_number(value)
        trainer = self._trainer
        if trainer is not None:
            trainer.learning_rate = rate
        elif self._outside is not None:
            self.opt_state = pure.set_learning_rate(self.opt_state, rate)
        self.arguments["learning_rate"] = rate

    lr = learning_rate

    def keep_learning_rate(self) -> None:
        """Makes the rate that training has reached, which callbacks may have set, the argument."""
        if self._trainer is not None and isinstance(self.arguments["learning_rate"], int | float):
            self.arguments["learning_rate"] = float(self.learning_rate)

    def apply_learning_rate(self, trainer: Any) -> None:
        """Gives the rate to a trainer that continues with the state of another one."""
        rate = self.arguments["learning_rate"]
        if isinstance(rate, int | float) and not np.isnan(rate):
            trainer.learning_rate = float(rate)

    @property
    def iterations(self) -> Iterations:
        """The number of updates so far; with gradient accumulation, one for several steps."""
        counts = [int(variable.value) for variable in self.variables if variable.name == "iteration"]
        if counts:
            count = counts[-1]  # that of an inner optimizer
        else:
            count = 0 if self._trainer is None else int(self._trainer.state.step)
        return Iterations(count // (self.arguments.get("gradient_accumulation_steps") or 1), self)

    def set_iterations(self, count: int) -> None:
        """Sets the number of updates.

        Raises:
            ValueError: If the optimizer has no state.
        """
        found = [variable for variable in self.variables if variable.name == "iteration"]
        if not found or not self.built:
            raise ValueError(
                f"{type(self).__name__} counts updates only when it has a state, got none; train the model, or call "
                "build(variables) first."
            )
        found[-1].assign(count * (self.arguments.get("gradient_accumulation_steps") or 1))

    # ------------------------------------------------------------ state

    @property
    def variables(self) -> list[OptimizerVariable]:
        """The variables of the optimizer, with Keras' names; before it has a state, the count and the rate."""
        if self.opt_state is None:
            return variables_before(self)
        if self._trainer is None and self._outside is not None:
            return variables_of(self, [((key,), key.replace("/", "_")) for key in self._outside.keys])
        return variables_of(self, self._model().trained_paths())

    @property
    def built(self) -> bool:
        """Whether the optimizer has a state."""
        return self.opt_state is not None

    def build(self, variables: Sequence[Assignable]) -> None:
        """Makes the state for a loop of the user that calls `apply`.

        Args:
            variables: The weights to update, such as `model.trainable_variables`.

        References:
            Keras, `keras.optimizers.Optimizer.build`.
        """
        if self._outside is None:
            self._outside = Outside(self.make(), variables)

    def apply(self, grads: Sequence[ArrayLike | None], trainable_variables: Sequence[Assignable] | None = None) -> None:
        """Updates weights by their gradients.

        Args:
            grads: A gradient for each weight; a weight whose gradient is None stays.
            trainable_variables: The weights; by default those of `build`.

        Raises:
            ValueError: If `fit` trains a model with this optimizer, or there are no weights.

        References:
            Keras, `keras.optimizers.Optimizer.apply`.

        Example:
            >>> from training import keras
            >>> layer = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
            >>> layer.build((None, 2))
            >>> SGD(0.5).apply([np.ones((2, 1))], layer.trainable_variables)
            >>> print(layer.get_weights()[0].ravel())
            [0.5 0.5]
        """
        if self._trainer is not None:
            raise ValueError(
                f"`apply` of {type(self).__name__} needs a state of its own, got an optimizer that trains a model by "
                "`fit`; make another optimizer for your own loop."
            )
        grads = list(grads)
        if trainable_variables is not None:
            self.build(list(trainable_variables))
        if self._outside is None:
            raise ValueError(
                f"`apply` of {type(self).__name__} needs weights, got gradients alone; pass them, or call "
                "build(variables) first."
            )
        weights = self._outside.weights if trainable_variables is None else list(trainable_variables)
        if len(grads) != len(weights):
            raise ValueError(
                f"`grads` must have a gradient for each of the {len(weights)} weights, got {len(grads)}; give None for "
                "a weight that stays."
            )
        pairs = [(np.asarray(g) if isinstance(g, list) else g, w) for g, w in zip(grads, weights, strict=True)]
        pairs = [(g, w) for g, w in pairs if g is not None]
        if pairs:
            self._outside.apply([g for g, _ in pairs], [w for _, w in pairs])

    def apply_gradients(self, grads_and_vars: Iterable[tuple[ArrayLike | None, Assignable]]) -> Iterations:
        """Updates weights by pairs of a gradient and a weight, and returns the number of updates.

        References:
            Keras, `keras.optimizers.Optimizer.apply_gradients`.
        """
        pairs = list(grads_and_vars)
        self.apply([grad for grad, _ in pairs], [variable for _, variable in pairs])
        return self.iterations

    def stateless_apply(
        self,
        optimizer_variables: Sequence[ArrayLike],
        grads: Sequence[ArrayLike],
        trainable_variables: Sequence[ArrayLike],
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns new values of weights and of the optimizer's variables, without changing either.

        Args:
            optimizer_variables: The values of `variables`.
            grads: A gradient for each weight.
            trainable_variables: The values of the weights of `build`.

        Raises:
            ValueError: If `build` was not called, or a list has another length.

        References:
            Keras, `keras.optimizers.Optimizer.stateless_apply`.
        """
        outside, views = self._outside, self.variables
        if outside is None:
            raise ValueError(f"{type(self).__name__} has no variables yet; call build(variables) first.")
        if len(optimizer_variables) != len(views) or len(trainable_variables) != len(outside.keys):
            raise ValueError(
                f"stateless_apply of {type(self).__name__} takes {len(views)} values of the optimizer and "
                f"{len(outside.keys)} of weights, got {len(optimizer_variables)} and {len(trainable_variables)}; pass "
                "them in the order of `variables`."
            )
        state = outside.opt_state
        for view, value in zip(views, optimizer_variables, strict=True):
            state = view.write(state, jnp.asarray(getattr(value, "value", value)))
        params = {
            k: jnp.asarray(getattr(v, "value", v)) for k, v in zip(outside.keys, trainable_variables, strict=True)
        }
        new, state = outside.updated(
            state, {k: jnp.asarray(g) for k, g in zip(outside.keys, grads, strict=True)}, params
        )
        return [new[key] for key in outside.keys], [view.read(state) for view in views]

    def scale_loss(self, loss: ArrayLike) -> ArrayLike:
        """Returns the loss times the scale of the optimizer, if it has one.

        References:
            Keras, `keras.optimizers.Optimizer.scale_loss`.
        """
        factor = self.arguments.get("loss_scale_factor")
        return loss if factor is None else loss * factor

    def exclude_from_weight_decay(
        self, var_list: Sequence[Assignable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Leaves weights out of the decay of weights.

        Args:
            var_list: The weights.
            var_names: Parts of the names of weights, or regular expressions.

        References:
            Keras, `keras.optimizers.Optimizer.exclude_from_weight_decay`.
        """
        known = self.arguments["exclude_from_weight_decay"]
        known = (known,) if isinstance(known, str) else tuple(known)
        self.__setattr__("exclude_from_weight_decay", (*known, *as_patterns(var_names, var_list)))

    def finalize_variable_values(self, var_list: Sequence[Assignable]) -> None:
        """Replaces weights by their moving averages, if the optimizer keeps them.

        Args:
            var_list: The weights.

        References:
            Keras, `keras.optimizers.Optimizer.finalize_variable_values`.
        """
        if self._outside is not None and self.arguments.get("use_ema"):
            averages = pure.ema_weights(self._outside.opt_state)
            known = {id(w): k for w, k in zip(self._outside.weights, self._outside.keys, strict=True)}
            for weight in var_list:
                weight.assign(averages[known[id(weight)]])

    def get_config(self) -> dict[str, object]:
        """Returns the arguments, with the present learning rate.

        References:
            Keras, `keras.optimizers.Optimizer.get_config`.
        """
        config = {"name": self.name} | {name: value for name, value in self.arguments.items() if name != "name"}
        if not config.get("exclude_from_weight_decay", True):
            del config["exclude_from_weight_decay"]  # Keras has no such argument
        rate = config["learning_rate"]
        if not callable(rate):
            config["learning_rate"] = float(self.learning_rate)
        elif hasattr(rate, "get_config"):
            config["learning_rate"] = serialization.serialize_keras_object(rate)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Returns the optimizer with the arguments of `get_config`."""
        given = dict(config)
        if isinstance(given.get("learning_rate"), Mapping):
            given["learning_rate"] = serialization.deserialize_keras_object(given["learning_rate"])
        return cls(**given)


class Wrapped(Optimizer):
    """An optax transformation in the place of an optimizer."""

    def __init__(self, transformation: optax.GradientTransformation):
        self.transformation, self.arguments, self.name = transformation, {"learning_rate": float("nan")}, "optax"
        self._model, self._outside = _no_model, None

    def make(self) -> optax.GradientTransformation:
        """Returns the transformation."""
        return self.transformation


def _class_of(name: str, factory: Any) -> type[Optimizer]:
    def __init__(self: Any, *args: object, **kwargs: object) -> None:
        Optimizer.__init__(self, *args, **kwargs)

    __init__.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]
    namespace = {
        "__init__": __init__,
        "__doc__": without_example(factory),
        "__module__": __name__,
        "factory": staticmethod(factory),
    }
    return type(name, (Optimizer,), namespace)


_WITH_RULES = (
    "SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Adafactor Nadam Ftrl Lion Lamb Muon ScheduleFreeAdamW"
).split()
NAMES = [*_WITH_RULES, "LossScaleOptimizer"]
for _name in _WITH_RULES:
    globals()[_name] = _class_of(_name, getattr(pure, _name))


class LossScaleOptimizer(Optimizer):
    """Adapts the scale of the loss, and skips steps whose gradients are not finite.

    The scale is halved after a skipped step, and doubled after `dynamic_growth_steps` steps with finite gradients.

    Args:
        inner_optimizer: The optimizer to wrap, or its name.
        initial_scale: The initial scale.
        dynamic_growth_steps: The number of steps after which the scale is doubled.
        name: The name; by default "loss_scale_optimizer", with a number if it is taken.

    References:
        Keras, `keras.optimizers.LossScaleOptimizer`.

    Example:
        >>> optimizer = LossScaleOptimizer(SGD(0.5), initial_scale=8.0)
        >>> float(optimizer.learning_rate), float(optimizer.dynamic_scale)
        (0.5, 8.0)
    """

    def __init__(
        self,
        inner_optimizer: object,
        initial_scale: float = 2.0**15,
        dynamic_growth_steps: int = 2000,
        name: str | None = None,
    ):
        inner: Any = get(inner_optimizer)
        if isinstance(inner, LossScaleOptimizer):
            raise TypeError("LossScaleOptimizer wraps an optimizer that does not scale the loss, got one that does.")
        self.inner_optimizer = inner
        self.arguments = {
            "inner_optimizer": inner, "initial_scale": initial_scale, "dynamic_growth_steps": dynamic_growth_steps,
        }  # fmt: skip
        self.name = name or naming.automatic_name("loss_scale_optimizer")
        self._model, self._outside = _no_model, None
        self.make()  # raises if an argument is out of range

    def make(self) -> optax.GradientTransformation:
        """Returns the transformation with the present arguments."""
        inner = self.inner_optimizer.make()
        return pure.LossScaleOptimizer(inner, self.initial_scale, self.dynamic_growth_steps, self.name)

    @property
    def learning_rate(self) -> LearningRate:
        """The learning rate of the next step of the inner optimizer."""
        rate = self.inner_optimizer.arguments["learning_rate"]
        if callable(rate):
            return LearningRate(float(rate(update_count(self.opt_state))), self)
        return LearningRate(float(rate if self.opt_state is None else pure.get_learning_rate(self.opt_state)), self)

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        self.inner_optimizer.learning_rate = value
        if self._trainer is not None:
            self._trainer.learning_rate = as_number(value)
        elif self._outside is not None:
            self.opt_state = pure.set_learning_rate(self.opt_state, as_number(value))

    def keep_learning_rate(self) -> None:
        """Makes the rate that training has reached, which callbacks may have set, the argument."""
        inner = self.inner_optimizer.arguments
        if self._trainer is not None and isinstance(inner["learning_rate"], int | float):
            inner["learning_rate"] = float(self.learning_rate)

    def apply_learning_rate(self, trainer: object) -> None:
        """Gives the rate to a trainer that continues with the state of another one."""
        self.inner_optimizer.apply_learning_rate(trainer)

    @property
    def dynamic_scale(self) -> OptimizerVariable | np.float32:
        """The present scale of the loss."""
        return next((v for v in self.variables if v.name == "dynamic_scale"), np.float32(self.initial_scale))

    @property
    def step_counter(self) -> OptimizerVariable | np.int32:
        """The number of steps with finite gradients since the scale changed."""
        return next((v for v in self.variables if v.name == "step_counter"), np.int32(0))

    def scale_loss(self, loss: ArrayLike) -> ArrayLike:
        """Returns the loss times the present scale."""
        return loss * as_number(self.dynamic_scale)

    def get_config(self) -> dict[str, object]:
        """Returns the arguments; that of the inner optimizer is a configuration."""
        inner = serialization.serialize_keras_object(self.inner_optimizer)
        return {
            "name": self.name, "inner_optimizer": inner, "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }  # fmt: skip


# What `compile` takes as an optimizer.
OptimizerLike: TypeAlias = Optimizer | pure.OptimizerLike | Mapping[str, Any] | None


def get(identifier: object) -> Any:
    """Returns an optimizer from an object, a name, a configuration or an optax transformation; None for None.

    Args:
        identifier: One of these. A configuration has "class_name" and "config".

    Raises:
        ValueError: If there is no optimizer of the name.
        TypeError: If the value is none of these.

    References:
        Keras, `keras.optimizers.get`.

    Example:
        >>> get("sgd").momentum, get({"class_name": "SGD", "config": {"momentum": 0.5}}).momentum
        (0.0, 0.5)
    """
    if identifier is None or isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, str) and not identifier.startswith("optax."):
        return _class_named(identifier)()
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        raise TypeError(
            f"`optimizer` must be an optimizer, got the class {identifier.__name__}; write {identifier.__name__}()."
        )
    return Wrapped(pure.get(identifier))


_HINT = "Or 'optax.<name>', or pass an optax transformation."


def _class_named(name: str) -> Any:
    """Returns the class of a name, in which capital letters do not count."""
    return lookup("optimizer", name.lower(), {known.lower(): globals()[known] for known in NAMES}, _HINT)


def serialize(optimizer: object) -> Any:
    """Describes an optimizer by plain values.

    References:
        Keras, `keras.optimizers.serialize`.
    """
    return serialization.serialize_keras_object(optimizer)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the optimizer of a configuration, or of a name.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.optimizers.deserialize`.
    """
    return serialization.deserialize_named("keras.optimizers", config, custom_objects, _class_named)


if TYPE_CHECKING:

    class SGD(Optimizer): ...

    class RMSprop(Optimizer): ...

    class Adam(Optimizer): ...

    class AdamW(Optimizer): ...

    class Adadelta(Optimizer): ...

    class Adagrad(Optimizer): ...

    class Adamax(Optimizer): ...

    class Adafactor(Optimizer): ...

    class Nadam(Optimizer): ...

    class Ftrl(Optimizer): ...

    class Lion(Optimizer): ...

    class Lamb(Optimizer): ...

    class Muon(Optimizer): ...

    class ScheduleFreeAdamW(Optimizer): ...


__all__ = ["Optimizer", "deserialize", "get", "schedules", "serialize", *NAMES]
__getattr__, __dir__ = refused.attach(__name__, __all__)
