"""Transfer rules of primitives that call programs: functions, branches and loops."""

import functools
from collections.abc import Callable
from types import CellType

from training.padding.elementwise import is_known_to_be
from training.padding.lattice import (
    TAINTED,
    AbstractValue,
    Clean,
    NoRule,
    Operand,
    Operation,
    Params,
    RowWise,
    Rule,
    Tainted,
    row_wise_at,
)


def call(*names: str) -> Rule:
    """Returns the rule of primitives that call the program in one of these parameters."""

    def rule(operation: Operation) -> list[AbstractValue]:
        name = next(name for name in names if name in operation.params)
        return operation.interpret(operation.params[name], operation.short_params[name], operation.values)

    return rule


# Packages whose custom derivatives are known to be derivatives of the function.
TRUSTED_PACKAGES = ("flax", "flaxmodels", "jax", "optax", "training")


def custom_derivative(operation: Operation) -> list[AbstractValue]:
    """Describes a function with a custom derivative.

    A derivative is not part of the program and may mix rows, so it is accepted only from trusted packages.
    """
    derivative = operation.params["bwd" if "bwd" in operation.params else "jvp_jaxpr_fun"]
    modules = _defining_modules(derivative, set())
    if not modules or any(module.split(".")[0] not in TRUSTED_PACKAGES for module in modules):
        raise NoRule
    return operation.interpret(operation.params["call_jaxpr"], operation.short_params["call_jaxpr"], operation.values)


def _defining_modules(function: object, visited: set[int]) -> set[str]:
    """Returns the modules that define a function and the functions that it wraps."""
    if id(function) in visited:
        return set()
    visited.add(id(function))
    if isinstance(function, functools.partial):
        wrapped = [function.func, *function.args]
    else:
        wrapped = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_set(cell)]
        # JAX keeps a function in `f`, next to its transformations.
        wrapped += [function.f] if hasattr(function, "f") else []
        wrapped += [part for _, parts in getattr(function, "transforms", ()) for part in parts]
    modules = {function.__module__} if callable(function) and getattr(function, "__module__", None) else set()
    return modules.union(*(_defining_modules(w, visited) for w in wrapped if callable(w) or hasattr(w, "f")))


def _is_set(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def join(value: AbstractValue, other: AbstractValue) -> AbstractValue:
    """Returns the least upper bound: what is known of a value that is described by one of the two."""
    if value == other:
        return value
    if isinstance(value, Clean) and isinstance(other, Clean):
        return Clean()
    if isinstance(value, RowWise) and isinstance(other, RowWise):
        outer_sizes = {v.outer_size for v in (value, other) if v.outer_size is not None}
        if len(outer_sizes) <= 1:
            padding = value.padding if is_known_to_be(value.padding, other.padding) else None
            return RowWise(outer_sizes.pop() if outer_sizes else None, padding)
    return TAINTED


def _join_all(values: list[AbstractValue], others: list[AbstractValue]) -> list[AbstractValue]:
    return [join(*pair) for pair in zip(values, others, strict=True)]


def cond(operation: Operation) -> list[AbstractValue]:
    """Joins the outputs of all branches; the index of the branch must be clean."""
    branches = list(zip(operation.params["branches"], operation.short_params["branches"], strict=True))
    if operation.params.get("branches_platforms") is not None:
        branches = branches[-1:]  # the branches are one function for different platforms; the last one is the default
    if not isinstance(operation.values[0], Clean):
        raise NoRule
    return functools.reduce(_join_all, (operation.interpret(*branch, operation.values[1:]) for branch in branches))


def _fixed_point(
    step: Callable[[list[AbstractValue]], list[AbstractValue]], carry: list[AbstractValue]
) -> list[AbstractValue]:
    """Returns a description of a loop's carry that holds before every step.

    The carry is joined with the result of a step until it does not change. The loop terminates, because every join
    that changes the carry moves it up in the lattice, whose height is finite.
    """
    while True:
        joined = _join_all(carry, step(carry))
        if joined == carry:
            return carry
        carry = joined


def scan(operation: Operation) -> list[AbstractValue]:
    """Interprets the body for a slice of the inputs and the fixed point of the carry."""
    if not operation.has_equal_params("jaxpr"):
        raise NoRule  # the numbers of steps differ
    num_consts, num_carry = _num_consts_and_carry(operation.params)
    num_fixed = num_consts + num_carry
    consts, carry = operation.values[:num_consts], operation.values[num_consts:num_fixed]
    slices = [_slice_of(operation, operand) for operand in operation.inputs[num_fixed:]]
    body = operation.params["jaxpr"], operation.short_params["jaxpr"]
    carry = _fixed_point(lambda c: operation.interpret(*body, [*consts, *c, *slices])[:num_carry], list(carry))
    ys = operation.interpret(*body, [*consts, *carry, *slices])[num_carry:]
    return [*carry, *map(_stack_of, ys, operation.outputs[num_carry:])]


def _slice_of(operation: Operation, operand: Operand) -> AbstractValue:
    """Describes the slices of an input along its first axis, the axis of the steps."""
    if isinstance(operand.value, Clean):
        return Clean()
    if isinstance(operand.value, Tainted) or operand.value.outer_size is None:
        return operand.value
    axis = operation.axis(operand)
    return row_wise_at(axis, axis.index - 1, operand.shape[1:], operand.value.padding) if axis.index else TAINTED


def _stack_of(value: AbstractValue, out: Operand) -> AbstractValue:
    """Describes the stacked outputs of all steps."""
    if isinstance(value, Clean):
        return Clean()
    if isinstance(value, Tainted) or value.outer_size is None:
        return value
    return RowWise(value.outer_size * out.shape[0], value.padding)


def _num_consts_and_carry(params: Params) -> tuple[int, int]:
    """Returns how many inputs of a scan are constants, and how many are its carry."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.11
    return len(consts), len(carry)


def while_loop(operation: Operation) -> list[AbstractValue]:
    """Interprets the body for the fixed point of the carry; the condition must be clean."""
    params, short_params, values = operation.params, operation.short_params, operation.values
    cond_end = params["cond_nconsts"]
    body_end = cond_end + params["body_nconsts"]
    cond_consts, body_consts, carry = values[:cond_end], values[cond_end:body_end], values[body_end:]
    body, condition = [(params[name], short_params[name]) for name in ("body_jaxpr", "cond_jaxpr")]
    carry = _fixed_point(lambda c: operation.interpret(*body, [*body_consts, *c]), carry)
    if not isinstance(operation.interpret(*condition, [*cond_consts, *carry])[0], Clean):
        raise NoRule
    return carry


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
        call("jaxpr", "call_jaxpr", "fun_jaxpr"),
    ),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), custom_derivative),
    "cond": cond,
    "scan": scan,
    "while": while_loop,
}
