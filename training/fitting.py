"""One call of `fit`: the epochs in their order, each a few chunks of compiled steps."""

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.kernels.dispatch import kernels_allowed
from flaxmodels.kernels.recurrence_choice import asked
from training import advice, steps
from training.batches import Chunk, Feed
from training.callbacks import PER_STEP, Callback, overrides
from training.checkpoints import Checkpoints, named
from training.interrupts import Interrupts
from training.objective import Objective
from training.progress import Progress
from training.resuming import Position, configuration, restore, snapshot
from training.state import Trouble
from training.streams import StreamFeed

# A chunk of steps takes about this long on a CPU, so that progress moves and Ctrl-C is heard.
CHUNK_SECONDS = 0.5


class Program:
    """A jitted function that tells compilation from running.

    Args:
        function: A pure function of arrays.
        donate: Which arguments may be overwritten.
        deterministic: Whether to compile without operations whose rounding depends on the order of threads.
    """

    def __init__(self, function: Any, donate: tuple[int, ...] = (), deterministic: bool = False):
        self._jitted = jax.jit(function, donate_argnums=donate, compiler_options=compiler_options(deterministic))
        self._compiled: dict[Any, Any] = {}

    def compile(self, *args: Any) -> float:
        """Compiles for arguments like these, unless done before; returns the seconds that it took."""
        key = signature(args)
        if key in self._compiled:
            return 0.0
        start = time.perf_counter()
        self._compiled[key] = self._jitted.lower(*args).compile()
        return time.perf_counter() - start

    def is_compiled(self, *args: Any) -> bool:
        return signature(args) in self._compiled

    def __call__(self, *args: Any) -> Any:
        compiled = self._compiled.get(signature(args))
        if compiled is None:
            self.compile(*args)
            compiled = self._compiled[signature(args)]
        return compiled(*args)


def compiler_options(deterministic: bool) -> dict[str, Any] | None:
    """What XLA is told; a CPU computes the same bits each time as it is."""
    # It implies deterministic scatters, sorts and convolutions, and no choice of algorithms by their measured time.
    return {"xla_gpu_deterministic_ops": True} if deterministic and jax.default_backend() == "gpu" else None


def signature(args: Any) -> Any:
    """What decides whether a compiled program fits: the arguments' structure, shapes and dtypes, and the kernels."""
    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(_kind(leaf) for leaf in leaves), kernels_allowed(), asked()


def _kind(leaf: Any) -> Any:
    # Asked of every array before every chunk, so an array is asked itself; `result_type` takes ten times as long.
    if not hasattr(leaf, "dtype"):
        return np.shape(leaf), jnp.result_type(leaf), True
    return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)


class Evaluation:
    """Evaluates a model on data that is on the device.

    Args:
        trainer: Whose variables are used, as they are at each call.
        objective: Losses and metrics.
        feed: The data.
        program: The compiled run of evaluation steps.
        steps: How many batches to evaluate; None for all.
    """

    def __init__(
        self, trainer: Any, objective: Objective, feed: Feed | StreamFeed, program: Program, steps: int | None = None
    ):
        self.trainer, self.objective, self.feed, self.program = trainer, objective, feed, program
        self.steps = steps
        self.steps_per_second = 0.0

    def at_once(self, left: int, between: Callable[[], None] | None) -> int:
        """Steps until `between` is called."""
        return left if between is None else soon_done(left, self.steps_per_second)

    def __call__(self, progress: Progress | None = None, between: Callable[[], None] | None = None) -> dict[str, float]:
        """The values by name; compilation is told to the display, and `between` is called every half second."""
        totals, logs, walk = self.objective.empty(), {}, Walk(self.feed)
        limit = math.inf if self.steps is None else self.steps
        with contextlib.closing(walk):
            while walk.first < limit and (chunk := walk.chunk(limit - walk.first)) is not None:
                at, stop = walk.first - chunk.first, int(min(chunk.steps, limit - chunk.first))
                args = (self.trainer.state.variables, totals, chunk.data, chunk.order, np.int32(at), np.int32(stop))
                if progress is not None and not self.program.is_compiled(*args):
                    progress.compiling("validation")
                    progress.compiled("validation", self.program.compile(*args))
                while at < stop:
                    began, count = time.perf_counter(), self.at_once(stop - at, between)
                    # The variables may change from step to step, by the states of stateful layers.
                    variables = self.trainer.state.variables
                    ends = np.int32(at), np.int32(at + count)
                    totals, logs, changed = self.program(variables, totals, *args[2:4], *ends)
                    self.trainer.take_states(changed)
                    walk.first, at = walk.first + count, at + count
                    if between is not None:
                        jax.block_until_ready(logs)
                        self.steps_per_second = count / (time.perf_counter() - began)
                        between()
            done = walk.first
            walk.turn()
        if not done:
            raise ValueError(
                "Evaluation found no batch in the stream, which was gone through before; "
                "give a list, a loader, or a function that makes the iterator anew."
            )
        if done < limit < math.inf:
            warnings.warn(
                f"The data ended after {done} of {limit} steps of evaluation; give a longer stream or fewer steps.",
                stacklevel=2,
            )
        return floats(self.objective, logs)


