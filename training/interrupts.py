"""Ctrl-C during a run: the running chunk of steps is finished first, so that the state is always whole."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Holds Ctrl-C back until `check`; a second one is not held back.

    Raised at any moment, a KeyboardInterrupt can hit while the state has been given to the device and not come back, or
    inside a callback of C code, where Python swallows it.

    Example:
        >>> with Interrupts() as interrupts:
        ...     interrupts.pending
        False
    """

    def __init__(self) -> None:
        self.pending = False
        self._previous: Any = None

    def __enter__(self) -> "Interrupts":
        # Only the main thread may set handlers, and a handler of the user's own stays.
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def check(self) -> None:
        """Raises the KeyboardInterrupt that was held back."""
        if self.pending:
            raise KeyboardInterrupt
