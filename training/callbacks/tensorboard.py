"""A callback that writes TensorBoard logs with tensorboardX."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike

from flaxmodels.extras import require_extra
from training.callbacks.base import Callback, Logs

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class TensorBoard(Callback):
    """Writes scalars and the model for TensorBoard, and optionally histograms, images, embeddings and profiles.

    Scalars have the names of Keras, such as `epoch_loss`, in the folders `train` and `validation`.

    Args:
        log_dir: The folder of the logs.
        histogram_freq: The number of epochs between histograms of the parameters; 0 for none.
        write_graph: Whether to write the summary of the model as text.
        write_images: Whether to write parameters of up to 3 axes as images too, together with the histograms.
        write_steps_per_second: Whether to write the speed of each epoch, and of each chunk if `update_freq` is not
            "epoch".
        update_freq: "epoch"; or "batch" or a number n, to write `batch_loss` and other values at every n-th step.
        profile_batch: A step, or the first and the last step to profile; 0 for none. Whole chunks of steps are
            profiled: from the first chunk that starts at the first step or later, to the chunk with the last step.
        embeddings_freq: The number of epochs between records of the vectors of Embedding layers; 0 for none.
        embeddings_metadata: Maps names of layers to the labels of their rows: a list, or a file with one label per
            line.

    Raises:
        ModuleNotFoundError: If tensorboardX is not installed.
        ValueError: If `update_freq` is invalid, or `embeddings_metadata` has a key that is not an Embedding layer.

    References:
        Keras, `keras.callbacks.TensorBoard`.
    """

    STATE = ("_steps_before",)

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str | int = "epoch",
        profile_batch: int | tuple[int, int] = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Mapping[str, Sequence[str] | str | os.PathLike[str]] | None = None,
    ):
        if update_freq not in ("epoch", "batch") and (not isinstance(update_freq, int) or update_freq < 1):
            raise ValueError(
                f"`update_freq` of TensorBoard must be 'epoch', 'batch' or a number of steps, got {update_freq!r}."
            )
        self.log_dir, self.histogram_freq, self.write_graph = os.fspath(log_dir), histogram_freq, write_graph
        self.write_images, self.write_steps_per_second = write_images, write_steps_per_second
        self.embeddings_freq, self.embeddings_metadata = embeddings_freq, dict(embeddings_metadata or {})
        self._every = 1 if update_freq == "batch" else 0 if update_freq == "epoch" else int(update_freq)
        first, last = (profile_batch, profile_batch) if isinstance(profile_batch, int) else profile_batch
        self._profile, self._profiling = (first, last), False
        self._writers: dict[str, SummaryWriter] = {}
        self._steps_before, self._steps, self._epoch_start = 0, 0, 0.0
        # Logs per step slow down the compiled program, so the hooks that need them are only set if requested.
        if self._every:
            self.on_train_batch_end = self._write_steps  # type: ignore[method-assign]
        if last:
            self.on_train_batch_begin = self._start_profile  # type: ignore[method-assign]

    def writer(self, part: str) -> "SummaryWriter":
        """Returns the writer of the folder `train` or `validation`."""
        if part not in self._writers:
            require_extra("tensorboardX", "The TensorBoard callback needs")
            from tensorboardX import SummaryWriter

            self._writers[part] = SummaryWriter(os.path.join(self.log_dir, part), flush_secs=10)
        return self._writers[part]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Writes the summary of the model."""
        self._steps_before = self._steps = 0
        writer = self.writer("train")
        if self.write_graph and hasattr(self.trainer.model, "summary"):
            lines: list[str] = []
            self.trainer.model.summary(print_fn=lines.append)
            writer.add_text("model", "\n".join(f"    {line}" for text in lines for line in text.splitlines()), 0)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Starts to measure the duration of the epoch."""
        self._epoch_start, self._steps = time.perf_counter(), 0

    def on_chunk_end(self, step: int, logs: Logs | None = None) -> None:
        """Stops the profiler after the last step to profile."""
        self._steps = step
        if self._profiling and self._steps_before + step >= self._profile[1]:
            self._stop_profile()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Writes the values of the epoch."""
        writer, seconds = self.writer("train"), time.perf_counter() - self._epoch_start
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            self._write_value(part, f"epoch_{name.removeprefix('val_')}", value, epoch)
        if "learning_rate" not in (logs or {}):
            for name, rate in self.trainer.learning_rates().items():
                writer.add_scalar(f"epoch_{name}", rate, epoch)
        if self.write_steps_per_second:
            writer.add_scalar("epoch_steps_per_second", self._steps / seconds, epoch)
        self._steps_before += self._steps
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            self._write_parameters(epoch)
        if self.embeddings_freq and epoch % self.embeddings_freq == 0:
            self._write_embeddings(epoch)
        for each in self._writers.values():
            each.flush()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Writes the values of the evaluation at the current number of training steps."""
        step = int(self.trainer.state.step)
        for name, value in (logs or {}).items():
            self._write_value("validation", f"evaluation_{name}_vs_iterations", value, step)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Stops the profiler and closes the files."""
        if self._profiling:
            self._stop_profile()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _write_value(self, part: str, name: str, value: ArrayLike, step: int) -> None:
        """Writes a scalar, or the elements of an array with their indices as suffixes."""
        if np.ndim(value) == 0:
            self.writer(part).add_scalar(name, value, step)
            return
        for i, element in enumerate(np.ravel(value)):
            self.writer(part).add_scalar(f"{name}_{i}", element, step)

    def _write_steps(self, batch: int, logs: Logs | None = None) -> None:
        writer, values = self.writer("train"), logs or {}
        count = max((len(v) for v in values.values()), default=0)
        steps = self._steps_before + batch + 2 - count + np.arange(count)  # 1-based, over all epochs
        for name, column in values.items():
            for step, value in zip(steps, column, strict=True):
                if step % self._every == 0 and np.ndim(value) == 0:
                    writer.add_scalar(f"batch_{name}", value, int(step))
        if self.write_steps_per_second:
            rate = (batch + 1) / (time.perf_counter() - self._epoch_start)
            writer.add_scalar("batch_steps_per_second", rate, int(steps[-1]))

    def _start_profile(self, batch: int, logs: Logs | None = None) -> None:
        first = self._steps_before + batch + 1
        if not self._profiling and self._profile[0] <= first and self._profile[1]:
            jax.profiler.start_trace(os.path.join(self.log_dir, "train"))
            self._profiling = True

    def _stop_profile(self) -> None:
        jax.profiler.stop_trace()
        self._profiling, self._profile = False, (0, 0)

    def _write_parameters(self, epoch: int) -> None:
        for path, value in jax.tree_util.tree_leaves_with_path(self.trainer.variables):
            name, array = jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(value, np.float32)
            self.writer("train").add_histogram(f"{name}/histogram", array, epoch)
            if self.write_images and (images := _as_images(array)) is not None:
                self.writer("train").add_images(f"{name}/image", images, epoch, dataformats="NHWC")

    def _write_embeddings(self, epoch: int) -> None:
        matrices = {
            path[-2].key: np.asarray(value, np.float32)
            for path, value in jax.tree_util.tree_leaves_with_path(self.trainer.variables["params"])
            if len(path) > 1 and path[-1].key == "embedding"
        }
        unknown = sorted(set(self.embeddings_metadata) - set(matrices))
        if unknown:
            raise ValueError(
                "`embeddings_metadata` of TensorBoard must have the names of Embedding layers as keys, "
                f"got {unknown[0]!r}; the names are {sorted(matrices)}."
            )
        for name, matrix in matrices.items():
            labels = self.embeddings_metadata.get(name)
            if isinstance(labels, str | os.PathLike):
                with open(labels) as file:
                    labels = file.read().splitlines()
            self.writer("train").add_embedding(matrix, labels, tag=name, global_step=epoch)


def _as_images(array: np.ndarray) -> np.ndarray | None:
    """Converts a parameter to images [n, H, W, 1] with values from 0 to 1; None if it has more than 3 axes.

    A vector becomes a row, a matrix is transposed if it has more rows than columns, and an array [H, W, n] becomes n
    images.
    """
    squeezed = np.squeeze(array)
    if squeezed.ndim not in (1, 2, 3) or not squeezed.size:
        return None
    if squeezed.ndim == 1:
        squeezed = squeezed[None]
    if squeezed.ndim == 2:
        squeezed = (squeezed.T if squeezed.shape[0] > squeezed.shape[1] else squeezed)[None]
    else:
        squeezed = squeezed.transpose(2, 0, 1)
    low, high = squeezed.min(), squeezed.max()
    return ((squeezed - low) / max(high - low, 1e-12))[..., None]
