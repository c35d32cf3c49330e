"""Attention layers, compared with float64 loops and Keras: masks, dropout, precision, models and errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, interop, layers
from tests.support.layer_oracle import assert_arguments, assert_as_keras, numbers, truths
from tests.support.spatial_oracle import near, refuses


def softmax(scores, keep=None):
    """Returns the softmax along the last axis in float64; 0 where everything is masked."""
    keep = np.ones(scores.shape, bool) if keep is None else np.broadcast_to(keep, scores.shape)
    weights = np.where(keep, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)


def started(layer, *arrays, **call):
    """Returns variables with random weights."""
    variables = layer.init(jax.random.key(0), *arrays, **call)
    weights = interop.get_keras_weights(layer, variables)
    return interop.set_keras_weights(layer, variables, [numbers(i, *w.shape) / 2 for i, w in enumerate(weights)])


# ---------------------------------------------------------------- Attention and AdditiveAttention

Q, V, K = numbers(0, 2, 3, 4), numbers(1, 2, 5, 6), numbers(2, 2, 5, 4)


def test_attention_by_hand():
    value = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
    y, weights = layers.Attention().apply({}, [np.log(3) * value, value], return_attention_scores=True)
    near(weights, [[[0.75, 0.25], [0.25, 0.75]]])
    near(y, [[[0.75, 0.25], [0.25, 0.75]]])


@pytest.mark.parametrize(("mode", "use_scale"), list(itertools.product(("dot", "concat", "additive"), (False, True))))
def test_scores_by_a_loop(mode, use_scale):
    if mode == "additive":
        layer = layers.AdditiveAttention(use_scale)
    else:
        layer = layers.Attention(use_scale, mode)
    variables = started(layer, [Q, V, K])
    weights = {name: np.asarray(w, np.float64) for name, w in variables.get("params", {}).items()}
    assert sorted(weights) == ["concat_score_weight"] * (mode == "concat") + ["scale"] * use_scale
    scale, outer = weights.get("scale", 1.0), weights.get("concat_score_weight", 1.0)
    score = {
        "dot": lambda q, k: scale * (q @ k),
        "concat": lambda q, k: outer * np.tanh(scale * (q + k)).sum(),
        "additive": lambda q, k: (scale * np.tanh(q + k)).sum(),
    }[mode]
    q64, k64 = Q.astype(np.float64), K.astype(np.float64)
    scores = np.array([[[score(q, k) for k in keys] for q in queries] for queries, keys in zip(q64, k64, strict=True)])
    y, got = layer.apply(variables, [Q, V, K], return_attention_scores=True)
    near(got, softmax(scores))
    near(y, softmax(scores) @ V)


def test_masks_by_a_loop():
    masks = [truths(5, 2, 3), truths(6, 2, 5)]
    y, weights = map(
        np.asarray,
        layers.Attention().apply(
            {}, [Q, V, K], mask=[jnp.asarray(m) for m in masks], return_attention_scores=True, use_causal_mask=True
        ),
    )
    keep = masks[1][:, None] & (np.arange(3)[:, None] >= np.arange(5))
    wanted = softmax(Q.astype(np.float64) @ K.swapaxes(1, 2), keep)
    seen = keep.any(-1)
    near(weights[seen], wanted[seen])
    near(y, np.where((masks[0] & seen)[..., None], wanted @ V, np.where(masks[0], ~seen, False)[..., None] * y))
    assert (np.asarray(y)[~masks[0]] == 0).all()


def test_the_output_has_the_querys_mask():
    masks = [jnp.asarray(truths(5, 2, 3)), None]
    for layer in (layers.Attention(), layers.AdditiveAttention(use_scale=False)):
        assert layer.apply({}, [Q, K], mask=masks, method="outputs_and_mask")[1] is masks[0]
        _, mask = layer.apply({}, [Q, K], True, mask=masks, method="outputs_and_mask")
        assert mask[0] is masks[0]
        assert mask[1] is None


def test_masks_of_inputs_with_four_axes():
    q, v, mask = numbers(0, 2, 3, 4, 5), numbers(1, 2, 3, 6, 5), truths(2, 2, 6)
    y = layers.Attention().apply({}, [q, v], mask=[None, jnp.asarray(mask)])
    for head in range(3):
        alone = layers.Attention().apply({}, [q[:, head], v[:, head]], mask=[None, jnp.asarray(mask)])
        near(y[:, head], alone)


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("given", [(False, False), (True, True), (False, True)])
def test_as_keras(name, causal, given):
    call = {"return_attention_scores": True, "use_causal_mask": causal}
    masks = [truths(5, 2, 3) if given[0] else None, truths(6, 2, 5) if given[1] else None]
    if any(given):
        call["mask"] = masks
    assert_as_keras(name, {"use_scale": True, "dropout": 0.3}, [Q, K, K] if causal else [Q, K], call, train=False)


def test_concat_as_keras():
    assert_as_keras("Attention", {"use_scale": True, "score_mode": "concat"}, [Q, V, K], {}, train=True)


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
def test_a_query_for_all_examples_as_keras(name):
    keep = np.array([[True, True, False, True, False], [True] * 5])
    assert_as_keras(name, {}, [Q[:1], V[..., :4]], train=False)
    assert_as_keras(name, {"use_scale": True}, [Q, V[:1], K], train=False)
    layer = getattr(layers, name)()
    variables = started(layer, [Q, V[..., :4]])
    y = layer.apply(variables, [Q[:1], V[..., :4]], mask=[None, jnp.asarray(keep)])
    repeated = layer.apply(variables, [Q[[0, 0]], V[..., :4]], mask=[None, jnp.asarray(keep)])
    near(y, repeated)


def test_a_query_whose_keys_are_all_masked_equals_keras():
    masks = [None, np.array([[False] * 5, [True] * 5])]
    assert_as_keras("Attention", {}, [Q, V, K], {"mask": masks}, train=False)


# ---------------------------------------------------------------- MultiHeadAttention, compared with a loop


def loop(params, query, value, key, keep=None, heads=None):
    """Computes outputs and weights in float64, one head at a time; each group of query heads shares keys and values."""
    p = {name: {k: np.asarray(w, np.float64) for k, w in part.items()} for name, part in params.items()}

    def projected(name, x, head):
        return x.astype(np.float64) @ p[name]["kernel"][:, head] + p[name]["bias"][head]

    count, groups = p["query"]["kernel"].shape[1], p["key"]["kernel"].shape[1]
    outputs, all_weights = p["attention_output"]["bias"], []
    for head in range(count):
        shared = head * groups // count
        q, k, v = projected("query", query, head), projected("key", key, shared), projected("value", value, shared)
        weights = softmax(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]), keep)
        mixed = weights @ v
        if "gate" in p:
            mixed = mixed / (1 + np.exp(-projected("gate", query, head)))
        outputs = outputs + np.tensordot(mixed, p["attention_output"]["kernel"][head], 1)
        all_weights.append(weights)
    return outputs, np.stack(all_weights, 1)


@pytest.mark.parametrize("use_gate", [False, True])
@pytest.mark.parametrize("output_shape", [None, 3, (2, 3)])
def test_heads_by_a_loop(use_gate, output_shape):
    layer = layers.MultiHeadAttention(2, 3, 5, output_shape=output_shape, use_gate=use_gate)
    variables = started(layer, Q, V, K)
    wanted, weights = loop(variables["params"], Q, V, K)
    y, got = layer.apply(variables, Q, V, K, return_attention_scores=True)
    near(y, wanted)
    near(got, weights)
    near(layer.apply(variables, Q, V, key=K), wanted)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_by_a_loop(groups):
    layer = layers.GroupQueryAttention(3, 4, groups, use_gate=True)
    variables = started(layer, Q, V, K)
    wanted, weights = loop(variables["params"], Q, V, K)
    y, got = layer.apply(variables, Q, V, K, return_attention_scores=True)
    near(y, wanted)
    near(got, weights)


HEADS = {
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 3},
    "GroupQueryAttention": {"head_dim": 3, "num_query_heads": 2, "num_key_value_heads": 1},
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("scores", [False, True])
def test_all_masks_together_by_a_loop(name, scores):
    """Checks queries with at least one visible key; the others are compared with Keras below."""
    layer = getattr(layers, name)(**HEADS[name], sliding_window=3)
    variables = started(layer, Q, V, K)
    of_query, of_value, of_key, of_pairs = (
        truths(3, 2, 3),
        truths(4, 2, 5, share=0.9),
        truths(5, 2, 5),
        truths(6, 2, 3, 5),
    )
    distance = np.arange(3)[:, None] - np.arange(5)
    keep = (
        of_query[..., None] & of_value[:, None] & of_key[:, None] & of_pairs & (distance >= 0) & (np.abs(distance) < 3)
    )
    wanted, weights = loop(variables["params"], Q, V, K, keep)
    masks = {"query_mask": of_query, "value_mask": of_value, "key_mask": of_key, "attention_mask": of_pairs}
    call = {name: jnp.asarray(mask) for name, mask in masks.items()}
    y = layer.apply(variables, Q, V, K, use_causal_mask=True, return_attention_scores=scores, **call)
    seen = keep.any(-1)
    assert 0 < seen.sum() < seen.size
    if scores:
        near(y[1], weights)
        near(y[0], wanted)
    else:
        near(np.asarray(y)[seen], wanted[seen])
    # A list of masks has the same effect.
    named = {name: mask for name, mask in call.items() if name == "attention_mask"}
    listed = [call[f"{name}_mask"] for name in ("query", "value", "key")]
    again = layer.apply(variables, Q, V, K, mask=listed, use_causal_mask=True, return_attention_scores=scores, **named)
    for a, b in zip(jax.tree.leaves(y), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_attention_along_one_of_two_axes():
    """Along axis 1 of [B, T, W, F], each of the W columns attends separately; masks and causality use that axis."""
    q, v = numbers(0, 2, 3, 4, 5), numbers(1, 2, 6, 4, 5)
    layer = layers.MultiHeadAttention(2, 3, attention_axes=1)
    variables = started(layer, q, v)
    mask = truths(2, 2, 6, 4)
    y, weights = layer.apply(
        variables, q, v, value_mask=jnp.asarray(mask), use_causal_mask=True, return_attention_scores=True
    )
    for column in range(4):
        keep = mask[:, None, :, column] & (np.arange(3)[:, None] >= np.arange(6))
        wanted, wanted_weights = loop(variables["params"], q[:, :, column], v[:, :, column], v[:, :, column], keep)
        near(y[:, :, column], wanted)
        near(weights[:, column], wanted_weights)


def test_attention_along_two_axes_equals_attention_along_the_flattened_axis():
    q, v, mask = numbers(0, 2, 3, 4, 5), numbers(1, 2, 2, 3, 5), truths(2, 2, 2, 3)
    layer = layers.MultiHeadAttention(2, 3)
    variables = started(layer, q, v)
    y, weights = layer.apply(variables, q, v, value_mask=jnp.asarray(mask), return_attention_scores=True)
    flat = [x.reshape(2, -1, 5) for x in (q, v, v)]
    wanted, wanted_weights = loop(variables["params"], *flat, mask.reshape(2, 1, 6))
    near(y, wanted.reshape(2, 3, 4, 5))
    near(weights, wanted_weights.reshape(2, 2, 3, 4, 2, 3))


# ---------------------------------------------------------------- Keras

MASKED = [
    {},
    {"use_causal_mask": True},
    {"attention_mask": truths(0, 2, 3, 5)},
    {"attention_mask": truths(1, 3, 5).astype(np.float32), "value_mask": truths(2, 2, 5)},
    {"value_mask": np.array([[False] * 5, [True] * 5]), "use_causal_mask": True},
]
VALUE = numbers(1, 2, 5, 4)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("masks", MASKED)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3}),
        ("GroupQueryAttention", {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2}),
    ],
)
def test_masks_as_keras(name, config, masks, scores):
    call = {"value": VALUE, "return_attention_scores": scores, **masks}
    assert_as_keras(name, config, Q, call, train=False)


@pytest.mark.rotate
@pytest.mark.parametrize(
    ("config", "query", "value"),
    [
        ({"value_dim": 2, "use_bias": False, "dropout": 0.2}, (2, 3, 4), (2, 5, 6)),
        ({"attention_axes": -2, "use_gate": True}, (2, 2, 3, 4), (2, 2, 5, 4)),
        ({"attention_axes": (2, 3), "output_shape": (2, 2)}, (2, 2, 3, 2, 4), (2, 2, 2, 3, 4)),
        ({"value_dim": 2}, (2, 3, 2, 4), (2, 5, 1, 6)),
        ({"sliding_window": 2}, (2, 3, 4), (2, 5, 4)),
    ],
)
def test_multi_head_attention_as_keras(config, query, value):
    config = {"num_heads": 2, "key_dim": 3, **config}
    assert_as_keras("MultiHeadAttention", config, numbers(0, *query), {"value": numbers(1, *value)}, train=False)


def test_the_querys_mask_as_keras():
    for dropout in (0.0, 0.1):
        config = {"num_heads": 2, "key_dim": 3, "dropout": dropout}
        assert_as_keras("MultiHeadAttention", config, Q, {"value": VALUE}, train=False, masks=truths(7, 2, 3))


def test_arguments_equal_those_of_keras():
    assert_arguments("Attention")
    assert_arguments("AdditiveAttention", more=["seed"])
    assert_arguments("MultiHeadAttention")
    assert_arguments("GroupQueryAttention")


def test_activity_losses_as_keras():
    import keras

    for name, config in (
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3}),
        ("GroupQueryAttention", {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2}),
    ):
        config = {**config, "activity_regularizer": "l2", "kernel_regularizer": "l1", "bias_regularizer": "l2"}
        layer = getattr(layers, name)(**config)
        variables = started(layer, Q, VALUE)
        _, state = layer.apply(variables, Q, VALUE, mutable=["losses"])
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            theirs = getattr(keras.layers, name)(**config)
            theirs(Q, VALUE)
            theirs.set_weights(interop.get_keras_weights(layer, variables))
            theirs(Q, VALUE)
            wanted = sum(map(float, theirs.losses))
        assert sum(map(float, jax.tree.leaves(state["losses"]))) == pytest.approx(wanted, rel=1e-5)


# ---------------------------------------------------------------- dropout

DROPPING = {
    "Attention": lambda **c: (layers.Attention(dropout=0.4, **c), [Q, K]),
    "AdditiveAttention": lambda **c: (layers.AdditiveAttention(False, dropout=0.4, **c), [Q, K]),
    "MultiHeadAttention": lambda **c: (layers.MultiHeadAttention(2, 3, dropout=0.4, **c), Q),
    "GroupQueryAttention": lambda **c: (layers.GroupQueryAttention(3, 4, 2, dropout=0.4, **c), Q),
}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_is_for_training_with_a_key_or_seed(name):
    layer, inputs = DROPPING[name]()
    more = {} if isinstance(inputs, list) else {"value": VALUE}
    variables = started(layer, inputs, **more)

    def trained(layer, **rngs):
        return np.asarray(layer.apply(variables, inputs, **more, train=True, **rngs))

    keys = [{"rngs": {"dropout": jax.random.key(i)}} for i in range(2)]
    quiet = layer.apply(variables, inputs, **more)
    assert (trained(layer, **keys[0]) == trained(layer, **keys[0])).all()
    assert (trained(layer, **keys[0]) != trained(layer, **keys[1])).any()
    assert (trained(layer, **keys[0]) != quiet).any()
    seeded, _ = DROPPING[name](seed=3)
    assert (trained(seeded) == trained(seeded)).all()
    with refuses(
        f"{name} needs a random key in training, got none; "
        'pass `rngs={"dropout": key}` to `apply`, or give the layer a `seed`.'
    ):
        trained(layer)


def test_dropout_of_the_weights_by_hand():
    layer = layers.Attention(dropout=0.5, seed=1)
    y, weights = layer.apply({}, [np.zeros((1, 50, 1), np.float32)] * 2, return_attention_scores=True, train=True)
    assert np.unique(np.asarray(weights).round(6)).tolist() == pytest.approx([0.0, 0.04])
    layer = layers.MultiHeadAttention(1, 2, dropout=0.5, seed=1)
    variables = started(layer, Q, VALUE)
    _, weights = layer.apply(variables, Q, VALUE, return_attention_scores=True, train=True)
    # As in Keras, the returned weights are those before dropout.
    np.testing.assert_allclose(weights.sum(-1), np.ones((2, 1, 3)), rtol=1e-5)


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("name", DROPPING)
def test_softmax_of_bfloat16_is_computed_in_float32(name):
    layer, inputs = DROPPING[name](dtype="mixed_bfloat16")
    keys = np.zeros((2, 900, 4), np.float32)
    inputs = [Q, keys] if isinstance(inputs, list) else inputs
    more = {} if isinstance(inputs, list) else {"value": keys}
    variables = layer.init(jax.random.key(0), inputs, **more)
    y, weights = layer.apply(variables, inputs, return_attention_scores=True, **more)
    assert (y.dtype, weights.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {w.dtype for w in jax.tree.leaves(variables)} <= {jnp.dtype("float32")}
    if name != "AdditiveAttention":  # 900 equal weights: a sum of ones in bfloat16 would stop at 256
        np.testing.assert_array_equal(np.unique(np.asarray(weights)), np.asarray([1 / 900], jnp.bfloat16))


# ---------------------------------------------------------------- in models


def test_masks_of_a_model_reach_query_and_value():
    query, value = Input((3,), dtype="int32"), Input((4,), dtype="int32")
    embedding = layers.Embedding(5, 4, mask_zero=True)
    attention = layers.MultiHeadAttention(2, 3)
    outputs = attention(embedding(query), embedding(value), use_causal_mask=True)
    model = Model([query, value], outputs)
    ids = [jnp.array([[1, 2, 0]]), jnp.array([[3, 0, 4, 1]])]
    variables = started(model, ids)
    y, mask = model.apply(variables, ids, method="outputs_and_mask")
    matrix, params = variables["params"]["embedding"]["embedding"], variables["params"]["multi_head_attention"]
    q, v = np.asarray(matrix)[np.asarray(ids[0])], np.asarray(matrix)[np.asarray(ids[1])]
    keep = np.array([[3, 0, 4, 1]])[:, None] != 0
    keep = keep & (np.arange(3)[:, None] >= np.arange(4))
    wanted, _ = loop(params, q, v, v, keep)
    near(np.asarray(y)[:, :2], wanted[:, :2])
    assert mask.tolist() == [[True, True, False]]


def test_scores_in_a_model():
    query, value = Input((3, 4)), Input((None, 4))
    y, weights = layers.MultiHeadAttention(2, 3)(query, value, return_attention_scores=True)
    assert (y.shape, weights.shape) == ((None, 3, 4), (None, 2, 3, None))
    y = layers.Attention()([query, value])
    assert y.shape == (None, 3, 4)


def test_weights_are_in_keras_order():
    import keras

    config = {"num_heads": 2, "key_dim": 3, "value_dim": 5, "use_gate": True}
    layer = layers.MultiHeadAttention(**config)
    ours = interop.get_keras_weights(layer, layer.init(jax.random.key(0), Q, V, K))
    theirs = keras.layers.MultiHeadAttention(**config)
    theirs.build(Q.shape, V.shape, K.shape)
    assert [w.shape for w in ours] == [w.shape for w in theirs.get_weights()]


# ---------------------------------------------------------------- errors

HALF = {"dtype": "bfloat16", "flash_attention": True}


@pytest.mark.parametrize(
    ("make", "args", "call", "sentence"),
    [
        (
            lambda: layers.Attention(score_mode="sum"),
            (),
            {},
            '`score_mode` of Attention must be "dot" or "concat", got \'sum\'; choose one.',
        ),
        (
            lambda: layers.AdditiveAttention(dropout=2),
            (),
            {},
            "`dropout` of AdditiveAttention must be a number in [0, 1], got 2; give, for example, 0.",
        ),
        (
            lambda: layers.Attention(),
            ([Q],),
            {},
            "Attention takes a list of 2 or 3 inputs, got 1; give [query, value, key].",
        ),
        (
            lambda: layers.Attention(),
            ([Q, K],),
            {"mask": jnp.ones((2, 3), bool)},
            "Attention takes a list of 2 or 3 masks, got masks of type ArrayImpl; give [query, value].",
        ),
        (
            lambda: layers.MultiHeadAttention(0, 3),
            (),
            {},
            "`num_heads` of MultiHeadAttention must be a positive integer, got 0; give 1 or more.",
        ),
        (
            lambda: layers.MultiHeadAttention(2, 3, sliding_window=-1),
            (),
            {},
            "`sliding_window` of MultiHeadAttention must be a positive integer, got -1; give 1 or more.",
        ),
        (
            lambda: layers.GroupQueryAttention(2, 3, 2),
            (),
            {},
            "`num_query_heads` of GroupQueryAttention must be a multiple of `num_key_value_heads`, got 3 and 2; "
            "change one of them.",
        ),
        (
            lambda: layers.MultiHeadAttention(2, 3, dropout=0.1, flash_attention=True),
            (),
            {},
            "`flash_attention` of MultiHeadAttention requires `dropout`=0, got `dropout`=0.1; leave one of them out.",
        ),
        (
            lambda: layers.MultiHeadAttention(2, 3),
            (Q,),
            {},
            "MultiHeadAttention takes a query and a value, got no value; call layer(query, value).",
        ),
        (
            lambda: layers.MultiHeadAttention(2, 3),
            (Q, V, K[:, :4]),
            {},
            "MultiHeadAttention takes a value and a key with the same positions, and a query that differs from "
            "them only on the attention axes (1,), got shapes (2, 3, 4) for the query, (2, 5, 6) for the value and "
            "(2, 4, 4) for the key; reshape them.",
        ),
        (
            lambda: layers.MultiHeadAttention(2, 3, attention_axes=-1),
            (Q, V),
            {},
            "`attention_axes` of MultiHeadAttention must be distinct axes between the batch and the features, got "
            "-1 for a query of shape (2, 3, 4); give axes from 1 to 1.",
        ),
        (
            lambda: layers.MultiHeadAttention(2, 3),
            (numbers(0, 2, 3, 4, 5), numbers(1, 2, 3, 4, 5)),
            {"use_causal_mask": True},
            "`use_causal_mask` and `sliding_window` of MultiHeadAttention work along one attention axis, got the "
            "axes (1, 2); leave both out, or give one attention axis.",
        ),
        (
            lambda: layers.GroupQueryAttention(3, 2, 1),
            (numbers(0, 2, 3, 4, 5), numbers(1, 2, 3, 4, 5)),
            {},
            "GroupQueryAttention takes inputs of 3 axes [B, T, F], got shape (2, 3, 4, 5); remove an axis, or use a "
            "layer for 4 axes.",
        ),
    ],
)
def test_error_messages(make, args, call, sentence):
    with refuses(sentence):
        layer = make()
        layer.init(jax.random.key(0), *args, **call)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there it works")
def test_flash_attention_raises_without_a_gpu():
    with refuses(
        "`flash_attention` of MultiHeadAttention works on a GPU, in bfloat16 or float16, along one axis and without "
        "returning scores, got 'cpu', bfloat16, 1 axes and `return_attention_scores`=False; leave "
        "`flash_attention` out."
    ):
        layers.MultiHeadAttention(2, 8, **HALF).init(jax.random.key(0), Q, VALUE)


@pytest.mark.gpu
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_flash_attention_equals_attention(causal, masked):
    query, value = numbers(0, 2, 64, 32), numbers(1, 2, 64, 32)
    call = {"use_causal_mask": causal} | ({"value_mask": jnp.asarray(truths(2, 2, 64))} if masked else {})
    flash, plain = (layers.MultiHeadAttention(2, 64, **{**HALF, "flash_attention": f}) for f in (True, None))
    variables = plain.init(jax.random.key(0), query, value)
    near(
        flash.apply(variables, query, value, **call).astype(jnp.float32),
        plain.apply(variables, query, value, **call).astype(jnp.float32),
        tolerance=0.03,
    )
