"""One training step, and many of them as one compiled program. Read this file first.

Everything here is a pure function of arrays: `Trainer` calls it, and so can a loop of one's own:

    objective = resolve("mse", ["mae"], None, None, ["output"], y, y_pred)
    state, rules = create_state(model, optimizer, x, seed=0)
    step = jax.jit(make_train_step(model, objective, optimizer, rules))
    totals = objective.empty()
    for x, y in batches:
        state, totals = step(state, totals, Batch(x, y))
    print(objective.logs(totals))
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax import lax

from flaxmodels import constraints
from flaxmodels.building import weights_of
from flaxmodels.layers.base import Layer
from flaxmodels.layers.linen import training_flags
from flaxmodels.layers.recurrent import stateful_scopes
from training.objective import Objective
from training.optimizers import scale_loss, scales_loss
from training.state import TrainState, Trouble

Path = tuple[str, ...]
Totals = dict[str, Any]
NO_STEP = jnp.iinfo(jnp.int32).max
FEW = 4_000_000  # numbers in a state


class Batch(NamedTuple):
    """Some examples: x and y are arrays or trees of arrays [B, ...].

    Attributes:
        x: Inputs.
        y: Labels, None where only predictions are wanted.
        weight: Sample weights [B], or None.
        valid: False for the rows that only pad the batch [B]; None if all rows are examples.
    """

    x: Any
    y: Any = None
    weight: Any = None
    valid: Any = None


class Rules(NamedTuple):
    """What the layers say of their parameters: constraints by path, and the paths that are not trained."""

    constraints: dict[Path, Callable[[jax.Array], jax.Array]]
    frozen: frozenset[Path]


def create_state(
    model: nn.Module, optimizer: optax.GradientTransformation, x: Any, seed: int = 0, variables: Any = None
) -> tuple[TrainState, Rules]:
    """Initializes everything that training changes, and reads the rules off the layers.

    Args:
        model: Any linen module.
        optimizer: The transformation that the state is for.
        x: An example batch of inputs; shapes and dtypes count.
        seed: Seed of parameters, shuffling and dropout.
        variables: Variables to start from; those that are missing get fresh values.

    Raises:
        ValueError: If one of the variables is none of the model's, or has another shape.
    """
    rules = read_rules(model, x)

    def begin(key: jax.Array, x: Any, variables: Any) -> TrainState:
        rngs = {"params": jax.random.fold_in(key, 0), "dropout": key}
        fresh = model.init(rngs, x, **training_flags(model, train=False))
        variables = fresh if variables is None else filled_in(variables, fresh)
        variables = jax.tree.map(jnp.copy, variables)  # the state is donated; the caller keeps the original
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
        return begin(*args), rules
    # One program: a process waits for its compilation before the first step, and for many small ones longer.
    traced = jax.jit(begin).trace(*args)
    return traced.lower().compile(_options(traced.out_info))(*args), rules


def filled_in(given: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """Puts variables in the place of those that a model has, which stay where none is given.

    Args:
        given: Collections of variables, such as {"params": ...}, or parts of them.
        present: All of the model's variables.

    Raises:
        ValueError: If one of the variables is none of the model's, or has another shape.
    """
    known = traverse_util.flatten_dict(dict(present))
    values = traverse_util.flatten_dict(dict(given))
    for path, value in values.items():
        name = "/".join(map(str, path))
        if path not in known:
            names = ["/".join(map(str, path)) for path in known]
            close = difflib.get_close_matches(name, names, n=1)
            fix = f"did you mean {close[0]!r}?" if close else "leave it out."
            raise ValueError(f"`variables` holds variables of the model, got {name!r}, which it does not have; {fix}")
        shape, wanted = (tuple(np.shape(nn.meta.unbox(leaf))) for leaf in (value, known[path]))
        if shape != wanted:
            raise ValueError(
                f"`variables` holds {name!r} in the shape {wanted} that the model has for these inputs, got {shape}; "
                "give variables and inputs of the same model."
            )
    return traverse_util.unflatten_dict(known | values)


def _options(state: Any) -> dict[str, Any] | None:
    """What runs once is not optimized: that takes seconds for random numbers, and drawing a few of them no time."""
    few = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) < FEW
    return {"xla_backend_optimization_level": 0} if few and jax.default_backend() == "cpu" else None


def read_rules(model: nn.Module, x: Any) -> Rules:
    """Finds the constraints and the frozen parameters of the layers inside a model."""
    found, frozen = {}, set()
    for path, (layer, name) in weights_of(model, x, **training_flags(model, train=False)).items():
        constraint = constraints.get(layer.argument(name, "constraint"))
        if constraint is not None:
            found[path] = constraint
        if layer.frozen:
            frozen.add(path)
    return Rules(found, frozenset(frozen))


def partition(params: Any, frozen: frozenset[Path]) -> tuple[Any, Any]:
    """Splits parameters into those that are trained and those that are not."""
    if not frozen:
        return params, {}
    flat = traverse_util.flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if path not in frozen}
    rest = {path: leaf for path, leaf in flat.items() if path in frozen}
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(rest)


def joined(trained: Any, rest: Any) -> Any:
    """Puts together what `partition` split."""
    if not rest:
        return trained
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(rest))


def constrained(params: Any, rules: Rules) -> Any:
    """Applies the constraints to the trained parameters they belong to; what is frozen keeps its values."""
    if not rules.constraints:
        return params
    flat = traverse_util.flatten_dict(params)
    for path, constraint in rules.constraints.items():
        if path in flat and path not in rules.frozen:
            flat[path] = constraint(flat[path])
    return traverse_util.unflatten_dict(flat)


class Outputs(NamedTuple):
    """What a model gives for a batch."""

    values: Any
    masks: Any
    batch_stats: Any
    regularization: jax.Array


def forward(
    model: nn.Module, variables: Any, batch: Batch, train: bool = False, key: jax.Array | None = None
) -> Outputs:
    """Runs a model on a batch; layers of ours that mix rows see which rows are padding."""
    collections = dict(variables) | ({} if batch.valid is None else {"batch": {"valid": batch.valid}})
    moves = train or bool(stateful_scopes(model))
    options: dict[str, Any] = {"mutable": ["batch_stats", "losses"] if moves else ["losses"]}
    if train:
        options["rngs"] = {"dropout": key}
    if isinstance(model, Layer):
        options |= {"train": train, "method": "outputs_and_mask"}
        (values, masks), new = model.apply(collections, batch.x, **options)
    else:
        options |= training_flags(model, train)
        (values, new), masks = model.apply(collections, batch.x, **options), None
    penalty = sum(jax.tree.leaves(new.get("losses", {})), jnp.zeros((), jnp.float32))
    return Outputs(values, masks, new.get("batch_stats", variables.get("batch_stats", {})), penalty)


def make_train_step(
    model: nn.Module,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    rules: Rules,
    nonfinite: str = "ignore",
) -> Callable[[TrainState, Totals, Batch], tuple[TrainState, Totals]]:
    """Makes the function that does one step: (state, totals, batch) -> (state, totals).

    The order in a step, which is Keras':
      1. the key of the step is folded from the run's key and the step's number;
      2. the outputs, the loss with regularization, and the gradients by the trained parameters, of the loss scaled
         where the optimizer asks for it;
      3. the optimizer's update is added to the parameters;
      4. constraints are applied to the new parameters;
      5. the loss and the metrics of the outputs of (2) are added to the totals;
      6. unless `nonfinite` is "ignore", a step whose loss or gradients are not finite is noted in `state.trouble`; if
         it is "skip", the step changes nothing else, and if it is "stop", neither does any step after it. With "note"
         all goes on.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: TrainState, totals: Totals, batch: Batch) -> tuple[TrainState, Totals]:
        key = jax.random.fold_in(state.key, state.step)
        trained, rest = partition(state.params, rules.frozen)

        def loss_of(trained: Any) -> tuple[jax.Array, Any]:
            variables = {"params": joined(trained, rest), "batch_stats": state.batch_stats}
            out = forward(model, variables, batch, train=True, key=key)
            loss, own = objective.loss(batch.y, out.values, batch.weight, out.masks, batch.valid)
            loss = loss + out.regularization
            return scale_loss(state.opt_state, loss), (loss, own, out)

        grads, (loss, own, out) = jax.grad(loss_of, has_aux=True)(trained)
        # Line searches try the loss at other parameters.
        tried = {"value": loss, "grad": grads, "value_fn": lambda params: loss_of(params)[1][0]}
        updates, opt_state = optimizer.update(grads, state.opt_state, trained, **tried)
        params = constrained(joined(optax.apply_updates(trained, updates), rest), rules)
        counted = objective.update(totals, loss, own, batch.y, out.values, batch.weight, out.masks, batch.valid)
        new = state.replace(step=state.step + 1, params=params, batch_stats=out.batch_stats, opt_state=opt_state)
        if nonfinite == "ignore":
            return new, counted
        return guarded(nonfinite, (state, totals), (new, counted), loss, grads)

    return step


