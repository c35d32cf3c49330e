"""One training step, and many of them as one compiled program. Read this file first.

Everything here is a pure function of arrays. `Trainer` calls these functions, and a custom loop can call them too:

    objective = Objective.of(model, Batch(x, y), loss="mse", metrics=["mae"])
    state, rules = create_state(model, optimizer, x, seed=0)
    step = jax.jit(make_train_step(model, objective, optimizer, rules))
    totals = objective.empty()
    for x, y in batches:
        state, totals = step(state, totals, Batch(x, y))
    print(objective.logs(totals))
"""

import difflib
import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from flax.typing import VariableDict
from jax import lax

from flaxmodels import threefry
from flaxmodels.layers.linen import training_flags
from training.assigned import changed_by, merged
from training.forward import Outputs, forward
from training.objective import Measurement, Totals
from training.objective import Objective as Objective
from training.optimizers import scale_loss, scales_loss
from training.rules import Rules, constrained, keep_trained, merge_params, partition, read_rules, uncalled
from training.state import ArrayOrShapeTree, TrainState, Trouble, Variables, VariableTree
from training.state import Batch as Batch

Tree = TypeVar("Tree")
TrainStep: TypeAlias = Callable[[TrainState, Totals, Batch], tuple[TrainState, Totals]]
EvalStep: TypeAlias = Callable[[Variables, Totals, Batch], tuple[Variables, Totals]]
PredictStep: TypeAlias = Callable[[Variables, Batch], tuple[Variables, ArrayOrShapeTree]]
Logs: TypeAlias = dict[str, jax.Array]
# The results of a program of training steps: state, totals, logs, and logs of each step.
TrainResults: TypeAlias = tuple[TrainState, Totals, Logs, Logs]
UNOPTIMIZED_BELOW = 4_000_000  # numbers in a state


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    x: ArrayOrShapeTree,
    seed: int = 0,
    variables: VariableDict | None = None,
) -> tuple[TrainState, Rules]:
    """Initializes the state of training, and reads the rules from the layers.

    Args:
        model: Any linen module.
        optimizer: The optimizer whose state is initialized.
        x: An example batch of inputs; shapes and dtypes suffice.
        seed: Seed of parameters, shuffling and dropout.
        variables: Initial variables. Missing ones are initialized by the model.

    Raises:
        ValueError: If the model has no such variable, or its shape differs.
    """
    rules = read_rules(model, x, (variables or {}).get("params"))

    def init_state(key: jax.Array, x: ArrayOrShapeTree, given: VariableDict | None) -> TrainState:
        rngs = {"params": jax.random.fold_in(key, 0), "dropout": key}
        fresh = model.init(rngs, x, **training_flags(model, train=False))
        variables = fresh if given is None else with_defaults(given, fresh, model)
        variables = jax.tree.map(jnp.copy, variables)  # the state is donated, and the caller keeps the original
        params = variables.get("params", {})
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(partition(params, rules.frozen)[0]),
            key=jax.random.fold_in(key, 1),
            trouble=Trouble.none(),
        )

    key = jax.random.key(seed)
    zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), x)
    args = (key, zeros, None if variables is None else dict(variables))
    if isinstance(key, jax.core.Tracer):  # part of a larger program
        return init_state(*args), rules
    # One program: compiling it takes less time than compiling the many small operations of `init`.
    traced = jax.jit(init_state).trace(*args)
    return traced.lower().compile(_options(traced.out_info))(*args), rules


def with_defaults(given: VariableDict, present: VariableDict, model: nn.Module) -> Variables:
    """Returns all variables of a model: the given ones, and the present ones for the rest.

    Args:
        given: Collections of variables, such as {"params": ...}, or parts of them.
        present: All variables that a call of the model creates.
        model: The model, which may hold layers that its call does not use.

    Raises:
        ValueError: If the model has no such variable, or its shape differs.
    """
    known = traverse_util.flatten_dict(dict(present))
    values = traverse_util.flatten_dict(dict(given))
    others = uncalled(model, known, values)
    for path, value in values.items():
        name = "/".join(map(str, path))
        if path in others:
            continue
        if path not in known:
            names = ["/".join(map(str, path)) for path in known]
            close = difflib.get_close_matches(name, names, n=1)
            fix = f"did you mean {close[0]!r}?" if close else "leave it out."
            raise ValueError(
                f"`variables` must hold variables of the model, got {name!r}, which the model does not have; {fix}"
            )
        shape, wanted = (tuple(np.shape(nn.meta.unbox(leaf))) for leaf in (value, known[path]))
        if shape != wanted:
            raise ValueError(
                f"`variables` must hold {name!r} with the shape {wanted} that the model has for these inputs, got "
                f"{shape}; give variables and inputs of the same model."
            )
    return traverse_util.unflatten_dict(known | values)


