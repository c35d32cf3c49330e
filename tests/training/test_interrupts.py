"""Ctrl-C is deferred until the run checks for it."""

import signal

import pytest

from training.interrupts import Interrupts


@pytest.fixture(autouse=True)
def python_handles_interrupts():
    """Handles Ctrl-C as at a terminal; a background process of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_is_deferred_and_the_second_is_not():
    with Interrupts() as interrupts:
        interrupts.check()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.pending
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_custom_handlers_are_kept():
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert (seen, interrupts.pending) == ([signal.SIGINT], False)
