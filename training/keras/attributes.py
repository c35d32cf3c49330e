"""The attributes of Keras' layers that describe a layer: dtypes, path, losses, metrics and configuration."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp

from flaxmodels.container import Container
from flaxmodels.interop.keras_config import IGNORED_IF_NONE
from flaxmodels.layers import keras_calls
from flaxmodels.layers.base import Layer
from flaxmodels.layers.dense import Dense
from training.keras import activations, config, constraints, initializers, naming, regularizers, serialization
from training.keras.configurations import adapt
from training.keras.input_specs import spec_of

# The last word of an argument's name, and what resolves and describes its value.
RESOLVERS: dict[str, Any] = {
    "activation": activations.get,
    "initializer": initializers.get,
    "regularizer": regularizers.get,
    "constraint": constraints.get,
}
# Arguments that are part of every configuration, or of none.
COMMON = ("name", "trainable", "dtype")
SKIPPED = ("parent", "graph", "input_shape", "param_dtype", "activity_regularizer", *COMMON)


# For type checkers, the mixin is a layer: it stands in front of a class of pure layers.
if TYPE_CHECKING:
    from training.keras.stateful import Stateful

    _Base = Layer
else:
    _Base = object


class KerasAttributes(_Base):
    """Mixin of layers with state: attributes by Keras' names."""

    if TYPE_CHECKING:

        def own_and_held(self) -> list[Stateful]: ...
        def scopes(self) -> list[tuple[tuple[str, ...], Stateful]]: ...

    def resolve_arguments(self) -> None:
        """Replaces configurations among the arguments, as `from_config` gives them, by what they describe."""
        for field in dataclasses.fields(self):
            value = vars(self).get(field.name)
            items = value if field.name in ("cell", "cells") and isinstance(value, list | tuple) else [value]
            if any(isinstance(item, Mapping) and "class_name" in item for item in items):
                made = serialization.deserialize_keras_object(value)
                object.__setattr__(self, field.name, tuple(made) if field.name == "cells" else made)
        policy = self.__dict__.get("dtype")
        if isinstance(policy, config.DTypePolicy):
            self.__dict__["dtype"] = policy.name
            if jnp.dtype(self.param_dtype) == jnp.float32:
                object.__setattr__(self, "param_dtype", policy.variable_dtype)

    def show_arguments(self) -> None:
        """Shows activations as functions and initializers, regularizers and constraints as objects, as Keras does."""
        drawn: dict[str, int] = vars(self).get("_seeds", {})
        for field in dataclasses.fields(self):
            resolve = RESOLVERS.get(field.name.rpartition("_")[2])
            value = vars(self).get(field.name)
            if resolve is None or (value is None and not field.name.endswith("activation")):
                continue
            if field.name.endswith("_initializer") and isinstance(value, str):
                made = initializers.with_drawn_seed(value, drawn.get(field.name))
            else:
                made = resolve(value)
            object.__setattr__(self, field.name, made)

    # ------------------------------------------------------------ dtypes

    @property
    def dtype(self) -> Any:
        """The name of the dtype of the weights; inside flax, the argument."""
        scope, is_made = self.__dict__.get("scope"), "_is_made" in self.__dict__
        if not is_made or naming.is_copying() or (scope is not None and not self.BINDS_ATTRIBUTES):
            return self.__dict__.get("dtype")
        return self.variable_dtype

    @dtype.setter
    def dtype(self, value: object) -> None:
        self.__dict__["dtype"] = value

    @property
    def variable_dtype(self) -> str:
        """The name of the dtype of the weights."""
        return jnp.dtype(self.param_dtype).name

    @property
    def compute_dtype(self) -> Any:
        """The name of the dtype of the computation; inside flax, the dtype."""
        computed = super().compute_dtype
        return computed.name if self.__dict__.get("scope") is None else computed

    @property
    def input_dtype(self) -> str:
        """The name of the dtype to which floating-point inputs are cast."""
        return jnp.dtype(self.compute_dtype).name

    @property
    def dtype_policy(self) -> config.DTypePolicy:
        """The dtypes of the computation and of the weights.

        Raises:
            ValueError: If no policy has these two dtypes.
        """
        computed, stored = self.input_dtype, self.variable_dtype
        if computed != stored and (stored != "float32" or computed not in ("float16", "bfloat16")):
            raise ValueError(
                f"A policy must compute in the dtype of the weights or in 16 bits with float32 weights, got {computed} "
                f"with weights of {stored}; read compute_dtype and variable_dtype instead."
            )
        return config.DTypePolicy(computed if computed == stored else f"mixed_{computed}")

    @property
    def quantization_mode(self) -> None:
        """Always None: layers are not quantized."""
        return None

    # ------------------------------------------------------------ inputs, losses and metrics

    @property
    def input_spec(self) -> Any:
        """The rule for the inputs: what a custom class has set, or that of a layer of Keras."""
        if isinstance(self, Container):
            return super().input_spec
        if "input_spec" in self.__dict__:
            return self.__dict__["input_spec"]
        weights = self.weights if isinstance(self, Dense) and self.built else ()
        kernel = weights[0] if weights else None
        return spec_of(self, None if kernel is None else tuple(kernel.shape))

    @input_spec.setter
    def input_spec(self, value: object) -> None:
        self.__dict__["input_spec"] = value

    @property
    def losses(self) -> list[jax.Array]:
        """The losses of the last call on arrays, and the penalties of the weights that are trained.

        References:
            Keras, `keras.layers.Layer.losses`.
        """
        found = [loss for layer in self.own_and_held() for loss in vars(layer).get("_call_losses", ())]
        for weight in self.trainable_weights:
            regularizer = weight.regularizer
            found += [] if regularizer is None else [regularizer(weight.value)]
        return found

    def set_call_losses(self, losses: Mapping[str, object]) -> None:
        """Keeps the losses of a call on arrays, given as the collection of flax, with the layers that added them."""
        for scope, layer in self.scopes():
            inside: Any = losses
            for name in scope:
                inside = inside.get(name, {}) if isinstance(inside, Mapping) else {}
            added = [inside[name] for name in ("added", "activity") if name in inside]
            object.__setattr__(layer, "_call_losses", added)

    @property
    def metrics(self) -> list[Any]:
        """The metrics of a custom class, which are attributes of the layer or of one inside it."""
        return [metric for layer in self.own_and_held() for metric in _metrics_in(layer)]

    @property
    def metrics_variables(self) -> list[Any]:
        """The variables of the metrics."""
        return [variable for metric in self.metrics for variable in metric.variables]

    # ------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain values, as Keras does.

        Raises:
            NotImplementedError: If an argument of a custom class is none, and the class does not override this method.

        References:
            Keras, `keras.layers.Layer.get_config`.
        """
        is_default = type(self).get_config is KerasAttributes.get_config
        cls = type(self)
        if cls.pure_class() is not cls:
            fields = [f.name for f in dataclasses.fields(self) if f.init and f.name not in SKIPPED]
            given = {name: vars(self).get(name) for name in fields}
            return adapt(self, self._common_config() | {name: _plain(name, value) for name, value in given.items()})
        given = keras_calls.config_of(self, is_default)
        common = self._common_config()
        described = {name: _plain(name, value) for name, value in given.items() if name not in COMMON}
        described = {name: value for name, value in common.items() if name in given} | described
        return described if is_default else adapt(self, described)

    def _common_config(self) -> dict[str, Any]:
        policy = serialization.serialize_keras_object(self.dtype_policy)
        return {"name": self.name, "trainable": self.trainable, "dtype": policy}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Returns the layer with the arguments of `get_config`.

        References:
            Keras, `keras.layers.Layer.from_config`.
        """
        return cls(**{k: v for k, v in config.items() if v is not None or k not in IGNORED_IF_NONE})


def _metrics_in(layer: object) -> list[Any]:
    """Returns the metrics among the attributes of a layer."""
    values = [item for value in vars(layer).values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if hasattr(value, "update_state") and hasattr(value, "reset_state")]


def _plain(name: str, value: object) -> Any:
    """Returns the value of an argument as Keras describes it."""
    kind = name.rpartition("_")[2]
    if kind == "activation":
        return activations.serialize(activations.get(value))
    if kind in RESOLVERS and value is not None:
        return serialization.serialize_keras_object(RESOLVERS[kind](value))
    if isinstance(value, Layer):
        return serialization.serialize_keras_object(value)
    if isinstance(value, list | tuple) and any(isinstance(item, Layer) for item in value):
        return [serialization.serialize_keras_object(item) for item in value]
    return value
