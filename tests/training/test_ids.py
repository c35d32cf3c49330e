"""Out-of-range indices of embeddings are rejected before a step, or the warning names the embedding."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from flaxmodels import Input, Model, Sequential, layers
from flaxmodels.inspection import lookups_of
from training import Trainer
from training.datasets import Split

IDS = np.random.default_rng(0).integers(0, 6, (12, 4)).astype("int32")
Y = np.ones((12, 1), "float32")
LARGE, NEGATIVE = IDS.copy(), IDS.copy()
LARGE[3, 2] = LARGE[7, 0] = 6
NEGATIVE[5, 1] = -1
TOO_LARGE = (
    "Embedding 'embedding' looks up integers from 0 to 5, got 6 at [3, 2] of `x` and 1 more; give a larger "
    "`input_dim`, or map values outside of the vocabulary to a reserved index."
)


def text(*first):
    return Sequential([Input((4,), dtype="int32"), *first, layers.Embedding(6, 2), layers.Flatten(), layers.Dense(1)])


def trainer(model=None, **arguments):
    return Trainer(text() if model is None else model, "sgd", "mse", **arguments)


def refuses(sentence):
    return pytest.raises(ValueError, match=f"^{re.escape(sentence)}$")


# ---------------------------------------------------------------- which inputs are looked up


class Hashed(layers.Embedding):
    def compute(self, inputs):
        return super().compute(inputs % self.input_dim)


def found(model):
    return [(lookup.source, lookup.path, lookup.size) for lookup in lookups_of(model)]


def shared():
    a, b = Input((3,), name="a"), Input((2,), name="b")
    words = layers.Embedding(9, 2, name="words")
    joined = layers.GlobalAveragePooling1D()(words(layers.Concatenate()([a, b])))
    inner = Sequential([Input((2,)), layers.Embedding(5, 2), layers.Flatten()], name="inner")
    return Model({"a": a, "b": b}, layers.Concatenate()([joined, inner(b)]))


def reversible():
    x = Input((3,))
    layer = layers.ReversibleEmbedding(7, 2)
    return Model(x, layer(layer(x), reverse=True))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("model", "lookups"),
    [
        (text(), [(0, "embedding", 6)]),
        (
            text(layers.Masking(), layers.Flatten(), layers.Reshape((2, 2)), layers.Permute((2, 1))),
            [(0, "embedding", 6)],
        ),
        (text(layers.Identity(), layers.RepeatVector(2)), [(0, "embedding", 6)]),
        (Sequential([layers.ZeroPadding1D(1), layers.Embedding(6, 2)]), [(0, "embedding", 6)]),
        (layers.Embedding(6, 2), [(0, "", 6)]),
        (
            layers.TimeDistributed(Sequential([layers.Embedding(6, 2), layers.Flatten()])),
            [(0, "layer/embedding", 6)],
        ),
        (shared(), [(0, "words", 9), (1, "words", 9), (1, "inner/embedding", 5)]),
        (reversible(), [(0, "reversible_embedding", 7)]),
        # Inputs that are transformed, or may be unused, are not checked.
        (text(layers.Lambda(lambda x: x)), []),
        (text(layers.Masking(6)), []),
        (Sequential([layers.Cropping1D(1), layers.Embedding(6, 2)]), []),
        (Sequential([Hashed(6, 2)]), []),
        (Sequential([layers.Dense(3), layers.Embedding(6, 2)]), []),
        (nn.Embed(6, 2), []),
    ],
    ids=lambda value: None,
)
def test_lookups_of_untransformed_inputs(model, lookups):
    assert sorted(found(model)) == sorted(lookups)


# ---------------------------------------------------------------- checked before a step


@pytest.mark.parametrize(
    "run",
    [
        lambda: trainer().fit(LARGE, Y, verbose=0),
        lambda: trainer().evaluate(LARGE, Y),
        lambda: trainer().predict(LARGE),
        lambda: trainer().fit(IDS, Y, validation_data=(LARGE, Y), verbose=0),
        lambda: trainer().fit(iter([(IDS, Y), (LARGE, Y)]), verbose=0),
        lambda: trainer().evaluate([(LARGE, Y)].__iter__),
        lambda: trainer().predict(iter([IDS, LARGE])),
        lambda: trainer().fit(LARGE.astype("float32") + 0.5, Y, verbose=0),
        lambda: trainer(text(layers.Masking())).predict(LARGE),
        lambda: trainer().fit(Split((LARGE * 2).astype("uint8"), Y, scale=0.5), verbose=0),
    ],
)
@pytest.mark.spread
def test_out_of_range_ids_are_rejected(run):
    with refuses(TOO_LARGE):
        run()


def test_negative_ids_are_rejected():
    with refuses(
        "Embedding 'embedding' looks up integers from 0 to 5, got -1 at [5, 1] of `x`; give a larger `input_dim`, or "
        "map values outside of the vocabulary to a reserved index."
    ):
        trainer().predict(NEGATIVE)


def test_the_error_names_one_of_several_inputs():
    data = {"a": np.zeros((2, 3), "int32"), "b": np.array([[0, 1], [5, 2]], "int32")}
    with refuses(
        "Embedding 'inner/embedding' looks up integers from 0 to 4, got 5 at [1, 0] of `b`; give a larger "
        "`input_dim`, or map values outside of the vocabulary to a reserved index."
    ):
        trainer(shared()).predict(data)


def test_ids_that_are_transformed_are_not_checked():
    t = trainer(Sequential([Input((4,), dtype="int32"), Hashed(6, 2), layers.Flatten(), layers.Dense(1)]))
    assert np.isfinite(t.fit(LARGE, Y, verbose=0).history["loss"]).all()
    assert np.isfinite(t.predict(NEGATIVE)).all()


def test_compiled_programs_match_keras_on_jax():
    keras = pytest.importorskip("keras")
    layer = layers.Embedding(6, 2)
    variables = layer.init(jax.random.key(0), IDS)
    ours = jax.jit(layer.apply)(variables, np.array([[6, -1, 5]]))
    theirs = keras.layers.Embedding(6, 2, weights=[np.asarray(variables["params"]["embedding"])])
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        want = np.asarray(theirs(np.array([[6, -1, 5]])))
    assert np.isnan(ours[0, 0]).all()
    np.testing.assert_array_equal(ours, want)


# ---------------------------------------------------------------- named in the warning


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.Embed(6, 2)(x).reshape(x.shape[0], -1))


@pytest.mark.parametrize(
    ("model", "scope", "gradient"),
    [(text(layers.Lambda(lambda x: x)), "embedding", "dense/bias"), (Net(), "Embed_0", "Dense_0/bias")],
    ids=["behind a Lambda", "in a linen module"],
)
def test_the_warning_names_embeddings_with_unchecked_ids(model, scope, gradient):
    sentence = (
        f"Numbers are not finite at step 0 of the run, first in the gradient of {gradient}, with the learning rate "
        f"0.01; the run ends with the state before that step; check that the indices for {scope!r} are in range, "
        "because other indices give NaN; otherwise lower the learning rate, or clip the gradients."
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(sentence)}$"):
        trainer(model).fit(LARGE, Y, verbose=0)
    with pytest.warns(
        RuntimeWarning, match=rf"^The loss is nan after step 1 of the epoch; check that .* {scope!r} are"
    ):
        trainer(model, nonfinite="ignore").fit(LARGE, Y, verbose=0)


def test_the_warning_names_no_embedding_with_checked_ids():
    with pytest.warns(
        RuntimeWarning, match=r"the state before that step; lower the learning rate, or clip the gradients\.$"
    ):
        trainer().fit(IDS, np.full((12, 1), 3e38, "float32"), verbose=0)
