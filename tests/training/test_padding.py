"""The claims of the padding proof hold numerically, and all layers, losses and metrics pass it."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Sequential, layers
from tests.flaxmodels.layers import test_layer_table
from tests.support import loss_table, metric_table
from tests.support.layer_table import ROWS
from training import losses, metrics
from training.padding import changes_nothing
from training.padding.lattice import TAINTED, Clean, RowWise
from training.padding.proof import interpret
from training.state import Batch

PADDED, SHORT = 6, 4
VALID = np.arange(PADDED) < SHORT


def shapes_of(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


# ------------------------------------------------------------ random programs

# Functions of a value and the mask of valid rows; the batch may be on any axis of the value.
STEPS = [
    lambda x, v: jnp.tanh(x),
    lambda x, v: x + jnp.ones((x.shape[-1],), x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)),
    lambda x, v: x.sum(axis=-1, keepdims=True),
    lambda x, v: x - x.max(axis=-1, keepdims=True),
    lambda x, v: x - x.mean(axis=0, keepdims=True),
    lambda x, v: jnp.where(v.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0) if x.shape[0] == len(v) else x * 2,
    lambda x, v: jnp.where(v.reshape((-1,) + (1,) * (x.ndim - 1)), x, -jnp.inf) if x.shape[0] == len(v) else x * 2,
    lambda x, v: x * v.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1)) if x.shape[0] == len(v) else x / 2,
    lambda x, v: (
        jnp.where(jnp.repeat(v, x.shape[0] // len(v)).reshape((-1,) + (1,) * (x.ndim - 1)), x, 0)
        if x.shape[0] % len(v) == 0
        else x
    ),
    lambda x, v: x + x.sum(axis=0, keepdims=True),
    lambda x, v: x / (1 + jnp.abs(x).sum(axis=0, keepdims=True)),
    lambda x, v: jnp.swapaxes(x, 0, x.ndim - 1),
    lambda x, v: x.reshape(-1, x.shape[-1]),
    lambda x, v: x.reshape(x.shape[0], -1),
    lambda x, v: jnp.stack([x, x * 2], axis=0),
    lambda x, v: jnp.stack([x, x + 1], axis=-1),
    lambda x, v: jnp.concatenate([x, x], axis=-1),
    lambda x, v: x[..., ::-1],
    lambda x, v: x[..., :1] if x.shape[-1] not in (PADDED, SHORT) else x,
    lambda x, v: jnp.roll(x, 1, axis=-1),
    lambda x, v: jnp.sort(x, axis=-1),
    lambda x, v: jnp.cumsum(x, axis=0),
    lambda x, v: jnp.cumsum(x, axis=-1),
    lambda x, v: jax.nn.softmax(x, axis=-1),
    lambda x, v: x @ jnp.ones((x.shape[-1], 2), x.dtype),
    lambda x, v: x * jax.random.uniform(jax.random.key(0), x.shape),
    lambda x, v: x + jnp.arange(x.shape[-1], dtype=x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)),
    lambda x, v: x * x.shape[0],
    lambda x, v: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)]),
    lambda x, v: jnp.take(x, jnp.array([0, 0]), axis=-1),
    lambda x, v: x.at[..., 0].set(1.0),
    lambda x, v: jax.lax.scan(lambda c, row: (c + row, c * row), jnp.zeros(x.shape[1:], x.dtype), x)[1],
    lambda x, v: jnp.swapaxes(
        jax.lax.scan(lambda c, row: (jnp.tanh(c + row),) * 2, jnp.zeros_like(x[..., 0]), jnp.moveaxis(x, -1, 0))[1],
        0,
        -1,
    ),
    lambda x, v: jnp.einsum("...i,...j->...ij", x, x),
    lambda x, v: x.T @ x if x.ndim == 2 else x,
    lambda x, v: jax.lax.cond(x.shape[-1] > 1, lambda y: y + 1, lambda y: y - 1, x),
    lambda x, v: jnp.zeros((3,), x.dtype).at[(jnp.abs(x) > 0.5).astype(jnp.int32).reshape(-1)].add(x.reshape(-1)),
]


def program(seed):
    draw = np.random.default_rng(seed)
    chosen = [STEPS[i] for i in draw.integers(0, len(STEPS), draw.integers(1, 7))]

    def run(x, valid):
        for step in chosen:
            if x.ndim == 0 or x.ndim > 5:
                break
            x = step(x, valid)
        return x

    return run


def check(value, padded, short):
    """Compares a claim with the outputs with and without padding."""
    if isinstance(value, Clean):
        np.testing.assert_allclose(padded, short, rtol=1e-5, atol=1e-5)
        if value.constant is not None:
            np.testing.assert_array_equal(padded, np.full_like(padded, value.constant))
    elif isinstance(value, RowWise):
        outer_size = value.outer_size
        if outer_size is None:  # constant along the batch axis
            (axis,) = [k for k in range(padded.ndim) if padded.shape[k] != short.shape[k]]
            np.testing.assert_allclose(padded, np.take(padded, [0], axis).repeat(padded.shape[axis], axis))
            np.testing.assert_allclose(np.take(padded, 0, axis), np.take(short, 0, axis), rtol=1e-5, atol=1e-5)
            return
        rows, fewer = padded.reshape(outer_size, PADDED, -1), short.reshape(outer_size, SHORT, -1)
        np.testing.assert_allclose(rows[:, :SHORT], fewer, rtol=1e-5, atol=1e-5)
        if value.padding is not None:
            np.testing.assert_array_equal(rows[:, SHORT:], np.full_like(rows[:, SHORT:], value.padding))


@pytest.mark.rotate
@pytest.mark.parametrize("group", range(8))
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_claims_hold_in_random_programs(group):
    with jax.numpy_rank_promotion("allow"):
        proven = 0
        for seed in range(40 * group, 40 * group + 40):
            run, draw = program(seed), np.random.default_rng(seed)
            x = draw.normal(size=(PADDED, 3)).astype("float32")
            x[SHORT:] = 7.5  # a padding row that is not ignored changes the sums
            short = x[:SHORT], VALID[:SHORT]
            (value,) = interpret(run, shapes_of((x, VALID)), shapes_of(short), [RowWise(), RowWise(padding=np.False_)])
            if value != TAINTED:
                proven += 1
                with np.errstate(all="ignore"):
                    check(value, np.asarray(jax.jit(run)(x, VALID)), np.asarray(jax.jit(run)(*short)))
        assert proven >= 10


CASES = {
    "sum over the batch": (lambda x, v: x.sum(axis=0), TAINTED),
    "sum over the valid rows": (lambda x, v: jnp.where(v[:, None], x, 0).sum(axis=0), Clean()),
    "maximum of the valid rows": (lambda x, v: jnp.where(v[:, None], x, -jnp.inf).max(axis=0), Clean()),
    "sum of rows padded with 1": (lambda x, v: jnp.where(v[:, None], x, 1).sum(axis=0), TAINTED),
    "number of valid rows": (lambda x, v: v.sum(), Clean()),
    "number of all rows": (lambda x, v: jnp.ones(len(x)).sum(), TAINTED),
    "product with the batch size": (lambda x, v: x * x.shape[0], TAINTED),
    "product with itself": (lambda x, v: x @ x.T, TAINTED),
    "sums of products of valid rows": (lambda x, v: jnp.where(v[:, None], x, 0).T @ x, Clean()),
    "leading time axis": (lambda x, v: jnp.swapaxes(x, 0, 1), RowWise(3)),
    "rows shifted": (lambda x, v: jnp.roll(x, 1, axis=0), TAINTED),
    "rows sorted": (lambda x, v: jnp.sort(x, axis=0), TAINTED),
    "noise": (lambda x, v: jax.random.normal(jax.random.key(0), x.shape), RowWise()),
    "noise with a leading time axis": (lambda x, v: jax.random.normal(jax.random.key(0), x.T.shape), TAINTED),
    "rows in a loop": (lambda x, v: jax.lax.scan(lambda c, r: (c + r, c), x[0], x)[1], TAINTED),
    "branch that depends on a row": (lambda x, v: jax.lax.cond(x[0, 0] > 0, lambda y: y, jnp.sin, x), TAINTED),
}


@pytest.mark.spread
@pytest.mark.parametrize("case", CASES)
def test_conclusions_for_single_operations(case):
    function, expected = CASES[case]
    x = np.zeros((PADDED, 3), np.float32)
    arguments = shapes_of((x, VALID)), shapes_of((x[:SHORT], VALID[:SHORT]))
    assert interpret(function, *arguments, [RowWise(), RowWise(padding=np.False_)]) == [expected]


def test_custom_derivatives_of_users_are_not_trusted():
    @jax.custom_vjp
    def centered_gradient(x):
        return x

    centered_gradient.defvjp(lambda x: (x, None), lambda _, g: (g - g.mean(axis=0, keepdims=True),))

    @jax.custom_jvp
    def centered_tangent(x):
        return x

    centered_tangent.defjvp(lambda p, t: (p[0], t[0] - t[0].mean(axis=0, keepdims=True)))
    x = np.zeros((PADDED, 3), np.float32)
    for function in (centered_gradient, centered_tangent):
        assert interpret(function, shapes_of((x,)), shapes_of((x[:SHORT],)), [RowWise()]) == [TAINTED]
    assert interpret(jax.nn.relu, shapes_of((x,)), shapes_of((x[:SHORT],)), [RowWise()]) == [RowWise()]


# ------------------------------------------------------------ layers, losses, metrics


@test_layer_table.over_modes()
def test_all_layers_pass(row, train):
    variables, args = test_layer_table.variables(row), [row.arrays(n) for n in (8, 5)]

    def step(variables, valid, args):
        return test_layer_table.apply(row, test_layer_table.penalized(row), variables, args, train, valid)

    masks = [jax.ShapeDtypeStruct((n,), bool) for n in (8, 5)]
    padded, short = (shapes_of((variables, mask, arrays)) for mask, arrays in zip(masks, args, strict=True))
    known = (
        [Clean()] * len(jax.tree.leaves(variables))
        + [RowWise(padding=np.False_)]
        + [RowWise()] * len(jax.tree.leaves(args[0]))
    )
    outputs, state = jax.eval_shape(step, *padded)
    found = interpret(step, padded, short, known)
    n = len(jax.tree.leaves(outputs))
    assert all(isinstance(value, RowWise) and value.outer_size == 1 for value in found[:n])
    assert all(isinstance(value, Clean) for value in found[n:])


def test_the_layer_table_is_complete():
    assert len(ROWS) > 100


# These compute values from several examples.
MIXING = {"Circle"}


@pytest.mark.spread
@pytest.mark.parametrize("weighted", [False, True])
def test_all_losses_pass_except_those_that_mix_examples(weighted):
    failed = set()
    for row in loss_table.ROWS:
        if row.id == "Dice-images-axis=(0, 1, 2)" and weighted:
            continue  # has one value per class, so it accepts no weights per example
        loss = getattr(losses, row.name)(**row.kwargs)
        args = [
            shapes_of((np.zeros(n, bool), np.zeros(n, np.float32) if weighted else None, *row.arrays(n)))
            for n in (8, 5)
        ]

        def measure(valid, weight, true, pred, loss=loss):
            return loss(true, pred, sample_weight=weight, mask=valid)

        known = [RowWise(padding=np.False_)] + [RowWise()] * (len(jax.tree.leaves(args[0])) - 1)
        (found,) = interpret(measure, *args, known)
        if not isinstance(found, Clean):
            failed.add(row.name)
    assert failed == MIXING


@pytest.mark.spread
@pytest.mark.parametrize("weighted", [False, True])
def test_all_metrics_pass(weighted):
    failed = set()
    for row in metric_table.ROWS:
        if weighted and not row.weighted:
            continue
        metric = getattr(metrics, row.name)(**row.kwargs)
        args = [
            shapes_of((np.zeros(n, bool), np.zeros(n, np.float32) if weighted else None, *row.arrays(n)))
            for n in (8, 5)
        ]
        state = jax.eval_shape(metric.empty_for if len(args[0]) == 4 else lambda *_, m=metric: m.empty(), *args[0][2:])

        def update(state, valid, weight, *values, metric=metric):
            return metric.update(state, *values, sample_weight=weight, mask=valid)

        known = [Clean()] * len(jax.tree.leaves(state)) + [RowWise(padding=np.False_)]
        known += [RowWise()] * (len(jax.tree.leaves(args[0])) - 1)
        found = interpret(update, *((state, *arguments) for arguments in args), known)
        if not all(isinstance(value, Clean) for value in found):
            failed.add(row.id)
    assert not failed


# ------------------------------------------------------------ models


class Standardized(nn.Module):
    """Uses linen's batch normalization, which includes padding rows."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(use_running_average=not train)(x)