def _options(state: TrainState) -> dict[str, int] | None:
    """Returns compiler options that disable optimization, which takes seconds and does not make `init` faster."""
    few = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) < UNOPTIMIZED_BELOW
    return {"xla_backend_optimization_level": 0} if few and jax.default_backend() == "cpu" else None


def make_train_step(
    model: nn.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    rules: Rules,
    nonfinite: str = "ignore",
) -> TrainStep:
    """Makes the function that does one step: (state, totals, batch) -> (state, totals).

    A step has the same order as in Keras:
      1. the key of the step is folded from the run's key and the step's number;
      2. the outputs, the loss with regularization, and the gradients with respect to the trained parameters; an
         optimizer may scale the loss for the gradients;
      3. the optimizer's update is added to the parameters;
      4. constraints are applied to the new parameters;
      5. the loss and the metrics of the outputs of (2) are added to the totals;
      6. unless `nonfinite` is "ignore", `state.trouble` notes a step whose loss or gradients are not finite. With
         "skip", such a step changes nothing else. With "stop", no later step changes anything either. With "note",
         training continues.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, totals: Totals, batch: Batch) -> tuple[TrainState, Totals]:
        key = jax.random.fold_in(state.key, state.step)
        trained, rest = partition(state.params, rules.frozen)

        def loss_of(trained: VariableTree) -> tuple[jax.Array, tuple[Measurement, VariableTree, VariableTree]]:
            variables = {"params": merge_params(trained, rest), "batch_stats": state.batch_stats}
            out, measured = objective.run(model, variables, batch, totals, train=True, key=key)
            assigned = rest if out.params is None else partition(out.params, rules.frozen)[1]
            return scale_loss(state.opt_state, measured.loss), (measured, out.batch_stats, assigned)

        grads, (measured, batch_stats, assigned) = jax.grad(loss_of, has_aux=True)(trained)
        # A line search evaluates the loss at other parameters.
        tried = {"value": measured.loss, "grad": grads, "value_fn": lambda params: loss_of(params)[1][0].loss}
        updates, opt_state = optimizer.update(grads, state.opt_state, trained, **tried)
        params = constrained(merge_params(optax.apply_updates(trained, updates), assigned), rules)
        counted = objective.update(totals, measured)
        new = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
        if nonfinite == "ignore":
            return new, counted
        return with_finite_check(nonfinite, (state, totals), (new, counted), measured.loss, grads)

    return step


def with_finite_check(
    nonfinite: str,
    old: tuple[TrainState, Totals],
    new: tuple[TrainState, Totals],
    loss: jax.Array,
    grads: VariableTree,
) -> tuple[TrainState, Totals]:
    """Records whether a step is finite, and chooses the state and totals before or after the step."""
    state, trouble = old[0], old[0].trouble
    # An optimizer that scales the loss expects overflows of gradients, and skips these steps.
    leaves = [] if scales_loss(state.opt_state) else jax.tree.leaves(grads)
    bad = ~jnp.stack([jnp.isfinite(loss), *map(_finite, leaves)])
    any_bad = jnp.any(bad)
    first = jnp.where(jnp.any(bad[1:]), jnp.argmax(bad[1:]).astype(jnp.int32), -1) if leaves else jnp.int32(-1)
    seen = trouble.count > 0
    noted = Trouble(
        jnp.where(any_bad & ~seen, state.step, trouble.step),
        jnp.where(any_bad & ~seen, first, trouble.parameter),
        trouble.count + any_bad.astype(jnp.int32),
    )
    if nonfinite == "note":
        return new[0].replace(trouble=noted), new[1]
    stopped = seen if nonfinite == "stop" else jnp.zeros((), bool)
    kept = ~any_bad & ~stopped

    def choose(condition: jax.Array, a: Tree, b: Tree) -> Tree:
        return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)

    parts = ("step", "params", "batch_stats", "opt_state")
    chosen = choose(kept, *({part: getattr(s, part) for part in parts} for s in (new[0], state)))
    if nonfinite == "skip":
        chosen["step"] = new[0].step  # the skipped step counts, so that the next one has another random key
    logged = kept if nonfinite == "skip" else ~stopped  # the logs include the loss that stops a run
    return state.replace(trouble=noted, **chosen), choose(logged, new[1], old[1])


def _finite(x: jax.Array) -> jax.Array:
    """Whether all numbers are finite."""
    if x.ndim > 1 and x.size and jnp.issubdtype(x.dtype, jnp.floating):
        # Zero times a non-finite number is NaN. On a CPU, a dot product reads an array several times as fast as `all`.
        x = x.reshape(-1, x.shape[-1]) @ jnp.zeros((x.shape[-1],), x.dtype)
    return jnp.all(jnp.isfinite(x))


def make_eval_step(
    model: nn.Module, objective: Objective, frozen: frozenset[tuple[str, ...]] = frozenset()
) -> EvalStep:
    """Makes the function that adds a batch's loss and metrics to the totals.

    It maps (variables, totals, batch) to (variables, totals). Only variables that layers assign change: the states of
    stateful layers, and variables that are not trained.

    Args:
        model: Any linen module.
        objective: Losses and metrics.
        frozen: Paths of the parameters that are not trained, which layers may assign.
    """

    def step(variables: Variables, totals: Totals, batch: Batch) -> tuple[Variables, Totals]:
        out, measured = objective.run(model, variables, batch, totals)
        return _after(variables, out, frozen), objective.update(totals, measured)

    return step


def make_predict_step(model: nn.Module, frozen: frozenset[tuple[str, ...]] = frozenset()) -> PredictStep:
    """Makes the function that computes a batch's outputs: (variables, batch) -> (variables, outputs).

    Args:
        model: Any linen module.
        frozen: Paths of the parameters that are not trained, which layers may assign.
    """

    def step(variables: Variables, batch: Batch) -> tuple[Variables, ArrayOrShapeTree]:
        out = forward(model, variables, batch)
        return _after(variables, out, frozen), out.values

    return step


def _after(variables: Variables, out: Outputs, frozen: frozenset[tuple[str, ...]]) -> Variables:
    """Returns the variables after a call of the model that is not one of training."""
    after = dict(variables) | ({"batch_stats": out.batch_stats} if out.batch_stats else {})
    if out.params is not None:
        after["params"] = keep_trained(variables.get("params", {}), out.params, frozen)
    return after


def batch_at(data: Batch, order: jax.Array, i: jax.Array, scale: float, padded: bool) -> Batch:
    """Gathers the i-th batch from data on the device.

    Args:
        data: All examples [N, ...].
        order: Indices of the rows of each batch [steps, B]; -1 is a padding row.
        i: Number of the batch.
        scale: Factor of the inputs, for example of images stored as bytes.
        padded: Whether there are padding rows.
    """
    rows = lax.dynamic_index_in_dim(order, i, keepdims=False)
    # Padding rows repeat the first row of the batch, so they hold a non-finite number only if an example does.
    taken = jnp.where(rows >= 0, rows, rows[0]) if padded else rows
    x, y, weight = jax.tree.map(lambda a: jnp.take(a, taken, axis=0, mode="clip"), (data.x, data.y, data.weight))
    if scale != 1:
        x = jax.tree.map(lambda a: a.astype(jnp.float32) * scale, x)
    return Batch(x, y, weight, rows >= 0 if padded else None)


def make_order(key: jax.Array | None, n: int, batch_size: int) -> np.ndarray:
    """Returns the rows of each batch of an epoch [steps, B], shuffled if there is a key; -1 is a padding row."""
    steps = -(-n // batch_size)
    order = np.full(steps * batch_size, -1, np.int32)
    order[:n] = np.arange(n) if key is None else np.asarray(threefry.permutation(key, n))
    return order.reshape(steps, batch_size)


def loop(
    body: Callable[[jax.Array, Tree], Tree], carry: Tree, start: jax.Array, stop: jax.Array, length: int | None
) -> Tree:
    """Repeats `body(i, carry)` for start <= i < stop, compiled once.

    With a `length`, which must be stop - start, it is a scan: an accelerator runs it without returning to the host at
    each step. Without one, a single program serves any number of steps; a CPU runs it equally fast.
    """
    if length is None:
        return lax.fori_loop(start, stop, body, carry)
    steps = start + jnp.arange(length, dtype=jnp.int32)
    return lax.scan(lambda c, i: (body(i, c), None), carry, steps)[0]


def make_train_program(
    train_step: TrainStep,
    objective: Objective,
    scale: float,
    padded: bool,
    length: int | None = None,
    log_each_step: bool = False,
) -> Callable[..., TrainResults]:
    """Makes a program of training steps: (state, totals, data, order, start, stop) -> (state, totals, logs, step logs).

    With `log_each_step`, the step logs hold the logs after every step [steps, ...]; otherwise they are empty.
    """

    def program(
        state: TrainState, totals: Totals, data: Batch, order: jax.Array, start: jax.Array, stop: jax.Array
    ) -> TrainResults:
        shapes = jax.eval_shape(objective.logs, totals) if log_each_step else {}
        seen = {name: jnp.zeros((order.shape[0], *log.shape), log.dtype) for name, log in shapes.items()}

        def body(i: jax.Array, carry: tuple[TrainState, Totals, Logs]) -> tuple[TrainState, Totals, Logs]:
            state, totals = train_step(*carry[:2], batch_at(data, order, i, scale, padded))
            logs = objective.logs(totals) if log_each_step else {}
            return state, totals, {name: log.at[i - start].set(logs[name]) for name, log in carry[2].items()}

        state, totals, seen = loop(body, (state, totals, seen), start, stop, length)
        return state, totals, objective.logs(totals), seen

    return program


def make_eval_program(
    eval_step: EvalStep,
    objective: Objective,
    scale: float,
    padded: bool,
    length: int | None = None,
    assigns: bool = False,
) -> Callable[..., tuple[Totals, Logs, Variables]]:
    """Makes a program of evaluation steps: (variables, totals, data, order, start, stop) -> (totals, logs, changed).

    If layers may assign variables (`assigns`), `changed` holds those that they do assign.
    """

    def program(
        variables: Variables,
        totals: Totals,
        data: Batch,
        order: jax.Array,
        start: jax.Array,
        stop: jax.Array,
    ) -> tuple[Totals, Logs, Variables]:
        def at(i: jax.Array, variables: Variables, totals: Totals) -> tuple[Variables, Totals]:
            return eval_step(variables, totals, batch_at(data, order, i, scale, padded))

        def body(i: jax.Array, carry: tuple[Totals, Variables]) -> tuple[Totals, Variables]:
            totals, changed = carry
            after, totals = at(i, merged(variables, changed), totals)
            return totals, _selected(after, changed)

        moving = changed_by(lambda variables: at(start, variables, totals)[0], variables) if assigns else {}
        totals, changed = loop(body, (totals, moving), start, stop, length)
        return totals, objective.logs(totals), changed

    return program


def make_predict_program(
    predict_step: PredictStep, scale: float, assigns: bool = False
) -> Callable[..., tuple[ArrayOrShapeTree, Variables]]:
    """Makes a program of predictions: (variables, data, order, start, stop) -> (outputs [steps, B, ...], changed).

    If layers may assign variables (`assigns`), `changed` holds those that they do assign.
    """

    def program(
        variables: Variables, data: Batch, order: jax.Array, start: jax.Array, stop: jax.Array
    ) -> tuple[ArrayOrShapeTree, Variables]:
        def at(i: jax.Array, variables: Variables) -> tuple[Variables, ArrayOrShapeTree]:
            return predict_step(variables, batch_at(data, order, i, scale, True))

        moving = changed_by(lambda variables: at(start, variables)[0], variables) if assigns else {}
        _, shapes = jax.eval_shape(at, start, variables)
        outputs = jax.tree.map(lambda a: jnp.zeros((order.shape[0], *a.shape), a.dtype), shapes)

        def body(i: jax.Array, carry: tuple[ArrayOrShapeTree, Variables]) -> tuple[ArrayOrShapeTree, Variables]:
            outputs, changed = carry
            after, one = at(i, merged(variables, changed))
            outputs = jax.tree.map(lambda all, one: all.at[i].set(one), outputs, one)
            return outputs, _selected(after, changed)

        return loop(body, (outputs, moving), start, stop, None)

    return program


def _selected(variables: Variables, like: Variables) -> Variables:
    """Returns the variables at the places of others."""
    flat = traverse_util.flatten_dict(variables)
    return traverse_util.unflatten_dict({path: flat[path] for path in traverse_util.flatten_dict(like)})
