"""Flax sees each layer inside a model: in intermediates, tables, interceptors and transformed classes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.kernels import native
from tests.support.model_parts import KEY
from training import steps
from training.forward import forward

X = jax.random.normal(KEY, (2, 9, 8, 2))
S = jax.random.normal(KEY, (2, 5, 3))
needs_kernels = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")


def captured(model, x, **how):
    """Returns the model's variables, its outputs, and the intermediates that flax records."""
    variables = model.init({"params": KEY, "dropout": KEY}, x)
    collections = ["intermediates", "batch_stats"]
    y, state = model.apply(variables, x, capture_intermediates=True, mutable=collections, **how)
    return variables, y, state["intermediates"]


def stack():
    return [
        layers.Conv2D(8, 3, activation="relu"),
        layers.MaxPooling2D(),
        Sequential([layers.Flatten(), layers.Dense(3, activation="tanh")], name="head"),
    ]


def by_hand(variables, x):
    """Returns the outputs of each layer of `stack`, computed one by one."""
    params, conv, pooling, head = variables["params"], *stack()
    found = {"conv2d": conv.apply({"params": params["conv2d"]}, x)}
    found["max_pooling2d"] = pooling.apply({}, found["conv2d"])
    found["head"] = head.apply({"params": params["head"]}, found["max_pooling2d"])
    found["flatten"] = found["max_pooling2d"].reshape(2, -1)
    return found


def graph():
    x = y = Input(X.shape[1:])
    for layer in stack():
        y = layer(y)
    return Model(x, y)


@pytest.mark.parametrize("make", [lambda: Sequential(stack()), graph], ids=["Sequential", "Model"])
def test_every_layer_is_listed_with_its_outputs(make):
    variables, y, found = captured(make(), X)
    want = by_hand(variables, X)
    assert set(found) == {"__call__", "conv2d", "max_pooling2d", "head"}
    assert set(found["head"]) == {"__call__", "flatten", "dense"}
    recorded = {name: found[name]["__call__"] for name in ("conv2d", "max_pooling2d", "head")}
    recorded |= {"flatten": found["head"]["flatten"]["__call__"]}
    for name, outputs in recorded.items():
        (outputs,) = outputs
        np.testing.assert_allclose(outputs, want[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(y, found["__call__"][0])
    np.testing.assert_array_equal(y, found["head"]["dense"]["__call__"][0])


def test_intermediates_match_those_of_linen_sequential():
    ours, theirs = (kind([nn.Dense(4), nn.relu, nn.Dense(2)]) for kind in (_as_ours, nn.Sequential))
    variables, y, found = captured(theirs, S)
    renamed = {"params": {"dense": variables["params"]["layers_0"], "dense_1": variables["params"]["layers_2"]}}
    our_y, state = ours.apply(renamed, S, capture_intermediates=True, mutable=["intermediates"])
    of_ours = state["intermediates"]
    np.testing.assert_allclose(our_y, y, rtol=1e-6)
    for a, b in (("__call__", "__call__"), ("dense", "layers_0"), ("dense_1", "layers_2")):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), of_ours[a], found[b])


def _as_ours(stack):
    return Sequential([layers.Lambda(thing) if thing is nn.relu else thing for thing in stack])


@needs_kernels
def test_fused_layers_give_equal_outputs_up_to_rounding():
    model = Sequential(stack())
    variables, y, found = captured(model, X)
    fused = jax.make_jaxpr(model.apply)(variables, X)
    assert "pooled=True" in str(fused)
    np.testing.assert_allclose(model.apply(variables, X), y, rtol=1e-5, atol=1e-6)

    def seen(variables):
        _, state = model.apply(variables, X, capture_intermediates=True, mutable=["intermediates"])
        return jnp.sum(state["intermediates"]["conv2d"]["__call__"][0] ** 2)

    def by_itself(variables):
        return jnp.sum(by_hand(variables, X)["conv2d"] ** 2)

    slopes = jax.jit(jax.grad(seen))(variables), jax.grad(by_itself)(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *slopes)
    assert np.abs(slopes[0]["params"]["conv2d"]["kernel"]).max() > 0.1


@needs_kernels
@pytest.mark.parametrize("train", [False, True])
def test_training_and_evaluation_fuse_pairs(train):
    model = Sequential(stack())
    variables, batch = model.init(KEY, X), steps.Batch(X, None)
    program = jax.make_jaxpr(lambda variables: forward(model, variables, batch, train, KEY).values)(variables)
    assert "pooled=True" in str(program)


