"""Ctrl-C and termination during a run: the current chunk of steps completes first, so the state stays consistent."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Defers Ctrl-C until `check` is called; a second Ctrl-C takes effect immediately.

    A KeyboardInterrupt could otherwise occur while the state is donated to the device. Python would ignore one that
    occurs in a callback from C code.

    Args:
        terminate: Whether to also defer a request to terminate (SIGTERM). It ends the process with exit code 143.

    Example:
        >>> with Interrupts() as interrupts:
        ...     interrupts.pending
        False
    """

    def __init__(self, terminate: bool = False) -> None:
        self.pending = False
        self._default_handlers: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler}
        if terminate:
            self._default_handlers[signal.SIGTERM] = signal.SIG_DFL
        self._previous_handlers: dict[int, Any] = {}
        self._signal = signal.SIGINT

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers. A handler that the user installed is not replaced.
        if threading.current_thread() is threading.main_thread():
            for number, default in self._default_handlers.items():
                if signal.getsignal(number) is default:
                    self._previous_handlers[number] = signal.signal(number, self._defer)
        return self

    def __exit__(self, *error: object) -> None:
        for number, previous in self._previous_handlers.items():
            signal.signal(number, previous)
        self._previous_handlers = {}

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self._raise()
        self.pending, self._signal = True, signal.Signals(number)

    def check(self) -> None:
        """Raises the deferred KeyboardInterrupt or SystemExit(143), if there is one."""
        if self.pending:
            self._raise()

    def _raise(self) -> None:
        if self._signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
