"""Keras' `keras.ops.numpy`: NumPy's functions with Keras' arguments and dtypes."""

from flaxmodels import lazy

# The names that each module defines. Type checkers read `__init__.pyi`, which a test compares with this table.
NAMES = {
    "binary": "add allclose arctan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor "
    "divide divide_no_nan equal floor_divide fmax fmin fmod gcd greater greater_equal heaviside hypot isclose lcm "
    "ldexp left_shift less less_equal logaddexp logaddexp2 logical_and logical_or logical_xor maximum minimum mod "
    "multiply nextafter not_equal power right_shift subtract true_divide",
    "creation": "arange array bartlett blackman empty empty_like eye full full_like geomspace hamming hanning "
    "identity kaiser linspace logspace meshgrid ones ones_like tri vander zeros zeros_like",
    "indexing": "get_item nonzero select take take_along_axis unravel_index vectorize where",
    "joining": "append array_split concatenate dsplit dstack hsplit hstack repeat split stack tile vsplit vstack",
    "products": "cross dot einsum inner kron matmul outer slogdet tensordot trace vdot",
    "reductions": "all amax amin any argmax argmin average count_nonzero cumprod cumsum max mean median min "
    "nanargmax nanargmin nancumprod nancumsum nanmax nanmean nanmedian nanmin nanpercentile nanprod nanquantile "
    "nanstd nansum nanvar percentile prod ptp quantile std sum var",
    "shaping": "broadcast_to diag diagflat diagonal expand_dims flip fliplr flipud moveaxis ndim pad ravel "
    "reshape roll rot90 size squeeze swapaxes transpose tril triu view",
    "sorting": "argpartition argsort digitize isin searchsorted sort unique",
    "statistics": "bincount corrcoef correlate diff histogram trapezoid",
    "unary": "abs absolute angle arccos arccosh arcsin arcsinh arctan arctanh bitwise_invert bitwise_not cbrt "
    "ceil clip conj conjugate copy cos cosh deg2rad exp exp2 expm1 fabs floor i0 imag isfinite isinf isnan isneginf "
    "isposinf isreal log log10 log1p log2 logical_not nan_to_num negative rad2deg real reciprocal round sign signbit "
    "sin sinc sinh sqrt square tan tanh trunc",
}

__getattr__, __dir__, __all__ = lazy.attach(__name__, NAMES)
