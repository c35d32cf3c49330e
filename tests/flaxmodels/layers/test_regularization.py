"""Regularization layers, compared with hand-computed values, statistics and Keras: keys, seeds and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers, regularizers
from tests.support.layer_oracle import assert_arguments, numbers
from tests.support.spatial_oracle import refuses

NOISY = {
    "Dropout": {"rate": 0.3},
    "SpatialDropout1D": {"rate": 0.3},
    "GaussianDropout": {"rate": 0.3},
    "GaussianNoise": {"stddev": 0.3},
    "AlphaDropout": {"rate": 0.3},
}


def trained(layer, x, key=0):
    return np.asarray(layer.apply({}, jnp.asarray(x), train=True, rngs={"dropout": jax.random.key(key)}))


# ---------------------------------------------------------------- distributions of the noise


def test_dropout_keeps_the_mean_and_drops_the_rate():
    y = trained(layers.Dropout(0.3), np.ones((200, 500), np.float32))
    assert set(np.unique(y).tolist()) == {0.0, float(np.float32(1 / 0.7))}
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 1e-5, 1 - 1e-5])
@pytest.mark.parametrize("shape", [(500, 400), (400, 501)])
def test_dropout_is_independent_for_each_element(rate, shape):
    y = np.asarray(layers.Dropout(rate).apply({}, jnp.ones(shape), train=True, rngs={"dropout": jax.random.key(3)}))
    dropped = y == 0
    n = dropped.size
    # The numbers of dropped elements and of dropped pairs are within five standard deviations of independent choices.
    # Pairs are an element and its right neighbour, the one below, and the one half a row away, which may use the same
    # random word.
    assert abs(dropped.sum() - n * rate) <= 5 * np.sqrt(n * rate * (1 - rate)) + 1
    pairs = rate**2
    for shifted in (np.roll(dropped, 1, 1), np.roll(dropped, 1, 0), np.roll(dropped, shape[1] // 2, 1)):
        assert abs((dropped & shifted).sum() - n * pairs) <= 5 * np.sqrt(n * pairs) + 1


def test_dropout_rates_of_zero_and_one():
    x = numbers(0, 3, 4)
    assert (trained(layers.Dropout(0), x) == x).all()
    assert (trained(layers.Dropout(1), x) == 0).all()
    grad = jax.grad(lambda x: layers.Dropout(1.0, seed=0).apply({}, x, train=True).sum())(jnp.asarray(x))
    assert (grad == 0).all()


def test_dropout_masks_the_gradient_like_the_value():
    x = jnp.asarray(numbers(0, 20, 30))
    layer = layers.Dropout(0.5, seed=3)
    y, grad = jax.value_and_grad(lambda x: layer.apply({}, x, train=True).sum())(x)
    kept = layer.apply({}, jnp.ones_like(x), train=True)
    assert (grad == kept).all()
    assert y == pytest.approx(float((x * kept).sum()), rel=1e-5)


@pytest.mark.parametrize("noise_shape", [(20, 1, 10), (None, 1, None)])
@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout"])
def test_noise_shape_shares_the_mask(name, noise_shape):
    y = trained(getattr(layers, name)(0.5, noise_shape=noise_shape), np.ones((20, 5, 10), np.float32))
    assert (y == y[:, :1]).all()
    assert len(np.unique(y[:, 0])) == 2


@pytest.mark.parametrize(
    ("name", "config", "axes"),
    [
        ("SpatialDropout1D", {}, (1,)),
        ("SpatialDropout2D", {}, (1, 2)),
        ("SpatialDropout2D", {"data_format": "channels_first"}, (2, 3)),
        ("SpatialDropout3D", {}, (1, 2, 3)),
        ("SpatialDropout3D", {"data_format": "channels_first"}, (2, 3, 4)),
    ],
)
def test_spatial_dropout_drops_whole_channels(name, config, axes):
    rank = {"1": 3, "2": 4, "3": 5}[name[-2]]
    shape = [60] + [2] * (rank - 1)
    shape[1 if config else -1] = 50
    y = trained(getattr(layers, name)(0.3, **config), np.ones(shape, np.float32))
    first = y.max(axes)
    assert (y == np.expand_dims(first, axes)).all()
    assert (first == 0).mean() == pytest.approx(0.3, abs=0.03)


def test_moments_of_gaussian_noise():
    y = trained(layers.GaussianNoise(0.5), np.full((300, 300), 2, np.float32))
    assert (y.mean(), y.std()) == (pytest.approx(2, abs=0.01), pytest.approx(0.5, abs=0.01))
    y = trained(layers.GaussianDropout(0.2), np.full((300, 300), 2, np.float32))
    assert (y.mean(), y.std()) == (pytest.approx(2, abs=0.02), pytest.approx(1, abs=0.02))


def test_alpha_dropout_keeps_mean_and_variance():
    y = trained(layers.AlphaDropout(0.3), numbers(0, 400, 400))
    assert (y.mean(), y.var()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.03))


def test_alpha_dropout_by_hand():
    limit, rate = -1.0507009873554805 * 1.6732632423543772, 0.25
    a = ((1 - rate) * (1 + rate * limit**2)) ** -0.5
    y = trained(layers.AlphaDropout(rate), np.full((4, 50), 3, np.float32))
    assert sorted(set(y.ravel().tolist())) == [
        pytest.approx(a * limit - a * limit * rate, rel=1e-5),
        pytest.approx(a * 3 - a * limit * rate, rel=1e-5),
    ]


# ---------------------------------------------------------------- keys and seeds


@pytest.mark.parametrize("name", NOISY)
def test_noise_depends_on_the_key_and_only_in_training(name):
    layer, x = getattr(layers, name)(**NOISY[name]), numbers(0, 5, 6, 7)
    assert (layer.apply({}, x) == x).all()
    assert (trained(layer, x, 1) == trained(layer, x, 1)).all()
    assert (trained(layer, x, 1) != trained(layer, x, 2)).any()
    assert (trained(layer.clone(seed=4), x, 1) != trained(layer, x, 1)).any()
    assert (trained(layer.clone(seed=4), x, 1) != trained(layer.clone(seed=5), x, 1)).any()


@pytest.mark.parametrize("name", NOISY)
def test_a_seed_without_a_key_repeats_the_noise(name):
    layer, x = getattr(layers, name)(**NOISY[name], seed=-7), numbers(0, 5, 6, 7)
    once, twice = (layer.apply({}, x, train=True) for _ in range(2))
    assert (once == twice).all()
    assert (once != x).any()


def test_two_layers_with_one_seed_differ_in_a_model():
    model = Sequential([Input((50,)), layers.Dropout(0.5, seed=1), layers.Dropout(0.5, seed=1)])
    y = model.apply({}, jnp.ones((4, 50)), train=True, rngs={"dropout": jax.random.key(0)})
    assert (y == 4).mean() == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("name", NOISY)
def test_training_without_key_and_seed_raises(name):
    sentence = (
        f"{name} needs a random key in training, got none; "
        'pass `rngs={"dropout": key}` to `apply`, or give the layer a `seed`.'
    )
    with refuses(sentence):
        getattr(layers, name)(**NOISY[name]).apply({}, jnp.ones((2, 3, 4)), train=True)


@pytest.mark.parametrize("name", NOISY)
def test_bfloat16_and_masks_are_kept(name):
    layer = getattr(layers, name)(**NOISY[name], dtype="bfloat16", seed=1)
    y, mask = layer.apply({}, jnp.ones((2, 3, 4)), mask=jnp.ones((2, 3), bool), train=True, method="outputs_and_mask")
    assert (y.dtype, mask.shape) == (jnp.bfloat16, (2, 3))


# ---------------------------------------------------------------- losses


def test_activity_regularization_by_hand():
    layer = layers.ActivityRegularization(l1=0.5, l2=2)
    y, state = layer.apply({}, jnp.array([[3.0], [-1.0]]), mutable=["losses"])
    assert y.ravel().tolist() == [3, -1]
    assert float(state["losses"]["activity"]) == 11  # (0.5 * 4 + 2 * 10) / 2 examples


def test_activity_regularization_as_keras():
    import keras

    x = numbers(0, 4, 5)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.layers.ActivityRegularization(l1=0.1, l2=0.3)
        theirs(x)
        wanted = float(theirs.losses[0])
    _, state = layers.ActivityRegularization(l1=0.1, l2=0.3).apply({}, x, mutable=["losses"])
    assert float(state["losses"]["activity"]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    "name",
    [*NOISY, "SpatialDropout2D", "SpatialDropout3D", "ActivityRegularization"],
)
def test_arguments_equal_those_of_keras(name):
    assert_arguments(name)


# ---------------------------------------------------------------- errors

REFUSED = [
    (lambda: layers.Dropout(1.5), "`rate` of Dropout must be a number in [0, 1], got 1.5; give, for example, 0."),
    (lambda: layers.Dropout("0.5"), "`rate` of Dropout must be a number in [0, 1], got '0.5'; give, for example, 0."),
    (
        lambda: layers.GaussianNoise(2),
        "`stddev` of GaussianNoise must be a number in [0, 1], got 2; give, for example, 0.",
    ),
    (
        lambda: layers.AlphaDropout(1, name="a"),
        "`rate` of AlphaDropout 'a' must be a number in [0, 1), got 1; give, for example, 0.",
    ),
    (
        lambda: layers.Dropout(0.5, noise_shape=(0, 1)),
        "`noise_shape` of Dropout must be a tuple of positive integers or None, got (0, 1); give None for the "
        "inputs' size, and 1 to share the mask along an axis.",
    ),
    (
        lambda: layers.Dropout(0.5, noise_shape=(2, 2), seed=0).apply({}, jnp.ones((4, 2)), train=True),
        "`noise_shape` of Dropout must have 1 or the inputs' size on each axis, got (2, 2) for inputs of shape (4, "
        "2); give None for the inputs' size, and 1 to share the mask along an axis.",
    ),
    (
        lambda: layers.SpatialDropout2D(0.5, data_format="first"),
        '`data_format` of SpatialDropout2D must be "channels_last" or "channels_first", got \'first\'; choose one.',
    ),
    (
        lambda: layers.SpatialDropout1D(0.5).apply({}, jnp.ones((4, 2))),
        "SpatialDropout1D takes inputs of 3 axes [B, T, C], got shape (4, 2); add an axis, or use a layer for 2 axes.",
    ),
    (
        lambda: layers.ActivityRegularization(0.1, activity_regularizer=regularizers.L2(0.5)),
        "`activity_regularizer` of ActivityRegularization is defined by `l1` and `l2`, got L2(l2=0.5); give only "
        "`l1` and `l2`, or use the regularizer in another layer.",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED)
def test_error_messages(make, sentence):
    with refuses(sentence):
        make()
