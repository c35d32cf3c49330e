"""Keras' `keras.ops`: functions that compute on arrays, and on symbols add a node to the graph.

The arguments, defaults and dtypes are Keras'. All functions are names of `ops`, except those of images, which are names
of `ops.image` only.
"""

from flaxmodels import lazy
from flaxmodels.ops.numpy import NAMES as _NUMPY

# The names that each module defines. Type checkers read `__init__.pyi`, which a test compares with this table.
NAMES = {
    "core": "associative_scan cast cond convert_to_numpy convert_to_tensor custom_gradient dtype fori_loop is_tensor "
    "map rearrange saturate_cast scan scatter scatter_update shape slice slice_update stop_gradient switch "
    "unstack vectorized_map while_loop",
    "linalg": "cholesky cholesky_inverse det eig eigh inv jvp lstsq lu_factor matrix_rank norm pinv qr solve "
    "solve_triangular svd",
    "math": "cdist erf erfc erfinv extract_sequences fft fft2 ifft2 in_top_k irfft istft logdet logsumexp rfft rsqrt "
    "segment_max segment_min segment_prod segment_sum stft top_k view_as_complex view_as_real",
    "nn": "adaptive_average_pool adaptive_max_pool average_pool batch_normalization binary_crossentropy "
    "categorical_crossentropy celu conv conv_transpose ctc_decode ctc_loss depth_to_space depthwise_conv "
    "dot_product_attention elu fold gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh "
    "layer_normalization leaky_relu log_sigmoid log_softmax max_pool moments multi_hot normalize one_hot "
    "polar psnr relu relu6 rms_normalization selu separable_conv sigmoid silu soft_shrink softmax softplus "
    "softsign space_to_depth sparse_categorical_crossentropy sparse_plus sparse_sigmoid sparsemax squareplus "
    "swish tanh_shrink threshold unfold",
    "numpy": " ".join(_NUMPY.values()),
}
SUBMODULES = "core image linalg math nn numpy"

__getattr__, __dir__, __all__ = lazy.attach(__name__, NAMES, SUBMODULES)
