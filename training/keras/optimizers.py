"""Keras' optimizers as objects, whose learning rate can be read and set while a model trains."""

import inspect
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import optax

from flaxmodels.graph import snake_case
from training import optimizers as pure
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


class Optimizer:
    """Base class of optimizers: the arguments of a transformation, and its state while a model trains."""

    factory: ClassVar[Callable[..., optax.GradientTransformation] | None] = None

    def __init__(self, *args: Any, **kwargs: Any):
        if self.factory is None:
            raise TypeError(
                f"{type(self).__name__} has no rule, got a class without one; use an optimizer such as Adam, or pass "
                "an optax transformation to compile."
            )
        bound = inspect.signature(self.factory).bind(*args, **kwargs)
        bound.apply_defaults()
        self.arguments: dict[str, Any] = bound.arguments
        self.name = self.arguments.get("name") or snake_case(type(self).__name__)
        self._model: Callable[[], Any] = lambda: None
        self.make()  # raises if an argument is out of range

    def make(self) -> optax.GradientTransformation:
        """Returns the transformation with the present arguments."""
        return type(self).factory(**self.arguments)  # type: ignore[misc]

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
        value = float(getattr(value, "value", value)) if not callable(value) else value
        trainer = self._trainer
        if trainer is not None:
            trainer.learning_rate = value
        self.arguments["learning_rate"] = value

    lr = learning_rate

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
        self._model = lambda: None

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


def get(optimizer: Any) -> Optimizer:
    """Returns an optimizer from an object, a name, a configuration or an optax transformation.

    Raises:
        ValueError: If there is no optimizer of the name.
        TypeError: If the value is none of these.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and not optimizer.startswith("optax."):
        by_name = {name.lower(): globals()[name] for name in NAMES}
        return by_name[optimizer.lower()]() if optimizer.lower() in by_name else Wrapped(pure.get(optimizer))
    if isinstance(optimizer, dict):
        return globals()[optimizer["class_name"]](**optimizer.get("config", {}))
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        raise TypeError(
            f"`optimizer` must be an optimizer, got the class {optimizer.__name__}; write {optimizer.__name__}()."
        )
    return Wrapped(pure.get(optimizer))
