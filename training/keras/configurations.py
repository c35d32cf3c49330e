"""Where the configurations of Keras' layers differ from the arguments of the layers of this library."""

from typing import Any

from flaxmodels import layers as pure
from flaxmodels.layers.attention import ProjectedAttention
from flaxmodels.layers.base import Layer
from flaxmodels.layers.conv import Convolution
from flaxmodels.layers.conv_recurrent import ConvLSTM
from flaxmodels.layers.images.base import ImageLayer
from flaxmodels.layers.regularization import SpatialDropout, SpatialDropout1D
from training.keras import serialization

# Layers whose configuration always has the key "activity_regularizer".
_SHOW_ACTIVITY = (
    Convolution, ConvLSTM, ProjectedAttention, pure.EinsumDense, pure.Embedding, pure.GRU, pure.LSTM,
    pure.SimpleRNN,
)  # fmt: skip
_QUANTIZED = (pure.Dense, pure.EinsumDense, pure.Embedding)
_DROPPED: dict[type[Layer] | tuple[type[Layer], ...], tuple[str, ...]] = {
    (pure.LSTM, pure.GRU): ("implementation", "use_cudnn"),
    pure.SimpleRNN: ("seed",),
    (pure.LSTMCell, pure.GRUCell): ("implementation",),
    ProjectedAttention: ("flash_attention",),
    pure.Embedding: ("weights", "input_length"),
    pure.Bidirectional: ("weights",),
    (SpatialDropout, SpatialDropout1D): ("trainable",),
    pure.ActivityRegularization: ("activity_regularizer",),
}


def adapt(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a layer with exactly the keys that Keras writes.

    Args:
        layer: The layer.
        config: Its arguments as plain values.
    """
    regularizer = layer.activity_regularizer
    if isinstance(layer, _SHOW_ACTIVITY) or regularizer is not None:
        config = config | {"activity_regularizer": serialization.serialize_keras_object(regularizer)}
    if isinstance(layer, _QUANTIZED):
        config = config | {"quantization_config": None}
    if isinstance(layer, pure.MultiHeadAttention) and config["value_dim"] is None:
        config = config | {"value_dim": config["key_dim"]}
    if isinstance(layer, pure.EinsumDense) and isinstance(config["output_shape"], int):
        config = config | {"output_shape": (config["output_shape"],)}
    if isinstance(layer, SpatialDropout | SpatialDropout1D):
        config = config | {"dtype": layer.dtype_policy.name}
    if isinstance(layer, ImageLayer):
        first = ("name", "trainable", "dtype", "data_format")
        config = {name: config[name] for name in first if name in config} | config
    if isinstance(layer, pure.RandomBrightness):
        config = config | {"value_range": list(config["value_range"])}
    for direction in ("forward", "backward") if isinstance(layer, pure.Bidirectional) else ():
        inner = config["layer" if direction == "forward" else "backward_layer"]
        inner["config"]["name"] = layer.name_of_direction(f"{direction}_layer")
    if isinstance(layer, pure.Lambda):
        shown = {name: config[name] for name in ("mask", "output_shape") if config[name] is not None}
        config = {name: value for name, value in config.items() if name not in ("mask", "output_shape")} | shown
        config["function"] = serialization.serialize_keras_object(config["function"])
        config["arguments"] = config["arguments"] or {}
    dropped = [name for classes, names in _DROPPED.items() if isinstance(layer, classes) for name in names]
    return {name: value for name, value in config.items() if name not in dropped}
