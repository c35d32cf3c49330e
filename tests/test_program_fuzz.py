"""Compares 30 random programs with Keras, or 1000 with --all."""

import jax
import pytest

from tests.support.program_fuzz import check, draw

# Small programs that together use nearly all layers, losses, metrics, optimizers and arguments of the others.
SMALL = (
    150, 171, 172, 174, 184, 214, 225, 237, 238, 267, 278, 577, 581, 583, 597,
    629, 645, 654, 655, 659, 664, 667, 670, 671, 675, 676, 692, 695, 725, 757,
)  # fmt: skip


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(1000) if metafunc.config.option.all else SMALL)


@pytest.mark.spread
def test_programs_match_keras_up_to_explained_differences(number):
    report = check(number)
    assert not report.different


def test_programs_are_functions_of_their_number():
    one, same, other = draw(3), draw(3), draw(4)
    assert (one.summary, one.options.keys()) == (same.summary, same.options.keys())
    for a, b in zip(jax.tree.leaves(one.data), jax.tree.leaves(same.data), strict=True):
        assert (a == b).all()
    assert one.summary != other.summary
