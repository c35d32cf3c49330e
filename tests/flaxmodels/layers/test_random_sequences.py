"""Normalization, noise, recurrent and attention layers equal Keras on random configurations, inputs and calls."""

import keras
import pytest
from hypothesis import HealthCheck, given, note, reject, settings

from flaxmodels import layers
from tests.support.layer_oracle import assert_as_keras, of_keras
from tests.support.sequence_draws import DRAWS


@pytest.mark.parametrize("name", DRAWS)
def test_random_configurations_equal_keras(name, request):
    @settings(
        max_examples=12 if request.config.getoption("--all") else 2,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(DRAWS[name])
    def compare(case):
        note(repr(case))
        assert_case_as_keras(case)

    compare()


def assert_case_as_keras(case):
    """Fails unless the layer's results equal Keras'; cases that Keras itself rejects are skipped."""
    *inputs, train, masks = case[1:]
    try:
        pair = case.layer.by(layers), case.layer.by(keras.layers)
        assert_as_keras(case.layer.name, case.layer.config, *inputs, train, masks, pair)
    except AssertionError:
        raise
    except Exception:
        if refused_by_keras(case):
            reject()
        raise


def refused_by_keras(case):
    _, inputs, call, train, masks = case
    try:
        of_keras(case.layer.by(keras.layers), inputs, call, train, masks)
    except Exception:
        return True
    return False
