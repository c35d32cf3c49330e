"""Keras' optimizers as objects, whose learning rate can be read and set while a model trains."""

import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import optax

from flaxmodels.graph import snake_case
from flaxmodels.names import lookup
from training import optimizers as pure
from training.keras import refused, serialization
from training.keras import schedules as schedules
from training.keras.docstrings import without_example


class LearningRate(float):
    """The learning rate as a number, which can also be read and assigned like a variable of Keras."""

    _optimizer: "Optimizer"

    def __new__(cls, value: float, optimizer: "Optimizer") -> "LearningRate":
        """Returns the number."""
        made = super().__new__(cls, value)
        made._optimizer = optimizer
        return made

    @property
    def value(self) -> float:
        """The number."""
        return float(self)

    def numpy(self) -> np.float32:
        """Returns the number as a NumPy scalar."""
        return np.float32(self)

    def assign(self, value: Any) -> None:
        """Sets the learning rate of the optimizer."""
        self._optimizer.learning_rate = value


def _no_model() -> None:
    """Returns None: no model uses the optimizer."""


class Optimizer:
    """Base class of optimizers: the arguments of a transformation, and its state while a model trains."""

    factory: ClassVar[Callable[..., optax.GradientTransformation] | None] = None

    def __init__(self, *args: Any, **kwargs: Any):
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
        self.name = self.arguments.get("name") or snake_case(type(self).__name__)
        self._model: Callable[[], Any] = _no_model
        self.make()  # raises if an argument is out of range

    def make(self) -> optax.GradientTransformation:
        """Returns the transformation with the present arguments."""
        return type(self).factory(**self.arguments)  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        """Returns an argument, such as `momentum`."""
        arguments = self.__dict__.get("arguments", {})
        if name not in arguments:
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
        return {key: value for key, value in self.__dict__.items() if key != "_model"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _model=_no_model)

    def attach(self, model: Any) -> None:
        """Makes a model the one whose training this optimizer follows."""
        self._model = weakref.ref(model)

    @property
    def _trainer(self) -> Any:
        model = self._model()
        trainer = None if model is None else model.__dict__.get("_trainer")
        return trainer if trainer is not None and trainer.state is not None else None

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the next step."""
        trainer = self._trainer
        if trainer is not None:
            return LearningRate(trainer.learning_rate, self)
        rate = self.arguments["learning_rate"]
        return LearningRate(float(rate(0) if callable(rate) else rate), self)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(self.arguments["learning_rate"]) and not callable(value):
            raise TypeError(
                f"The learning rate of {type(self).__name__} follows a schedule, got the value {value!r}; make the "
                "optimizer with a number to set the rate."
            )
        value = float(getattr(value, "value", value)) if not callable(value) else value
        trainer = self._trainer
        if trainer is not None:
            trainer.learning_rate = value
        self.arguments["learning_rate"] = value

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
    def iterations(self) -> int:
        """The number of updates so far; with gradient accumulation, one for several steps."""
        trainer = self._trainer
        steps = 0 if trainer is None else int(trainer.state.step)
        return steps // (self.arguments.get("gradient_accumulation_steps") or 1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, with the present learning rate."""
        config = dict(self.arguments, name=self.name)
        if not callable(config["learning_rate"]):
            config["learning_rate"] = float(self.learning_rate)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Optimizer":
        """Returns the optimizer with the arguments of `get_config`."""
        return cls(**config)


class Wrapped(Optimizer):
    """An optax transformation in the place of an optimizer."""

    def __init__(self, transformation: optax.GradientTransformation):
        self.transformation, self.arguments, self.name = transformation, {"learning_rate": float("nan")}, "optax"
        self._model = _no_model

    def make(self) -> optax.GradientTransformation:
        """Returns the transformation."""
        return self.transformation


def _class_of(name: str, factory: Any) -> type[Optimizer]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        Optimizer.__init__(self, *args, **kwargs)

    __init__.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]
    namespace = {
        "__init__": __init__,
        "__doc__": without_example(factory),
        "__module__": __name__,
        "factory": staticmethod(factory),
    }
    return type(name, (Optimizer,), namespace)


NAMES = (
    "SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Adafactor Nadam Ftrl Lion Lamb Muon ScheduleFreeAdamW "
    "LossScaleOptimizer"
).split()
for _name in NAMES:
    globals()[_name] = _class_of(_name, getattr(pure, _name))


def get(identifier: Any) -> Any:
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


def serialize(optimizer: Any) -> Any:
    """Describes an optimizer by plain values.

    References:
        Keras, `keras.optimizers.serialize`.
    """
    return serialization.serialize_keras_object(optimizer)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
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

    class LossScaleOptimizer(Optimizer): ...


__all__ = ["Optimizer", "deserialize", "get", "schedules", "serialize", *NAMES]
__getattr__, __dir__ = refused.attach(__name__, __all__)
