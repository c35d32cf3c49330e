"""Callbacks that report the progress of training: a CSV file and the progress bar."""

import csv
import os
import pathlib
from typing import Any

from training.callbacks.base import Callback, Logs


class CSVLogger(Callback):
    """Appends the logs of each epoch to a CSV file when the epoch ends.

    Args:
        filename: Path of the file.
        separator: Text between two values.
        append: Whether to keep the rows of an existing file.

    References:
        Keras, `keras.callbacks.CSVLogger`.
    """

    STATE = ("keys", "_size")

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False):
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        # Bytes of the file before the next row; None if that row starts a new file.
        self._size: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        path = pathlib.Path(self.filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.keys, self._size = None, None
        if self.append:
            self._size = path.stat().st_size if path.exists() else 0

    def get_state(self) -> dict[str, object]:
        return super().get_state() | {"file": os.path.abspath(self.filename)}

    def set_state(self, state: dict[str, Any]) -> None:
        if state.get("file") != os.path.abspath(self.filename):
            return  # the saved state belongs to another file
        self.keys, self._size = state["keys"], state["_size"]
        # Remove the rows of epochs that run again, because these epochs write their rows again.
        if self._size is not None and os.path.exists(self.filename):
            os.truncate(self.filename, min(self._size, os.path.getsize(self.filename)))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.keys is None:
            self.keys = sorted(logs)
            # Validation may start after the first epoch, but its columns exist from the start.
            val_keys = [f"val_{key}" for key in self.keys if not key.startswith("val_")]
            if not any(key.startswith("val_") for key in self.keys) and self.has_validation:
                self.keys += val_keys
        with open(self.filename, "w" if self._size is None else "a", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator)
            if not file.tell():
                writer.writerow(["epoch", *self.keys])
            writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
            self._size = file.tell()


class ProgbarLogger(Callback):
    """Shows the live progress bar of `fit` for any value of its argument `verbose`.

    References:
        Keras, `keras.callbacks.ProgbarLogger`.
    """
