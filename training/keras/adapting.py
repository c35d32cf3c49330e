"""What Keras' layers for data add to the pure ones: statistics in weights, JAX arrays and configurations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import layers as pure
from flaxmodels.layers.lookup import VocabularyLayer, refuse_path
from training.keras import config, naming, serialization
from training.keras.config import DTypePolicy

# The arguments of Keras' configurations that follow from the other ones.
DERIVED = ("vocabulary_size", "has_input_vocabulary")


class HostArrays:
    """Mixin of layers that compute on the host: numbers are JAX arrays, as in Keras."""

    if not TYPE_CHECKING:

        def __call__(self, inputs: object = None, *args: object, **kwargs: object) -> object:
            """Computes the outputs of lists or arrays; strings are NumPy arrays."""
            outputs = super().__call__(inputs, *args, **kwargs)
            is_numeric = isinstance(outputs, np.ndarray) and outputs.dtype.kind in "biuf"
            return jnp.asarray(outputs) if is_numeric else outputs

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Returns the layer with the arguments of `get_config`.

        Raises:
            ValueError: If the vocabulary is the path of a file.

        References:
            Keras, `keras.layers.Layer.from_config`.
        """
        refuse_path(cls, config.get("vocabulary"))
        given = {name: value for name, value in config.items() if name not in DERIVED}
        made: Self = super().from_config(given)  # type: ignore[misc]
        return made


def _with_keys_of_keras(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a layer for data with exactly the keys and values of Keras."""
    if isinstance(layer, VocabularyLayer):
        is_listed = vars(layer).get("_is_listed")
        config = config | ({} if is_listed else {"vocabulary": None, "idf_weights": None})
        is_known = vars(layer).get("_table") is not None or isinstance(layer, pure.TextVectorization)
        config["vocabulary_size"] = layer.vocabulary_size() if is_known else None
    if isinstance(layer, pure.Hashing | pure.HashedCrossing) and layer.output_mode == "int":
        named = layer.dtype if layer.dtype in ("int32", "int64") else "int64"
        config = config | {"dtype": serialization.serialize_keras_object(DTypePolicy(named))}
    if isinstance(layer, pure.HashedCrossing | pure.Discretization):
        config = {name: value for name, value in config.items() if name != "trainable"}
        config["dtype"] = config["dtype"]["config"]["name"]
    if isinstance(layer, pure.CategoryEncoding):
        config = {name: value for name, value in config.items() if name != "sparse"}
    if isinstance(layer, pure.Normalization):
        config = {name: value for name, value in config.items() if name != "adapted"}
        axis = config["axis"]
        config["axis"] = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    if isinstance(layer, pure.MelSpectrogram):
        config["sequence_length"] = config["sequence_length"] or layer.fft_length
        config["max_freq"] = config["max_freq"] or int(layer.sampling_rate / 2)
    if isinstance(layer, pure.Rescaling):
        for name in ("scale", "offset"):
            config[name] = serialization.serialize_keras_object(config[name])
    if isinstance(config.get("salt"), int):
        config["salt"] = [config["salt"]] * 2
    lists = ("vocabulary", "idf_weights", "bin_boundaries", "mean", "variance", "salt")
    return {name: _as_lists(value) if name in lists else value for name, value in config.items()}


def _as_lists(value: object) -> object:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


class DataConfig:
    """Mixin of layers for data, whose configurations have other keys than their arguments."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain values, as Keras does.

        References:
            Keras, `keras.layers.Layer.get_config`.
        """
        return _with_keys_of_keras(self, super().get_config())  # type: ignore[misc]


class StatisticsInWeights:
    """Mixin of `Normalization`, whose `adapt` assigns the weights."""

    if TYPE_CHECKING:
        built: bool

        def build(self, input_shape: tuple[int | None, ...]) -> None: ...
        def get_weights(self) -> list[np.ndarray]: ...
        def set_weights(self, weights: list[np.ndarray]) -> None: ...
        def kept_axes(self, inputs: object) -> tuple[int, ...]: ...

    def _keep(self, mean: np.ndarray, variance: np.ndarray, shape: tuple[int, ...]) -> None:
        """Assigns the statistics of data of a shape."""
        if not self.built:
            keeps_first = 0 in self.kept_axes(jax.ShapeDtypeStruct(shape, jnp.float32))
            self.build(shape if keeps_first else (None, *shape[1:]))
        *_, count = self.get_weights()
        self.set_weights([mean, variance, count])

    def _shown(self, name: str, initial: float) -> Any:
        """Returns an argument inside flax, otherwise the present statistic, with an axis for each axis of inputs."""
        given = vars(self).get(name)
        if vars(self).get("scope") is not None or "_is_made" not in vars(self) or naming.is_copying():
            return given
        if given is not None:
            return jnp.asarray(given, jnp.float32)
        if not self.built:
            return None
        weights = self.get_weights()
        return jnp.asarray(weights[0 if name == "mean" else 1])

    @property
    def mean(self) -> Any:
        """The mean that the layer subtracts; None before it is built."""
        return self._shown("mean", 0.0)

    @mean.setter
    def mean(self, value: object) -> None:
        vars(self)["mean"] = value

    @property
    def variance(self) -> Any:
        """The variance by whose square root the layer divides; None before it is built."""
        return self._shown("variance", 1.0)

    @variance.setter
    def variance(self, value: object) -> None:
        vars(self)["variance"] = value


class ChannelFactors:
    """Mixin of `Rescaling`, whose factors follow the data format of the program."""

    def __post_init__(self) -> None:
        self.resolve_arguments()  # type: ignore[attr-defined]
        scale = np.asarray(vars(self)["scale"])
        if 0 < scale.ndim < 3 and config.image_data_format() == "channels_first":
            object.__setattr__(self, "scale", scale.reshape(*scale.shape, *[1] * (3 - scale.ndim)))
        super().__post_init__()  # type: ignore[misc]
