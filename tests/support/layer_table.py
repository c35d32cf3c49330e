"""A table with one row for each layer class: constructor arguments, inputs and weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flaxmodels import initializers, layers
from tests.support.layer_oracle import numbers

B = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """The expected properties of a layer class.

    Attributes:
        make: The class, or a function that takes further arguments of the layer.
        config: The layer's arguments.
        inputs: The shapes of the positional arguments; a list stands for a list of arrays.
        weights: Dictionary from paths in `params` to shapes.
        statistics: Dictionary from paths in `batch_stats` to shapes.
        call: Further arguments of a call.
        integers: If set, the arrays hold integers below this number instead of floats.
        random: Whether the layer draws random numbers in training.
        mixes: Whether examples depend on each other in training.
        unused: Paths of weights, and indices of inputs, on which the outputs do not depend smoothly.
        variant: Distinguishes rows of the same class.
    """

    make: Callable[..., Any]
    config: Mapping[str, Any]
    inputs: list[Any]
    weights: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    statistics: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    integers: int | None = None
    random: bool = False
    mixes: bool = False
    unused: tuple[str | int, ...] = ()
    variant: str = ""

    def layer(self, **more: Any) -> layers.Layer:
        return self.make(**{**self.config, **more})

    def arrays(self, count: int = B) -> tuple[Any, ...]:
        """Returns positional arguments for a number of examples; the first examples are the same for every number."""
        shapes, treedef = jax.tree.flatten(list(self.inputs), is_leaf=lambda leaf: isinstance(leaf, tuple))
        arrays = [numbers(i, 2 * B, *shape[1:])[:count] for i, shape in enumerate(shapes)]
        if self.integers is not None:
            arrays = [np.floor(np.abs(x) * 1000).astype(np.int32) % self.integers for x in arrays]
        return tuple(jax.tree.unflatten(treedef, arrays))

    @property
    def train_modes(self) -> tuple[bool, ...]:
        """Returns the values of `train` to test: False, and True if that changes the result."""
        return (False, True) if self.random or self.statistics else (False,)

    def __str__(self) -> str:
        return "-".join(filter(None, [type(self.layer()).__name__, self.variant]))


def windows(cls: type, config: Mapping[str, Any]) -> list[Row]:
    """Returns rows of a class without weights; the last two letters of its name give the number of axes."""
    shapes = {"1D": (B, 6, 2), "2D": (B, 5, 4, 2), "3D": (B, 4, 3, 4, 2)}
    return [Row(cls, config, [shapes[cls.__name__[-2:]]])]


def double(x: jax.Array) -> jax.Array:
    return x * 2


TO_ONE = [
    row
    for name in ("GlobalAveragePooling", "GlobalMaxPooling", "GlobalSumPooling")
    for rank in (1, 2, 3)
    for row in windows(getattr(layers, f"{name}{rank}D"), {"keepdims": rank == 2})
]
POOLING = [
    row
    for name in ("AveragePooling", "MaxPooling", "SumPooling")
    for rank in (1, 2, 3)
    for row in windows(getattr(layers, f"{name}{rank}D"), {"pool_size": 3, "strides": 2, "padding": "same"})
]
ADAPTIVE = [
    row
    for name in ("AdaptiveAveragePooling", "AdaptiveMaxPooling")
    for rank in (1, 2, 3)
    for row in windows(getattr(layers, f"{name}{rank}D"), {"output_size": (2,) * rank})
]
DATA = [
    Row(layers.Rescaling, {"scale": 0.5, "offset": -1.0}, [(B, 3, 2)]),
    Row(layers.Normalization, {}, [(B, 3, 2)], statistics={"mean": (2,), "variance": (2,), "count": ()}),
    Row(layers.Normalization, {"mean": 0.5, "variance": 2.0, "invert": True}, [(B, 3)], variant="inverse"),
    Row(
        layers.STFTSpectrogram,
        {"frame_length": 4, "mode": "psd", "padding": "same"},
        [(B, 12, 2)],
        {"real_kernel": (4, 1, 3), "imag_kernel": (4, 1, 3)},
    ),
    Row(
        layers.MelSpectrogram,
        {"fft_length": 8, "sequence_stride": 4, "num_mel_bins": 3, "power_to_db": False},
        [(B, 24)],
    ),
    Row(layers.CategoryEncoding, {"num_tokens": 5}, [(B, 3)], integers=6),
    Row(layers.Discretization, {"bin_boundaries": (-0.5, 0.0, 0.5), "output_mode": "one_hot"}, [(B, 3)], unused=(0,)),
]
SHAPING = [
    *windows(layers.Cropping1D, {"cropping": (1, 2)}),
    *windows(layers.Cropping2D, {"cropping": ((1, 2), (0, 1))}),
    *windows(layers.Cropping3D, {"cropping": ((1, 0), (0, 1), (1, 1))}),
    *windows(layers.ZeroPadding1D, {"padding": (1, 2)}),
    *windows(layers.ZeroPadding2D, {"padding": ((1, 2), (0, 1))}),
    *windows(layers.ZeroPadding3D, {"padding": (1, 0, 2)}),
    *windows(layers.UpSampling1D, {"size": 3}),
    *windows(layers.UpSampling2D, {"size": (2, 3), "interpolation": "bilinear"}),
    *windows(layers.UpSampling3D, {"size": (1, 2, 3)}),
    Row(layers.Flatten, {"data_format": "channels_first"}, [(B, 3, 2, 2)]),
    Row(layers.Reshape, {"target_shape": (3, -1)}, [(B, 2, 6)]),
    Row(layers.Permute, {"dims": (2, 1)}, [(B, 2, 3)]),
    Row(layers.RepeatVector, {"n": 3}, [(B, 2)]),
]
ACTIVATIONS = [
    Row(layers.Activation, {"activation": "tanh"}, [(B, 3)]),
    Row(layers.ELU, {"alpha": 0.5}, [(B, 3)]),
    Row(layers.LeakyReLU, {"negative_slope": 0.2}, [(B, 3)]),
    Row(layers.ReLU, {"max_value": 1.5, "negative_slope": 0.1, "threshold": 0.2}, [(B, 3)]),
    Row(layers.PReLU, {"shared_axes": (1,)}, [(B, 3, 5)], {"alpha": (1, 5)}),
    Row(layers.Softmax, {"axis": 1}, [(B, 3, 2)]),
]
PLAIN = [
    Row(layers.Dense, {"units": 3, "activation": "gelu"}, [(B, 5)], {"kernel": (5, 3), "bias": (3,)}),
    Row(
        layers.Dense,
        {"units": 3, "kernel_initializer": initializers.HeNormal(seed=1), "use_bias": False, "trainable": False},
        [(B, 2, 5)],
        {"kernel": (5, 3)},
        variant="time",
    ),
    Row(
        layers.EinsumDense,
        {"equation": "abc,cd->abd", "output_shape": (None, 4), "bias_axes": "d"},
        [(B, 2, 3)],
        {"kernel": (3, 4), "bias": (4,)},
    ),
    Row(layers.Identity, {}, [(B, 3)]),
    Row(layers.Lambda, {"function": double}, [(B, 3)]),
    Row(layers.Masking, {"mask_value": 1.0}, [(B, 3, 2)]),
    Row(layers.Embedding, {"input_dim": 7, "output_dim": 3}, [(B, 5)], {"embedding": (7, 3)}, integers=7),
    Row(layers.ReversibleEmbedding, {"input_dim": 7, "output_dim": 3}, [(B, 5)], {"embedding": (7, 3)}, integers=7),
    Row(
        layers.ReversibleEmbedding,
        {"input_dim": 7, "output_dim": 3, "tie_weights": False, "logit_soft_cap": 2.0},
        [(B, 5, 3)],
        {"embedding": (7, 3), "reverse_embeddings": (3, 7)},
        call={"reverse": True},
        unused=("embedding",),
        variant="reverse",
    ),
]
CONVOLUTIONS = [
    Row(
        layers.Conv1D,
        {"filters": 4, "kernel_size": 3, "padding": "causal", "groups": 2},
        [(B, 6, 2)],
        {"kernel": (3, 1, 4), "bias": (4,)},
    ),
    Row(
        layers.Conv2D,
        {"filters": 3, "kernel_size": (3, 2), "strides": 2, "activation": "relu"},
        [(B, 6, 5, 2)],
        {"kernel": (3, 2, 2, 3), "bias": (3,)},
    ),
    Row(
        layers.Conv2D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        [(B, 2, 4, 5)],
        {"kernel": (2, 2, 2, 3), "bias": (3,)},
        variant="channels_first",
    ),
    Row(
        layers.Conv3D,
        {"filters": 2, "kernel_size": 2, "use_bias": False},
        [(B, 3, 3, 3, 1)],
        {"kernel": (2, 2, 2, 1, 2)},
    ),
    Row(
        layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 3, "strides": 2},
        [(B, 4, 2)],
        {"kernel": (3, 3, 2), "bias": (3,)},
    ),
    Row(
        layers.Conv2DTranspose,
        {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"},
        [(B, 3, 3, 2)],
        {"kernel": (3, 3, 3, 2), "bias": (3,)},
    ),
    Row(
        layers.Conv3DTranspose,
        {"filters": 2, "kernel_size": 2},
        [(B, 2, 2, 2, 1)],
        {"kernel": (2, 2, 2, 2, 1), "bias": (2,)},
    ),
    Row(
        layers.DepthwiseConv1D,
        {"kernel_size": 3, "depth_multiplier": 2},
        [(B, 6, 2)],
        {"kernel": (3, 2, 2), "bias": (4,)},
    ),
    Row(
        layers.DepthwiseConv2D,
        {"kernel_size": 3, "padding": "same"},
        [(B, 4, 4, 2)],
        {"kernel": (3, 3, 2, 1), "bias": (2,)},
    ),
    Row(
        layers.SeparableConv1D,
        {"filters": 4, "kernel_size": 3, "depth_multiplier": 2},
        [(B, 6, 2)],
        {"depthwise_kernel": (3, 2, 2), "pointwise_kernel": (1, 4, 4), "bias": (4,)},
    ),
    Row(
        layers.SeparableConv2D,
        {"filters": 4, "kernel_size": 2},
        [(B, 4, 4, 2)],
        {"depthwise_kernel": (2, 2, 2, 1), "pointwise_kernel": (1, 1, 2, 4), "bias": (4,)},
    ),
]
MERGES = [
    Row(layers.Add, {}, [[(B, 3), (B, 3), (B, 1)]]),
    Row(layers.Average, {}, [[(B, 3), (B, 3), (B, 3)]]),
    Row(layers.Concatenate, {"axis": 1}, [[(B, 3, 2), (B, 1, 2)]]),
    Row(layers.Dot, {"axes": (1, 2), "normalize": True}, [[(B, 3, 2), (B, 5, 3)]]),
    Row(layers.Maximum, {}, [[(B, 3), (B, 3), (B, 3)]]),
    Row(layers.Minimum, {}, [[(B, 3), (B, 2, 3)]]),
    Row(layers.Multiply, {}, [[(B, 3), (B, 3)]]),
    Row(layers.Subtract, {}, [[(B, 3), (B, 3)]]),
]
NORMALIZATIONS = [
    Row(
        layers.BatchNormalization,
        {"momentum": 0.9},
        [(B, 3, 2)],
        {"gamma": (2,), "beta": (2,)},
        {"moving_mean": (2,), "moving_variance": (2,)},
        mixes=True,
    ),
    Row(
        layers.BatchNormalization,
        {"renorm": True, "renorm_clipping": {"rmin": 0.5, "rmax": 2.0, "dmax": 1.0}, "axis": 1},
        [(B, 3, 2)],
        {"gamma": (3,), "beta": (3,)},
        {
            "moving_mean": (3,),
            "moving_variance": (3,),
            "moving_stddev": (3,),
            "renorm_mean": (3,),
            "renorm_stddev": (3,),
        },
        mixes=True,
        variant="renorm",
    ),
    Row(layers.GroupNormalization, {"groups": 2}, [(B, 3, 4)], {"gamma": (4,), "beta": (4,)}),
    Row(layers.LayerNormalization, {"axis": (1, 2)}, [(B, 3, 2)], {"gamma": (3, 2), "beta": (3, 2)}),
    Row(layers.RMSNormalization, {}, [(B, 3)], {"scale": (3,)}),
    Row(layers.UnitNormalization, {"axis": (1, 2)}, [(B, 3, 2)]),
    Row(
        layers.SpectralNormalization,
        {"layer": layers.Dense(3, activation="tanh"), "power_iterations": 2},
        [(B, 5)],
        {"kernel": (5, 3), "bias": (3,)},
        {"vector_u": (1, 3), "sigma": ()},
    ),
]
NOISE = [
    Row(layers.ActivityRegularization, {"l1": 0.1, "l2": 0.2}, [(B, 3)]),
    Row(layers.CenterCrop, {"height": 3, "width": 2}, [(B, 5, 4, 3)]),
    Row(layers.Resizing, {"height": 3, "width": 6}, [(B, 5, 4, 3)]),
    Row(layers.RandomBrightness, {"factor": 0.4, "value_range": (-5, 5)}, [(B, 5, 4, 3)], random=True),
    Row(layers.RandomContrast, {"factor": 0.4, "value_range": (-5, 5)}, [(B, 5, 4, 3)], random=True),
    Row(layers.RandomCrop, {"height": 5, "width": 4}, [(B, 5, 4, 3)]),
    Row(layers.RandomFlip, {}, [(B, 5, 4, 3)], random=True),
    Row(layers.RandomRotation, {"factor": 0.4}, [(B, 5, 4, 3)], random=True),
    Row(layers.RandomTranslation, {"height_factor": 0.4, "width_factor": 0.4}, [(B, 5, 4, 3)], random=True),
    Row(layers.RandomZoom, {"height_factor": 0.4}, [(B, 5, 4, 3)], random=True),
    Row(layers.AlphaDropout, {"rate": 0.4}, [(B, 8)], random=True),
    Row(layers.Dropout, {"rate": 0.4, "noise_shape": (None, 1, None)}, [(B, 2, 8)], random=True),
    Row(layers.GaussianDropout, {"rate": 0.4}, [(B, 8)], random=True),
    Row(layers.GaussianNoise, {"stddev": 0.4}, [(B, 8)], random=True),
    Row(layers.SpatialDropout1D, {"rate": 0.4}, [(B, 3, 4)], random=True),
    Row(layers.SpatialDropout2D, {"rate": 0.4, "data_format": "channels_first"}, [(B, 4, 2, 2)], random=True),
    Row(layers.SpatialDropout3D, {"rate": 0.4}, [(B, 2, 2, 2, 4)], random=True),
]
ATTENTION = [
    Row(layers.AdditiveAttention, {"dropout": 0.3}, [[(B, 3, 5), (B, 2, 5)]], {"scale": (5,)}, random=True),
    Row(
        layers.Attention,
        {"use_scale": True, "score_mode": "concat"},
        [[(B, 3, 5), (B, 2, 4), (B, 2, 5)]],
        {"scale": (), "concat_score_weight": ()},
        call={"return_attention_scores": True},
    ),
    Row(
        layers.GroupQueryAttention,
        {"head_dim": 2, "num_query_heads": 4, "num_key_value_heads": 2},
        [(B, 3, 6), (B, 2, 5)],
        {
            "query/kernel": (6, 4, 2),
            "query/bias": (4, 2),
            "key/kernel": (5, 2, 2),
            "key/bias": (2, 2),
            "value/kernel": (5, 2, 2),
            "value/bias": (2, 2),
            "attention_output/kernel": (4, 2, 6),
            "attention_output/bias": (6,),
        },
    ),
    Row(
        layers.MultiHeadAttention,
        {"num_heads": 2, "key_dim": 3, "value_dim": 2, "output_shape": 5, "dropout": 0.3},
        [(B, 3, 6), (B, 3, 4)],
        {
            "query/kernel": (6, 2, 3),
            "query/bias": (2, 3),
            "key/kernel": (4, 2, 3),
            "key/bias": (2, 3),
            "value/kernel": (4, 2, 2),
            "value/bias": (2, 2),
            "attention_output/kernel": (2, 2, 5),
            "attention_output/bias": (5,),
        },
        call={"use_causal_mask": True},
        random=True,
    ),
]
LSTM = {"kernel": (5, 12), "recurrent_kernel": (3, 12), "bias": (12,)}
RECURRENT = [
    Row(
        layers.SimpleRNNCell,
        {"units": 3},
        [(B, 5), [(B, 3)]],
        {"kernel": (5, 3), "recurrent_kernel": (3, 3), "bias": (3,)},
    ),
    Row(
        layers.GRUCell,
        {"units": 3, "reset_after": False},
        [(B, 5), [(B, 3)]],
        {"kernel": (5, 9), "recurrent_kernel": (3, 9), "bias": (9,)},
    ),
    Row(layers.LSTMCell, {"units": 3, "dropout": 0.4}, [(B, 5), [(B, 3), (B, 3)]], LSTM, random=True),
    Row(
        layers.StackedRNNCells,
        {"cells": (layers.LSTMCell(3), layers.GRUCell(2))},
        [(B, 5), [[(B, 3), (B, 3)], [(B, 2)]]],
        {
            **{f"cells_0/{name}": shape for name, shape in LSTM.items()},
            "cells_1/kernel": (3, 6),
            "cells_1/recurrent_kernel": (2, 6),
            "cells_1/bias": (2, 6),
        },
    ),
    Row(
        layers.SimpleRNN,
        {"units": 3, "return_sequences": True, "go_backwards": True},
        [(B, 4, 5)],
        {"kernel": (5, 3), "recurrent_kernel": (3, 3), "bias": (3,)},
    ),
    Row(
        layers.GRU,
        {"units": 3, "return_state": True},
        [(B, 4, 5)],
        {"kernel": (5, 9), "recurrent_kernel": (3, 9), "bias": (2, 9)},
    ),
    Row(layers.LSTM, {"units": 3, "recurrent_dropout": 0.3}, [(B, 4, 5)], LSTM, random=True),
    Row(
        layers.RNN,
        {"cell": layers.SimpleRNNCell(3), "unroll": True},
        [(B, 3, 5)],
        {"cell/kernel": (5, 3), "cell/recurrent_kernel": (3, 3), "cell/bias": (3,)},
    ),
    Row(
        layers.ConvLSTM1D,
        {"filters": 2, "kernel_size": 2, "padding": "same"},
        [(B, 3, 4, 3)],
        {"kernel": (2, 3, 8), "recurrent_kernel": (2, 2, 8), "bias": (8,)},
    ),
    Row(
        layers.ConvLSTM2D,
        {"filters": 2, "kernel_size": 2, "return_sequences": True},
        [(B, 2, 3, 3, 1)],
        {"kernel": (2, 2, 1, 8), "recurrent_kernel": (2, 2, 2, 8), "bias": (8,)},
    ),
    Row(
        layers.ConvLSTM3D,
        {"filters": 1, "kernel_size": 2, "use_bias": False},
        [(B, 2, 3, 3, 3, 1)],
        {"kernel": (2, 2, 2, 1, 4), "recurrent_kernel": (2, 2, 2, 1, 4)},
    ),
]
WRAPPERS = [
    Row(
        layers.Bidirectional,
        {"layer": layers.GRU(3, return_sequences=True), "merge_mode": "sum"},
        [(B, 4, 5)],
        {
            f"{way}_layer/{name}": shape
            for way in ("forward", "backward")
            for name, shape in {"kernel": (5, 9), "recurrent_kernel": (3, 9), "bias": (2, 9)}.items()
        },
    ),
    Row(
        layers.TimeDistributed,
        {"layer": layers.Conv1D(3, 2)},
        [(B, 2, 4, 2)],
        {"layer/kernel": (2, 2, 3), "layer/bias": (3,)},
    ),
    Row(
        layers.TimeDistributed,
        {"layer": layers.BatchNormalization(momentum=0.9)},
        [(B, 2, 3)],
        {"layer/gamma": (3,), "layer/beta": (3,)},
        {"layer/moving_mean": (3,), "layer/moving_variance": (3,)},
        mixes=True,
        variant="statistics",
    ),
]
ROWS = [
    *[*ACTIVATIONS, *ADAPTIVE, *ATTENTION, *CONVOLUTIONS, *DATA, *MERGES, *NOISE, *NORMALIZATIONS],
    *[*PLAIN, *POOLING, *RECURRENT, *SHAPING, *TO_ONE, *WRAPPERS],
]
