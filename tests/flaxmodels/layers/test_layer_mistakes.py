"""The full error messages of invalid constructor arguments and calls of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Sequential, initializers, layers
from flaxmodels.layers import merge


def x(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def call(layer, *args, **kwargs):
    """Calls a layer with new parameters, without compilation and without conversion of the inputs."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    return jax.eval_shape(lambda: layer.init(rngs, *args, **kwargs))


def refuses(function, sentence):
    """Compares the message without notes, because JAX adds notes to errors raised while tracing."""
    with pytest.raises((TypeError, ValueError)) as caught:
        function()
    assert str(caught.value) == sentence


AN_ARRAY = "give a NumPy or a JAX array."
A_MASK = "give one such as jnp.any(x != 0, axis=-1), or None."
A_POSITION = "give one boolean for each position."
CALLED = [
    # Values that are not arrays
    (layers.Dense(2), (None,), {}, f"`inputs` of Dense must be an array of numbers, got None; {AN_ARRAY}"),
    (layers.Dense(2), (), {}, f"`inputs` of Dense must be an array of numbers, got None; {AN_ARRAY}"),
    (layers.Dense(2), ("x",), {}, f"`inputs` of Dense must be an array of numbers, got 'x' of type str; {AN_ARRAY}"),
    (layers.ReLU(), ([[1.0]],), {}, f"`inputs` of ReLU must be an array of numbers, got a list of 1; {AN_ARRAY}"),
    (layers.Identity(), (None,), {}, f"`inputs` of Identity must be an array of numbers, got None; {AN_ARRAY}"),
    (
        layers.Lambda(abs),
        ([1.0],),
        {},
        f"`inputs` of Lambda must be an array of numbers, got 1.0 of type float; {AN_ARRAY}",
    ),
    (
        layers.Embedding(3, 2),
        (np.array([["a"]]),),
        {},
        f"`inputs` of Embedding must be an array of numbers, got an array of shape (1, 1) and dtype <U1; {AN_ARRAY}",
    ),
    (
        layers.Add(),
        ([x(2), [1.0]],),
        {},
        f"`inputs[1]` of Add must be an array of numbers, got a list of 1; {AN_ARRAY}",
    ),
    (
        layers.LSTM(2),
        ([x(2, 3, 4), x(2, 2)],),
        {},
        f"`inputs` of LSTM must be an array of numbers, got a list of 2; {AN_ARRAY}",
    ),
    (
        layers.LSTM(2),
        (x(2, 3, 4), [x(2, 2), "c"]),
        {},
        f"`states` of LSTM must be an array of numbers, got 'c' of type str; {AN_ARRAY}",
    ),
    (
        layers.TimeDistributed(layers.Dense(2)),
        (None,),
        {},
        f"`inputs` of TimeDistributed must be an array of numbers, got None; {AN_ARRAY}",
    ),
    (
        layers.MultiHeadAttention(1, 2),
        (x(2, 3, 4), "value"),
        {},
        f"`value` of MultiHeadAttention must be an array of numbers, got 'value' of type str; {AN_ARRAY}",
    ),
    # Training flag
    (
        layers.Dropout(0.5),
        (x(2, 3),),
        {"train": "yes"},
        "`train` of Dropout must be True or False, got 'yes' of type str; "
        'under jax.jit, fix it with functools.partial or static_argnames="train".',
    ),
    # Masks
    (
        layers.Dense(2),
        (x(2, 3, 4),),
        {"mask": [[True] * 3] * 2},
        f"The mask of Dense must be a boolean array, got True of type bool; {A_MASK}",
    ),
    (
        layers.Dense(2),
        (x(2, 3, 4),),
        {"mask": x(2, 4)},
        "The mask of Dense must have the leading sizes of the masked array of shape (2, 3, 4), got shape (2, 4); "
        f"{A_POSITION}",
    ),
    (
        layers.BatchNormalization(),
        (x(2, 3, 4),),
        {"mask": x(2, 4)},
        "The mask of BatchNormalization must have the leading sizes of the masked array of shape (2, 3, 4), got shape "
        f"(2, 4); {A_POSITION}",
    ),
    (
        layers.BatchNormalization(),
        (x(2, 3, 4, 5),),
        {"mask": x(2, 3)},
        "The mask of BatchNormalization must have one axis fewer than its inputs, got a mask of shape (2, 3) for "
        "inputs of shape (2, 3, 4, 5); reshape the mask, or leave it out.",
    ),
    (
        layers.Minimum(),
        ([x(2, 3), x(2, 4, 3)],),
        {"mask": [None, x(2, 3)]},
        "The mask of input 1 of Minimum must have the leading sizes of the masked array of shape (2, 4, 3), got shape "
        f"(2, 3); {A_POSITION}",
    ),
    (
        layers.Attention(),
        ([x(2, 3, 5), x(2, 4, 5)],),
        {"mask": [None, x(2, 3)]},
        "The value mask of Attention must have the leading sizes of the masked array of shape (2, 4), got shape (2, 3); "
        f"{A_POSITION}",
    ),
    (
        layers.MultiHeadAttention(1, 2),
        (x(2, 3, 4), x(2, 5, 4)),
        {"value_mask": x(2, 3)},
        "The value mask of MultiHeadAttention must have the leading sizes of the masked array of shape (2, 5), got shape "
        f"(2, 3); {A_POSITION}",
    ),
    (
        layers.MultiHeadAttention(2, 2),
        (x(2, 3, 4), x(2, 5, 4)),
        {"attention_mask": x(2, 5, 3)},
        "`attention_mask` of MultiHeadAttention must have a boolean for each pair of positions, shape (2, 3, 5), "
        "got shape (2, 5, 3); give that shape, or add an axis for the heads before the pairs.",
    ),
    (
        layers.Softmax(),
        (x(2, 3),),
        {"mask": x(2)},
        "The mask of Softmax must have the inputs' sizes or 1 on its axes, aligned at the end, got a mask of shape "
        "(2,) for inputs of shape (2, 3); add the missing axes to the mask.",
    ),
    (
        layers.Add(),
        ([x(2, 3), x(2, 3)],),
        {"mask": [x(2)]},
        "Add takes a list of masks, one or None for each of its 2 inputs, got 1; give a list such as [mask, None].",
    ),
    (
        layers.GlobalAveragePooling1D(),
        (x(2, 4, 3),),
        {"mask": x(2, 4, 3)},
        "GlobalAveragePooling1D takes a mask with a value for each position, of shape (2, 4), got shape (2, 4, 3); "
        "make the mask from inputs of shape (2, 4, 3).",
    ),
    # Shapes
    (
        layers.Masking(),
        (x(2),),
        {},
        "Masking takes inputs of 3 axes [B, T, F], got shape (2,); add an axis, or use a layer for 1 axes.",
    ),
    (
        layers.Masking((1.0, 2.0)),
        (x(2, 3, 4),),
        {},
        "`mask_value` of Masking must be a number, or one number for each feature, got shape (2,) for inputs of "
        "shape (2, 3, 4); give one number.",
    ),
    (
        layers.StackedRNNCells([layers.GRUCell(2)]),
        (x(2),),
        {},
        "StackedRNNCells takes inputs of 2 axes [B, F], got shape (2,); add an axis, or use a layer for 1 axes.",
    ),
    (
        layers.GRU(2),
        (x(2, 0, 3),),
        {},
        "GRU takes inputs with at least 1 time step, got shape (2, 0, 3); leave empty inputs out.",
    ),
    (
        layers.Add(),
        ([x(2), x()],),
        {},
        "Add merges arrays whose first axis is the batch, got shapes [(2,), ()]; add the batch axis to each.",
    ),
    (
        layers.ReversibleEmbedding(5, 3),
        (x(2, 4),),
        {"reverse": True},
        "ReversibleEmbedding maps vectors of `output_dim`=3 numbers to scores, got inputs of shape (2, 4); give "
        "inputs [B, ..., 3], or leave out `reverse`.",
    ),
    (
        layers.Attention(),
        ([x(2, 3, 5), x(2, 4, 6)],),
        {},
        "Attention takes a query [B, T, F], a value [B, S, G] and a key [B, S, F] (by default the value), got "
        "shapes (2, 3, 5) for the query, (2, 4, 6) for the value and (2, 4, 6) for the key; reshape them, or "
        "project them to the same size.",
    ),
    (
        layers.MultiHeadAttention(1, 2),
        (x(2, 3), x(2, 3)),
        {},
        "MultiHeadAttention takes inputs of 3 axes [B, T, F], got shape (2, 3); add an axis, or use a layer for 2 axes.",
    ),
    (
        layers.Attention(),
        ([x(2, 3, 4)],),
        {},
        "Attention takes a list of 2 or 3 inputs, got 1; give [query, value, key].",
    ),
    (
        layers.MultiHeadAttention(1, 2),
        (x(2, 3, 4),),
        {},
        "MultiHeadAttention takes a query and a value, got no value; call layer(query, value).",
    ),
    (
        layers.MultiHeadAttention(1, 2),
        (x(2, 3, 4), x(2, 5, 6), x(2, 4, 4)),
        {},
        "MultiHeadAttention takes a value and a key with the same positions, and a query that differs from them "
        "only on the attention axes (1,), got shapes (2, 3, 4) for the query, (2, 5, 6) for the value and (2, 4, "
        "4) for the key; reshape them.",
    ),
    (
        layers.MultiHeadAttention(1, 2),
        (x(2, 3, 4, 5), x(2, 3, 4, 5)),
        {"use_causal_mask": True},
        "`use_causal_mask` and `sliding_window` of MultiHeadAttention work along one attention axis, got the axes "
        "(1, 2); leave both out, or give one attention axis.",
    ),
    (
        layers.MultiHeadAttention(1, 2, flash_attention=True),
        (x(2, 3, 4), x(2, 3, 4)),
        {},
        f"`flash_attention` of MultiHeadAttention works on a GPU, in bfloat16 or float16, along one axis and without "
        f"returning scores, got {jax.default_backend()!r}, float32, 1 axes and `return_attention_scores`=False; leave "
        "`flash_attention` out.",
    ),
    (
        layers.MultiHeadAttention(1, 2, attention_axes=-1),
        (x(2, 3, 4), x(2, 3, 4)),
        {},
        "`attention_axes` of MultiHeadAttention must be distinct axes between the batch and the features, got -1 "
        "for a query of shape (2, 3, 4); give axes from 1 to 1.",
    ),
    (
        layers.MultiHeadAttention(1, 2, attention_axes=1.5),
        (x(2, 3, 4), x(2, 3, 4)),
        {},
        "`attention_axes` of MultiHeadAttention must be distinct axes between the batch and the features, got 1.5 "
        "for a query of shape (2, 3, 4); give axes from 1 to 1.",
    ),
    (
        layers.PReLU(shared_axes=(0, 1)),
        (x(2, 3, 4),),
        {},
        "`shared_axes` of PReLU must be axes from 1 to 2 of inputs of shape (2, 3, 4), got (0, 1); leave out the "
        "batch axis, and count from the front.",
    ),
    (
        layers.PReLU(shared_axes="1"),
        (x(2, 3, 4),),
        {},
        "`shared_axes` of PReLU must be axes from 1 to 2 of inputs of shape (2, 3, 4), got ('1',); leave out the "
        "batch axis, and count from the front.",
    ),
    (
        layers.Softmax(axis="last"),
        (x(2, 3),),
        {},
        "`axis` of Softmax must name different axes of its inputs, got last for inputs of shape (2, 3); "
        "give axes from -2 to 1.",
    ),
    (
        layers.LayerNormalization(axis=1.0),
        (x(2, 3),),
        {},
        "`axis` of LayerNormalization must name different axes of its inputs, got 1.0 for inputs of shape (2, 3); "
        "give axes from -2 to 1.",
    ),
    (
        layers.BatchNormalization(3),
        (x(2, 3, 4),),
        {},
        "`axis` of BatchNormalization must name different axes of its inputs, got 3 for inputs of shape (2, 3, 4); "
        "give axes from -3 to 2.",
    ),
    (
        layers.GroupNormalization(4),
        (x(2, 6),),
        {},
        "`groups` of GroupNormalization must divide the number of channels, on an axis other than the batch, got 4 "
        "for axis -1 of shape (2, 6); give a divisor of 6, or another axis.",
    ),
    (
        layers.Conv2D(4, 1, groups=2),
        (x(1, 2, 2, 3),),
        {},
        "Conv2D takes inputs whose channels are a multiple of `groups`=2, got 3 channels; change `groups`.",
    ),
    (
        layers.Conv2D(2, (1, 5)),
        (x(1, 4, 4, 3),),
        {},
        "Conv2D with padding='valid' has a window of 5 positions on axis 2, got inputs of shape (1, 4, 4, 3); "
        "make `kernel_size` smaller, or use padding='same'.",
    ),
    (
        layers.Conv1DTranspose(2, 2, padding="same", output_padding=0),
        (x(1, 1, 3),),
        {},
        "Conv1DTranspose with padding='same' and output_padding=(0,) leaves no output on axis 1 of inputs of shape "
        "(1, 1, 3); give larger inputs, or output_padding=None.",
    ),
    (
        layers.AdaptiveAveragePooling1D(2),
        (x(1, 0, 2),),
        {},
        "AdaptiveAveragePooling1D takes inputs of at least 1 position on axis 1, got shape (1, 0, 2); leave empty "
        "inputs out.",
    ),
    (
        layers.EinsumDense("abc,cd->abd", (5, 4)),
        (x(2, 3, 6),),
        {},
        "`output_shape` of EinsumDense must have the sizes of the output's letters after the batch and agree with "
        "the inputs, got (5, 4) for 'abc,cd->abd' and inputs of shape (2, 3, 6); give None for sizes that the "
        "inputs determine.",
    ),
    (
        layers.Lambda(jnp.sin, output_shape=4),
        (x(2, 3),),
        {},
        "The outputs of Lambda must have the shape (None, 4) of `output_shape`, got (2, 3); correct "
        "`output_shape`, or leave it out, because the shape is inferred.",
    ),
    (
        layers.Embedding(5, 2),
        (np.array([[-1, 0]]),),
        {},
        "Embedding takes integers from 0 to 4, got integers from -1 to 0; give a larger `input_dim`, or map "
        "unknown values to a reserved integer.",
    ),
    (
        layers.Add(),
        (x(2, 3),),
        {},
        "Add merges a list of at least 1 array, got inputs of type ndarray; give a list such as [a, b].",
    ),
    (
        layers.Subtract(),
        ([x(2, 3)],),
        {},
        "Subtract merges a list of exactly 2 arrays, got 1; give a list such as [a, b].",
    ),
    (
        layers.Multiply(),
        ([x(2, 3), x(2, 4)],),
        {},
        "Multiply merges arrays whose sizes are equal or 1 on every axis, got shapes [(2, 3), (2, 4)]; reshape them to "
        "agree on axis 1.",
    ),
    (
        layers.Concatenate(),
        ([x(2, 3), x(3, 3)],),
        {},
        "Concatenate concatenates arrays that differ only on `axis`=-1, got shapes [(2, 3), (3, 3)]; reshape them, "
        "or choose another axis.",
    ),
    (
        layers.Dot(1),
        ([x(2, 3), x(2, 4)],),
        {},
        "Dot takes two arrays of equal batch size and contracts one axis of each; these axes must have the same "
        "size, got shapes (2, 3) and (2, 4) with `axes`=1; reshape them, or choose other axes.",
    ),
    (
        layers.Dropout(0.5, (2, 2)),
        (x(4, 2),),
        {"train": True},
        "`noise_shape` of Dropout must have 1 or the inputs' size on each axis, got (2, 2) for inputs of shape (4, "
        "2); give None for the inputs' size, and 1 to share the mask along an axis.",
    ),
    (
        layers.Flatten(),
        (np.float32(1),),
        {},
        "Flatten takes inputs of at least 1 axis [B, ...], got shape (); add the batch axis.",
    ),
    (
        layers.Reshape((3, 4)),
        (x(2, 5),),
        {},
        "Reshape needs 12 values in each example for `target_shape`=(3, 4), got inputs of shape (2, 5); give a "
        "shape of the same size.",
    ),
    (
        layers.Cropping1D((1, 2)),
        (x(2, 3, 1),),
        {},
        "Cropping1D must leave at least 1 position on each axis, got cropping=(1, 2) for inputs of shape (2, 3, "
        "1); crop less of axis 1.",
    ),
    # Abstract base classes
    (merge.Merge(), ([x(2, 3)],), {}, "Merge does not implement `merge`; use a subclass such as Add."),
    (
        merge.Extremum(),
        ([x(2, 3), x(2, 3)],),
        {},
        "Extremum does not implement `choose`; use Maximum or Minimum.",
    ),
]


