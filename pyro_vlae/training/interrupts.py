"""A flag for Ctrl-C and SIGTERM, which the training loop checks between steps."""

import signal
import threading
from types import FrameType
from typing import Any


class InterruptFlag:
    """Catches SIGINT and SIGTERM for the duration of a ``with`` block.

    A second Ctrl-C raises ``KeyboardInterrupt`` at once. Outside the main thread, where Python
    allows no handlers, nothing is caught.

    Attributes:
        signal: the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "InterruptFlag":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set from Python and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
