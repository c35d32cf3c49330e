"""Models pass the training flag, masks, losses, weights and dtypes to and from their layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.inspection import weights_of
from flaxmodels.layers.base import Layer
from tests.support.model_parts import KEY, Forget, Mode, SetUp, Steps, X

# ---------------------------------------------------------------- train


def test_train_reaches_every_layer():
    x = Input((3,))
    inner = Model(x, Mode(step=10.0)(x))
    stack = Sequential([Mode(step=1.0), Sequential([Mode(step=100.0)]), inner])
    assert (stack.apply({}, X, train=True) - X).tolist() == np.full((2, 3), 111.0).tolist()
    assert (stack.apply({}, X) - X).tolist() == np.zeros((2, 3)).tolist()


def test_train_given_in_a_call_is_kept():
    x = Input((3,))
    frozen = Sequential([Mode(step=1.0), Sequential([Mode(step=2.0)])])
    y = Mode(step=20.0)(Mode(step=10.0)(frozen(x, train=False)), train=True)
    model = Model(x, y)
    assert float((model.apply({}, X, train=True) - X)[0, 0]) == 30
    assert float((model.apply({}, X) - X)[0, 0]) == 20


def test_dropout_keys_reach_layers():
    model = Sequential([layers.Dropout(0.5), Sequential([layers.Dropout(0.5)])])
    ones = jnp.ones((1, 400))
    a, b = (model.apply({}, ones, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert 60 < int((a > 0).sum()) < 140 and not np.array_equal(a, b)  # a quarter of the 400 elements is kept


# ---------------------------------------------------------------- masks

SEQUENCES = jnp.array([[[1.0], [1], [0], [0]], [[1], [1], [1], [0]]])


@pytest.mark.parametrize(
    ("stack", "counts"),
    [
        ([layers.Masking(), Steps()], [2, 3]),
        ([Sequential([layers.Masking()]), Steps()], [2, 3]),
        ([layers.Masking(), Sequential([layers.Dense(2), Sequential([Steps()])])], [2, 3]),
        ([layers.Masking(), Forget(), Steps()], [-1, -1]),
        ([Steps()], [-1, -1]),
    ],
)
def test_masks_are_passed_on(stack, counts):
    model = Sequential(stack)
    assert model.apply(model.init(KEY, SEQUENCES), SEQUENCES)[:, 0, 0].tolist() == counts
    x = y = Input((4, 1))
    for layer in [layer.clone() for layer in stack]:
        y = layer(y)
    model = Model(x, y)
    assert model.apply(model.init(KEY, SEQUENCES), SEQUENCES)[:, 0, 0].tolist() == counts


def test_mask_as_an_argument():
    mask = jnp.array([[True] * 4, [True, False, False, False]])
    x, a, b = (Input((4, 1), name=name) for name in "xab")
    assert Sequential([Steps()]).apply({}, SEQUENCES, mask=mask)[:, 0, 0].tolist() == [4, 1]
    assert Model(x, Steps()(x)).apply({}, SEQUENCES, mask=mask)[:, 0, 0].tolist() == [4, 1]
    two = Model([a, b], [Steps()(a), Steps()(b)])
    for masks in ([None, mask], {"a": None, "b": mask}):
        first, second = two.apply({}, [SEQUENCES, SEQUENCES], mask=masks)
        assert (first[:, 0, 0].tolist(), second[:, 0, 0].tolist()) == ([-1, -1], [4, 1])


def test_mask_as_a_symbol():
    x, mask = Input((4, 1)), Input((4,), dtype="bool")
    keep = jnp.array([[True] * 4, [False] * 4])
    for layer in (Steps(), Sequential([Steps()]), Model(x, Steps()(x))):
        model = Model([x, mask], layer(layers.Masking()(x), mask=mask))
        assert model.apply({}, [SEQUENCES, keep])[:, 0, 0].tolist() == [4, 0]


def test_masks_of_several_outputs():
    x = Input((4, 1))
    masked = layers.Masking()(x)
    out, masks = Model(x, {"a": masked, "b": x}).apply({}, SEQUENCES, method="outputs_and_mask")
    assert masks["b"] is None
    assert masks["a"].sum(1).tolist() == [2, 3]
    out, mask = Sequential([layers.Masking()]).apply({}, SEQUENCES, method="outputs_and_mask")
    assert mask.sum(1).tolist() == [2, 3]


def test_masked_recurrence_ignores_masked_steps():
    model = Sequential([layers.Masking(), layers.LSTM(3)])
    data = jax.random.normal(KEY, (2, 5, 2)).at[1, 3:].set(0)
    variables = model.init(KEY, data)
    alone = layers.LSTM(3).apply({"params": variables["params"]["lstm"]}, data[1:, :3])
    np.testing.assert_allclose(model.apply(variables, data)[1:], alone, atol=1e-6)


def test_masks_of_merged_inputs():
    x = Input((4, 1))
    both = layers.Concatenate()([layers.Masking()(x), layers.Masking()(x)])
    assert Model(x, Steps()(both)).apply({}, SEQUENCES)[:, 0, 0].tolist() == [2, 3]


def test_masks_of_further_arguments():
    """The mask of the value hides its steps from the query."""
    x, values = Input((2, 3)), Input((4, 3))
    attention = layers.MultiHeadAttention(1, 2)
    data = jax.random.normal(KEY, (1, 4, 3)).at[:, 2:].set(0)
    query = jax.random.normal(KEY, (1, 2, 3))
    for call in (lambda v: attention(x, v), lambda v: attention(query=x, value=v)):
        model = Model([x, values], call(layers.Masking()(values)))
        variables = model.init(KEY, [query, data])
        alone = attention.apply({"params": variables["params"]["multi_head_attention"]}, query, data[:, :2])
        np.testing.assert_allclose(model.apply(variables, [query, data]), alone, atol=1e-6)


# ---------------------------------------------------------------- losses


def losses_of(model, variables, inputs, **collections):
    return model.apply({**variables, **collections}, inputs, mutable=["losses"])[1].get("losses", {})


def test_shared_layer_is_regularized_once():
    x = Input((3,))
    shared = layers.Dense(3, kernel_initializer="ones", kernel_regularizer="l2")
    model = Model(x, shared(shared(x)))
    variables = model.init(KEY, X)
    assert set(variables) == {"params"}
    found = losses_of(model, variables, X)
    np.testing.assert_allclose(jax.tree.leaves(found), [0.09], rtol=1e-6)
    assert list(found) == ["dense"]


def test_regularizers_of_nested_layers():
    model = Sequential([Sequential([layers.Dense(2, "relu", kernel_initializer="ones", kernel_regularizer="l1")])])
    found = losses_of(model, model.init(KEY, X), X)
    np.testing.assert_allclose(found["sequential"]["dense"]["kernel"], 0.06, rtol=1e-6)


def test_activity_losses_add_up_over_calls_and_divide_by_the_batch():
    x = Input((3,))
    twice = layers.ActivityRegularization(l1=1.0)
    model = Model(x, twice(twice(x)))
    assert model.init(KEY, X) == {}
    # 0 + 1 + ... + 5 = 15, over 2 examples, in 2 calls
    assert float(losses_of(model, {}, X)["activity_regularization"]["activity"]) == 15


def test_activity_losses_ignore_padding():
    model = Sequential([layers.Dense(3, activity_regularizer="l2")])
    variables = model.init(KEY, X)
    padded = jnp.concatenate([X, jnp.full((3, 3), 100.0)])
    valid = jnp.array([True, True, False, False, False])
    found = losses_of(model, variables, padded, batch={"valid": valid})
    np.testing.assert_allclose(
        found["dense"]["activity"], losses_of(model, variables, X)["dense"]["activity"], rtol=1e-6
    )
    none = losses_of(model, variables, padded, batch={"valid": valid & False})
    assert float(none["dense"]["activity"]) == 0


def test_activity_losses_ignore_padding_with_time_in_the_batch():
    class Folded(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.ActivityRegularization(l1=1.0, name="a")(x.reshape(-1, x.shape[-1]))

    x = jnp.arange(12.0).reshape(2, 3, 2)
    found = losses_of(Folded(), {}, x, batch={"valid": jnp.array([True, False])})
    assert float(found["a"]["activity"]) == (0 + 1 + 2 + 3 + 4 + 5) / 3


def test_activity_losses_match_keras():
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activity_regularizer="l2")])
        weights = theirs.get_weights()
        theirs(np.asarray(X))
        expected = float(sum(theirs.losses))
    model = Sequential([layers.Dense(2, activity_regularizer="l2")])
    params = {"dense": dict(zip(("kernel", "bias"), map(jnp.asarray, weights), strict=True))}
    np.testing.assert_allclose(losses_of(model, {"params": params}, X)["dense"]["activity"], expected, rtol=1e-5)


# ---------------------------------------------------------------- weights_of and trainable


def found_in(module, *args, **kwargs):
    return {"/".join(path): found for path, found in weights_of(module, *args, **kwargs).items()}


STRUCT = jax.ShapeDtypeStruct((2, 3), jnp.float32)
SEQUENCE = jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)


def test_weights_of_models():
    x = Input((3,))
    model = Model(x, Sequential([layers.Dense(2, kernel_constraint="non_neg")])(layers.Dense(3)(x)))
    found = found_in(model, STRUCT)
    assert sorted(found) == [
        "dense/bias",
        "dense/kernel",
        "sequential/dense/bias",
        "sequential/dense/kernel",
    ]
    layer, name = found["sequential/dense/kernel"]
    assert (name, layer.argument(name, "constraint")) == ("kernel", "non_neg")
    assert layer.argument("bias", "constraint") is None


def test_weights_of_wrappers():
    model = Sequential(
        [
            layers.Bidirectional(layers.LSTM(2, return_sequences=True, recurrent_constraint="unit_norm")),
            layers.TimeDistributed(layers.Dense(2, kernel_constraint="max_norm")),
        ]
    )
    found = found_in(model, SEQUENCE)
    constraints = {
        path: layer.argument(name, "constraint") for path, (layer, name) in found.items() if "kernel" in path
    }
    assert constraints == {
        "bidirectional/forward_layer/kernel": None,
        "bidirectional/forward_layer/recurrent_kernel": "unit_norm",
        "bidirectional/backward_layer/kernel": None,
        "bidirectional/backward_layer/recurrent_kernel": "unit_norm",
        "time_distributed/layer/kernel": "max_norm",
    }


def test_weights_of_an_embedding_have_the_name_of_the_argument():
    ids = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    layer, name = found_in(layers.Embedding(5, 2, embeddings_constraint="unit_norm"), ids)["embedding"]
    assert layer.argument(name, "constraint") == "unit_norm"


def test_weights_of_custom_modules():
    assert sorted(found_in(SetUp(), STRUCT)) == ["body/dense/bias", "body/dense/kernel", "head/dense/bias"] + [
        "head/dense/kernel"
    ]
    assert found_in(nn.Dense(2), STRUCT) == {}


def test_weights_of_calls_with_arguments():
    mask = jax.ShapeDtypeStruct((2, 4), jnp.bool_)
    state = [jax.ShapeDtypeStruct((2, 2), jnp.float32)] * 2
    found = found_in(layers.LSTM(2), SEQUENCE, mask=mask, initial_state=state, train=False)
    assert sorted(found) == ["bias", "kernel", "recurrent_kernel"]


def test_paths_are_those_of_init():
    x = Input((4, 3))
    model = Model(x, Sequential([layers.GRU(2), nn.Dense(2)])(layers.TimeDistributed(Sequential([layers.Dense(3)]))(x)))
    params = jax.eval_shape(model.init, KEY, SEQUENCE)["params"]
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(params)]
    assert sorted(found_in(model, SEQUENCE)) == sorted(paths)


def test_frozen_model_freezes_its_layers():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Sequential([layers.Dense(2, name="free")], name="a")(
                Sequential([layers.Dense(3, name="fixed")], trainable=False, name="b")(x)
            )

    inner = Sequential([layers.Dense(3), nn.Dense(3)])
    model = Sequential([Sequential([inner], trainable=False), layers.Dense(2), layers.Dense(2, trainable=False)])
    frozen = {path: layer.frozen for path, (layer, _) in found_in(model, STRUCT).items() if "kernel" in path}
    assert frozen == {
        "sequential/sequential/dense/kernel": True,
        "sequential/sequential/dense_1/kernel": True,
        "dense/kernel": False,
        "dense_1/kernel": True,
    }
    frozen = {path: layer.frozen for path, (layer, _) in found_in(Own(), STRUCT).items() if "kernel" in path}
    assert frozen == {"a/free/kernel": False, "b/fixed/kernel": True}


# ---------------------------------------------------------------- dtypes


def test_layers_inherit_the_dtype_of_the_model():
    seen = {}

    class Notes(Layer):
        def compute(self, inputs):
            seen[self.name] = self.compute_dtype.name
            return self.cast(inputs)

    inner = Sequential([Notes(name="inner"), Notes(name="own", dtype="float32")])
    other = Sequential([Notes(name="other")], dtype="float16")
    model = Sequential([Notes(name="outer"), inner, other, layers.Dense(1)], dtype="mixed_bfloat16")
    variables = model.init(KEY, X)
    assert seen == {"outer": "bfloat16", "inner": "bfloat16", "own": "float32", "other": "float16"}
    assert variables["params"]["dense"]["kernel"].dtype == jnp.float32
    assert model.apply(variables, X).dtype == jnp.bfloat16
    assert model.clone(dtype=None).apply(variables, X).dtype == jnp.float32


def test_symbols_have_the_dtype_of_the_computation():
    x = Input((3,))
    assert layers.Dense(2, dtype="bfloat16")(x).dtype == jnp.bfloat16
    assert Sequential([layers.Dense(2)], dtype="bfloat16")(x).dtype == jnp.bfloat16
    assert layers.Dense(2, param_dtype="bfloat16")(x).dtype == jnp.bfloat16


def test_float64():
    with jax.enable_x64(True):
        model = Sequential([Input((1,), dtype="float64"), layers.Dense(1, kernel_initializer="ones")])
        model.layers[0].param_dtype = "float64"
        data = jnp.array([[1 + 1e-12]], jnp.float64)
        variables = model.init(KEY, data)
        assert variables["params"]["dense"]["kernel"].dtype == jnp.float64
        assert float(model.apply(variables, data)[0, 0]) == 1 + 1e-12
