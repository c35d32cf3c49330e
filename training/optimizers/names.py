"""Optimizers by name."""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from flaxmodels.names import lookup
from training.optimizers.adam import Adam, Adamax, AdamW, Lamb, Nadam, ScheduleFreeAdamW
from training.optimizers.adaptive import Adadelta, Adafactor, Adagrad, Ftrl, RMSprop
from training.optimizers.gradient import SGD, Lion, Muon

_OPTAX = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs lion "
    "nadam nadamw noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop rprop "
    "sgd sign_sgd signum sm3 yogi"
).split()
# Those that find the size of a step themselves, from the loss that the training step gives them.
OPTAX_SEARCHING = ("optax.lbfgs", "optax.polyak_sgd")
OPTAX_LEARNING_RATE = 1e-3


def get(
    optimizer: str | optax.GradientTransformation | Callable[[Any, Any], Any],
) -> optax.GradientTransformation:
    """Returns the optimizer of that name with Keras' defaults, or the optax transformation itself.

    "optax.<name>" is optax's own with its defaults, and the learning rate 0.001 in the state, where
    `set_learning_rate` finds it; the noise of "optax.noisy_sgd" has the seed 0. Upper and lower case are the same,
    as in Keras. A function (grads, params) -> updates is an optimizer without a state.

    Raises:
        TypeError: If it is neither a name nor a transformation nor such a function.
        ValueError: If no optimizer has that name.

    Example:
        >>> isinstance(get("adam"), optax.GradientTransformation)
        True
    """
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    if not isinstance(optimizer, str):
        if callable(optimizer) and _required(optimizer) == 2:
            return optax.stateless(optimizer)
        raise TypeError(
            "An optimizer must be a name, an optax transformation or a function (grads, params) -> updates, "
            f"got {optimizer!r}."
        )
    alternative = "Or 'optax.<name>', or pass an optax transformation."
    if not optimizer.startswith("optax."):
        return lookup("optimizer", optimizer.lower(), OPTIMIZERS, alternative)()
    factory = lookup("optimizer", optimizer, OPTAX, "Or pass an optax transformation.")
    if optimizer in OPTAX_SEARCHING:
        return factory()
    others = set(inspect.signature(factory).parameters) - {"learning_rate"}
    arguments = {"key": 0} if "key" in others else {}
    return optax.inject_hyperparams(factory, static_args=others)(learning_rate=OPTAX_LEARNING_RATE, **arguments)


def _required(function: Callable[..., Any]) -> int:
    """How many arguments a function needs: two for gradients and parameters, none for an optimizer not yet made."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": Adadelta,
    "adafactor": Adafactor,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamax": Adamax,
    "adamw": AdamW,
    "ftrl": Ftrl,
    "lamb": Lamb,
    "lion": Lion,
    "muon": Muon,
    "nadam": Nadam,
    "rmsprop": RMSprop,
    "schedulefreeadamw": ScheduleFreeAdamW,
    "sgd": SGD,
}

OPTAX: dict[str, Callable[..., optax.GradientTransformation]] = {
    f"optax.{name}": getattr(optax, name) for name in _OPTAX
}
