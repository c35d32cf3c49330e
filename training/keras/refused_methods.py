"""The methods and attributes of Keras' classes that the classes of this package lack, each with its alternative."""

from collections.abc import Iterator
from typing import NoReturn

_QUANTIZED = "layers are not quantized here; use the policy 'mixed_bfloat16'"
_STEPS = "override compute_loss, or pass a training step to training.Trainer(train_step=...)"
_PREDICTION = "compute the outputs in `call`, and use predict or predict_on_batch"
_PURE_STEP = "use the pure steps of training.steps in your own loop"
_IMAGES = "call the layer on the images"
_MASK = "a cell draws its masks in each call; call the layer with training=True"
_VOCABULARY = "save the whole model, whose file holds the vocabulary, or use get_vocabulary and set_vocabulary"
_RULE = "write the rule as an optax transformation and pass it to compile"
_MATH = "call the optimizer's `apply`"

# For each class: what to use instead, and the names for which it is the alternative. A class inherits the names of its
# base classes.
_TABLE: dict[str, dict[str, str]] = {
    "Layer": {
        _QUANTIZED: "quantize quantized_build quantized_call variable_serialization_spec",
        "freeze the layer, and add a layer with two small weights beside it": "enable_lora",
        "use jax.checkpoint around a function": "rematerialized_call",
        "call the layer on the symbols": "symbolic_call",
        "use keras.ops.convert_to_tensor": "convert_weight",
        "use keras.ops.conv, or a custom layer": "convolution_op",
    },
    "CompiledModel": {
        _QUANTIZED: "get_quantization_layer_structure",
        _STEPS: "train_step test_step make_train_function make_test_function compute_loss_and_updates "
        "stateless_compute_loss",
        _PREDICTION: "predict_step make_predict_function",
        "weights always have their present values": "jax_state_sync",
    },
    "Recurrent": {"call the layer": "inner_loop"},
    "ConvLSTM": {"call the layer": "inner_loop"},
    "Cell": {_MASK: "get_dropout_mask get_recurrent_dropout_mask reset_dropout_mask reset_recurrent_dropout_mask"},
    "HostLayer": {_VOCABULARY: "load_assets save_assets"},
    "ImageLayer": {
        _IMAGES: "transform_bounding_boxes transform_single_bounding_box transform_single_image transform_single_label "
        "transform_single_segmentation_mask get_transformed_x_y get_shifted_bbox get_clipped_bbox",
    },
    "Discretization": {"read the dtype of the outputs": "output_dtype"},
    "MelSpectrogram": {"call the layer on the signal": "linear_to_mel_weight_matrix"},
    "ProjectedAttention": {
        "read the weights of the projections from `weights`": "key_dense output_dense query_dense value_dense",
    },
    "Normalization": {"call adapt, which sets mean and variance": "finalize_state"},
    "SpectralNormalization": {"call the layer, which divides the kernel": "normalized_weights"},
    "Optimizer": {_RULE: "add_variable add_optimizer_variables add_variable_from_reference update_step"},
    "LossScaleOptimizer": {_MATH: "check_finite"},
    "Muon": {_MATH: "lr_adjust transpose_last_axis zeropower_via_newtonschulz5"},
    "DTypePolicy": {"use keras.ops.cast": "convert_input"},
    "InputLayer": {
        _QUANTIZED: "quantize quantized_build quantized_call",
        "an input computes nothing and has no weights; use its `output`": "add_loss add_metric add_variable add_weight "
        "build build_from_config call compute_mask compute_output_shape compute_output_spec get_build_config "
        "load_own_variables rematerialized_call save_own_variables stateless_call symbolic_call",
    },
}
REFUSED = {
    name: {method: alternative for alternative, methods in group.items() for method in methods.split()}
    for name, group in _TABLE.items()
}


def alternative(cls: type, name: str) -> str | None:
    """Returns what to use in place of a method of Keras that a class lacks; None if the name is not known.

    Args:
        cls: The class.
        name: The name of the method or attribute.

    Example:
        >>> class Layer: ...
        >>> alternative(Layer, "rematerialized_call")
        'use jax.checkpoint around a function'
    """
    found = (REFUSED.get(base, {}).get(name) for base in _names(cls))
    return next(filter(None, found), None)


def _names(cls: type) -> Iterator[str]:
    return (base.__name__ for base in cls.__mro__)


def raise_refused(owner: object, name: str) -> None:
    """Raises the error for a method of Keras that an object lacks; does nothing for other names.

    Raises:
        AttributeError: If the name is refused.
    """
    instead = alternative(type(owner), name)
    if instead is not None:
        _raise(owner, name, instead)


def _raise(owner: object, name: str, instead: str) -> NoReturn:
    raise AttributeError(
        f"{type(owner).__name__}.{name} of Keras is not part of training.keras; {instead}.", name=name, obj=owner
    )


class Refusing:
    """Mixin of classes without a `__getattr__` of their own: refused names raise their sentence."""

    def __getattr__(self, name: str) -> NoReturn:
        raise_refused(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
