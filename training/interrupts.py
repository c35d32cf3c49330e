"""Ctrl-C and termination during a run: the running chunk of steps is finished first; the state is always whole."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Holds Ctrl-C back until `check`; a second one is not held back.

    Raised at any moment, a KeyboardInterrupt can hit while the state has been given to the device and not come back, or
    inside a callback of C code, where Python swallows it.

    Args:
        terminate: Whether a request to terminate (SIGTERM) is held back too; it ends the process with 143.

    Example:
        >>> with Interrupts() as interrupts:
        ...     interrupts.pending
        False
    """

    def __init__(self, terminate: bool = False) -> None:
        self.pending = False
        self._signals = {signal.SIGINT: signal.default_int_handler}
        if terminate:
            self._signals[signal.SIGTERM] = signal.SIG_DFL  # type: ignore[assignment]
        self._previous: dict[int, Any] = {}
        self._number = signal.SIGINT

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers, and a handler of the user's own stays.
        if threading.current_thread() is threading.main_thread():
            for number, default in self._signals.items():
                if signal.getsignal(number) is default:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self._end()
        self.pending, self._number = True, signal.Signals(number)

    def check(self) -> None:
        """Ends the run by what was held back: a KeyboardInterrupt, or SystemExit(143)."""
        if self.pending:
            self._end()

    def _end(self) -> None:
        if self._number == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
