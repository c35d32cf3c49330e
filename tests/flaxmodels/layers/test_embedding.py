"""Embeddings, compared with hand-computed values and Keras, in models, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, initializers, interop, layers
from tests.support.layer_oracle import assert_arguments, assert_as_keras, numbers
from tests.support.spatial_oracle import refuses

LORA = ("lora_rank", "lora_alpha", "quantization_config")
IDS = np.array([[1, 0, 3], [2, 2, 4]], np.int32)


def rows(layer, matrix, ids, **call):
    return layer.apply({"params": {"embedding": jnp.asarray(matrix)}}, jnp.asarray(ids), **call)


# ---------------------------------------------------------------- hand-computed values


def test_rows_by_hand():
    matrix = np.arange(10.0, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(rows(layers.Embedding(5, 2), matrix, IDS), matrix[IDS])
    np.testing.assert_array_equal(rows(layers.Embedding(5, 2), matrix, IDS.astype(np.float32)), matrix[IDS])
    np.testing.assert_array_equal(rows(layers.Embedding(5, 2), matrix, IDS.astype(np.uint8)), matrix[IDS])


def test_gradients_of_repeated_rows_add_up():
    layer = layers.Embedding(5, 2)
    grad = jax.grad(lambda m: rows(layer, m, IDS).sum())(jnp.zeros((5, 2)))
    assert grad[:, 0].tolist() == [1, 1, 2, 1, 1]


def test_scores_by_hand():
    matrix, x = np.arange(6.0, dtype=np.float32).reshape(3, 2), np.array([[1.0, 2.0]], np.float32)
    assert rows(layers.ReversibleEmbedding(3, 2), matrix, x, reverse=True).tolist() == [[2, 8, 14]]
    capped = rows(layers.ReversibleEmbedding(3, 2, logit_soft_cap=5.0), matrix, x, reverse=True)
    np.testing.assert_allclose(capped, 5 * np.tanh([[0.4, 1.6, 2.8]]), rtol=1e-5)


def test_scores_with_untied_weights():
    layer = layers.ReversibleEmbedding(
        3, 2, tie_weights=False, embeddings_initializer="ones", embeddings_regularizer="l2"
    )
    variables = layer.init(jax.random.key(0), jnp.asarray(IDS % 3))
    assert {name: p.shape for name, p in variables["params"].items()} == {
        "embedding": (3, 2),
        "reverse_embeddings": (2, 3),
    }
    params = {"embedding": jnp.zeros((3, 2)), "reverse_embeddings": jnp.ones((2, 3))}
    assert layer.apply({"params": params}, jnp.ones((1, 2)), reverse=True).tolist() == [[2, 2, 2]]
    _, state = layer.apply(variables, jnp.ones((1, 2)), reverse=True, mutable=["losses"])
    assert state["losses"] == {"embedding": pytest.approx(0.06)}  # as in Keras, only the first matrix is regularized


def test_initial_weights():
    matrix = numbers(0, 5, 2)
    for given in (matrix, [matrix], matrix.tolist()):
        layer = layers.Embedding(5, 2, weights=given)
        params = layer.init(jax.random.key(0), jnp.asarray(IDS))["params"]
        np.testing.assert_array_equal(params["embedding"], matrix)
    assert isinstance(layer.clone().embeddings_initializer, initializers.Constant)


def test_input_length_is_ignored_as_in_keras():
    sentence = "^`input_length` of Embedding is ignored, because inputs of any length are accepted; leave it out.$"
    with pytest.warns(UserWarning, match=sentence) as warned:
        layer = layers.Embedding(5, 2, input_length=7)
    assert warned[0].filename == __file__
    assert layer == layers.Embedding(5, 2)
    assert layer.apply(layer.init(jax.random.key(0), IDS), IDS).shape == (2, 3, 2)


def test_dtypes():
    layer = layers.Embedding(5, 2, dtype="mixed_bfloat16")
    variables = layer.init(jax.random.key(0), IDS)
    assert (variables["params"]["embedding"].dtype, layer.apply(variables, IDS).dtype) == (jnp.float32, jnp.bfloat16)
    layer = layers.ReversibleEmbedding(5, 2, reverse_dtype="float32", dtype="bfloat16")
    assert layer.apply(layer.init(jax.random.key(0), IDS), jnp.ones((1, 2)), reverse=True).dtype == jnp.float32


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("cls", [layers.Embedding, layers.ReversibleEmbedding])
def test_mask_zero(cls):
    for mask_zero in (True, False):
        layer = cls(5, 2, mask_zero=mask_zero)
        variables = layer.init(jax.random.key(0), IDS)
        _, mask = layer.apply(variables, jnp.asarray(IDS), method="outputs_and_mask")
        assert (mask.tolist() if mask_zero else mask) == ((IDS != 0).tolist() if mask_zero else None)


def test_scores_have_no_mask():
    layer = layers.ReversibleEmbedding(5, 2, mask_zero=True)
    variables = layer.init(jax.random.key(0), IDS)
    assert layer.apply(variables, jnp.ones((1, 2)), reverse=True, method="outputs_and_mask")[1] is None


def test_the_mask_reaches_a_recurrent_layer():
    model = Sequential([Input((3,), dtype="int32"), layers.Embedding(5, 2, mask_zero=True), layers.LSTM(4)])
    variables = model.init(jax.random.key(0), IDS)
    padded = model.apply(variables, jnp.array([[1, 3, 0]]))
    long = Sequential([Input((2,), dtype="int32"), layers.Embedding(5, 2, mask_zero=True), layers.LSTM(4)])
    np.testing.assert_allclose(padded, long.apply(variables, jnp.array([[1, 3]])), rtol=1e-5)


# ---------------------------------------------------------------- Keras


def test_arguments_equal_those_of_keras():
    assert_arguments("Embedding", without=LORA, more=("input_length",))
    assert_arguments("ReversibleEmbedding")


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embedding_as_keras(mask_zero):
    assert_as_keras("Embedding", {"input_dim": 5, "output_dim": 3, "mask_zero": mask_zero}, IDS)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_reversible_embedding_as_keras(tie_weights, reverse):
    config = {"input_dim": 5, "output_dim": 3, "tie_weights": tie_weights, "logit_soft_cap": 2.0}
    assert_as_keras("ReversibleEmbedding", config, numbers(0, 2, 4, 3) if reverse else IDS, {"reverse": reverse})


def test_keras_weights_round_trip():
    layer = layers.ReversibleEmbedding(3, 2, tie_weights=False)
    variables = layer.init(jax.random.key(0), jnp.asarray(IDS % 3))
    weights = [numbers(0, 3, 2), numbers(1, 2, 3)]
    got = interop.get_keras_weights(layer, interop.set_keras_weights(layer, variables, weights))
    assert all((a == b).all() for a, b in zip(got, weights, strict=True))


# ---------------------------------------------------------------- out of range


@pytest.mark.parametrize("wrong", [-1, 5])
def test_integers_out_of_range_raise_outside_of_compiled_programs(wrong):
    layer, ids = layers.Embedding(5, 2), jnp.array([[0, wrong]])
    low, high = min(0, wrong), max(0, wrong)
    variables = layer.init(jax.random.key(0), IDS)
    with refuses(
        f"Embedding takes integers from 0 to 4, got integers from {low} to {high}; give a larger `input_dim`, or "
        "map unknown values to a reserved integer."
    ):
        layer.apply(variables, ids)


def test_constants_are_checked_while_a_program_is_traced():
    matrix = np.arange(10.0, dtype=np.float32).reshape(5, 2)
    ids = jnp.asarray(IDS)
    np.testing.assert_array_equal(jax.jit(lambda m: rows(layers.Embedding(5, 2), m, ids))(matrix), matrix[IDS])
    with refuses(
        "Embedding takes integers from 0 to 3, got integers from 0 to 4; give a larger `input_dim`, or map unknown "
        "values to a reserved integer."
    ):
        jax.jit(lambda m: rows(layers.Embedding(4, 2), m, ids))(matrix[:4])


def test_integers_out_of_range_in_a_compiled_program_equal_keras():
    layer = layers.Embedding(5, 2)
    variables = layer.init(jax.random.key(0), IDS)
    y = jax.jit(layer.apply)(variables, jnp.array([-1, 5, 4]))
    np.testing.assert_array_equal(y[0], variables["params"]["embedding"][4])
    assert np.isnan(y[1]).all()


def test_empty_inputs():
    layer = layers.Embedding(5, 2)
    assert layer.apply(layer.init(jax.random.key(0), IDS), jnp.zeros((0, 3), jnp.int32)).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: layers.Embedding(0, 2),
            "`input_dim` of Embedding must be a positive integer, got 0; give 1 or more.",
        ),
        (
            lambda: layers.ReversibleEmbedding(2, 2.5),
            "`output_dim` of ReversibleEmbedding must be a positive integer, got 2.5; give 1 or more.",
        ),
        (
            lambda: layers.Embedding(3, 2, weights=np.ones((2, 3))),
            "`weights` of Embedding must have shape (3, 2), got shape (2, 3); change `weights`, or `input_dim` and "
            "`output_dim`.",
        ),
    ],
)
def test_error_messages(make, sentence):
    with refuses(sentence):
        make()
