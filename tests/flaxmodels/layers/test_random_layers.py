"""Layers and losses equal Keras on random configurations, inputs and masks."""

import warnings

import jax
import jax.numpy as jnp
import keras
import pytest
from hypothesis import HealthCheck, Phase, given, note, reject, settings
from hypothesis import strategies as st

from flaxmodels import interop, layers
from tests.support.layer_draws import CALLS, Made
from tests.support.layer_oracle import assert_as_keras, near, numbers, of_keras

# Layers with the prefixes of their regularizers; each has a different combination of prefixes.
REGULARIZED = {
    "Dense": ("kernel", "bias", "activity"),
    "EinsumDense": ("kernel", "bias", "activity"),
    "Embedding": ("embeddings", "activity"),
    "ReversibleEmbedding": ("embeddings",),
    "PReLU": ("alpha", "activity"),
    "Conv1D": ("kernel", "bias", "activity"),
    "Conv2DTranspose": ("kernel", "bias", "activity"),
    "DepthwiseConv1D": ("depthwise", "bias", "activity"),
    "SeparableConv1D": ("depthwise", "pointwise", "bias", "activity"),
    "ActivityRegularization": (),
    "Add": ("activity",),
    "MaxPooling1D": ("activity",),
}


def run(request, strategy, check):
    """Checks a few examples of the strategy, or many with --all."""

    @settings(
        max_examples=12 if request.config.getoption("--all") else 2,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # no shrinking, because draws are small and each attempt compiles a program
    )
    @given(strategy)
    def compare(drawn):
        note(repr(drawn))
        check(drawn)

    compare()


@pytest.mark.parametrize("name", CALLS)
def test_random_configurations_equal_keras(name, request):
    def check(draw):
        layer = Made(name, draw.config)
        try:
            pair = layer.by(layers), layer.by(keras.layers)
            # Relative errors use a denominator of at least 0.1, because an exact 0 may become 1e-7 in a different
            # summation order. The minimum is 1 for Dot: for normalized vectors of size 1, the gradient 0 is a
            # difference of large numbers.
            least = 1.0 if name == "Dot" else 0.1
            assert_as_keras(
                name, draw, draw.inputs, draw.call, masks=draw.masks, pair=pair, tolerance=1e-5, least=least
            )
        except AssertionError:
            raise
        except Exception as error:
            try:
                _, outputs, *_ = of_keras(layer.by(keras.layers), draw.inputs, draw.call, None, draw.masks)
            except Exception:
                reject()  # Keras does not accept this configuration either
            if not all(y.size for y in outputs):
                reject()  # Keras returns an empty array
            raise error

    run(request, CALLS[name], check)


@pytest.mark.parametrize("name", REGULARIZED)
def test_random_losses_equal_keras(name, request):
    some = st.fixed_dictionaries(
        {f"{word}_regularizer": st.sampled_from((None, "l1", "l2")) for word in REGULARIZED[name]}
    )

    def check(drawn):
        draw, regularizers = drawn
        layer = Made(name, draw.config | regularizers)
        losses_as_in_keras(layer.by(layers), layer.by(keras.layers), draw)

    run(request, st.tuples(CALLS[name], some), check)


def losses_as_in_keras(ours, theirs, draw):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = jax.tree.map(jnp.asarray, draw.inputs)
        try:
            theirs(inputs, **draw.call)
        except Exception:
            reject()
        weights = [numbers(i, *w.shape) for i, w in enumerate(theirs.get_weights())]
        theirs.set_weights(weights)
        theirs(inputs, **draw.call)
        wanted = sum(float(loss) for loss in theirs.losses)
    variables = interop.set_keras_weights(ours, ours.init(jax.random.key(0), inputs, **draw.call), weights)
    _, state = jax.jit(lambda x: ours.apply(variables, x, **draw.call, mutable=["losses"]))(inputs)
    near(sum(jax.tree.leaves(state)), wanted, "the losses", tolerance=1e-5, least=0.1)
