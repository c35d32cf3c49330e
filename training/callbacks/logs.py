"""Callbacks that tell how training goes: CSV files and the bar on the terminal."""

import csv
import os
import pathlib
from typing import Any

from training.callbacks.base import Callback, Logs


class CSVLogger(Callback):
    """Writes the logs of every epoch as a row of a CSV file, at once.

    Args:
        filename: The file.
        separator: What stands between values.
        append: Whether to go on in a file that is there.

    References:
        Keras, `keras.callbacks.CSVLogger`.
    """

    STATE = ("keys", "_size")

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False):
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        self._size: int | None = None  # of the file before the next row; None where that row starts a new file

    def on_train_begin(self, logs: Logs | None = None) -> None:
        path = pathlib.Path(self.filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.keys, self._size = None, None
        if self.append:
            self._size = path.stat().st_size if path.exists() else 0

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"file": os.path.abspath(self.filename)}

    def set_state(self, state: dict[str, Any]) -> None:
        if state.get("file") != os.path.abspath(self.filename):
            return  # another file has none of the rows
        self.keys, self._size = state["keys"], state["_size"]
        # Rows of epochs that run again are written again.
        if self._size is not None and os.path.exists(self.filename):
            os.truncate(self.filename, min(self._size, os.path.getsize(self.filename)))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.keys is None:
            self.keys = sorted(logs)
            # Validation may come later than the first epoch; its columns are there from the start.
            val_keys = [f"val_{key}" for key in self.keys if not key.startswith("val_")]
            if not any(key.startswith("val_") for key in self.keys) and self.params.get("validation"):
                self.keys += val_keys
        with open(self.filename, "w" if self._size is None else "a", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator)
            if not file.tell():
                writer.writerow(["epoch", *self.keys])
            writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
            self._size = file.tell()


class ProgbarLogger(Callback):
    """Has `fit` show a bar that moves and a line for each epoch, whatever its `verbose` says.

    References:
        Keras, `keras.callbacks.ProgbarLogger`.
    """
