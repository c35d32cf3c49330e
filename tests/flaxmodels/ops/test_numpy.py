"""Every name of `keras.ops.numpy`: values, dtypes, gradients, and shapes on symbols, compared with Keras."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model, ops
from flaxmodels.layers.symbolic import Symbol
from tests.support.numpy_cases import BINARY, BINARY_INTEGER, CASES, UNARY, UNARY_INTEGER

NAMES = sorted(name for name in dir(keras.ops.numpy) if not name.startswith("_"))
DTYPES = "bool int32 uint8 float16 bfloat16 float32".split()
SCALARS = [True, 2, 2.5]

# The shapes of these outputs depend on values, so a compiled model cannot contain these operations.
NEED_VALUES = ["bincount", "nonzero", "unique 0", "unique 1", "unique 2", "unique 3", "where 4"]
# Symbols that differ from Keras', with the reason. Keras' own values agree with ours in all cases.
OTHER_SYMBOLS = {
    "abs 1": "Keras' symbol is complex",
    "absolute 1": "Keras' symbol is complex",
    "angle 1": "Keras' symbol is complex",
    "imag 1": "Keras' symbol is complex",
    "real 1": "Keras' symbol is complex",
    "clip 3": "Keras' symbol ignores the dtype of the limits",
    "corrcoef": "Keras' symbol has the shape of the argument",
    "cross 2": "Keras takes an unknown batch for the axis of vectors",
    "cross 3": "Keras takes an unknown batch for the axis of vectors",
    "dot 4": "two unknown batches must be 3 here, which Keras does not conclude",
    "histogram 3": "Keras' symbol has the dtype of the argument",
    "kron 1": "Keras' symbol has too few axes",
    "ndim": "Keras returns a symbol of that number of elements, where an integer is known",
    "repeat 2": "an unknown batch must be 3 here, which Keras does not conclude",
    "reshape 4": "an unknown batch must be 3 here, which is not tried",
    "searchsorted": "Keras' symbol has 64 bits",
    "slogdet 1": "Keras' symbol of the sign has no axes",
    "vstack 1": "Keras' symbol has too few axes",
}


def leaves(tree):
    return jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, keras.KerasTensor))


def is_array(value):
    return isinstance(value, np.ndarray)


def varied(args, change):
    """Returns arguments with all float32 arrays changed, and whether there are any."""
    found = [leaf for leaf in jax.tree.leaves(args) if is_array(leaf) and leaf.dtype == np.float32]
    return jax.tree.map(lambda leaf: change(leaf) if is_array(leaf) and leaf.dtype == np.float32 else leaf, args), found


def outcome(function, *args, **kwargs):
    """Returns the result of a call, or the error."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return error


def difference(ours, theirs):
    """Returns how two results differ, or None."""
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        same = isinstance(ours, Exception) and isinstance(theirs, Exception)
        return None if same else f"{ours!r} != {theirs!r}"[:600]
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        return f"{type(ours)} != {type(theirs)}"
    for one, other in zip(leaves(ours), leaves(theirs), strict=True):
        if np.shape(one) != np.shape(other) or getattr(one, "dtype", type(one)) != getattr(other, "dtype", type(other)):
            return f"{np.shape(one)} {getattr(one, 'dtype', type(one))} != {np.shape(other)} {getattr(other, 'dtype', type(other))}"
        if not np.allclose(np.asarray(one), np.asarray(other), rtol=1e-6, atol=1e-6, equal_nan=True):
            return f"{one} != {other}"
    return None


def cases():
    """Yields all cases with the functions of both libraries."""
    for name in NAMES:
        for number, (args, kwargs) in enumerate(CASES[name]):
            if name != "vectorize":
                yield f"{name} {number}", getattr(ops, name), getattr(keras.ops.numpy, name), args, kwargs


def test_every_name_has_examples():
    assert sorted(CASES) == NAMES
    assert set(NAMES) <= set(dir(ops)) and set(NAMES) == set(ops.numpy.__all__)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.spread
def test_signature_is_that_of_keras(name):
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (ops, keras.ops.numpy))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]
    assert getattr(ops, name).__name__ == name and getattr(ops, name).__doc__