class Doubled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) * 2


MODELS = {
    "row-wise linen module": (Doubled(), True),
    "linen batch normalization": (Standardized(), False),
    "linen batch normalization among our layers": (Sequential([nn.BatchNorm(), layers.Dense(1)]), False),
    "our batch normalization": (Sequential([layers.BatchNormalization(), layers.Dense(1)]), True),
    "rows folded with a leading time axis": (
        Sequential([layers.Reshape((3, 1)), layers.Lambda(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, 1)), layers.BatchNormalization()]),
        False,
    ),
    "rows folded with a leading batch axis": (
        Sequential([layers.Reshape((3, 1)), layers.TimeDistributed(layers.BatchNormalization())]),
        True,
    ),
    "a function that mixes rows": (Sequential([layers.Lambda(lambda x: x - x.mean(axis=0, keepdims=True))]), False),
}  # fmt: skip


@pytest.mark.spread
@pytest.mark.parametrize("name", MODELS)
def test_training_of_models(name):
    model, expected = MODELS[name]
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), jnp.ones((PADDED, 3)))
    batch = Batch(jax.ShapeDtypeStruct((PADDED, 3), jnp.float32))

    class Silent:
        empty = staticmethod(dict)

        @staticmethod
        def measure(batch, outputs):
            return types.SimpleNamespace(loss=jnp.zeros(()), values=outputs.values, valid=batch.valid)

        @staticmethod
        def update(totals, measured):
            out, valid = measured.values, measured.valid
            rows = jnp.repeat(valid, out.shape[0] // len(valid)).reshape((-1,) + (1,) * (out.ndim - 1))
            return jnp.where(rows, out, 0).sum()

    assert changes_nothing(model, Silent(), variables, batch, SHORT, train=True) == expected


def test_predictions_need_a_leading_batch_axis():
    batch = Batch(jax.ShapeDtypeStruct((PADDED, 3), jnp.float32))
    proven = functools.partial(changes_nothing, objective=None, variables={}, batch=batch, rows=SHORT)
    assert proven(Sequential([layers.Flatten()]))
    assert not proven(Sequential([layers.Lambda(jnp.transpose)]))
    assert not proven(Sequential([layers.Lambda(lambda x: x.sum())]))