def guarded(
    nonfinite: str, old: tuple[TrainState, Totals], new: tuple[TrainState, Totals], loss: jax.Array, grads: Any
) -> tuple[TrainState, Totals]:
    """Notes whether a step's numbers are finite, and chooses between the state and totals before and after it."""
    state, trouble = old[0], old[0].trouble
    # An optimizer that scales the loss expects gradients that overflow, and leaves such steps out itself.
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

    def choose(condition: jax.Array, a: Any, b: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)

    parts = ("step", "params", "batch_stats", "opt_state")
    chosen = choose(kept, *({part: getattr(s, part) for part in parts} for s in (new[0], state)))
    if nonfinite == "skip":
        chosen["step"] = new[0].step  # it still was a step, and the next one has its own randomness
    told = kept if nonfinite == "skip" else ~stopped  # the loss that stops a run is part of the means
    return state.replace(trouble=noted, **chosen), choose(told, new[1], old[1])


def _finite(x: jax.Array) -> jax.Array:
    """Whether all numbers are finite."""
    if x.ndim > 1 and x.size and jnp.issubdtype(x.dtype, jnp.floating):
        # Zero times what is not finite is NaN; a product reads an array several times as fast as XLA's `all` on a CPU.
        x = x.reshape(-1, x.shape[-1]) @ jnp.zeros((x.shape[-1],), x.dtype)
    return jnp.all(jnp.isfinite(x))