def program(function, args, kwargs):
    """Returns the program of a call whose positional arrays are traced, or an object that equals no other."""
    arrays = [leaf for leaf in jax.tree.leaves(args) if is_array(leaf)]

    def call(arrays):
        given = iter(arrays)
        return function(*jax.tree.map(lambda leaf: next(given) if is_array(leaf) else leaf, args), **kwargs)

    found = outcome(jax.make_jaxpr(call), arrays)
    return object() if isinstance(found, Exception) or not arrays else str(found)


def test_values_are_those_of_keras():
    """Computes the first case of each name; of the others, it compiles only those whose programs differ."""
    failures = {}
    for key, ours, theirs, args, kwargs in cases():
        if key.endswith(" 0") or program(ours, args, kwargs) != program(theirs, args, kwargs):
            failures[key] = difference(ours(*args, **kwargs), theirs(*args, **kwargs))
    assert {key: text for key, text in failures.items() if text} == {}


def abstract(function, args, kwargs):
    """Returns the shapes, dtypes and weak types of a call whose arrays are traced."""
    flat, structure = jax.tree.flatten((args, kwargs))
    where = [i for i, leaf in enumerate(flat) if isinstance(leaf, jax.ShapeDtypeStruct)]

    def call(arrays):
        filled = list(flat)
        for i, array in zip(where, arrays, strict=True):
            filled[i] = array
        args, kwargs = jax.tree.unflatten(structure, filled)
        return function(*args, **kwargs)

    result = outcome(jax.eval_shape, call, [flat[i] for i in where])
    return "error" if isinstance(result, Exception) else [(x.shape, x.dtype.name, x.weak_type) for x in leaves(result)]


def dtype_cases():
    """Yields calls with arrays of all dtypes, and with Python numbers."""
    struct = jax.ShapeDtypeStruct
    for name in [*UNARY, *UNARY_INTEGER]:
        yield from ((name, (struct((3,), dtype),), {}) for dtype in DTYPES)
        yield from ((name, (scalar,), {}) for scalar in SCALARS)
    for name in [*BINARY, *BINARY_INTEGER]:
        arrays = [struct((3,), dtype) for dtype in DTYPES]
        yield from ((name, pair, {}) for pair in itertools.combinations_with_replacement(arrays, 2))
        yield from ((name, (array, scalar), {}) for array in arrays for scalar in SCALARS)
        yield from ((name, (2.5, array), {}) for array in arrays)
    for name, rows in CASES.items():
        if name in [*UNARY, *UNARY_INTEGER, *BINARY, *BINARY_INTEGER, "vectorize"]:
            continue
        for args, kwargs in rows[:1]:
            for dtype in DTYPES:
                changed, found = varied(args, lambda x, dtype=dtype: struct(x.shape, dtype))
                if found:
                    yield name, changed, kwargs


def test_dtypes_are_those_of_keras():
    failures = []
    for name, args, kwargs in dtype_cases():
        ours, theirs = (abstract(getattr(module, name), args, kwargs) for module in (ops, keras.ops.numpy))
        failures += [(name, args, kwargs, ours, theirs)] if ours != theirs else []
    assert failures == []


def test_gradients_are_those_of_keras():
    """Compares the programs of both gradients, which need not be compiled; where they differ, it compares values."""
    failures = {}
    for key, ours, theirs, args, kwargs in cases():
        _, found = varied(args, lambda x: x)

        def gradient(function, args=args, kwargs=kwargs):
            def loss(arrays):
                given = iter(arrays)
                changed, _ = varied(args, lambda _: next(given))
                results = leaves(function(*changed, **kwargs))
                return sum(jnp.sum(jnp.real(x) * jnp.cos(jnp.arange(x.size).reshape(x.shape))) for x in results)

            return jax.grad(loss)

        if found and not any(name == key.split()[0] for name in ("bincount", "nonzero", "unique")):
            programs = [outcome(lambda f=f, x=found: str(jax.make_jaxpr(gradient(f))(x))) for f in (ours, theirs)]
            if programs[0] != programs[1]:
                failures[key] = difference(*(outcome(gradient(function), found) for function in (ours, theirs)))
    assert {key: text for key, text in failures.items() if text} == {}


def as_symbols(args, make, unknown):
    """Returns arguments with symbols for arrays that have axes, the symbols, and their arrays."""
    symbols, arrays = [], []

    def replace(leaf):
        if not is_array(leaf) or not leaf.ndim:
            return leaf
        arrays.append(leaf)
        has_batch = (leaf.ndim, leaf.shape[0]) == (arrays[0].ndim, arrays[0].shape[0])
        symbols.append(make((None if unknown and has_batch else leaf.shape[0], *leaf.shape[1:]), leaf.dtype.name))
        return symbols[-1]

    return jax.tree.map(replace, args), symbols, arrays


