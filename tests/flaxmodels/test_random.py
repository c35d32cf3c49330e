"""Random functions against Keras: arguments, distributions, and where their keys come from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers, random
from tests.support.operation_oracle import check_signature, names_without_row, normal, usual_promotion

# Each row: the arguments. The bits equal Keras' for an integer seed.
TABLE = {
    "beta": [((200,), 0.5, 2.0), ((3, 4), np.array([0.5, 1, 2, 3]), 2.0, "float32")],
    "binomial": [((200,), 5, 0.3), ((2, 3), np.array([1.0, 5, 9]), 0.5)],
    "categorical": [(normal(3, 4), 50), (normal(3, 4), 5, "int16")],
    "dropout": [(np.ones((20, 30), np.float32), 0.3), (normal(30, 6), 0.5, (None, 1))],
    "gamma": [((200,), 0.5), ((3, 4), np.array([0.5, 1, 2, 3]))],
    "normal": [((200,), 1.0, 2.0), ((3, 4), 0, 1, "bfloat16")],
    "randint": [((200,), 2, 9), ((3, 4), 0, 100, "uint8")],
    "shuffle": [(np.arange(24).reshape(4, 6),), (np.arange(24.0).reshape(4, 6), 1)],
    "truncated_normal": [((200,), 1.0, 2.0), ((3, 4), 0.0, 1.0, "float16")],
    "uniform": [((200,), -1.0, 3.0), ([3, 4],)],
}


def test_each_name_of_keras_has_a_row():
    assert names_without_row(keras.random, [*TABLE, "SeedGenerator"]) == ([], [])
    assert sorted([*TABLE, "SeedGenerator"]) == sorted(random.__all__)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spread
def test_equals_keras(name):
    function, theirs = getattr(random, name), getattr(keras.random, name)
    check_signature(function, theirs)
    for args in TABLE[name]:
        with usual_promotion():
            values, expected = function(*args, seed=3), theirs(*args, seed=3)
            again, other = function(*args, seed=3), function(*args, seed=random.SeedGenerator(4))
        assert values.dtype == expected.dtype
        assert values.shape == expected.shape
        np.testing.assert_array_equal(values, again)
        assert (values != other).any()
        np.testing.assert_array_equal(values, expected)


def test_dropout_in_distribution():
    x = jnp.full((100, 200), 2.0)
    y = random.dropout(x, 0.3, seed=1)
    assert set(np.unique(y)) == {0.0, np.float32(2.0 / 0.7)}
    np.testing.assert_allclose(jnp.mean(y == 0), 0.3, atol=0.01)
    columns = random.dropout(x, 0.5, noise_shape=(1, None), seed=1)
    assert (columns == columns[:1]).all()
    assert 0.3 < float(jnp.mean(columns == 0)) < 0.7
    assert (random.dropout(x, 0.0) == x).all()
    assert (random.dropout(x, 1.0, seed=1) == 0).all()
    np.testing.assert_allclose(jax.grad(lambda x: random.dropout(x, 0.3, seed=1).sum())(x), y / x, rtol=1e-6)


def test_a_generator_advances_and_equals_keras():
    mine, theirs = random.SeedGenerator(7), keras.random.SeedGenerator(7)
    for _ in range(3):
        np.testing.assert_array_equal(mine.state, theirs.state.numpy())
        np.testing.assert_array_equal(random.normal((3,), seed=mine), keras.random.normal((3,), seed=theirs))
    copy = random.SeedGenerator.from_config(mine.get_config())
    np.testing.assert_array_equal(random.normal((3,), seed=copy), random.normal((3,), seed=random.SeedGenerator(7)))
    assert random.SeedGenerator().state[0] != random.SeedGenerator().state[0]


def test_without_a_seed_each_call_draws_new_values():
    assert (random.normal((3,)) != random.normal((3,))).all()
    random.set_shared_seed(5)
    first = random.normal((3,))
    random.set_shared_seed(5)
    np.testing.assert_array_equal(random.normal((3,)), first)
    random.set_shared_seed(None)


def test_a_key_is_a_seed():
    key = jax.random.key(3)
    draw = jax.jit(lambda key: random.uniform((4,), seed=key))
    np.testing.assert_array_equal(draw(key), jax.random.uniform(key, (4,)))


def test_in_compiled_code():
    """An integer gives constants; a generator would silently, so it is refused."""
    constant = jax.jit(lambda: random.normal((3,), seed=1))
    np.testing.assert_array_equal(constant(), random.normal((3,), seed=1))
    for seed, name in ((random.SeedGenerator(1), "a SeedGenerator"), (None, "None")):
        with pytest.raises(ValueError) as raised:
            jax.jit(lambda seed=seed: random.normal((3,), seed=seed))()
        assert str(raised.value) == (
            "In compiled code outside of a layer, the `seed` of a random function must be an integer or a key, got "
            f"{name}, whose values the compiled program would reuse; pass a key as an argument of the compiled "
            "function, and give `seed=key`."
        )
    generator = random.SeedGenerator(1)
    gradient = jax.grad(lambda x: jnp.sum(x * random.normal((3,), seed=generator)))
    assert (gradient(jnp.ones(3)) != gradient(jnp.ones(3))).all()


class Noise(layers.Layer):
    """Adds noise of a generator to its inputs."""

    generator: random.SeedGenerator | None = None

    @nn.compact
    def compute(self, inputs):
        return inputs + random.normal(inputs.shape, seed=self.generator)


@pytest.mark.parametrize("generator", [None, random.SeedGenerator(), random.SeedGenerator(1)])
def test_inside_a_layer_values_depend_on_the_rngs(generator):
    layer, x = Noise(generator), jnp.zeros((2, 3))
    model = Sequential([layers.Dense(3), Noise(generator), Noise(generator)])
    variables = model.init(jax.random.key(0), x)

    @jax.jit
    def apply(key):
        return model.apply(variables, x, rngs={"dropout": key})

    first, second = apply(jax.random.key(1)), apply(jax.random.key(2))
    assert (first != second).all()
    np.testing.assert_array_equal(apply(jax.random.key(1)), first)
    np.testing.assert_allclose(model.apply(variables, x, rngs={"dropout": jax.random.key(1)}), first, rtol=1e-5)
    noise = [layer.apply({}, x, rngs={"dropout": jax.random.key(1)}) for _ in range(2)]
    np.testing.assert_array_equal(*noise)
    symbol = Input((3,))
    assert Model(symbol, Noise(generator)(symbol)).apply({}, x, rngs={"dropout": jax.random.key(1)}).shape == (2, 3)


def test_two_generators_and_two_layers_draw_differently():
    x = jnp.zeros((2, 3))
    rngs = {"dropout": jax.random.key(1)}
    assert (
        Noise(random.SeedGenerator(1)).apply({}, x, rngs=rngs) != Noise(random.SeedGenerator(2)).apply({}, x, rngs=rngs)
    ).all()
    twice = Sequential([Noise(random.SeedGenerator(1)), Noise(random.SeedGenerator(1))])
    once = Sequential([Noise(random.SeedGenerator(1))])
    both, one = (m.apply({}, x, rngs=rngs) for m in (twice, once))
    assert (both != 2 * one).any()


def test_inside_a_layer_without_a_stream_the_seed_and_the_counter_decide():
    x = jnp.zeros((2, 3))
    first = Noise(random.SeedGenerator(1)).apply({}, x)
    np.testing.assert_array_equal(first, random.normal((2, 3), seed=random.SeedGenerator(1)))
    layer = Noise(random.SeedGenerator(1))
    assert (layer.apply({}, x) != layer.apply({}, x)).all()
    compiled = jax.jit(lambda: layer.apply({}, x))
    np.testing.assert_array_equal(compiled(), compiled())


def test_an_integer_seed_inside_a_layer_is_constant():
    class Fixed(layers.Layer):
        @nn.compact
        def compute(self, inputs):
            return inputs + random.normal(inputs.shape, seed=1)

    x = jnp.zeros((2, 3))
    y = Fixed().apply({}, x, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(y, random.normal((2, 3), seed=1))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: random.normal((2,), seed="1"),
            "`seed` must be an integer, a SeedGenerator, a JAX key or None, got '1'; give, for example, 1.",
        ),
        (
            lambda: random.SeedGenerator(1.5),
            "`seed` of SeedGenerator must be an integer or None, got 1.5; give, for example, 1.",
        ),
        (
            lambda: random.uniform((2,), dtype="int32"),
            "`dtype` of `uniform` must be floating-point, got 'int32'; give, for example, \"float32\".",
        ),
        (
            lambda: random.randint((2,), 0, 2, dtype="float32"),
            "`dtype` of `randint` must be an integer dtype, got 'float32'; give, for example, \"int32\".",
        ),
        (
            lambda: random.categorical([0.0, 1.0], 2),
            "`categorical` takes logits of shape [batch, classes], got shape (2,); add an axis.",
        ),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == error
