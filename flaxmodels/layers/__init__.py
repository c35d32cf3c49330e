"""Keras' layers as linen modules."""

import functools
from typing import TYPE_CHECKING

from flaxmodels import lazy

if TYPE_CHECKING:
    from flaxmodels.layers.base import Layer

# The names that each module defines. Type checkers read `__init__.pyi`, which a test compares with this table.
NAMES = {
    "activation": "ELU Activation LeakyReLU PReLU ReLU Softmax",
    "adaptive_pooling": "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D "
    "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D",
    "attention": "AdditiveAttention Attention GroupQueryAttention MultiHeadAttention",
    "base": "Layer",
    "categories": "CategoryEncoding Discretization",
    "cells": "GRUCell LSTMCell SimpleRNNCell",
    "conv": "Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose Convolution1D "
    "Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose",
    "conv_recurrent": "ConvLSTM1D ConvLSTM2D ConvLSTM3D",
    "core": "EinsumDense Identity Lambda",
    "dense": "Dense",
    "embedding": "Embedding ReversibleEmbedding",
    "hashing": "HashedCrossing Hashing",
    "images.color": "RandomBrightness RandomContrast",
    "images.geometry": "RandomFlip RandomRotation RandomTranslation RandomZoom",
    "images.sizes": "CenterCrop RandomCrop Resizing",
    "lookup": "IntegerLookup StringLookup",
    "masking": "Masking",
    "merge": "Add Average Concatenate Dot Maximum Minimum Multiply Subtract add average concatenate dot maximum "
    "minimum multiply subtract",
    "normalization": "BatchNormalization GroupNormalization LayerNormalization RMSNormalization SpectralNormalization "
    "UnitNormalization",
    "pooling": "AveragePooling1D AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D "
    "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D "
    "GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D "
    "GlobalMaxPooling2D GlobalMaxPooling3D GlobalSumPooling1D GlobalSumPooling2D GlobalSumPooling3D "
    "MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D SumPooling1D SumPooling2D "
    "SumPooling3D",
    "recurrent": "GRU LSTM RNN SimpleRNN",
    "regularization": "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise SpatialDropout1D "
    "SpatialDropout2D SpatialDropout3D",
    "rescaling": "Normalization Rescaling",
    "reshape": "Cropping1D Cropping2D Cropping3D Flatten Permute RepeatVector Reshape UpSampling1D UpSampling2D "
    "UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D",
    "separable_conv": "DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D SeparableConvolution1D "
    "SeparableConvolution2D",
    "spectrograms": "MelSpectrogram STFTSpectrogram",
    "stacked_cells": "StackedRNNCells",
    "symbolic": "Input",
    "text": "TextVectorization",
    "wrappers": "Bidirectional TimeDistributed",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, NAMES)


@functools.cache
def classes() -> "dict[str, type[Layer]]":
    """Returns all classes of layers except `Layer`, keyed by name; imports all modules of layers.

    Example:
        >>> "Dense" in classes(), "Input" in classes()
        (True, False)
    """
    base = __getattr__("Layer")
    values = [__getattr__(name) for name in __all__]
    named = zip(__all__, values, strict=True)
    return {name: cls for name, cls in named if isinstance(cls, type) and issubclass(cls, base) and cls is not base}