def our_input(shape, dtype):
    return Input(batch_shape=shape, dtype=dtype)


def keras_input(shape, dtype):
    return keras.KerasTensor(shape, dtype=dtype)


def described(tree):
    """Returns the shapes and dtypes of symbols, or the type of another result."""
    return [
        (tuple(x.shape), jnp.dtype(x.dtype).name) if isinstance(x, Symbol | keras.KerasTensor) else type(x).__name__
        for x in leaves(tree)
    ]


@pytest.mark.parametrize("unknown", [False, True], ids=["known batch", "unknown batch"])
def test_symbols_have_the_shapes_and_dtypes_of_keras(unknown):
    failures = {}
    for key, ours, theirs, args, kwargs in cases():
        given, symbols, _ = as_symbols(args, our_input, unknown)
        wanted, _, _ = as_symbols(args, keras_input, unknown)
        if not symbols or {key, key.split()[0]} & {*NEED_VALUES, *OTHER_SYMBOLS}:
            continue
        result, expected = outcome(ours, *given, **kwargs), outcome(theirs, *wanted, **kwargs)
        if isinstance(expected, Exception) and not isinstance(result, Exception):
            continue  # Keras refuses some symbols that it computes with as arrays.
        if described(result) != described(expected):
            failures[key] = f"{described(result)} != {described(expected)}"
    assert failures == {}


@pytest.mark.parametrize("key", NEED_VALUES)
@pytest.mark.spread
def test_operations_whose_shapes_need_values_refuse_symbols(key):
    name, _, number = key.partition(" ")
    args, kwargs = CASES[name][int(number or 0)]
    given, (symbol, *_), _ = as_symbols(args, our_input, True)
    with pytest.raises(TypeError) as raised:
        getattr(ops, name)(*given, **kwargs)
    assert str(raised.value) == (
        f"The operation {name!r} needs the values of its arguments to decide the shape of its output, got {symbol!r}, "
        "which has no values; apply the operation to arrays, outside of the model."
    )


def test_models_compute_what_operations_compute():
    failures = {}
    for key, ours, _, args, kwargs in cases():
        given, symbols, arrays = as_symbols(args, our_input, False)
        if symbols and key.endswith(" 0") and not {key, key.split()[0]} & {*NEED_VALUES, "ndim"}:
            model = Model(symbols, ours(*given, **kwargs))
            failures[key] = difference(model.apply({}, arrays), ours(*args, **kwargs))
    assert {key: text for key, text in failures.items() if text} == {}


def test_models_refuse_windows_of_an_unknown_number_of_points():
    symbol = Input((3,))
    for name in ("bartlett", "blackman", "hamming", "hanning", "kaiser"):
        with pytest.raises(TypeError) as raised:
            getattr(ops, name)(*(symbol, 2.0)[: 2 if name == "kaiser" else 1])
        assert str(raised.value) == (
            f"The number of points of {name} must be an integer, got {symbol!r}, which has no value; pass an integer."
        )


def test_vectorize():
    rows, row = np.ones((2, 3), "float32"), np.arange(3, dtype="float32")
    for module in (ops, keras.ops.numpy):
        assert module.vectorize(lambda x, y: x + 2 * y)(rows, row).tolist() == [[1, 3, 5], [1, 3, 5]]
        assert module.vectorize(jnp.vdot, signature="(n),(n)->()")(rows, row).tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"^ops\.vectorize needs a function, got 3; pass a callable\.$"):
        ops.vectorize(3)


def test_a_negative_zero_is_less_than_zero_as_in_keras():
    for values in ([-0.0, 0.0], [0.0, -0.0], [-1.0, -0.0, 0.0], [1.0, 0.0, -0.0], [np.nan, 1.0]):
        array = np.array(values, "float32")
        assert int(ops.argmax(array)) == int(keras.ops.argmax(array))
        assert int(ops.argmin(array)) == int(keras.ops.argmin(array))
    assert ops.argmax(np.array([[-0.0, 0.0]], "float32"), axis=-1, keepdims=True).tolist() == [[1]]
    assert int(ops.argmax(jnp.asarray([-0.0, 0.0], jnp.bfloat16))) == 1 and int(ops.argmax(3.0)) == 0