@pytest.mark.parametrize("layer, args, kwargs, sentence", CALLED, ids=[case[3][:60] for case in CALLED])
def test_error_messages_of_calls(layer, args, kwargs, sentence):
    refuses(lambda: call(layer, *args, **kwargs), sentence)


def test_inputs_that_do_not_fit_the_variables_name_the_layer_by_its_scope():
    variables = {"params": {"dense": {"kernel": x(3, 2), "bias": x(2)}}}
    refuses(
        lambda: Sequential([layers.Dense(2)]).apply(variables, x(5, 4)),
        "`kernel` of Dense 'dense' has shape (3, 2), but inputs of this size need (4, 2); "
        "give inputs of the size that the variables were made for, or call `init` again.",
    )


def test_activity_regularizer_of_outputs_without_a_batch():
    refuses(
        lambda: layers.ActivityRegularization(0.1).apply({}, np.float32(1), mutable=["losses"]),
        "ActivityRegularization divides the loss on its outputs by the number of examples, got outputs of shape (); "
        "give inputs with an axis for the batch, or leave the regularizer out.",
    )


def test_a_traced_training_flag_explains_static_argnames():
    refuses(
        lambda: jax.jit(lambda train: layers.ReLU().apply({}, x(2), train=train))(True),
        "`train` of ReLU must be True or False, got a traced value; "
        'under jax.jit, fix it with functools.partial or static_argnames="train".',
    )


def test_unusual_but_valid_calls():
    call(layers.Dense(np.int64(3), use_bias=1), np.float32([[1.0]]))
    call(layers.Dropout(np.float32(0.5)), x(2, 3), train=True)
    call(layers.LeakyReLU(jnp.float32(0.5)), x(2, dtype=np.int32), train=np.bool_(True))
    call(layers.LSTM(2, bias_initializer=None), x(2, 3, 4))
    call(layers.BatchNormalization(moving_mean_initializer=None), x(2, 3))
    call(layers.MultiHeadAttention(2, 2), x(2, 3, 4), x(2, 5, 4), attention_mask=x(3, 5))
    call(layers.Add(), [x(2, 3), x(2, 3)], mask=[x(2, 3), x(2, dtype=np.int32)])
    call(layers.Dense(3, kernel_initializer=initializers.Constant(np.ones((4, 3)))), x(2, 4))
    assert layers.Attention().apply({}, [x(2, 3, 4), x(2, 5, 4)], mask=[x(2, 3), x(2, 5)]).shape == (2, 3, 4)
