"""What all operations do: compute on arrays and objects with `__jax_array__`, add nodes on symbols, and infer shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import Input, Model, layers, ops
from flaxmodels.ops import base

X = np.arange(12, dtype="float32").reshape(3, 4)


class Variable:
    """Holds an array like a variable of a layer."""

    def __init__(self, value):
        self.value = jnp.asarray(value)

    def __jax_array__(self):
        return self.value


def test_operations_convert_variables_wherever_they_are():
    variable = Variable(X)
    assert ops.add(variable, 1.0).tolist() == (X + 1).tolist()
    assert ops.add(x1=1.0, x2=variable).tolist() == (X + 1).tolist()
    assert ops.concatenate([variable, X]).shape == (6, 4)
    inputs = Input(batch_shape=(3, 4))
    assert Model(inputs, ops.multiply(inputs, variable)).apply({}, X).tolist() == (X * X).tolist()


def test_operations_under_jit_vmap_and_grad():
    assert jax.jit(lambda x: ops.sum(ops.square(x)))(X) == np.sum(X**2)
    assert jax.vmap(ops.max)(X).tolist() == X.max(1).tolist()
    assert jax.grad(lambda x: ops.sum(ops.square(x)))(X).tolist() == (2 * X).tolist()


def test_operations_work_where_jax_is_strict_about_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        assert ops.mean(np.int32([1, 2])).item() == 1.5 and ops.arctan2(np.int32([0]), 1.0).dtype == jnp.float32


def test_node_stores_arguments_by_position():
    node = ops.sum(x=Input((4,)), keepdims=True, axis=1).node
    assert node.layer == base.OperationCall("sum") and node.args[1:] == (1, True) and node.kwargs == {}


def test_tuples_may_be_lists_after_reading_a_file():
    for name, args in {
        "get_item": (X, [slice(None), 0]), "transpose": (X, [1, 0]), "sum": (X, [0, 1]), "reshape": (X, [4, 3]),
        "pad": (X, [[1, 0], [0, 2]]), "roll": (X, [1, 2], [0, 1]), "moveaxis": (X, [0, 1], [1, 0]), "tile": (X, [2, 1]),
        "flip": (X, [0, 1]), "expand_dims": (X, [0, 2]), "split": (X, [1, 2]), "tensordot": (X, X, [[0, 1], [0, 1]]),
        "rot90": (X, 1, [1, 0]), "broadcast_to": (X, [2, 3, 4]), "median": (X, [0, 1]), "full": ([2, 3], 1.0),
    }.items():  # fmt: skip
        tuples = jax.tree.map(lambda leaf: leaf, args, is_leaf=lambda x: isinstance(x, list))
        tuples = tuple(
            tuple(map(lambda x: tuple(x) if isinstance(x, list) else x, x)) if isinstance(x, list) else x
            for x in tuples
        )
        ours, wanted = base.function(name)(*args), base.function(name)(*tuples)
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), ours, wanted)), name


@pytest.mark.parametrize(
    ("shape", "newshape", "inferred"),
    [
        ((None, 4, 6), (-1, 24), (None, 24)),
        ((None, 4, 6), (None, 24), (None, 24)),
        ((None, 4, 6), (None, -1), (None, 24)),
        ((None, 4, 6), (None, -1, 2, 3), (None, 4, 2, 3)),
        ((None, 4), (-1,), (None,)),
        ((None, 4), (-1, 8), (None, 8)),
        ((None, None, 8), (None, None, 2, 4), (None, None, 2, 4)),
        ((None, 4), (32, 4), (32, 4)),
        ((None, 4), (None, 2), (None, 2)),
    ],
)
@pytest.mark.spread
def test_reshape_with_an_unknown_batch(shape, newshape, inferred):
    assert ops.reshape(Input(batch_shape=shape), newshape).shape == inferred


def test_reshape_of_arrays_takes_none():
    assert ops.reshape(X, (None, -1)).shape == (3, 4) and ops.reshape(X, (None, 6)).shape == (2, 6)
    with pytest.raises(ValueError) as raised:
        ops.reshape(X, (None, 1, None))
    assert str(raised.value) == (
        "None at axis 2 of `newshape` of ops.reshape is the size of that axis of the array, got newshape=(None, 1, None) "
        "for shape (3, 4); write the size, or -1 for one size."
    )
    with pytest.raises(ValueError) as raised:
        ops.reshape(X, (-1, -1))
    assert str(raised.value) == (
        "`newshape` of ops.reshape must have sizes of at least 0 and at most one -1, got (-1, -1); write the other sizes."
    )


def test_shapes_with_unknown_sizes():
    x, sequence = Input((4,)), Input((None, 4))
    assert ops.transpose(x).shape == (4, None)
    assert ops.concatenate([x, x], axis=0).shape == (None, 4)
    assert [part.shape for part in ops.split(x, 2)] == [(None, 4), (None, 4)]
    assert x[:5].shape == (None, 4) and x[:, :2].shape == (None, 2) and sequence[:, :7].shape == (None, None, 4)
    assert ops.add(sequence, Input((7, 4))).shape == (None, 7, 4)
    assert ops.add(x, np.ones((5, 4), "float32")).shape == (5, 4)
    assert ops.matmul(sequence, ops.swapaxes(sequence, 1, 2)).shape == (None, None, None)
    with pytest.raises((TypeError, ValueError)) as raised:
        ops.add(x, Input((5,)))
    assert raised.value.__notes__[-1:] == ["Here 3 represents an unknown batch size, 5 other unknown sizes."]


def test_operations_of_layers_in_one_model():
    x, inputs = np.ones((5, 4), "float32"), Input((4,))
    hidden = layers.Dense(3)(inputs)
    model = Model(inputs, ops.tanh(hidden) * 2.0 + ops.mean(hidden, axis=-1, keepdims=True))
    variables = model.init(jax.random.key(0), x)
    kernel = variables["params"]["dense"]["kernel"]
    np.testing.assert_allclose(
        model.apply(variables, x), 2 * np.tanh(x @ kernel) + (x @ kernel).mean(-1, keepdims=True), atol=1e-6
    )