def make_eval_step(
    model: nn.Module, objective: Objective
) -> Callable[[dict[str, Any], Totals, Batch], tuple[dict[str, Any], Totals]]:
    """Makes the function that adds a batch's loss and metrics to the totals.

    It maps (variables, totals, batch) to (variables, totals); the variables change by the states of stateful layers.
    """

    def step(variables: dict[str, Any], totals: Totals, batch: Batch) -> tuple[dict[str, Any], Totals]:
        out = forward(model, variables, batch)
        loss, own = objective.loss(batch.y, out.values, batch.weight, out.masks, batch.valid)
        totals = objective.update(
            totals, loss + out.regularization, own, batch.y, out.values, batch.weight, out.masks, batch.valid
        )
        return _with_statistics(variables, out), totals

    return step


def make_predict_step(model: nn.Module) -> Callable[[dict[str, Any], Batch], tuple[dict[str, Any], Any]]:
    """Makes the function that computes a batch's outputs: (variables, batch) -> (variables, outputs)."""

    def step(variables: dict[str, Any], batch: Batch) -> tuple[dict[str, Any], Any]:
        out = forward(model, variables, batch)
        return _with_statistics(variables, out), out.values

    return step


def _with_statistics(variables: dict[str, Any], out: Outputs) -> dict[str, Any]:
    return dict(variables) | ({"batch_stats": out.batch_stats} if out.batch_stats else {})


def batch_at(data: Batch, order: jax.Array, i: jax.Array, scale: float, padded: bool) -> Batch:
    """Gathers the i-th batch out of data on the device.

    Args:
        data: All examples [N, ...].
        order: The rows of each batch [steps, B]; -1 is padding.
        i: Which batch.
        scale: Factor of the inputs, as in images stored as bytes; 1 leaves them as they are.
        padded: Whether -1 occurs.
    """
    rows = lax.dynamic_index_in_dim(order, i, keepdims=False)
    # Padding repeats the batch's own first row: a number that is not finite there would also be in an example.
    taken = jnp.where(rows >= 0, rows, rows[0]) if padded else rows
    x, y, weight = jax.tree.map(lambda a: jnp.take(a, taken, axis=0, mode="clip"), (data.x, data.y, data.weight))
    if scale != 1:
        x = jax.tree.map(lambda a: a.astype(jnp.float32) * scale, x)
    return Batch(x, y, weight, rows >= 0 if padded else None)