def test_layer_called_twice_has_two_entries():
    a, b = Input((3,)), Input((3,))
    dense = layers.Dense(4)
    model = Model([a, b], layers.Add()([dense(a), dense(b)]))
    x = [S[:, 0], S[:, 1]]
    variables, y, found = captured(model, x)
    first, second = found["dense"]["__call__"]
    for outputs, each in ((first, x[0]), (second, x[1])):
        np.testing.assert_allclose(outputs, each @ variables["params"]["dense"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(first + second, y, rtol=1e-6)


def test_layers_inside_wrappers_are_listed():
    model = Sequential(
        [layers.TimeDistributed(layers.Dense(4)), layers.Bidirectional(layers.LSTM(2)), layers.Dropout(0.5)]
    )
    variables, y, found = captured(model, S)
    kernel = variables["params"]["time_distributed"]["layer"]["kernel"]
    (rows,) = found["time_distributed"]["layer"]["__call__"]
    np.testing.assert_allclose(rows, S.reshape(10, 3) @ kernel, rtol=1e-6, atol=1e-6)
    both = [found["bidirectional"][f"{which}_layer"]["__call__"][0] for which in ("forward", "backward")]
    np.testing.assert_array_equal(jnp.concatenate(both, axis=-1), y)


def test_in_training_with_statistics():
    model = Sequential([layers.Dense(4), layers.BatchNormalization()])
    variables, y, found = captured(model, X[:, 0, 0], train=True)
    (dense,) = found["dense"]["__call__"]
    np.testing.assert_array_equal(found["batch_normalization"]["__call__"][0], y)
    np.testing.assert_allclose(dense, X[:, 0, 0] @ variables["params"]["dense"]["kernel"], rtol=1e-6)


def test_filter_selects_layers():
    model = Sequential(stack())
    variables = model.init(KEY, X)
    _, state = model.apply(
        variables,
        X,
        capture_intermediates=lambda module, method: isinstance(module, layers.Dense) and method == "__call__",
        mutable=["intermediates"],
    )
    assert jax.tree.map(jnp.shape, state) == {"intermediates": {"head": {"dense": {"__call__": ((2, 3),)}}}}


def test_masks_pass_between_layers_while_calls_are_recorded():
    model = Sequential([layers.Masking(), layers.Dropout(0.0), Sequential([layers.LSTM(3, return_sequences=True)])])
    x = S.at[:, 3:].set(0)
    variables, y, _ = captured(model, x)
    np.testing.assert_array_equal(y, model.apply(variables, x))
    np.testing.assert_array_equal(y[:, 3], y[:, 2])  # masked steps repeat the state
    _, mask = model.apply(variables, x, method="outputs_and_mask")
    np.testing.assert_array_equal(mask, x[..., 0] != 0)


def test_table_lists_every_layer():
    table = nn.tabulate(Sequential(stack()), KEY, console_kwargs={"width": 120, "force_terminal": False})(X)
    for path in ("conv2d", "max_pooling2d", "head/flatten", "head/dense"):
        assert f" {path} " in table


def test_interceptor_sees_every_layer_of_a_pair():
    model, seen = Sequential(stack()), []
    variables = model.init(KEY, X)

    def note(method, args, kwargs, context):
        if context.method_name == "__call__":
            seen.append(type(context.module).__name__)
        return method(*args, **kwargs)

    with nn.intercept_methods(note):
        model.apply(variables, X)
    assert seen == ["Sequential", "Conv2D", "MaxPooling2D", "Sequential", "Flatten", "Dense"]


@pytest.mark.parametrize("train", [False, True])
def test_transformed_class_takes_effect(train):
    plain, remade = (Sequential([kind(4), layers.Dropout(0.0)]) for kind in (layers.Dense, nn.remat(layers.Dense)))
    variables = plain.init(KEY, S)
    renamed = {"params": dict(zip(remade.init(KEY, S)["params"], variables["params"].values(), strict=True))}

    def loss(model, variables):
        return jnp.sum(model.apply(variables, S, train=train, rngs={"dropout": KEY}) ** 2)

    program = jax.make_jaxpr(jax.grad(lambda v: loss(remade, v)))(renamed)
    assert "remat" in str(program) or "checkpoint" in str(program)
    ours, theirs = jax.grad(lambda v: loss(plain, v))(variables), jax.grad(lambda v: loss(remade, v))(renamed)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_transformed_model_inside_a_model(train):
    """The mask of its outputs is passed on, and the training flag reaches its layers."""

    def made(kind):
        inner = [layers.Masking(), layers.Dropout(0.5), layers.Dense(4, kernel_regularizer="l2")]
        return Sequential([kind(inner, name="block"), layers.LSTM(3, return_sequences=True)])

    x = S.at[:, 3:].set(0)
    plain, remade = made(Sequential), made(nn.remat(Sequential))
    variables = remade.init(KEY, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, plain.init(KEY, x))

    def run(model, variables):
        y, state = model.apply(variables, x, train=train, rngs={"dropout": KEY}, mutable=["losses"])
        return jnp.sum(y**2) + sum(jax.tree.leaves(state)), y

    program = str(jax.make_jaxpr(jax.grad(lambda v: run(remade, v)[0]))(variables))
    assert "remat" in program or "checkpoint" in program
    (ours, y), slopes = jax.value_and_grad(lambda v: run(remade, v), has_aux=True)(variables)
    (theirs, z), wanted = jax.value_and_grad(lambda v: run(plain, v), has_aux=True)(variables)
    np.testing.assert_array_equal(y[:, 3], y[:, 2])  # masked steps repeat the state
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), slopes, wanted)


class Perturbed(nn.Module):
    """Lets callers compute the gradient with respect to its outputs, and sows their mean."""

    @nn.compact
    def __call__(self, x):
        x = self.perturb("outputs", 3.0 * x)
        self.sow("intermediates", "mean", jnp.mean(x))
        return x


def test_perturbations_and_sown_values_inside_a_model():
    model = Sequential([layers.Dense(4), Perturbed(), layers.Dense(2)])
    variables = model.init(KEY, S)

    def loss(perturbations):
        y, state = model.apply(variables | {"perturbations": perturbations}, S, mutable=["intermediates"])
        return jnp.sum(y), state

    slopes, state = jax.grad(loss, has_aux=True)(variables["perturbations"])
    want = jnp.broadcast_to(variables["params"]["dense_1"]["kernel"].sum(axis=1), (*S.shape[:2], 4))
    np.testing.assert_allclose(slopes["perturbed"]["outputs"], want, rtol=1e-6)
    mean = jnp.mean(3 * S @ variables["params"]["dense"]["kernel"])
    np.testing.assert_allclose(state["intermediates"]["perturbed"]["mean"][0], mean, rtol=1e-4, atol=1e-6)