def soon_done(left: int, per_second: float) -> int:
    """Steps of half a second on a CPU, at this speed; all that are left elsewhere, which takes no time."""
    return left if jax.default_backend() != "cpu" else max(1, min(left, int(per_second * CHUNK_SECONDS)))


class Walk:
    """Goes through the data, pass after pass, and knows where it stands.

    Args:
        feed: The data.
        key_of: From the number of a pass to the key that shuffles it, or None.

    Attributes:
        number: Number of the pass.
        first: Steps of it that are done.
    """

    def __init__(self, feed: Feed | StreamFeed, key_of: Callable[[int], jax.Array | None] = lambda number: None):
        self.feed, self.key_of, self.number, self.first = feed, key_of, 0, 0
        self._chunks: Iterator[Chunk] | None = None
        self._chunk: Chunk | None = None

    def chunk(self, steps: float = math.inf) -> Chunk | None:
        """The chunk with the next step, None at the end of the pass; at most so many `steps` will be used."""
        if isinstance(self.feed, StreamFeed):
            self.feed.limit = self.first + steps
        if self._chunks is None:
            self._chunks = self.feed.chunks(self.number, self.key_of(self.number), self.first)
        while self._chunk is None or self.first >= self._chunk.first + self._chunk.steps:
            self._chunk = next(self._chunks, None)
            if self._chunk is None:
                return None
        return self._chunk

    def turn(self) -> None:
        """Advances to the start of the next pass."""
        self.close()
        if isinstance(self.feed, StreamFeed):
            self.feed.source.finish()
        self.number, self.first = self.number + 1, 0

    def close(self) -> None:
        """Stops reading ahead; what was read and not used goes back to where it came from."""
        if self._chunks is not None:
            self._chunks.close()  # type: ignore[attr-defined]
            if isinstance(self.feed, StreamFeed):
                self.feed.close(self.first)
        self._chunks = self._chunk = None


@jax.jit
def _key_of_pass(key: jax.Array, number: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(key, 2), number)


