"""Normalization layers, compared with float64 loops and Keras: padding, masks, frozen layers and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Sequential, interop, layers
from tests.support.layer_oracle import assert_arguments, assert_as_keras, numbers, truths
from tests.support.spatial_oracle import near, refuses


def trained(layer, variables, x, **more):
    return layer.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"], **more)


def started(layer, x, seed=0):
    """Returns variables with random weights and statistics."""
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    weights = interop.get_keras_weights(layer, variables)
    positive = [0.5 + np.abs(numbers(seed + i, *w.shape)) for i, w in enumerate(weights)]
    return interop.set_keras_weights(layer, variables, positive)


def params_of(variables):
    return [np.asarray(p, np.float64) for _, p in sorted(variables["params"].items())]


# ---------------------------------------------------------------- BatchNormalization, hand-computed values


def test_batch_normalization_by_hand():
    layer, x = layers.BatchNormalization(momentum=0.5, epsilon=0), jnp.array([[1.0], [3.0]])
    variables = layer.init(jax.random.key(0), x)
    y, new = trained(layer, variables, x)
    assert y.ravel().tolist() == [-1, 1]
    assert new["batch_stats"]["moving_mean"].tolist() == [1]  # (0 + 2) / 2
    assert new["batch_stats"]["moving_variance"].tolist() == [1]  # (1 + 1) / 2: the biased variance, 1 and not 2
    assert layer.apply({**variables, **new}, x).ravel().tolist() == [0, 2]


def test_gamma_and_beta_are_optional():
    x = jnp.ones((2, 3))
    for center, scale in ((True, False), (False, True), (False, False)):
        layer = layers.BatchNormalization(center=center, scale=scale)
        assert sorted(layer.init(jax.random.key(0), x).get("params", {})) == ["beta"] * center + ["gamma"] * scale


@pytest.mark.parametrize("renorm", [False, True])
def test_initialization_does_not_update_the_averages(renorm):
    layer, x = layers.BatchNormalization(renorm=renorm, moving_variance_initializer="zeros"), jnp.ones((8, 3))
    statistics = layer.init(jax.random.key(0), x, train=True)["batch_stats"]
    assert len(statistics) == (5 if renorm else 2)
    assert all((value == 0).all() for value in statistics.values())


# ---------------------------------------------------------------- padding and masks


@pytest.mark.parametrize("renorm", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_padding_rows_have_no_effect(renorm, masked):
    """Outputs, statistics and gradients of 5 rows equal those of the same rows among 8, whatever the other 3 contain."""
    layer, x = layers.BatchNormalization(renorm=renorm), numbers(0, 5, 4, 3)
    padded = np.concatenate([x, 1e3 + 100 * numbers(1, 3, 4, 3)])
    mask = truths(2, 8, 4) if masked else None
    variables, valid = started(layer, x), {"batch": {"valid": jnp.arange(8) < 5}}
    weights = jnp.asarray(numbers(3, 5, 4, 3))

    def loss(params, x, mask, extra):
        y, new = trained(layer, {**variables, "params": params, **extra}, x, mask=mask)
        return jnp.sum(y[:5] * weights), (y[:5], new)

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (_, wanted), (by_params, by_x) = run(variables["params"], x, None if mask is None else mask[:5], {})
    (_, got), (got_by_params, got_by_x) = run(variables["params"], padded, mask, valid)
    for a, b in zip(jax.tree.leaves((wanted, by_params)), jax.tree.leaves((got, got_by_params)), strict=True):
        near(b, a)
    near(got_by_x[:5], by_x)
    assert (np.asarray(got_by_x)[5:] == 0).all()


def test_padding_rows_of_folded_time_have_no_effect():
    layer, x = layers.TimeDistributed(layers.BatchNormalization()), jnp.asarray(numbers(0, 3, 4, 2))
    variables = layer.init(jax.random.key(0), x)
    padded = jnp.concatenate([x, 1e3 * jnp.ones((2, 4, 2))])
    y, new = trained(layer, variables, x)
    got, got_new = trained(layer, {**variables, "batch": {"valid": jnp.arange(5) < 3}}, padded)
    near(got[:3], y)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(got_new), strict=True):
        near(b, a)


def test_a_batch_of_only_padding_does_not_update_the_averages():
    layer, x = layers.BatchNormalization(), jnp.ones((4, 3))
    variables = started(layer, x)
    y, new = trained(layer, {**variables, "batch": {"valid": jnp.zeros(4, bool)}}, x)
    assert np.isfinite(y).all()
    for name, value in new["batch_stats"].items():
        assert (value == variables["batch_stats"][name]).all()


def test_a_fully_masked_batch_updates_the_averages_as_in_keras():
    layer, x = layers.BatchNormalization(momentum=0.75), numbers(0, 4, 3)
    variables = started(layer, x)
    _, new = trained(layer, variables, x, mask=jnp.zeros(4, bool))
    for name, value in new["batch_stats"].items():
        near(value, 0.75 * variables["batch_stats"][name])
    for renorm in (False, True):
        config = {"momentum": 0.75, "renorm": renorm}
        assert_as_keras("BatchNormalization", config, x, {"mask": np.zeros(4, bool)}, train=True)


def test_masked_statistics_by_a_loop():
    x, mask = numbers(0, 3, 4, 2), truths(1, 3, 4)
    layer = layers.BatchNormalization(momentum=0)
    _, new = trained(layer, started(layer, x), x, mask=jnp.asarray(mask))
    kept = x[mask].astype(np.float64)
    near(new["batch_stats"]["moving_mean"], kept.mean(0))
    near(new["batch_stats"]["moving_variance"], kept.var(0))


# ---------------------------------------------------------------- frozen layers


def test_frozen_layers_use_the_averages():
    x = jnp.asarray(numbers(0, 6, 3))
    free = Sequential([Input((3,)), layers.BatchNormalization()])
    variables = started(free, x)
    inferred = free.apply(variables, x)
    for model in (
        Sequential([Input((3,)), layers.BatchNormalization(trainable=False)]),
        Sequential([Input((3,)), layers.BatchNormalization()], trainable=False),
        free,
    ):
        y, new = trained(model, variables, x)
        frozen = model is not free
        assert bool((y == inferred).all()) == frozen
        same = jax.tree.map(lambda a, b: bool((a == b).all()), new["batch_stats"], variables["batch_stats"])
        assert jax.tree.all(same) == frozen


def test_layers_inside_a_frozen_model_use_the_averages():
    inner = Sequential([layers.BatchNormalization()])
    x = jnp.asarray(numbers(0, 6, 3))
    outer = Sequential([Input((3,)), inner, layers.Dense(2)], trainable=False)
    variables = started(outer, x)
    y, new = trained(outer, variables, x)
    near(y, outer.apply(variables, x))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), new["batch_stats"], variables["batch_stats"]))


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("name", ["BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"])
def test_statistics_of_bfloat16_are_computed_in_float32(name):
    config = {"groups": 1} if name == "GroupNormalization" else {}
    layer = getattr(layers, name)(dtype="mixed_bfloat16", **config)
    x = (300 + numbers(0, 64, 32)).astype(jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    y, new = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    wide = getattr(layers, name)(**config)
    wanted, _ = wide.apply(variables, x.astype(jnp.float32), train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y), np.asarray(wanted.astype(jnp.bfloat16)))
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, new))} == {jnp.dtype("float32")}


# ---------------------------------------------------------------- other layers


def loop(x, axes, epsilon):
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def test_layer_normalization_by_a_loop():
    x = numbers(0, 2, 3, 4)
    layer = layers.LayerNormalization(axis=(1, 2), epsilon=0.1)
    variables = started(layer, x)
    beta, gamma = params_of(variables)
    near(layer.apply(variables, x), loop(x, (1, 2), 0.1) * gamma + beta)


@pytest.mark.parametrize("groups", [1, 2, 6, -1])
def test_group_normalization_by_a_loop(groups):
    x, count = numbers(0, 2, 3, 4, 6), 6 if groups == -1 else groups
    layer = layers.GroupNormalization(groups)
    variables = started(layer, x)
    parts = [loop(part, (1, 2, 3), 1e-3) for part in np.split(x, count, -1)]
    beta, gamma = params_of(variables)
    near(layer.apply(variables, x), np.concatenate(parts, -1) * gamma + beta)


@pytest.mark.parametrize("axis", [1, -1, (1, 2)])
def test_rms_normalization_by_a_loop(axis):
    x = numbers(0, 2, 3, 4)
    layer = layers.RMSNormalization(axis)
    variables = started(layer, x)
    (scale,) = params_of(variables)
    wanted = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis, keepdims=True) + 1e-6)
    near(layer.apply(variables, x), wanted * (scale[:, None] if axis == 1 else scale))


def test_unit_normalization_by_hand():
    y = layers.UnitNormalization(axis=1).apply({}, jnp.array([[[3.0], [4.0]], [[0.0], [0.0]]]))
    np.testing.assert_allclose(y.ravel(), [0.6, 0.8, 0, 0], rtol=1e-6)
    grad = jax.grad(lambda x: layers.UnitNormalization().apply({}, x).sum())(jnp.zeros((1, 2)))
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("kind", ["Batch", "Layer", "Group", "Unit"])
def test_masks_are_passed_on(kind):
    config = {"groups": 1} if kind == "Group" else {}
    layer, x, mask = getattr(layers, f"{kind}Normalization")(**config), jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool)
    variables = layer.init(jax.random.key(0), x)
    assert layer.apply(variables, x, mask=mask, method="outputs_and_mask")[1] is mask


# ---------------------------------------------------------------- SpectralNormalization


def spectral(iterations=1, **config):
    return layers.SpectralNormalization(layers.Dense(3, **config), iterations)


def test_spectral_norm_is_one_after_many_iterations():
    layer, x = spectral(200), jnp.asarray(numbers(0, 5, 4))
    variables = started(layer, x)
    y, new = trained(layer, variables, x)
    bias, kernel = params_of(variables)
    sigma = np.linalg.norm(kernel, 2)
    near(y, np.asarray(x) @ (kernel / sigma) + bias)
    assert float(new["batch_stats"]["sigma"]) == pytest.approx(sigma, rel=1e-5)
    # Outside of training, the same kernel is used and the statistics do not change.
    near(layer.apply({**variables, **new}, x), y)


def test_spectral_norm_does_not_change_the_kernel_before_training():
    layer, x = spectral(), jnp.asarray(numbers(0, 5, 4))
    variables = started(layer, x)
    bias, kernel = params_of(variables)
    near(layer.apply(variables, x), np.asarray(x) @ kernel + bias)


def test_spectral_norm_of_a_kernel_of_zeros():
    layer, x = spectral(kernel_initializer="zeros"), jnp.asarray(numbers(0, 5, 4))
    variables = layer.init(jax.random.key(0), x)
    y, new = trained(layer, variables, x)
    assert (y == 0).all()
    assert (new["batch_stats"]["vector_u"] == variables["batch_stats"]["vector_u"]).all()
    grads = jax.grad(lambda p: trained(layer, {**variables, "params": p}, x)[0].sum())(variables["params"])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("train", [False, True])
def test_spectral_norm_as_keras(train):
    import keras

    pair = spectral(2), keras.layers.SpectralNormalization(keras.layers.Dense(3), 2)
    assert_as_keras("SpectralNormalization", {}, numbers(0, 5, 4), train=train, pair=pair)
    ours, theirs = (lib.Conv2D(2, 3, use_bias=False) for lib in (layers, keras.layers))
    pair = layers.SpectralNormalization(ours), keras.layers.SpectralNormalization(theirs)
    assert_as_keras("SpectralNormalization", {}, numbers(0, 2, 5, 5, 3), train=train, pair=pair)


def test_spectral_norm_includes_the_layers_losses_and_weights():
    layer = layers.SpectralNormalization(layers.Embedding(4, 2, embeddings_regularizer="l2"))
    ids = jnp.array([[1, 2]])
    variables = layer.init(jax.random.key(0), ids)
    assert [w.shape for w in interop.get_keras_weights(layer, variables)] == [(4, 2), (1, 2)]
    _, state = layer.apply(variables, ids, mutable=["losses"])
    squares = float((variables["params"]["embedding"] ** 2).sum())
    assert float(state["losses"]["embedding"]) == pytest.approx(0.01 * squares)


# ---------------------------------------------------------------- Keras


@pytest.mark.parametrize("name", ["BatchNormalization", "GroupNormalization", "RMSNormalization", "UnitNormalization"])
def test_arguments_equal_those_of_keras(name):
    assert_arguments(name)


def test_arguments_equal_those_of_keras_plus_more():
    assert_arguments("LayerNormalization", more=["rms_scaling"])
    assert_arguments("SpectralNormalization")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"axis": 1, "momentum": 0.6, "epsilon": 0.05},
        {"center": False, "axis": 2},
        {"scale": False},
        {"trainable": False},
        {"renorm": True, "renorm_momentum": 0.7, "momentum": 0.8},
        {"renorm": True, "renorm_clipping": {"rmin": 0.7, "rmax": 1.2, "dmax": 0.2}, "scale": False},
        {"renorm": True, "renorm_clipping": {"rmax": 0.9}, "center": False},
    ],
)
def test_batch_normalization_as_keras(config, train):
    assert_as_keras("BatchNormalization", config, numbers(0, 5, 4, 3), train=train)


@pytest.mark.parametrize("shape", [(5, 3), (4, 5, 3), (2, 3, 2, 3)])
def test_masked_batch_normalization_as_keras(shape):
    x, mask = numbers(0, *shape), truths(1, *shape[:-1])
    assert_as_keras("BatchNormalization", {"momentum": 0.5}, x, {"mask": mask}, train=True)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("LayerNormalization", {}),
        ("LayerNormalization", {"axis": 1, "center": False}),
        ("LayerNormalization", {"axis": [-1, -2], "epsilon": 0.1}),
        ("LayerNormalization", {"axis": (1, 3), "scale": False}),
        ("LayerNormalization", {"axis": (3, 1)}),
        ("LayerNormalization", {"rms_scaling": True}),
        ("GroupNormalization", {"groups": 2}),
        ("GroupNormalization", {"groups": 3, "axis": 1, "center": False}),
        ("GroupNormalization", {"groups": -1, "axis": -2, "scale": False}),
        ("RMSNormalization", {"epsilon": 0.1}),
        ("RMSNormalization", {"axis": [-2, -1]}),
        ("UnitNormalization", {"axis": (1, 2)}),
    ],
)
def test_other_layers_as_keras(name, config):
    assert_as_keras(name, config, numbers(0, 2, 3, 4, 6))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "shape", "mask", "sentence"),
    [
        (
            lambda: layers.BatchNormalization(axis=3),
            (2, 3, 4),
            None,
            "`axis` of BatchNormalization must name different axes of its inputs, got 3 for inputs of shape (2, 3, 4); "
            "give axes from -3 to 2.",
        ),
        (
            lambda: layers.LayerNormalization(axis=(1, -2)),
            (2, 3, 4),
            None,
            "`axis` of LayerNormalization must name different axes of its inputs, got (1, -2) for inputs of shape (2, 3, "
            "4); give axes from -3 to 2.",
        ),
        (
            lambda: layers.BatchNormalization(),
            (2, 3, 4, 5),
            (2, 3),
            "The mask of BatchNormalization must have one axis fewer than its inputs, got a mask of shape (2, 3) "
            "for inputs of shape (2, 3, 4, 5); reshape the mask, or leave it out.",
        ),
        (
            lambda: layers.BatchNormalization(renorm=True, renorm_clipping={"rmix": 1.0}),
            (),
            None,
            '`renorm_clipping` of BatchNormalization takes the bounds "rmin", "rmax" and "dmax" and requires '
            "`renorm`=True, got {'rmix': 1.0} with `renorm`=True; leave out other names, or set `renorm`.",
        ),
        (
            lambda: layers.BatchNormalization(renorm_clipping={"rmax": 1.0}),
            (),
            None,
            '`renorm_clipping` of BatchNormalization takes the bounds "rmin", "rmax" and "dmax" and requires '
            "`renorm`=True, got {'rmax': 1.0} with `renorm`=False; leave out other names, or set `renorm`.",
        ),
        (
            lambda: layers.BatchNormalization(renorm=True, renorm_clipping={"rmin": 2.0, "rmax": 1.0}),
            (),
            None,
            "`renorm_clipping` of BatchNormalization must have rmin <= rmax and dmax >= 0, got {'rmin': 2.0, "
            "'rmax': 1.0}; change the bounds.",
        ),
        (
            lambda: layers.GroupNormalization(0),
            (),
            None,
            "`groups` of GroupNormalization must be a positive integer, got 0; give 1 or more.",
        ),
        (
            lambda: layers.GroupNormalization(4),
            (2, 6),
            None,
            "`groups` of GroupNormalization must divide the number of channels, on an axis other than the batch, "
            "got 4 for axis -1 of shape (2, 6); give a divisor of 6, or another axis.",
        ),
        (
            lambda: layers.SpectralNormalization(layers.ReLU()),
            (),
            None,
            "SpectralNormalization takes a layer with a `kernel` or `embedding`, got ReLU with the weights []; "
            "give, for example, layers.Dense(10).",
        ),
        (
            lambda: spectral(0),
            (),
            None,
            "`power_iterations` of SpectralNormalization must be a positive integer, got 0; give 1 or more.",
        ),
    ],
)
def test_error_messages(make, shape, mask, sentence):
    with refuses(sentence):
        make().init(jax.random.key(0), jnp.ones(shape), mask=None if mask is None else jnp.ones(mask, bool))


def test_spectral_norm_raises_unless_given_a_layer():
    with pytest.raises(TypeError) as caught:
        layers.SpectralNormalization("dense")
    assert str(caught.value) == (
        "`layer` of SpectralNormalization must be a layer, got 'dense' of type str; create an instance, such as "
        "layers.Dense(10)."
    )
