"""Rules of operations that call programs: functions, branches, loops."""

import functools
from collections.abc import Callable
from typing import Any

from training.padding.elementwise import is_number
from training.padding.values import MIXED, Operand, Operation, Rows, Same, Unknown, Value, placed


def call(*names: str) -> Callable[[Operation], list[Value]]:
    """Makes the rule of operations that call the program in one of these parameters."""

    def rule(operation: Operation) -> list[Value]:
        name = next(name for name in names if name in operation.params)
        return operation.follow(operation.params[name], operation.short_params[name], operation.values)

    return rule


# Packages whose derivatives are those of the function.
KNOWN = ("flax", "flaxmodels", "jax", "optax", "training")


def differentiated(operation: Operation) -> list[Value]:
    """A function with a derivative of its own, which is only known to treat rows apart where it is a library's."""
    derivative = operation.params["bwd" if "bwd" in operation.params else "jvp_jaxpr_fun"]
    modules = _modules(derivative, set())
    if not modules or any(module.split(".")[0] not in KNOWN for module in modules):
        raise Unknown
    return operation.follow(operation.params["call_jaxpr"], operation.short_params["call_jaxpr"], operation.values)


def _modules(function: Any, seen: set[int]) -> set[str]:
    """The modules of a function, and of the functions that it wraps."""
    if id(function) in seen:
        return set()
    seen.add(id(function))
    if isinstance(function, functools.partial):
        inner = [function.func, *function.args]
    else:
        inner = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_set(cell)]
        # JAX keeps a function together with its transformations.
        inner += [function.f] if hasattr(function, "f") else []
        inner += [part for _, parts in getattr(function, "transforms", ()) for part in parts]
    own = {function.__module__} if callable(function) and getattr(function, "__module__", None) else set()
    return own.union(*(_modules(part, seen) for part in inner if callable(part) or hasattr(part, "f")))


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def joined(value: Value, other: Value) -> Value:
    """What is known of a value that is one of two."""
    if value == other:
        return value
    if isinstance(value, Same) and isinstance(other, Same):
        return Same()
    if isinstance(value, Rows) and isinstance(other, Rows):
        before = {rows.before for rows in (value, other) if rows.before is not None}
        if len(before) <= 1:
            fill = value.fill if is_number(value.fill, other.fill) else None
            return Rows(before.pop() if before else None, fill)
    return MIXED


def conditional(operation: Operation) -> list[Value]:
    branches = list(zip(operation.params["branches"], operation.short_params["branches"], strict=True))
    if operation.params.get("branches_platforms") is not None:
        branches = branches[-1:]  # the same function for different platforms; the last one serves all others
    if not isinstance(operation.values[0], Same):
        raise Unknown
    each = [operation.follow(*branch, operation.values[1:]) for branch in branches]
    found = each[0]
    for other in each[1:]:
        found = [joined(*pair) for pair in zip(found, other, strict=True)]
    return found


def _fixed_point(step: Callable[[list[Value]], list[Value]], carry: list[Value]) -> list[Value]:
    """What is known of a carry before any step of a loop; each round can only forget."""
    while True:
        following = [joined(*pair) for pair in zip(carry, step(carry), strict=True)]
        if following == carry:
            return carry
        carry = following


def scan(operation: Operation) -> list[Value]:
    params, short = operation.params, operation.short_params
    if not operation.same_params("jaxpr"):
        raise Unknown  # other numbers of steps
    consts, carried = _constants_and_carry(params)
    fixed, carry, xs = (
        operation.values[:consts],
        operation.values[consts : consts + carried],
        operation.inputs[consts + carried :],
    )

    def of_one_step(operand: Operand) -> Value:
        if not isinstance(operand.value, Rows) or operand.value.before is None:
            return operand.value if not isinstance(operand.value, Same) else Same()
        axis = operation.axis(operand)
        return placed(axis, axis.number - 1, operand.shape[1:], operand.value.fill) if axis.number else MIXED

    def of_all_steps(value: Value, out: Operand) -> Value:
        if not isinstance(value, Rows) or value.before is None:
            return value if not isinstance(value, Same) else Same()
        return Rows(value.before * out.shape[0], value.fill)

    slices = [of_one_step(operand) for operand in xs]
    inner = (params["jaxpr"], short["jaxpr"])
    carry = _fixed_point(lambda c: operation.follow(*inner, [*fixed, *c, *slices])[:carried], list(carry))
    ys = operation.follow(*inner, [*fixed, *carry, *slices])[carried:]
    return [*carry, *map(of_all_steps, ys, operation.outputs[carried:])]


def _constants_and_carry(params: dict[str, Any]) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are its carry."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # from JAX 0.11 on
    return len(constants), len(carry)


def while_loop(operation: Operation) -> list[Value]:
    params, short = operation.params, operation.short_params
    tested, worked = params["cond_nconsts"], params["body_nconsts"]
    values = operation.values
    of_test, of_body, carry = values[:tested], values[tested : tested + worked], values[tested + worked :]
    body, test = [(params[name], short[name]) for name in ("body_jaxpr", "cond_jaxpr")]
    carry = _fixed_point(lambda c: operation.follow(*body, [*of_body, *c]), carry)
    if not isinstance(operation.follow(*test, [*of_test, *carry])[0], Same):
        raise Unknown
    return carry


RULES: dict[str, Callable[[Operation], list[Value]]] = {
    **dict.fromkeys(
        ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
        call("jaxpr", "call_jaxpr", "fun_jaxpr"),
    ),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), differentiated),
    "cond": conditional,
    "scan": scan,
    "while": while_loop,
}
