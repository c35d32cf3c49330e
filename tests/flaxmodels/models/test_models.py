"""The ready-made models: their layers, sizes, outputs and training."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmodels import interop, models

KEY = jax.random.key(0)


def raises(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


def parameters(model):
    variables = jax.eval_shape(model.init, KEY, jnp.ones((1, *model.input_spec.shape[1:])))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


# ---------------------------------------------------------------- the table


def test_the_table_contains_every_model():
    for name, build in models.MODELS.items():
        assert models.get(name) is build is getattr(models, name)
        assert build.__name__ == name


def test_unknown_models():
    with raises(
        "Unknown model 'simple_cn'. Did you mean 'simple_cnn'? Known: 'functional_cnn', 'rnn_classifier', "
        "'rnn_forecaster', 'simple_cnn'."
    ):
        models.get("simple_cn")


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_takes_a_shape_and_a_number(name):
    shape = (28, 28, 1) if "cnn" in name else (8, 3)
    model = models.get(name)(shape, 5, name="mine")
    assert (model.output_shape, model.input_spec.shape, model.name) == ((None, 5), (None, *shape), "mine")


# ---------------------------------------------------------------- CNNs


def test_simple_cnn():
    model = models.simple_cnn(input_shape=(28, 28, 1), num_category=10)
    assert kinds(model) == "Conv2D Conv2D MaxPooling2D Dropout Flatten Dense Dropout Dense".split()
    assert [model.layers[i].rate for i in (3, 6)] == [0.25, 0.5]
    # 3*3*1*32 + 32, 3*3*32*64 + 64, 12*12*64*128 + 128, 128*10 + 10
    assert parameters(model) == 320 + 18_496 + 1_179_776 + 1_290


def test_functional_cnn():
    model = models.functional_cnn(input_shape=(28, 28, 1), num_category=10)
    assert kinds(model) == "Conv2D MaxPooling2D Conv2D MaxPooling2D Flatten Dense Dense".split()
    # 5*5*64*128 + 128 after 28 -> 26 -> 13 -> 11 -> 5
    assert parameters(model) == 320 + 18_496 + 204_928 + 1_290


@pytest.mark.parametrize(("build", "least"), [(models.simple_cnn, 6), (models.functional_cnn, 10)])
def test_smallest_images(build, least):
    assert build((least, least, 1), 3).output_shape == (None, 3)
    with pytest.raises(ValueError, match="window"):
        build((least - 1, least - 1, 1), 3)


@pytest.mark.parametrize("build", [models.simple_cnn, models.functional_cnn])
def test_cnns_equal_keras(build):
    keras = pytest.importorskip("keras")
    model, rng = build((10, 10, 2), 4), np.random.default_rng(0)
    images = rng.uniform(size=(3, 10, 10, 2)).astype("float32")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        L = keras.layers
        pooled = [L.MaxPooling2D(), L.Dropout(0.25)] if build is models.simple_cnn else [L.MaxPooling2D()]
        between = [] if build is models.simple_cnn else [L.MaxPooling2D()]
        convolutions = [L.Conv2D(32, 3, activation="relu"), *between, L.Conv2D(64, 3, activation="relu"), *pooled]
        head = [L.Flatten(), L.Dense(128, activation="relu"), L.Dense(4, activation="softmax")]
        theirs = keras.Sequential([keras.Input((10, 10, 2)), *convolutions, *head])
        weights, expected = theirs.get_weights(), theirs(images)
    variables = interop.set_keras_weights(model, jax.jit(model.init)(KEY, images), weights)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images), expected, atol=1e-5)


def test_dropout_of_the_simple_cnn_in_training():
    model, images = models.simple_cnn((6, 6, 1), 2), jnp.ones((2, 6, 6, 1))
    variables = jax.jit(model.init)(KEY, images)
    run = jax.jit(lambda key: model.apply(variables, images, train=True, rngs={"dropout": key}))
    outs = [run(jax.random.key(i)) for i in (0, 1)]
    assert not np.allclose(*outs)
    np.testing.assert_allclose(outs[0].sum(1), [1, 1], rtol=1e-5)


# ---------------------------------------------------------------- RNNs


@pytest.mark.parametrize(("cell", "gates", "biases"), [("lstm", 4, 1), ("gru", 3, 2), ("simple_rnn", 1, 1)])
@pytest.mark.parametrize("build", [models.rnn_classifier, models.rnn_forecaster])
def test_parameters_of_rnns(build, cell, gates, biases):
    def one(features, units):
        return gates * units * (features + units + biases)

    assert parameters(build((7, 3), 5, cell=cell, units=4)) == one(3, 4) + (4 + 1) * 5
    assert parameters(build((7, 3), 5, cell=cell, units=(4, 2))) == one(3, 4) + one(4, 2) + (2 + 1) * 5
    both = build((7, 3), 5, cell=cell, units=[4, 2], bidirectional=True)
    assert parameters(both) == 2 * one(3, 4) + 2 * one(8, 2) + (4 + 1) * 5


def test_layers_of_rnns():
    model = models.rnn_classifier((None, 3), 5, units=(4, 2), dropout=0.3, mask_value=-1.0)
    assert kinds(model) == "Masking LSTM Dropout LSTM Dropout Dense".split()
    assert [layer.return_sequences for layer in model.layers if hasattr(layer, "return_sequences")] == [True, False]
    assert (model.layers[0].mask_value, model.layers[2].rate) == (-1.0, 0.3)
    assert model.layers[-1].activation == "softmax"
    assert models.rnn_forecaster((None, 3)).layers[-1].activation is None
    assert models.rnn_forecaster((None, 3)).output_shape == (None, 1)
    assert models.rnn_forecaster((None, 3), 4, targets=2).output_shape == (None, 4, 2)
    assert kinds(models.rnn_classifier((4, 3), 2, bidirectional=True)) == ["Bidirectional", "Dense"]
    assert [models.rnn_classifier((4, 3), 2).layers[0].units, models.rnn_forecaster((4, 3)).layers[0].units] == [
        128,
        64,
    ]


def test_masked_steps_have_no_effect_on_rnns():
    model = models.rnn_classifier((None, 3), 2, units=4, mask_value=0.0)
    x = jax.random.normal(KEY, (2, 5, 3)).at[:, 3:].set(0)
    variables = jax.jit(model.init)(KEY, x)
    np.testing.assert_allclose(model.apply(variables, x), model.apply(variables, x[:, :3]), atol=1e-6)


@pytest.mark.parametrize("build", [models.rnn_classifier, models.rnn_forecaster])
def test_error_messages_of_rnns(build):
    with raises("Unknown cell 'gur'. Did you mean 'gru'? Known: 'gru', 'lstm', 'simple_rnn'."):
        build((4, 3), 2, cell="gur")
    with raises("`units` must contain the size of at least one layer, got none; give an integer or a list."):
        build((4, 3), 2, units=())


# ---------------------------------------------------------------- learning


def learn(model, x, y, loss, steps, rate):
    params, optimizer = jax.jit(model.init)(KEY, x)["params"], optax.adam(rate)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: loss(model.apply({"params": p}, x), y))(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):  # optax' own arithmetic
        for _ in range(steps):
            params, state = step(params, state)
    return jax.jit(model.apply)({"params": params}, x)


def test_a_classifier_learns_which_half_is_larger():
    x = jax.random.normal(KEY, (64, 6, 1))
    labels = (x[:, :3].sum((1, 2)) > x[:, 3:].sum((1, 2))).astype(jnp.int32)

    def loss(p, labels):
        return -jnp.mean(jnp.log(jnp.take_along_axis(p, labels[:, None], 1)))

    outputs = learn(models.rnn_classifier((6, 1), 2, cell="gru", units=8), x, labels, loss, steps=60, rate=0.03)
    assert (outputs.argmax(1) == labels).mean() > 0.95


def test_a_forecaster_learns_a_sine():
    times = jnp.arange(64.0)[:, None] * 0.3 + jnp.arange(9.0)[None] * 0.5
    x, y = jnp.sin(times[:, :8, None]), jnp.sin(times[:, 8:])
    outputs = learn(
        models.rnn_forecaster((8, 1), cell="simple_rnn", units=8), x, y, lambda p, y: jnp.mean((p - y) ** 2), 60, 0.03
    )
    assert jnp.mean((outputs - y) ** 2) < 0.02 * jnp.var(y)


def test_a_cnn_learns_where_the_light_is():
    images = jax.random.uniform(KEY, (16, 10, 10, 1)).at[:8, :, :5].add(1.0).at[8:, :, 5:].add(1.0)
    labels = jnp.repeat(jnp.arange(2), 8)

    def loss(p, labels):
        return -jnp.mean(jnp.log(jnp.take_along_axis(p, labels[:, None], 1) + 1e-7))

    outputs = learn(models.functional_cnn((10, 10, 1), 2), images, labels, loss, steps=10, rate=1e-3)
    assert (outputs.argmax(1) == labels).all()
