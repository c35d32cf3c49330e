"""Invalid arguments of layers raise one sentence at construction."""

import numpy as np
import pytest

from flaxmodels import layers, regularizers
from flaxmodels.layers import attention, cells


def x(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def refuses(function, sentence):
    """Compares the message without notes, because JAX adds notes to errors raised while tracing."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function()
    assert str(caught.value) == sentence


KNOWN = "Did you mean 'relu'?"
FROM_0 = "must be a number of at least 0"
A_NUMBER = "give a number."
MADE = [
    # Kinds of arguments, by their annotations
    (
        lambda: layers.Dense(3, use_bias="no"),
        "`use_bias` of Dense must be True or False, got 'no' of type str; give True or False.",
    ),
    (lambda: layers.LSTM(3, unroll=None), "`unroll` of LSTM must be True or False, got None; give True or False."),
    (
        lambda: layers.Dropout(0.5, seed=1.5),
        "`seed` of Dropout must be an integer or None, got 1.5 of type float; give an integer or None.",
    ),
    (lambda: layers.ELU("1"), f"`alpha` of ELU must be a number, got '1' of type str; {A_NUMBER}"),
    (
        lambda: layers.Concatenate("1"),
        "`axis` of Concatenate must be an integer, got '1' of type str; give an integer.",
    ),
    (
        lambda: layers.BatchNormalization([1]),
        "`axis` of BatchNormalization must be an integer, got a list of 1; give an integer.",
    ),
    (lambda: layers.EinsumDense(3, 2), "`equation` of EinsumDense must be a string, got 3 of type int; give a string."),
    (
        lambda: layers.GlobalMaxPooling1D(keepdims=np.ones(2)),
        "`keepdims` of GlobalMaxPooling1D must be True or False, got an array of shape (2,) and dtype float64; "
        "give True or False.",
    ),
    # Names
    (
        lambda: layers.Dense(3, "rely"),
        lambda text: (
            text.startswith(f"`activation` of Dense cannot be used: Unknown activation 'rely'. {KNOWN} Known: ")
            and text.endswith(". Or pass a function x -> y.")
        ),
    ),
    (
        lambda: layers.Dense(3, 5),
        "`activation` of Dense cannot be used: An activation must be a name, a function or None, got 5; "
        'pass a name such as "relu".',
    ),
    (
        lambda: layers.Dense(3, kernel_constraint="maxnorm2"),
        lambda text: (
            text.startswith("`kernel_constraint` of Dense cannot be used: Unknown constraint 'maxnorm2'.")
            and text.endswith(". Or pass a function w -> w.")
        ),
    ),
    (
        lambda: layers.Dense(3, bias_initializer=np.ones(3)),
        f"`bias_initializer` of Dense cannot be used: An initializer must be a name, a function or None, got "
        f'{np.ones(3)!r}; pass a name such as "glorot_uniform", or Constant(values) for an array.',
    ),
    # Dtypes and shapes
    (
        lambda: layers.Dense(3, dtype="float31"),
        '`dtype` of Dense must be a dtype such as "float32" or "bfloat16", got \'float31\'; give one of these.',
    ),
    (
        lambda: layers.ReversibleEmbedding(3, 2, reverse_dtype=5),
        '`reverse_dtype` of ReversibleEmbedding must be a dtype such as "float32" or "bfloat16", got 5; give one of these.',
    ),
    (
        lambda: layers.Dense(3, input_shape="28"),
        "The sizes of an input shape must be positive integers or None, got '28' in ('28',); "
        "leave the batch out and give the shape of one example.",
    ),
    # Numbers
    (lambda: layers.Dense("3"), "`units` of Dense must be a positive integer, got '3'; give 1 or more."),
    (lambda: layers.Dense(True), "`units` of Dense must be a positive integer, got True; give 1 or more."),
    (lambda: layers.ReLU(-1), f"`max_value` of ReLU {FROM_0}, got -1; give None for no cap."),
    (lambda: layers.ReLU(threshold="3"), f"`threshold` of ReLU {FROM_0}, got '3'; give 0 for none."),
    (
        lambda: layers.LayerNormalization(epsilon=-1.0),
        f"`epsilon` of LayerNormalization {FROM_0}, got -1.0; give 0 or more.",
    ),
    (
        lambda: layers.RMSNormalization(epsilon=-1.0),
        f"`epsilon` of RMSNormalization {FROM_0}, got -1.0; give 0 or more.",
    ),
    (
        lambda: layers.GroupNormalization(epsilon=-1.0),
        f"`epsilon` of GroupNormalization {FROM_0}, got -1.0; give 0 or more.",
    ),
    (
        lambda: layers.BatchNormalization(epsilon=-1.0),
        f"`epsilon` of BatchNormalization {FROM_0}, got -1.0; give 0 or more.",
    ),
    (
        lambda: layers.BatchNormalization(momentum=1.5),
        "`momentum` of BatchNormalization must be a number in [0, 1], got 1.5; give, for example, 0.",
    ),
    (
        lambda: layers.BatchNormalization(renorm=True, renorm_clipping=3.0),
        "`renorm_clipping` of BatchNormalization must be a dictionary of numbers, got 3.0; give, for example, "
        '{"rmax": 3.0}.',
    ),
    (
        lambda: layers.BatchNormalization(renorm=True, renorm_clipping={"rmix": 1.0}),
        '`renorm_clipping` of BatchNormalization takes the bounds "rmin", "rmax" and "dmax" and requires '
        "`renorm`=True, got {'rmix': 1.0} with `renorm`=True; leave out other names, or set `renorm`.",
    ),
    (
        lambda: layers.BatchNormalization(renorm=True, renorm_clipping={"rmin": 2.0, "rmax": 1.0}),
        "`renorm_clipping` of BatchNormalization must have rmin <= rmax and dmax >= 0, got {'rmin': 2.0, 'rmax': "
        "1.0}; change the bounds.",
    ),
    (
        lambda: layers.ReversibleEmbedding(3, 2, logit_soft_cap=0.0),
        "`logit_soft_cap` of ReversibleEmbedding must be a positive number, got 0.0; give None for no cap.",
    ),
    (lambda: layers.Masking("pad"), "`mask_value` of Masking must be a number, got 'pad'; give, for example, 0.0."),
    # Shapes and sizes
    (
        lambda: layers.MultiHeadAttention(1, 2, output_shape=1.5),
        "`output_shape` of MultiHeadAttention must be a positive integer or a tuple of them, got 1.5; give the "
        "output's sizes after the positions, or None for the query's.",
    ),
    (
        lambda: layers.EinsumDense("ab,bc->ac", 1.5),
        "`output_shape` of EinsumDense must be a positive integer, or a tuple of positive integers and None, got "
        "1.5; give the output's sizes without the batch.",
    ),
    (
        lambda: layers.EinsumDense("ab,bc", 3),
        "`equation` of EinsumDense must have the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...', where "
        "each letter of the kernel or the output occurs elsewhere too, got 'ab,bc'; rewrite it in one of these "
        "forms.",
    ),
    (
        lambda: layers.EinsumDense("ab,bc->ac", 3, bias_axes="b"),
        "`bias_axes` of EinsumDense must be letters of the output 'ac', got 'b'; choose among them, or give None "
        "for no bias.",
    ),
    (
        lambda: layers.Embedding(3, 2, weights=np.ones((2, 3))),
        "`weights` of Embedding must have shape (3, 2), got shape (2, 3); change `weights`, or `input_dim` and "
        "`output_dim`.",
    ),
    (
        lambda: layers.Conv2D(1, 1, strides=2, dilation_rate=(1, 2)),
        "Conv2D takes `strides` or `dilation_rate` above 1, not both, got strides=(2, 2) and dilation_rate=(1, "
        "2); set one of them to 1.",
    ),
    (
        lambda: layers.Conv2D(4, 1, groups=3, name="stem"),
        "`filters` of Conv2D 'stem' must be a multiple of `groups`, got filters=4 and groups=3; change one of them.",
    ),
    (
        lambda: layers.Conv2DTranspose(1, 1, strides=(2, 1), output_padding=1),
        "`output_padding` of Conv2DTranspose must be below `strides` on every axis, got output_padding=(1, 1) and "
        "strides=(2, 1); make it smaller, or None.",
    ),
    (
        lambda: layers.AdaptiveAveragePooling1D(2, "NCW"),
        "`data_format` of AdaptiveAveragePooling1D must be one of 'channels_last', 'channels_first', got 'NCW'; "
        "use one of these.",
    ),
    (
        lambda: layers.SpatialDropout2D(0.5, "first"),
        '`data_format` of SpatialDropout2D must be "channels_last" or "channels_first", got \'first\'; choose one.',
    ),
    (
        lambda: layers.Dropout(0.5, (0, 1)),
        "`noise_shape` of Dropout must be a tuple of positive integers or None, got (0, 1); give None for the "
        "inputs' size, and 1 to share the mask along an axis.",
    ),
    (
        lambda: layers.Reshape(8),
        "`target_shape` of Reshape must be a tuple of positive integers, at most one of which is -1, got 8; give "
        "the shape of one example, without the batch.",
    ),
    (
        lambda: layers.Permute((0, 1)),
        "`dims` of Permute must be a permutation of 1, 2, ..., got (0, 1); give each axis once, without the batch.",
    ),
    (
        lambda: layers.ZeroPadding1D(-1),
        "`padding` of ZeroPadding1D must be an integer of at least 0 or a pair of them, got -1; give the numbers "
        "of positions before and after.",
    ),
    (
        lambda: layers.GroupQueryAttention(2, 3, 2),
        "`num_query_heads` of GroupQueryAttention must be a multiple of `num_key_value_heads`, got 3 and 2; change "
        "one of them.",
    ),
    (
        lambda: layers.MultiHeadAttention(1, 2, dropout=0.1, flash_attention=True),
        "`flash_attention` of MultiHeadAttention requires `dropout`=0, got `dropout`=0.1; leave one of them out.",
    ),
    (
        lambda: layers.Attention(score_mode="sum"),
        '`score_mode` of Attention must be "dot" or "concat", got \'sum\'; choose one.',
    ),
    (
        lambda: layers.Dot("1"),
        "`axes` of Dot must be an integer or a pair of integers, got '1'; give, for example, -1.",
    ),
    (
        lambda: layers.Dot((1, 2, 3)),
        "`axes` of Dot must be an integer or a pair of integers, got (1, 2, 3); give one axis of each array, such "
        "as (1, 2).",
    ),
    (
        lambda: layers.ActivityRegularization(activity_regularizer=regularizers.L2(0.5)),
        "`activity_regularizer` of ActivityRegularization is defined by `l1` and `l2`, got L2(l2=0.5); give only "
        "`l1` and `l2`, or use the regularizer in another layer.",
    ),
    # Functions and layers
    (lambda: layers.Lambda("sin"), "`function` of Lambda must be a function of arrays, got 'sin'; give a callable."),
    (
        lambda: layers.Lambda(abs, arguments="sin"),
        "`arguments` of Lambda must be a dictionary of keyword arguments, got 'sin'; give a dictionary.",
    ),
    (
        lambda: layers.StackedRNNCells(3),
        "`cells` of StackedRNNCells must be a list of cells, got 3; give a list such as [cell].",
    ),
    (
        lambda: layers.Bidirectional(layers.LSTM(2), merge_mode=["sum"]),
        "`merge_mode` of Bidirectional must be 'concat', 'sum', 'ave', 'mul' or None, got ['sum']; choose one.",
    ),
    (
        lambda: layers.SpectralNormalization("dense"),
        "`layer` of SpectralNormalization must be a layer, got 'dense' of type str; create an instance, such as "
        "layers.Dense(10).",
    ),
    (
        lambda: layers.SpectralNormalization(layers.ReLU()),
        "SpectralNormalization takes a layer with a `kernel` or `embedding`, got ReLU with the weights []; give, "
        "for example, layers.Dense(10).",
    ),
    # Abstract base classes
    (
        lambda: attention.ScoredAttention().scores(x(1), x(1)),
        "ScoredAttention does not implement `scores`; use Attention or AdditiveAttention.",
    ),
    (
        lambda: cells.Cell.cell_functions(layers.Identity(), (1, 1), False),
        "Identity does not implement `cell_functions`; use LSTMCell, GRUCell or SimpleRNNCell.",
    ),
    (
        lambda: attention.ProjectedAttention.heads(layers.Identity()),
        "Identity does not implement `heads`; use MultiHeadAttention.",
    ),
]


@pytest.mark.parametrize("make, sentence", MADE)
def test_error_messages_of_constructors(make, sentence):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    text = str(caught.value)
    assert sentence(text) if callable(sentence) else text == sentence
