"""Keras' operations of linear algebra, on the last two axes of arrays."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from flaxmodels.ops.arrays import Tensor, as_array, as_float
from flaxmodels.ops.base import operation

__all__ = [
    "cholesky",
    "cholesky_inverse",
    "det",
    "eig",
    "eigh",
    "inv",
    "jvp",
    "lstsq",
    "lu_factor",
    "matrix_rank",
    "norm",
    "pinv",
    "qr",
    "solve",
    "solve_triangular",
    "svd",
]


def _matrices(name: str, x: Tensor, square: bool = False) -> jax.Array:
    """Returns x as an array of matrices.

    Raises:
        ValueError: If it has less than two axes, or `square` is True and the matrices are not square.
    """
    array = as_array(x)
    if array.ndim < 2 or (square and array.shape[-1] != array.shape[-2]):
        kind = "square matrices [..., N, N]" if square else "matrices [..., M, N]"
        raise ValueError(f"`{name}` takes {kind}, got shape {array.shape}; give arrays of this shape.")
    return array


# --- decompositions


@operation
def cholesky(x: Tensor, upper: bool = False) -> jax.Array:
    """Returns the lower triangular matrix L with L L^H = x.

    Args:
        x: Positive definite matrices.
        upper: Whether to return the upper triangular matrix U with U^H U = x instead.

    Shapes: x [..., N, N] -> the same.

    Raises:
        ValueError: If the matrices are not square, or, outside of traced code, not positive definite.

    Example:
        >>> cholesky([[4.0, 0.0], [0.0, 9.0]]).tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """
    factor = jnp.linalg.cholesky(_matrices("cholesky", x, square=True), upper=upper)
    is_nan = jnp.any(jnp.isnan(factor))
    if not isinstance(is_nan, jax.core.Tracer) and is_nan:
        raise ValueError(
            "`cholesky` takes positive definite matrices, got one that is not; "
            "check that it is symmetric, or add a small multiple of the identity."
        )
    return factor


@operation
def cholesky_inverse(x: Tensor, upper: bool = False) -> jax.Array:
    """Returns the inverse of the matrix whose Cholesky factor is x.

    Args:
        x: The lower triangular factors that `cholesky` returns.
        upper: Whether x are the upper triangular factors.

    Shapes: x [..., N, N] -> the same.

    Raises:
        ValueError: If the matrices are not square.

    Example:
        >>> cholesky_inverse([[2.0, 0.0], [0.0, 4.0]]).tolist()
        [[0.25, 0.0], [0.0, 0.0625]]
    """
    factor = _matrices("cholesky_inverse", x, square=True)
    identity = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    inverse = jax.scipy.linalg.solve_triangular(factor, identity, lower=not upper)
    transposed = jnp.swapaxes(inverse, -1, -2)
    return inverse @ transposed if upper else transposed @ inverse


@operation
def eig(x: Tensor) -> tuple[jax.Array, jax.Array]:
    """Returns the eigenvalues and the eigenvectors of square matrices, on a CPU only.

    Shapes: x [..., N, N] -> eigenvalues [..., N] and eigenvectors [..., N, N] in columns, both complex.

    Raises:
        ValueError: If the matrices are not square.

    Example:
        >>> values, vectors = eig([[2.0, 0.0], [0.0, 3.0]])
        >>> values.tolist()
        [(2+0j), (3+0j)]
    """
    values, vectors = jnp.linalg.eig(_matrices("eig", x, square=True))
    return values, vectors


@operation
def eigh(x: Tensor) -> tuple[jax.Array, jax.Array]:
    """Returns the eigenvalues, in ascending order, and the eigenvectors of symmetric or Hermitian matrices.

    Shapes: x [..., N, N] -> eigenvalues [..., N] and eigenvectors [..., N, N] in columns.

    Raises:
        ValueError: If the matrices are not square.

    Example:
        >>> values, vectors = eigh([[3.0, 0.0], [0.0, 2.0]])
        >>> values.tolist()
        [2.0, 3.0]
    """
    values, vectors = jnp.linalg.eigh(_matrices("eigh", x, square=True))
    return values, vectors


@operation
def lu_factor(x: Tensor) -> tuple[jax.Array, jax.Array]:
    """Returns the LU decomposition with partial pivoting.

    Returns:
        The factors in one matrix, U above and on the diagonal and L without its ones below, and for each row the row
        with which it was exchanged.

    Shapes: x [..., M, N] -> [..., M, N] and [..., min(M, N)].

    Raises:
        ValueError: If x has less than two axes.

    Example:
        >>> factors, pivots = lu_factor([[2.0, 1.0], [4.0, 3.0]])
        >>> factors.tolist(), pivots.tolist()
        ([[4.0, 3.0], [0.5, -0.5]], [1, 1])
    """
    matrices = _matrices("lu_factor", x)
    decompose = jax.scipy.linalg.lu_factor
    for _ in range(matrices.ndim - 2):
        decompose = jax.vmap(decompose)
    factors, pivots = decompose(matrices)
    return factors, pivots


@operation
def qr(x: Tensor, mode: str = "reduced") -> tuple[jax.Array, jax.Array]:
    """Returns an orthogonal matrix Q and an upper triangular matrix R with Q R = x.

    Args:
        x: Matrices.
        mode: "reduced" for min(M, N) columns of Q, "complete" for M columns.

    Shapes: x [..., M, N] -> Q [..., M, K], R [..., K, N].

    Raises:
        ValueError: If `mode` is unknown or x has less than two axes.

    Example:
        >>> q, r = qr(jnp.ones((3, 2)))
        >>> q.shape, r.shape
        ((3, 2), (2, 2))
    """
    if mode not in ("reduced", "complete"):
        raise ValueError(f'`mode` of `qr` must be "reduced" or "complete", got {mode!r}; choose one.')
    q, r = jnp.linalg.qr(_matrices("qr", x), mode=mode)
    return q, r


@operation
def svd(x: Tensor, full_matrices: bool = True, compute_uv: bool = True) -> jax.Array | tuple[jax.Array, ...]:
    """Returns the singular value decomposition x = U diag(S) V^H.

    Args:
        x: Matrices.
        full_matrices: Whether U and V^H are square.
        compute_uv: Whether to return U and V^H.

    Returns:
        U, S and V^H, or only S.

    Raises:
        ValueError: If x has less than two axes.

    Example:
        >>> svd([[0.0, 2.0], [1.0, 0.0]], compute_uv=False).tolist()
        [2.0, 1.0]
    """
    result = jnp.linalg.svd(_matrices("svd", x), full_matrices=full_matrices, compute_uv=compute_uv)
    return tuple(result) if compute_uv else result


# --- numbers of a matrix


@operation
def det(x: Tensor) -> jax.Array:
    """Returns the determinants of square matrices.

    Shapes: x [..., N, N] -> [...].

    Raises:
        ValueError: If the matrices are not square.

    Example:
        >>> det([[2.0, 0.0], [0.0, 3.0]]).item()
        6.0
    """
    return jnp.linalg.det(_matrices("det", x, square=True))


@operation
def matrix_rank(x: Tensor, tol: Tensor | None = None) -> jax.Array:
    """Returns the number of singular values above a threshold.

    Args:
        x: Matrices.
        tol: The threshold, relative to the largest singular value; by default the rounding error of the dtype times
            the larger size of the matrix.

    Shapes: x [..., M, N] -> [...] of int32.

    Raises:
        ValueError: If x has less than two axes.

    Example:
        >>> matrix_rank(jnp.ones((3, 3))).item()
        1
    """
    return jnp.linalg.matrix_rank(_matrices("matrix_rank", x), None if tol is None else as_array(tol)).astype(jnp.int32)


@operation
def norm(
    x: Tensor,
    ord: int | float | str | None = None,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
) -> jax.Array:
    """Returns a norm of vectors or matrices.

    Args:
        x: Any array; integers are cast to float32.
        ord: The order, as in `numpy.linalg.norm`: None for the Euclidean or Frobenius norm.
        axis: One axis for norms of vectors, two for those of matrices; None for all axes.
        keepdims: Whether to keep these axes with size 1.

    Example:
        >>> norm([3, 4]).item()
        5.0
    """
    axes = tuple(axis) if isinstance(axis, list) else axis
    return jnp.linalg.norm(as_float(x), ord=ord, axis=axes, keepdims=keepdims)


# --- inverses and systems of equations


@operation
def inv(x: Tensor) -> jax.Array:
    """Returns the inverses of square matrices.

    Shapes: x [..., N, N] -> the same.

    Raises:
        ValueError: If the matrices are not square.

    Example:
        >>> inv([[2.0, 0.0], [0.0, 4.0]]).tolist()
        [[0.5, 0.0], [0.0, 0.25]]
    """
    return jnp.linalg.inv(_matrices("inv", x, square=True))


@operation
def pinv(x: Tensor, rcond: Tensor | None = None) -> jax.Array:
    """Returns the pseudo-inverses of matrices.

    Args:
        x: Matrices.
        rcond: Singular values up to this fraction of the largest one count as 0.

    Shapes: x [..., M, N] -> [..., N, M].

    Raises:
        ValueError: If x has less than two axes.

    Example:
        >>> pinv([[2.0, 0.0], [0.0, 0.0]]).tolist()
        [[0.5, 0.0], [0.0, 0.0]]
    """
    return jnp.linalg.pinv(_matrices("pinv", x), rcond=None if rcond is None else as_array(rcond))


@operation
def solve(a: Tensor, b: Tensor) -> jax.Array:
    """Returns x with a x = b.

    Shapes: a [..., N, N], b [N] or [..., N, K] -> that of b.

    Raises:
        ValueError: If the matrices are not square, or a and b do not fit.

    Example:
        >>> solve([[2.0, 0.0], [0.0, 4.0]], [1.0, 1.0]).tolist()
        [0.5, 0.25]
    """
    return jnp.linalg.solve(*_system("solve", a, b))


@operation
def solve_triangular(a: Tensor, b: Tensor, lower: bool = False) -> jax.Array:
    """Returns x with a x = b, where only the upper or lower triangle of a is used.

    Args:
        a: Square matrices.
        b: The right side.
        lower: Whether to use the lower triangle.

    Shapes: a [..., N, N], b [N] or [..., N, K] -> that of b.

    Raises:
        ValueError: If the matrices are not square, or a and b do not fit.

    Example:
        >>> solve_triangular([[2.0, 0.0], [9.0, 4.0]], [1.0, 1.0]).tolist()
        [0.5, 0.25]
    """
    return jax.scipy.linalg.solve_triangular(*_system("solve_triangular", a, b), lower=lower)


def _system(name: str, a: Tensor, b: Tensor) -> tuple[jax.Array, jax.Array]:
    """Checks the shapes of a linear system and returns its matrices and right-hand side."""
    matrices, right = _matrices(name, a, square=True), as_array(b)
    is_vector = right.ndim == matrices.ndim - 1
    if (
        right.ndim < 1
        or (right.ndim == matrices.ndim or is_vector)
        and (matrices.shape[-2] != right.shape[-1 if is_vector else -2])
    ):
        raise ValueError(
            f"`{name}` takes a right side with one row for each row of a, got shapes {matrices.shape} and "
            f"{right.shape}; reshape b."
        )
    return matrices, right


@operation
def lstsq(a: Tensor, b: Tensor, rcond: float | None = None) -> jax.Array:
    """Returns the x of smallest norm that minimizes the norm of a x - b.

    Args:
        a: A matrix.
        b: The right side.
        rcond: Singular values up to this fraction of the largest one count as 0.

    Shapes: a [M, N], b [M] or [M, K] -> [N] or [N, K].

    Example:
        >>> lstsq([[2.0, 0.0], [0.0, 4.0], [0.0, 0.0]], [1.0, 1.0, 5.0]).tolist()
        [0.5, 0.25]
    """
    return jnp.linalg.lstsq(as_array(a), as_array(b), rcond=rcond)[0]


# --- derivatives


@operation
def jvp(
    fun: Callable[..., object], primals: Sequence[Tensor], tangents: Sequence[Tensor], has_aux: bool = False
) -> tuple[object, ...]:
    """Returns a function's value and its derivative in a direction, in forward mode.

    Args:
        fun: A function of arrays.
        primals: The arguments of the function.
        tangents: The direction: one array for each argument.
        has_aux: Whether the function returns (value, auxiliary data).

    Returns:
        The value and the derivative, followed by the auxiliary data if there are any.

    Example:
        >>> value, derivative = jvp(lambda x: x**2, (3.0,), (1.0,))
        >>> value.item(), derivative.item()
        (9.0, 6.0)
    """
    return jax.jvp(fun, tuple(map(as_array, primals)), tuple(map(as_array, tangents)), has_aux=has_aux)
