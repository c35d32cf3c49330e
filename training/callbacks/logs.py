"""Callbacks that tell how training goes: CSV files and the bar on the terminal."""

import csv
import os
import pathlib

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

    STATE = ("keys",)

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False):
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        self._header = True

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.keys = None
        pathlib.Path(self.filename).parent.mkdir(parents=True, exist_ok=True)
        self._header = not (self.append and os.path.exists(self.filename) and os.path.getsize(self.filename) > 0)
        if not self.append:
            open(self.filename, "w").close()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self.keys is None:
            self.keys = sorted(logs)
            # Validation may come later than the first epoch; its columns are there from the start.
            val_keys = [f"val_{key}" for key in self.keys if not key.startswith("val_")]
            if not any(key.startswith("val_") for key in self.keys) and self.params.get("validation"):
                self.keys += val_keys
        with open(self.filename, "a", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator)
            if self._header:
                writer.writerow(["epoch", *self.keys])
                self._header = False
            writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])


class ProgbarLogger(Callback):
    """Has `fit` show a bar that moves and a line for each epoch, whatever its `verbose` says.

    References:
        Keras, `keras.callbacks.ProgbarLogger`.
    """