class Run:
    """One call of `fit`.

    Args:
        trainer: Whose state is trained.
        feed: The data.
        objective: Losses and metrics.
        callbacks: Callbacks in the order they are called; the history is the last.
        progress: The display.
        shuffle: Whether each pass has its own order.
        validate: What evaluates after an epoch, or None.
        validation_freq: Epochs from one validation to the next, or the numbers of the epochs, counted from 1.
        steps_per_epoch: Steps in an epoch; None for a pass through the data.
        checkpoints: Where the run is saved, and from where it goes on.
    """

    def __init__(
        self,
        trainer: Any,
        feed: Feed | StreamFeed,
        objective: Objective,
        callbacks: list[Callback],
        progress: Progress,
        shuffle: bool,
        validate: Evaluation | None,
        validation_freq: int | list[int],
        steps_per_epoch: int | None = None,
        checkpoints: Checkpoints | None = None,
    ):
        self.trainer, self.feed, self.objective, self.callbacks = trainer, feed, objective, callbacks
        self.progress, self.shuffle = progress, shuffle
        self.validate, self.validation_freq = validate, validation_freq
        self.steps_per_epoch, self.checkpoints = steps_per_epoch, checkpoints
        self.interrupts = Interrupts(terminate=checkpoints is not None)
        # How fast this was in an earlier call says how long the first chunk may be.
        self.speed_of = (objective, feed.batch_size, feed.n)
        self.steps_per_second = trainer._speeds.get(self.speed_of, 0.0)
        self.watches_chunks = any(overrides(c, "on_chunk_end") for c in callbacks)
        self.watches_steps = any(overrides(c, *PER_STEP) for c in callbacks)
        self.key = jax.random.key(trainer.seed)
        self.walk = Walk(feed, self.key_of)
        self.epochs, self.epoch, self.step, self.totals = range(0), 0, 0, objective.empty()
        self.logs: dict[str, float] = {}
        self.untold: dict[str, np.ndarray] | None = None  # logs of each step of a chunk whose end callbacks do not know
        self.complete = False  # whether a callback or the data has ended the run
        self.chosen_rate: float | None = None  # what the learning rate was set to before the first epoch
        self.begin_state: Any = None  # that of the epoch, where a run may go back to it
        self.configuration = configuration(self) if checkpoints is not None else {}

    def key_of(self, number: int) -> jax.Array | None:
        """The key that shuffles a pass: a function of the seed and its number."""
        if not self.shuffle:
            return None
        return _key_of_pass(self.key, np.uint32(number))

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.step, self.walk.number, self.walk.first)

    def set_params(self, params: dict[str, Any]) -> None:
        for callback in self.callbacks:
            callback.set_trainer(self.trainer)
            callback.set_params(params)

    def hook(self, name: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, name)(*args)

    def __call__(self, epochs: range) -> None:
        """Runs the epochs; the order at the end is Keras': averaged weights take their place, then `on_train_end`."""
        self.trainer.stop_training, self.epochs = False, epochs
        self.epoch, self.walk.number = epochs.start, epochs.start if self.steps_per_epoch is None else 0
        try:
            with self.interrupts, self.checkpoints or contextlib.nullcontext():
                self.hook("on_train_begin", {})
                self.chosen_rate = self.trainer.chosen_rate
                if self.checkpoints is not None:
                    restore(self, self.checkpoints)
                with self.saved_if_it_fails():
                    # An epoch that is under way is completed, also if a callback has ended the run inside it.
                    while self.epoch < epochs.stop and not self.complete:
                        self.run_epoch()
                        self.complete = self.trainer.stop_training
                if len(epochs):
                    self.trainer.finish_averages()
                self.hook("on_train_end", self.logs)
                if self.checkpoints is not None and self.checkpoints.delete:
                    self.checkpoints.clear()
        finally:
            self.trainer.chosen_rate = None  # callbacks may have set others in the epochs
            self.walk.close()
            self.progress.close()

    @contextlib.contextmanager
    def saved_if_it_fails(self) -> Iterator[None]:
        """Saves the last whole state if a callback or the data fails; the error goes on."""
        self.mark()
        try:
            yield
        except (Exception, SystemExit) as error:
            # What was asked to terminate has saved its state where it left.
            done = isinstance(error, SystemExit) and self.interrupts.pending
            if self.checkpoints is not None and not done and not _given_away(self.marked):
                self.checkpoints.save(*self.marked)
            raise

    def mark(self) -> None:
        """Notes what a checkpoint of this moment holds."""
        if self.checkpoints is not None:
            self.marked = snapshot(self)

    def run_epoch(self) -> None:
        """Runs an epoch, or the rest of one; a test pins the order of events.

        1. on_epoch_begin
        2. the examples are shuffled, by a key that is a function of seed and epoch
        3. chunks of steps run, each between on_train_batch_begin and on_train_batch_end; then on_chunk_end, and a
           checkpoint if one is due
        4. validation, if it is due, between on_test_begin and on_test_end
        5. on_epoch_end of the callbacks as given, the history last: it sees what they put into the logs
        6. the progress line and the checkpoint; then Ctrl-C, if it came, ends the run
        """
        start, compiled_before = time.perf_counter(), self.progress.compile_seconds
        if not self.step:
            self.hook("on_epoch_begin", self.epoch, {})
        if self.trainer.nonfinite == "restore" and not (self.step and self.begin_state):
            self.begin_state = jax.tree.map(jnp.copy, self.trainer.state)
        self.progress.begin_epoch(self.epoch)
        self.train()
        logs = dict(self.logs)
        if self.validate is not None and _due(self.epoch, self.validation_freq):
            self.hook("on_test_begin", {})
            measured = self.validate(self.progress, self.leave_if_asked)
            self.hook("on_test_end", measured)
            logs |= {f"val_{name}": value for name, value in measured.items()}
        seconds = time.perf_counter() - start - (self.progress.compile_seconds - compiled_before)
        self.trainer.history.seconds.append(seconds)
        self.hook("on_epoch_end", self.epoch, logs)
        self.progress.end_epoch(logs)
        self.epoch, self.step, self.logs, self.totals = self.epoch + 1, 0, logs, self.objective.empty()
        self.mark()
        if self.checkpoints is not None:
            last = self.trainer.stop_training or self.epoch == self.epochs.stop
            if last or self.checkpoints.every == "epoch" or self.checkpoints.due(int(self.trainer.state.step)):
                self.save(self.checkpoints.value_of(logs))
        self.leave_if_asked()

    def save(self, value: float | None = None) -> None:
        """Writes a checkpoint of what was marked, in the background."""
        if self.checkpoints is not None:
            self.checkpoints.save(*self.marked, value)

    def leave_if_asked(self) -> None:
        """Ends the run where Ctrl-C or a request to terminate came, after everything is saved."""
        if self.interrupts.pending and self.checkpoints is not None:
            self.save()
            self.checkpoints.wait()
            print(f"saved at epoch {self.epoch + 1}, step {self.step}, in {self.checkpoints.folder}", file=sys.stderr)
        self.interrupts.check()

    def train(self) -> None:
        """The steps of one epoch, or the rest of them."""
        limit = math.inf if self.steps_per_epoch is None else self.steps_per_epoch
        ended = False
        # As in Keras, what ends the run before the first step of an epoch ends it after that step.
        while self.step < limit and not (self.step and self.trainer.stop_training):
            chunk = self.walk.chunk(limit - self.step)
            if chunk is None and not self.step and self.walk.first:
                self.walk.turn()  # the epoch before ended just where the data does
                chunk = self.walk.chunk(limit)
            if chunk is None:
                ended = True
                break
            at = self.walk.first - chunk.first
            ends = (chunk.steps, at + self.at_once(chunk.steps), at + limit - self.step)
            self.execute(chunk, at, int(min(ends)))
        if not self.step:
            raise ValueError(
                f"Epoch {self.epoch + 1} found no batch, because the stream was gone through before; give "
                "`steps_per_epoch`, or a list, a loader, or a function that makes the iterator anew."
            )
        if ended and limit < math.inf:
            self.ran_out(int(limit))
        # Without `steps_per_epoch` an epoch is a pass, also where a callback has ended it.
        if ended or limit == math.inf or (self.feed.steps is not None and self.walk.first >= self.feed.steps):
            self.walk.turn()

    def ran_out(self, limit: int) -> None:
        warnings.warn(
            f"The data ended after {self.step} of {limit} steps of epoch {self.epoch + 1}; "
            "give a longer stream or a smaller `steps_per_epoch`.",
            stacklevel=5,
        )
        if isinstance(self.feed, StreamFeed) and not self.feed.source.restarts:
            self.trainer.stop_training = True

    def at_once(self, whole: int) -> int:
        """Steps in the next chunk."""
        if self.trainer.steps_per_execution != "auto":
            return int(self.trainer.steps_per_execution)
        return 1 if self.trainer.stop_training else soon_done(whole, self.steps_per_second)

    def execute(self, chunk: Chunk, start: int, stop: int) -> None:
        """Runs the steps from `start` to `stop` of a chunk on the device, and tells callbacks and display."""
        trainer, progress = self.trainer, self.progress
        whole = jax.default_backend() != "cpu" and stop - start == chunk.order.shape[0]
        program = trainer._train_program(self.feed, self.objective, chunk.steps if whole else None, self.watches_steps)
        trainer.keep_shared_variables()
        args = (trainer.state, self.totals, chunk.data, chunk.order, np.int32(start), np.int32(stop))
        if not program.is_compiled(*args):
            progress.compiling("training")
            progress.compiled("training", program.compile(*args))
        if self.watches_steps:
            self.hook("on_train_batch_begin", self.step, {})
            trainer.keep_shared_variables()
            args = (trainer.state, *args[1:])
        began = time.perf_counter()
        (trainer.state, self.totals, values, each), stop = self.computed(program, args)
        self.logs = floats(self.objective, values)
        seconds = time.perf_counter() - began
        self.steps_per_second = trainer._speeds[self.speed_of] = (stop - start) / seconds
        self.step, self.walk.first = self.step + stop - start, self.walk.first + stop - start
        progress.chunk(self.step, int(chunk.sizes[start:stop].sum()), seconds, self.logs)
        self.watch()
        if self.watches_chunks or self.watches_steps:
            # A checkpoint that is written because a callback fails says that all of them are to be called again.
            self.untold = {name: np.asarray(log)[: stop - start] for name, log in each.items()}
            self.mark()
            self.tell()
        self.mark()
        if self.checkpoints is not None and self.checkpoints.due(int(trainer.state.step)):
            self.save()
        self.leave_if_asked()

    def computed(self, program: Program, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
        """What the program gives, and up to which step: not beyond one whose numbers are not finite."""
        *begin, start, stop = args
        out = program(*args)
        if not self.trainer._goes_back or not int(out[0].trouble.count):
            return out, int(stop)
        # The same bits again: the state before that step, and what its loss makes of the logs.
        bad = int(start) + int(out[0].trouble.step) - int(begin[0].step)
        before, told = (program(*begin, start, np.int32(end)) for end in (bad, bad + 1))
        return (before[0].replace(trouble=told[0].trouble), *told[1:]), bad + 1

    def watch(self) -> None:
        """Tells of numbers that are not finite, and ends the run if that is what was chosen."""
        trainer = self.trainer
        if trainer.nonfinite == "ignore":
            if not math.isfinite(self.logs["loss"]):
                self.warn(
                    f"The loss is {self.logs['loss']} after step {self.step} of the epoch; "
                    f"{advice.remedy(trainer.model, trainer.state.params)}."
                )
            return
        trouble = jax.device_get(trainer.state.trouble)
        if not trouble.count:
            return
        names = list(named(steps.partition(trainer.state.params, trainer._rules.frozen)[0]))
        where = f"the gradient of {names[trouble.parameter]}" if trouble.parameter >= 0 else "the loss"
        rates = ", ".join(f"{rate:.6g}" for rate in trainer.learning_rates().values())
        done = {
            "skip": f"{int(trouble.count)} such steps were left out" if trouble.count > 1 else "the step was left out",
            "stop": "the run ends with the state before it",
            "restore": "the run ends with the state of the epoch's begin",
        }[trainer.nonfinite]
        self.warn(
            f"Numbers are not finite at step {int(trouble.step)} of the run, first in {where}"
            f"{f', with the learning rate {rates}' if rates else ''}; {done}; "
            f"{advice.remedy(trainer.model, trainer.state.params)}."
        )
        if trainer.nonfinite != "skip":
            trainer.stop_training = True
        if trainer.nonfinite == "restore":
            trainer.state = self.begin_state
        trainer.state = trainer.state.replace(trouble=Trouble.none())

    def warn(self, sentence: str) -> None:
        warnings.warn(sentence, RuntimeWarning, stacklevel=8)

    def tell(self) -> None:
        """Calls the callbacks at the end of a chunk."""
        each = self.untold or {}
        if self.watches_steps and each:
            self.hook("on_train_batch_end", self.step - 1, {name: each[name] for name in self.logs})
        if self.watches_chunks:
            self.hook("on_chunk_end", self.step, dict(self.logs))
        self.untold = None


def _given_away(tree: Any) -> bool:
    """Whether arrays were donated to a program that has not given new ones back."""
    return any(isinstance(x, jax.Array) and x.is_deleted() for x in jax.tree.leaves(tree))


def _due(epoch: int, freq: int | list[int]) -> bool:
    return (epoch + 1) % freq == 0 if isinstance(freq, int) else epoch + 1 in freq


def floats(objective: Objective, logs: dict[str, jax.Array]) -> dict[str, Any]:
    """The logs on the host, `loss` first and the metrics as they were asked for; a compiled program sorts them."""
    values = jax.device_get(logs)
    names = sorted(values, key=objective.log_names.index)
    return {name: float(values[name]) if np.ndim(values[name]) == 0 else values[name] for name in names}