def make_order(key: jax.Array | None, n: int, batch_size: int) -> jax.Array:
    """The rows of each batch of an epoch [steps, B], shuffled if there is a key; -1 pads the last batch."""
    steps = -(-n // batch_size)
    rows = jnp.arange(n, dtype=jnp.int32) if key is None else jax.random.permutation(key, n).astype(jnp.int32)
    padding = jnp.full((steps * batch_size - n,), -1, jnp.int32)
    return jnp.concatenate([rows, padding]).reshape(steps, batch_size)


def loop(
    body: Callable[[jax.Array, Any], Any], carry: Any, start: jax.Array, stop: jax.Array, length: int | None
) -> Any:
    """Repeats `body(i, carry)` for start <= i < stop, compiled once.

    With a `length`, which then is stop - start, it is a scan: an accelerator knows the number of steps without
    asking the host at each. Without one, a single program serves any number of steps, which a CPU runs as fast.
    """
    if length is None:
        return lax.fori_loop(start, stop, body, carry)
    steps = start + jnp.arange(length, dtype=jnp.int32)
    return lax.scan(lambda c, i: (body(i, c), None), carry, steps)[0]


def make_train_program(
    train_step: Callable[[TrainState, Totals, Batch], tuple[TrainState, Totals]],
    objective: Objective,
    scale: float,
    padded: bool,
    length: int | None = None,
    each: bool = False,
) -> Callable[..., tuple[TrainState, Totals, dict[str, jax.Array], dict[str, jax.Array]]]:
    """Makes a run of training steps: (state, totals, data, order, start, stop) -> (state, totals, logs, logs of each).

    With `each`, the last holds the logs after every step [steps of the order, ...], else nothing.
    """

    def program(
        state: TrainState, totals: Totals, data: Batch, order: jax.Array, start: jax.Array, stop: jax.Array
    ) -> tuple[TrainState, Totals, dict[str, jax.Array], dict[str, jax.Array]]:
        shapes = jax.eval_shape(objective.logs, totals) if each else {}
        seen = {name: jnp.zeros((order.shape[0], *log.shape), log.dtype) for name, log in shapes.items()}

        def body(i: jax.Array, carry: tuple[TrainState, Totals, Any]) -> tuple[TrainState, Totals, Any]:
            state, totals = train_step(*carry[:2], batch_at(data, order, i, scale, padded))
            logs = objective.logs(totals) if each else {}
            return state, totals, {name: log.at[i - start].set(logs[name]) for name, log in carry[2].items()}

        state, totals, seen = loop(body, (state, totals, seen), start, stop, length)
        return state, totals, objective.logs(totals), seen

    return program


def make_eval_program(
    eval_step: Callable[[dict[str, Any], Totals, Batch], tuple[dict[str, Any], Totals]],
    objective: Objective,
    scale: float,
    padded: bool,
    length: int | None = None,
    stateful: bool = False,
) -> Callable[..., tuple[Totals, dict[str, jax.Array], dict[str, Any]]]:
    """Makes a run of evaluation steps: (variables, totals, data, order, start, stop) -> (totals, logs, changed).

    Of the variables, `changed` has the collection with the states of stateful layers, if there are any.
    """

    def program(
        variables: dict[str, Any],
        totals: Totals,
        data: Batch,
        order: jax.Array,
        start: jax.Array,
        stop: jax.Array,
    ) -> tuple[Totals, dict[str, jax.Array], dict[str, Any]]:
        def body(i: jax.Array, carry: tuple[Totals, dict[str, Any]]) -> tuple[Totals, dict[str, Any]]:
            totals, changed = carry
            after, totals = eval_step(variables | changed, totals, batch_at(data, order, i, scale, padded))
            return totals, {name: after[name] for name in changed}

        totals, changed = loop(body, (totals, _changing(variables, stateful)), start, stop, length)
        return totals, objective.logs(totals), changed

    return program


def make_predict_program(
    predict_step: Callable[[dict[str, Any], Batch], tuple[dict[str, Any], Any]], scale: float, stateful: bool = False
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Makes a run of prediction steps: (variables, data, order, start, stop) -> (outputs [steps, B, ...], changed)."""

    def program(
        variables: dict[str, Any], data: Batch, order: jax.Array, start: jax.Array, stop: jax.Array
    ) -> tuple[Any, dict[str, Any]]:
        def at(i: Any, changed: dict[str, Any]) -> tuple[dict[str, Any], Any]:
            return predict_step(variables | changed, batch_at(data, order, i, scale, True))

        _, shapes = jax.eval_shape(at, start, {})
        outputs = jax.tree.map(lambda a: jnp.zeros((order.shape[0], *a.shape), a.dtype), shapes)

        def body(i: jax.Array, carry: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
            outputs, changed = carry
            after, one = at(i, changed)
            outputs = jax.tree.map(lambda all, one: all.at[i].set(one), outputs, one)
            return outputs, {name: after[name] for name in changed}

        return loop(body, (outputs, _changing(variables, stateful)), start, stop, None)

    return program


def _changing(variables: dict[str, Any], stateful: bool) -> dict[str, Any]:
    """The collection that changes without training."""
    return {"batch_stats": variables["batch_stats"]} if stateful else {}
