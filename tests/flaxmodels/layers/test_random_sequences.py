"""Normalization, noise, recurrence and attention are Keras' on configurations, inputs and calls drawn at random."""

import keras
import pytest
from hypothesis import HealthCheck, given, note, reject, settings

from flaxmodels import layers
from tests.support.layer_oracle import assert_as_keras, of_keras
from tests.support.sequence_draws import DRAWS


@pytest.mark.parametrize("name", DRAWS)
def test_configurations_drawn_at_random_are_as_in_keras(name, request):
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
    """Fails unless the layer computes what Keras' does; a case that Keras itself refuses is none."""
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
