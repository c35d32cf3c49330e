"""Handles steps whose loss or gradients are not finite."""

import math
import warnings
from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import numpy as np

from training import advice, optimizers, steps
from training.caller import caller_stacklevel
from training.checkpoints import leaves_by_path
from training.objective import Totals
from training.programs import Program
from training.rules import Path, partition
from training.state import Batch, TrainState, Trouble

# The arguments of a program of training steps: state, totals, data, order, start, stop.
TrainArguments: TypeAlias = tuple[TrainState, Totals, Batch, jax.Array, np.int32, np.int32]

CHOICES = ("stop", "restore", "skip", "ignore")


class NonfinitePolicy:
    """Handles steps whose loss or gradients are not finite.

    On a CPU, choosing between two states in every step costs additional memory accesses. There, the choices "stop" and
    "restore" only note the first such step, and later replay the chunk up to it.

    Args:
        choice: "stop", "restore", "skip" or "ignore", see `Trainer`.
        train_step: The function that makes training steps. Only steps of the default function can be replayed.

    Attributes:
        choice: The choice.
    """

    def __init__(self, choice: str, train_step: Callable[..., steps.TrainStep]):
        if choice not in CHOICES:
            raise ValueError(
                f"`nonfinite` must be 'stop', 'restore', 'skip' or 'ignore', got {choice!r}; use one of them."
            )
        self.choice = choice
        self._may_replay = choice in ("stop", "restore") and train_step is steps.make_train_step

    @property
    def replays(self) -> bool:
        """Whether a chunk is replayed up to the first bad step; the state must then not be donated."""
        # Not in `__init__`: naming the backend starts JAX, after which a process must not fork.
        return self._may_replay and jax.default_backend() == "cpu"

    @property
    def step_policy(self) -> str:
        """The argument `nonfinite` of `make_train_step`."""
        return "note" if self.replays else "stop" if self.choice == "restore" else self.choice

    def run_program(self, program: Program, args: TrainArguments) -> tuple[steps.TrainResults, int]:
        """Runs a training program, but not beyond a step at which the run stops.

        Args:
            program: The compiled program of `make_train_program`.
            args: The program's arguments (state, totals, data, order, start, stop).

        Returns:
            The program's results, and the number of the step after the last one that was done.
        """
        state, totals, data, order, start, stop = args
        out: steps.TrainResults = program(*args)
        if not self.replays or not int(out[0].trouble.count):
            return out, int(stop)
        # Computing the steps before the bad one again gives the state before it, bit-identically. One more step gives
        # the logs, which include the loss of the bad step.
        bad = int(start) + int(out[0].trouble.step) - int(state.step)
        before, logged = (program(state, totals, data, order, start, np.int32(end)) for end in (bad, bad + 1))
        return (before[0].replace(trouble=logged[0].trouble), *logged[1:]), bad + 1

    def handle(
        self, model: nn.Module, state: TrainState, frozen: frozenset[Path], step: int, loss: float
    ) -> tuple[TrainState, bool]:
        """Warns if numbers were not finite.

        Args:
            model: The model, on which the advice in the warning depends.
            state: The state after a chunk of steps.
            frozen: Paths of the parameters that are not trained.
            step: The step of the epoch, for the warning.
            loss: The mean loss in the logs.

        Returns:
            The state without the note of the first such step, and whether the run has to stop.
        """
        if self.choice == "ignore":
            if not math.isfinite(loss):
                _warn(f"The loss is {loss} after step {step} of the epoch; {advice.remedy(model, state.params)}.")
            return state, False
        trouble: Trouble = jax.device_get(state.trouble)
        if not trouble.count:
            return state, False
        names = list(leaves_by_path(partition(state.params, frozen)[0]))
        where = f"the gradient of {names[int(trouble.parameter)]}" if trouble.parameter >= 0 else "the loss"
        rates = ", ".join(f"{rate:.6g}" for rate in optimizers.learning_rates(state.opt_state).values())
        count = int(trouble.count)
        done = {
            "skip": f"{count} such steps were skipped" if count > 1 else "the step was skipped",
            "stop": "the run ends with the state before that step",
            "restore": "the run ends with the state at the start of the epoch",
        }[self.choice]
        _warn(
            f"Numbers are not finite at step {int(trouble.step)} of the run, first in {where}"
            f"{f', with the learning rate {rates}' if rates else ''}; {done}; {advice.remedy(model, state.params)}."
        )
        return state.replace(trouble=Trouble.none()), self.choice != "skip"


def _warn(sentence: str) -> None:
    warnings.warn(sentence, RuntimeWarning, stacklevel=caller_stacklevel())
