"""Operations of linear algebra against Keras, by a table with a row for each name."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels.ops import linalg
from tests.support.operation_oracle import (
    case,
    check,
    check_signature,
    integers,
    names_without_row,
    normal,
    positive_definite,
)

P, M, T = positive_definite(2, 3, 3), normal(2, 4, 3), np.tril(positive_definite(2, 3, 3))

# The dtype that Keras infers for the pivots of `lu_factor` and for the values of `eig` is not that of its results.
TABLE = {
    "cholesky": [case(P), case(P, upper=True)],
    "cholesky_inverse": [case(T[0]).but(symbols=()), case(T[0].T.copy(), upper=True)],
    "det": [case(P)],
    "eig": [case(P).but(gradient=False, keras_graph=False)],
    "eigh": [case(P)],
    "inv": [case(P)],
    "jvp": [
        case(lambda x: x**2, (P[0],), (P[1],)).but(symbols=(1, 2), batch=False),
        case(lambda x, y: (x * y, {"sum": x + y}), (P[0], P[1]), (P[1], P[0]), has_aux=True),
    ],
    "lstsq": [
        case(M[0], normal(4)).but(symbols=(0, 1), batch=False, tolerance=1e-4),
        case(M[0], normal(4, 2), rcond=1e-3).but(gradient=False, tolerance=1e-4),
    ],
    "lu_factor": [case(P[0]).but(keras_graph=False), case(P)],
    "matrix_rank": [case(P), case(np.ones((3, 3), np.float32)), case(M, tol=0.5)],
    "norm": [
        case(M, axis=-1),
        case(M),
        case(M, ord=1, axis=1, keepdims=True),
        case(M, ord="fro", axis=(1, 2)),
        case(M, ord=np.inf, axis=(1, 2)),
        case(M, ord=3, axis=-1),
        case(integers(5, 4, 3), axis=1),
        case(M.astype(np.float16), axis=1).but(tolerance=1e-3),
    ],
    "pinv": [case(M).but(tolerance=1e-4), case(M, rcond=1e-3).but(gradient=False, tolerance=1e-4)],
    "qr": [case(M).but(tolerance=1e-4), case(M, mode="complete").but(gradient=False)],
    "solve": [case(P, normal(2, 3, 2)).but(symbols=(0, 1)), case(P[0], normal(3))],
    "solve_triangular": [
        case(T, normal(2, 3, 2), lower=True).but(symbols=(0, 1)),
        case(P[0], normal(3)),
    ],
    "svd": [
        case(M, full_matrices=False).but(tolerance=1e-4),
        case(M).but(gradient=False),
        case(M, compute_uv=False),
    ],
}


def test_each_name_of_keras_has_a_row():
    assert names_without_row(keras.ops.linalg, TABLE) == ([], [])
    assert set(TABLE) == set(linalg.__all__)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spread
def test_equals_keras(name, request):
    check_signature(getattr(linalg, name), getattr(keras.ops.linalg, name))
    check(getattr(linalg, name), getattr(keras.ops.linalg, name), TABLE[name], request.config)


def test_norm_over_a_list_of_axes():
    np.testing.assert_allclose(linalg.norm(M, axis=[1, 2]), np.linalg.norm(M, axis=(1, 2)), rtol=1e-6)


def test_cholesky_inverse_of_several_matrices():
    """Keras transposes the batch as well, so the oracle is the inverse."""
    for upper in (False, True):
        factors = linalg.cholesky(P, upper=upper)
        np.testing.assert_allclose(linalg.cholesky_inverse(factors, upper=upper), np.linalg.inv(P), atol=1e-5)


def test_cholesky_of_an_indefinite_matrix_is_nan_in_compiled_code():
    assert jnp.isnan(jax.jit(linalg.cholesky)(-np.eye(2, dtype=np.float32))).any()


@pytest.mark.spread
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: linalg.cholesky(-np.eye(2, dtype=np.float32)),
            "`cholesky` takes positive definite matrices, got one that is not; check that it is symmetric, or add a "
            "small multiple of the identity.",
        ),
        (
            lambda: linalg.inv(M),
            "`inv` takes square matrices [..., N, N], got shape (2, 4, 3); give arrays of this shape.",
        ),
        (
            lambda: linalg.svd(M[0, 0]),
            "`svd` takes matrices [..., M, N], got shape (3,); give arrays of this shape.",
        ),
        (
            lambda: linalg.qr(M, mode="r"),
            '`mode` of `qr` must be "reduced" or "complete", got \'r\'; choose one.',
        ),
        (
            lambda: linalg.solve(P[0], normal(4)),
            "`solve` takes a right side with one row for each row of a, got shapes (3, 3) and (4,); reshape b.",
        ),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == error
