"""The arguments of `compile`, and the state of the optimizer, in files as Keras writes them."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from training import optimizers as pure
from training.keras import optimizers, serialization
from training.keras.compiled import CompiledModel
from training.keras.registry import CustomObjects
from training.trainer import Trainer

# Arguments of `compile` by name, described or made.
Config = dict[str, Any]
Arrays = dict[str, np.ndarray]

# Limits on arguments of a file that affect the time or memory of a step.
LIMITS = {"num_thresholds": 2**16, "num_classes": 2**12, "ns_steps": 2**7, "gradient_accumulation_steps": 2**20}
# Regular expressions, of which a file may only hold plain names: searching for others may take forever.
PATTERNS = ("exclude_layers", "exclude_from_weight_decay")


# ---------------------------------------------------------------- arguments


def describe(model: CompiledModel) -> Config:
    """Returns the arguments of a model's `compile` as plain values, in Keras' form.

    Raises:
        ValueError: If only code can describe an argument.
    """
    compiled, optimizer = model.__dict__["_compiled"], model.__dict__["optimizer"]
    if isinstance(optimizer, optimizers.Wrapped):
        raise ValueError(
            "A configuration describes optimizers of Keras, got an optax transformation; use keras.optimizers."
        )
    steps = compiled["steps_per_execution"]
    serialize = serialization.serialize_keras_object
    return {
        "optimizer": serialize(optimizer),
        **{name: serialize(compiled[name]) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")},
        "run_eagerly": False,
        "steps_per_execution": 1 if steps == "auto" else steps,
        "jit_compile": True,
    }


def describe_or_warn(model: CompiledModel, path: str) -> Config:
    """Returns the arguments of a model's `compile` for a file; warns and returns {} if only code describes them."""
    try:
        return model.get_compile_config()
    except (ValueError, TypeError, NotImplementedError) as error:
        warnings.warn(
            f"{path} does not hold the arguments of compile, because a file cannot describe one of them: "
            f"{str(error).rstrip('.')}; call compile after loading the model.",
            stacklevel=4,
        )
        return {}


def arguments(config: Config, custom_objects: CustomObjects) -> Config:
    """Returns the arguments of `compile` that a configuration describes.

    Args:
        config: The configuration, which is untrusted.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If an argument is unknown, or too large.
    """
    _check(config)
    made = {key: serialization.deserialize_keras_object(value, custom_objects) for key, value in dict(config).items()}
    if made.get("steps_per_execution") == 1:
        made["steps_per_execution"] = "auto"  # the same numbers, faster
    return made


def _check(value: object) -> None:
    """Raises if a configuration holds a number that is too large, or a pattern."""
    if isinstance(value, list | tuple):
        for item in value:
            _check(item)
    if not isinstance(value, Mapping):
        return
    for key, item in value.items():
        limit = LIMITS.get(key)
        if limit is not None and isinstance(item, int | float) and not item <= limit:
            raise ValueError(
                f"`{key}` in a file must be at most {limit}, got {item}; compile the model in the program."
            )
        patterns = item if isinstance(item, list) else [item]
        if key in PATTERNS and not all(p is None or re.fullmatch(r"[\w/-]{0,200}", str(p)) for p in patterns):
            raise ValueError(
                f"`{key}` in a file must be names of layers, got {repr(item)[:80]}; compile the model in the program."
            )
        _check(item)


# ---------------------------------------------------------------- state of the optimizer


def optimizer_arrays(model: CompiledModel) -> Arrays:
    """Returns the variables of a model's optimizer by the names that Keras gives them in a file."""
    optimizer, trainer = model.__dict__["optimizer"], model.__dict__["_trainer"]
    if optimizer is None or isinstance(optimizer, optimizers.Wrapped):
        return {}
    if trainer is not None and trainer.state is not None:
        values = pure.get_keras_variables(trainer.state.opt_state, _trained_weights(model, trainer))
    else:
        rate = optimizer.arguments.get("learning_rate")
        values = [np.asarray(0, np.int32), *([] if rate is None or callable(rate) else [np.asarray(rate, np.float32)])]
    arrays = {f"vars/{i}": value for i, value in enumerate(values)}
    if "inner_optimizer" in optimizer.arguments and len(values) > 4:  # Keras writes them twice
        arrays |= {f"inner_optimizer/vars/{i}": value for i, value in enumerate(values[4:])}
    return arrays


def restore_optimizer(model: CompiledModel, arrays: Mapping[str, np.ndarray], path: str) -> None:
    """Gives a compiled model the state of an optimizer that a file holds; warns if it does not fit, as Keras does.

    Args:
        model: The model.
        arrays: The variables by Keras' names; none are skipped.
        path: The file, for the warning.
    """
    values = [arrays[f"vars/{i}"] for i in range(len(arrays)) if f"vars/{i}" in arrays]
    if not values or isinstance(model.__dict__["optimizer"], optimizers.Wrapped):
        return
    if len(values) <= 2 and not np.any(values[0]):  # the optimizer had no steps, so Keras had made no variables
        return
    trainer = model.built_trainer()
    if trainer is None:
        return
    try:
        state = pure.set_keras_variables(trainer.session.state.opt_state, _trained_weights(model, trainer), values)
    except ValueError as error:
        warnings.warn(f"The state of the optimizer in {path} is skipped: {error}", stacklevel=3)
        return
    steps = values[4] if isinstance(state, pure.LossScaleState) else values[0]
    trainer.state = trainer.session.state.replace(opt_state=state, step=jnp.array(steps, jnp.int32))


def _trained_weights(model: CompiledModel, trainer: Trainer) -> dict[tuple[str, ...], jax.Array]:
    """Returns the trained weights by their path in the parameters, in Keras' order."""
    found = {}
    for path, _ in model.trained_paths():
        leaf: Any = trainer.session.state.params
        for key in path:
            leaf = leaf[key]
        found[path] = leaf
    return found
