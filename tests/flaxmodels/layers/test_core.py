"""EinsumDense, Identity and Lambda, compared with hand-computed values and Keras, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, initializers, inspection, interop, layers
from tests.support.layer_oracle import assert_arguments, assert_as_keras, numbers
from tests.support.spatial_oracle import near, refuses

BOLTED_ON = ("lora_rank", "lora_alpha", "gptq_unpacked_column_size", "quantization_config")

EQUATIONS = [  # equation, output_shape, bias_axes, input shape, kernel shape, bias shape
    ("ab,bc->ac", 4, "c", (2, 3), (3, 4), (4,)),
    ("ab,b->a", (), None, (2, 3), (3,), None),
    ("abc,cd->abd", (None, 4), "d", (2, 3, 5), (5, 4), (4,)),
    ("abc,cde->abde", (3, 4, 6), "be", (2, 3, 5), (5, 4, 6), (3, 1, 6)),
    ("abc,cde->abde", (None, 4, 6), "d", (2, 3, 5), (5, 4, 6), (4, 1)),
    ("abc,cd->adb", (4, 3), "d", (2, 3, 5), (5, 4), (4, 1)),
    ("abcd,dce->abe", (None, 4), "e", (2, 3, 5, 2), (2, 5, 4), (4,)),
    ("...x,xy->...y", 4, "y", (2, 3, 6, 5), (5, 4), (4,)),
    ("...bc,bc->...b", 3, "b", (2, 3, 5), (3, 5), (3,)),
    ("ab...,bc->ac...", 4, "c", (2, 3, 5), (3, 4), (4, 1)),
    ("ab...,bcd->acd...", (4, 6), "d", (2, 3, 5, 2), (3, 4, 6), (6, 1, 1)),
]


# ---------------------------------------------------------------- EinsumDense


@pytest.mark.parametrize(("equation", "output_shape", "bias_axes", "shape", "kernel", "bias"), EQUATIONS)
def test_einsum_dense_by_numpy_and_keras(equation, output_shape, bias_axes, shape, kernel, bias):
    config = {"equation": equation, "output_shape": output_shape, "bias_axes": bias_axes}
    layer, x = layers.EinsumDense(**config), numbers(0, *shape)
    params = layer.init(jax.random.key(0), jnp.asarray(x))["params"]
    assert {name: p.shape for name, p in params.items()} == {"kernel": kernel} | ({"bias": bias} if bias else {})
    params = {name: numbers(i, *p.shape) for i, (name, p) in enumerate(params.items(), 1)}
    wanted = np.einsum(equation, x.astype(np.float64), params["kernel"]) + params.get("bias", 0)
    near(layer.apply({"params": params}, x), wanted)
    assert_as_keras("EinsumDense", {**config, "activation": "tanh"}, x)


def test_einsum_dense_is_dense():
    x = numbers(0, 5, 3)
    dense, einsum = layers.Dense(4, "relu"), layers.EinsumDense("ab,bc->ac", 4, "relu", "c")
    params = dense.init(jax.random.key(0), x)
    near(einsum.apply(params, x), dense.apply(params, x))


def test_an_ellipsis_may_stand_for_no_axes():
    layer = layers.EinsumDense("...x,xy->...y", 4)
    assert layer.apply(layer.init(jax.random.key(0), jnp.ones(3)), jnp.ones(3)).shape == (4,)


def test_fans_follow_from_the_equation():
    def drawn(**config):
        layer = layers.EinsumDense("abc,bcd->ad", 30, **config)
        return layer.init(jax.random.key(0), jnp.ones((1, 50, 40)))["params"]["kernel"]

    kernel = drawn()  # 2000 inputs, 30 outputs
    limit = np.sqrt(6 / (2000 + 30))
    assert float(kernel.max()) == pytest.approx(limit, rel=1e-2)
    assert float(kernel.min()) == pytest.approx(-limit, rel=1e-2)
    seeded = drawn(kernel_initializer=initializers.HeNormal(seed=1))
    assert float(seeded.std()) == pytest.approx(np.sqrt(2 / 2000), rel=2e-2)
    own = initializers.GlorotUniform(input_axes=(2,), output_axes=(0,))
    assert float(drawn(kernel_initializer=own).max()) == pytest.approx(np.sqrt(6 / (50 + 30)), rel=1e-2)


def test_regularizers_and_constraints_are_applied():
    layer = layers.EinsumDense("ab,bc->ac", 4, bias_axes="c", kernel_regularizer="l2", bias_constraint="non_neg")
    x = jnp.ones((2, 3))
    variables = layer.init(jax.random.key(0), x)
    _, state = layer.apply(variables, x, mutable=["losses"])
    assert float(state["losses"]["kernel"]) == pytest.approx(0.01 * float((variables["params"]["kernel"] ** 2).sum()))
    found = inspection.weights_of(layer, x)
    assert {path: owner.argument(name, "constraint") for path, (owner, name) in found.items()} == {
        ("kernel",): None,
        ("bias",): "non_neg",
    }


def test_arguments_equal_those_of_keras():
    assert_arguments("EinsumDense", without=BOLTED_ON)
    assert_arguments("Identity")
    assert_arguments("Lambda")


@pytest.mark.parametrize(
    ("config", "shape", "sentence"),
    [
        (
            {"equation": "ab,bc", "output_shape": 4},
            None,
            "`equation` of EinsumDense must have the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...', where "
            "each letter of the kernel or the output occurs elsewhere too, got 'ab,bc'; rewrite it in one of these "
            "forms.",
        ),
        (
            {"equation": "ab,cd->ad", "output_shape": 4},
            None,
            "`equation` of EinsumDense must have the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...', where "
            "each letter of the kernel or the output occurs elsewhere too, got 'ab,cd->ad'; rewrite it in one of "
            "these forms.",
        ),
        (
            {"equation": "...b,bc->c...", "output_shape": 4},
            None,
            "`equation` of EinsumDense must have the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...', where "
            "each letter of the kernel or the output occurs elsewhere too, got '...b,bc->c...'; rewrite it in one "
            "of these forms.",
        ),
        (
            {"equation": "ab,bc->ac", "output_shape": 4, "bias_axes": "b"},
            None,
            "`bias_axes` of EinsumDense must be letters of the output 'ac', got 'b'; choose among them, or give "
            "None for no bias.",
        ),
        (
            {"equation": "abc,cd->abd", "output_shape": (5, 4)},
            (2, 3, 6),
            "`output_shape` of EinsumDense must have the sizes of the output's letters after the batch and agree "
            "with the inputs, got (5, 4) for 'abc,cd->abd' and inputs of shape (2, 3, 6); give None for sizes that "
            "the inputs determine.",
        ),
        (
            {"equation": "ab,bc->ac", "output_shape": 4},
            (2, 3, 6),
            "`output_shape` of EinsumDense must have the sizes of the output's letters after the batch and agree "
            "with the inputs, got (4,) for 'ab,bc->ac' and inputs of shape (2, 3, 6); give None for sizes that the "
            "inputs determine.",
        ),
        (
            {"equation": "ab,bc->ac", "output_shape": (None,)},
            (2, 3),
            "`output_shape` of EinsumDense must have the sizes of the output's letters after the batch and agree "
            "with the inputs, got (None,) for 'ab,bc->ac' and inputs of shape (2, 3); give None for sizes that the "
            "inputs determine.",
        ),
    ],
)
def test_error_messages_of_einsum_dense(config, shape, sentence):
    with refuses(sentence):
        layers.EinsumDense(**config).init(jax.random.key(0), jnp.ones(shape))


# ---------------------------------------------------------------- Identity and Lambda


def test_identity():
    x, mask = [jnp.ones(2), jnp.arange(2)], jnp.ones(2, bool)
    y, new_mask = layers.Identity().apply({}, x, mask=mask, method="outputs_and_mask")
    assert [(a == b).all() for a, b in zip(x, y, strict=True)] == [True, True]
    assert (y[1].dtype, new_mask is mask) == (jnp.int32, True)


def test_lambda_in_a_model():
    x = Input((3,))
    y = layers.Lambda(lambda a: jnp.concatenate([a, 2 * a], -1))(x)
    assert y.shape == (None, 6)
    assert Model(x, y).apply({}, jnp.array([[1.0, 2.0, 3.0]])).tolist() == [[1, 2, 3, 2, 4, 6]]


def test_lambda_receives_the_options_in_its_signature():
    def function(x, mask, train, factor):
        return x * factor if train else jnp.where(mask, x, 0)

    layer = layers.Lambda(function, arguments={"factor": 3})
    x, mask = jnp.ones(2), jnp.array([True, False])
    assert layer.apply({}, x, mask=mask).tolist() == [1, 0]
    assert layer.apply({}, x, mask=mask, train=True).tolist() == [3, 3]
    training = layers.Lambda(lambda x, training: x + float(training))
    assert training.apply({}, x, train=True).tolist() == [2, 2]


def test_lambda_returns_its_mask_argument():
    x, mask, own = jnp.ones((1, 2)), jnp.array([[True, False]]), jnp.array([[False, True]])
    for given, wanted in ((None, None), (own, own.tolist()), (lambda x, m: ~m, [[False, True]])):
        _, got = layers.Lambda(jnp.sin, mask=given).apply({}, x, mask=mask, method="outputs_and_mask")
        assert (got if got is None else got.tolist()) == wanted


def test_lambda_checks_its_output_shape():
    x = jnp.ones((2, 3))
    for shape in ((3,), 3, (None,), lambda shape: (shape[0], 3)):
        assert layers.Lambda(jnp.sin, output_shape=shape).apply({}, x).shape == (2, 3)
    with refuses(
        "The outputs of Lambda must have the shape (None, 4) of `output_shape`, got (2, 3); correct "
        "`output_shape`, or leave it out, because the shape is inferred."
    ):
        layers.Lambda(jnp.sin, output_shape=(4,)).apply({}, x)


def test_lambda_raises_unless_given_a_function():
    with pytest.raises(TypeError) as caught:
        layers.Lambda("sin")
    assert str(caught.value) == "`function` of Lambda must be a function of arrays, got 'sin'; give a callable."


def test_lambda_as_keras():
    import keras

    pair = layers.Lambda(lambda x: x**2), keras.layers.Lambda(lambda x: x**2)
    assert_as_keras("Lambda", {}, numbers(0, 2, 3), pair=pair)
    assert_as_keras("Identity", {}, numbers(0, 2, 3))


def test_identity_has_no_weights():
    model = Sequential([Input((3,)), layers.Identity(), layers.Lambda(jnp.sin)])
    assert interop.get_keras_weights(model, model.init(jax.random.key(0), jnp.ones((1, 3)))) == []
