"""Keras' operation classes, by which graphs name the nodes of operations and files describe them.

This is also the closed table of the operations that a file may name. It leaves out the operations that take code (such
as `map` and `while_loop`) and `elastic_transform`, which draws random numbers. A test compares the table with Keras.
"""

import functools
import re
from typing import NamedTuple


class KerasClass(NamedTuple):
    """A class of Keras that represents an operation in a graph.

    Attributes:
        module: The name of its module.
        name: The name of the class.
        tensors: The names of the arguments of a call. A name with one asterisk takes any number of arguments, one with
            two asterisks any keyword arguments.
        settings: The names of the arguments of the constructor, which a file stores as the configuration.
    """

    module: str
    name: str
    tensors: tuple[str, ...]
    settings: tuple[str, ...]


@functools.cache
def by_operation() -> dict[str, KerasClass]:
    """Returns Keras' classes by the names of the operations.

    Example:
        >>> by_operation()["mean"]
        KerasClass(module='keras.src.ops.numpy', name='Mean', tensors=('x',), settings=('axis', 'keepdims'))
    """
    classes: dict[str, KerasClass] = {}
    module = ""
    for line in TABLE.strip().replace("\n    ", " ").splitlines():
        if line.startswith("["):
            module = line[1:-1]
            continue
        names, _, arguments = line.partition(":")
        name, *operations = names.split()
        tensors, _, settings = arguments.partition("|")
        cls = KerasClass(module, name, tuple(tensors.split()), tuple(settings.split()))
        classes.update(dict.fromkeys(operations, cls))
    return classes


@functools.cache
def by_class() -> dict[tuple[str, str], str]:
    """Returns the names of the operations by module and name of Keras' classes.

    Example:
        >>> by_class()["keras.src.ops.numpy", "TrueDivide"]
        'true_divide'
    """
    return {(cls.module, cls.name): operation for operation, cls in reversed(by_operation().items())}


def class_name(operation: str) -> str:
    """Returns the name of Keras' class of an operation; for an operation that Keras lacks, its name in camel case.

    Example:
        >>> class_name("true_divide"), class_name("image.resize"), class_name("my_function")
        ('TrueDivide', 'Resize', 'MyFunction')
    """
    if operation in by_operation():
        return by_operation()[operation].name
    return re.sub(r"(?:^|_)([a-z0-9])", lambda match: match[1].upper(), operation.rpartition(".")[2])


# Operations that files of this library may name, but Keras' files cannot: Keras applies `mish` only to arrays, and its
# patches of volumes have the class of patches of images.
ONLY_OURS = frozenset({"activations.mish", "image.extract_patches_3d"})


def may_be_named(operation: str) -> bool:
    """Returns whether a file of this library may name an operation.

    Example:
        >>> may_be_named("add"), may_be_named("while_loop")
        (True, False)
    """
    return operation in by_operation() or operation in ONLY_OURS


# For each class: its name, its operations, the arguments of a call, and after "|" those of the constructor.
TABLE = """
[keras.src.activations.activations]
ReLU activations.relu: x | negative_slope max_value threshold
[keras.src.ops.core]
Cast cast: x | dtype
ConvertToTensor convert_to_tensor: x | dtype sparse ragged
SaturateCast saturate_cast: x | dtype
Scatter scatter: indices values | shape
ScatterUpdate scatter_update: inputs indices updates | reduction
Slice slice: inputs start_indices | shape
SliceUpdate slice_update: inputs start_indices updates
StopGradient stop_gradient: variable
Unstack unstack: x | num axis
[keras.src.ops.einops]
Rearrange rearrange: tensor pattern **axes_lengths
[keras.src.ops.image]
AffineTransform image.affine_transform: images transform | interpolation fill_mode fill_value data_format
CropImages image.crop_images: images | top_cropping left_cropping bottom_cropping right_cropping target_height
    target_width data_format
ExtractPatches image.extract_patches: images | size strides dilation_rate padding data_format
GaussianBlur image.gaussian_blur: images | kernel_size sigma data_format
HSVToRGB image.hsv_to_rgb: images | data_format
MapCoordinates image.map_coordinates: inputs coordinates | order fill_mode fill_value
PadImages image.pad_images: images | top_padding left_padding bottom_padding right_padding target_height target_width
    data_format
PerspectiveTransform image.perspective_transform: images start_points end_points | interpolation fill_value data_format
RGBToGrayscale image.rgb_to_grayscale: images | data_format
RGBToHSV image.rgb_to_hsv: images | data_format
Resize image.resize: images | size interpolation antialias crop_to_aspect_ratio pad_to_aspect_ratio fill_mode
    fill_value data_format
SSIM image.ssim: image1 image2 | max_val filter_size filter_sigma k1 k2 data_format
ScaleAndTranslate image.scale_and_translate: images output_shape scale translation | spatial_dims method antialias
SobelEdges image.sobel_edges: images | data_format
[keras.src.ops.linalg]
Cholesky cholesky: x | upper
CholeskyInverse cholesky_inverse: x | upper
Det det: x
Eig eig: x
Eigh eigh: x
Inv inv: x
Lstsq lstsq: a b | rcond
LuFactor lu_factor: x
MatrixRank matrix_rank: x | tol
Norm norm: x | ord axis keepdims
Pinv pinv: x | rcond
Qr qr: x | mode
SVD svd: x | full_matrices compute_uv
Solve solve: a b
SolveTriangular solve_triangular: a b | lower
[keras.src.ops.math]
CDist cdist: x y
Erf erf: x
Erfc erfc: x
Erfinv erfinv: x
ExtractSequences extract_sequences: x | sequence_length sequence_stride
FFT fft: x
FFT2 fft2: x
IFFT2 ifft2: x
IRFFT irfft: x | fft_length
ISTFT istft: x | sequence_length sequence_stride fft_length length window center
InTopK in_top_k: targets predictions | k
Logdet logdet: x
Logsumexp logsumexp: x | axis keepdims
RFFT rfft: x | fft_length
Rsqrt rsqrt: x
STFT stft: x | sequence_length sequence_stride fft_length window center
SegmentMax segment_max: data segment_ids | num_segments sorted
SegmentMin segment_min: data segment_ids | num_segments sorted
SegmentProd segment_prod: data segment_ids | num_segments sorted
SegmentSum segment_sum: data segment_ids | num_segments sorted
TopK top_k: x | k sorted
ViewAsComplex view_as_complex: x
ViewAsReal view_as_real: x
[keras.src.ops.nn]
AdaptiveAveragePool adaptive_average_pool: inputs | output_size data_format
AdaptiveMaxPool adaptive_max_pool: inputs | output_size data_format
AveragePool average_pool: inputs | pool_size strides padding data_format
BatchNorm batch_normalization: x mean variance offset scale | axis epsilon
BinaryCrossentropy binary_crossentropy: target output | from_logits
CTCDecode ctc_decode: inputs sequence_lengths | strategy beam_width top_paths merge_repeated mask_index
CTCLoss ctc_loss: target output target_length output_length | mask_index
CategoricalCrossentropy categorical_crossentropy: target output | from_logits axis
Celu celu activations.celu: x | alpha
Conv conv: inputs kernel | strides padding data_format dilation_rate
ConvTranspose conv_transpose: inputs kernel | strides padding output_padding data_format dilation_rate
DepthToSpace depth_to_space: x | block_size data_format
DepthwiseConv depthwise_conv: inputs kernel | strides padding data_format dilation_rate
DotProductAttention dot_product_attention: query key value bias mask scale | is_causal flash_attention
    attn_logits_soft_cap
Elu elu activations.elu: x | alpha
Fold fold: x | output_size kernel_size dilation padding stride
Gelu gelu activations.gelu: x | approximate
Glu glu activations.glu: x | axis
HardShrink hard_shrink activations.hard_shrink: x | threshold
HardSigmoid hard_sigmoid activations.hard_sigmoid: x
HardSilu hard_silu activations.hard_silu: x
HardTanh hard_tanh activations.hard_tanh: x
LayerNorm layer_normalization: x gamma beta | axis epsilon rms_scaling
LeakyRelu leaky_relu activations.leaky_relu: x | negative_slope
LogSigmoid log_sigmoid activations.log_sigmoid: x
LogSoftmax log_softmax activations.log_softmax: x | axis
MaxPool max_pool: inputs | pool_size strides padding data_format
Moments moments: x | axes keepdims synchronized
MultiHot multi_hot: inputs | num_classes axis dtype sparse
Normalize normalize: x | axis order epsilon
OneHot one_hot: x | num_classes axis dtype sparse
PSNR psnr: x1 x2 | max_val
Polar polar: abs_ angle
RMSNorm rms_normalization: x scale | axis epsilon
Relu relu: x
Relu6 relu6 activations.relu6: x
Selu selu activations.selu: x
SeparableConv separable_conv: inputs depthwise_kernel pointwise_kernel | strides padding data_format dilation_rate
Sigmoid sigmoid activations.sigmoid: x
Silu silu activations.silu: x
SoftShrink soft_shrink activations.soft_shrink: x | threshold
Softmax softmax activations.softmax: x | axis
Softplus softplus activations.softplus: x
Softsign softsign activations.softsign: x
SpaceToDepth space_to_depth: x | block_size data_format
SparseCategoricalCrossentropy sparse_categorical_crossentropy: target output | from_logits axis
SparsePlus sparse_plus activations.sparse_plus: x
SparseSigmoid sparse_sigmoid activations.sparse_sigmoid: x
Sparsemax sparsemax activations.sparsemax: x | axis
Squareplus squareplus activations.squareplus: x | b
TanhShrink tanh_shrink activations.tanh_shrink: x
Threshold threshold activations.threshold: x | threshold default_value
Unfold unfold: x | kernel_size dilation padding stride
[keras.src.ops.numpy]
Absolute absolute abs: x
Add add: x1 x2
All all: x | axis keepdims
AllClose allclose: x1 x2 | rtol atol equal_nan
Amax amax: x | axis keepdims
Amin amin: x | axis keepdims
Angle angle: x
Any any: x | axis keepdims
Append append: x1 x2 | axis
Arange arange: start stop step | dtype
Arccos arccos: x
Arccosh arccosh: x
Arcsin arcsin: x
Arcsinh arcsinh: x
Arctan arctan: x
Arctan2 arctan2: x1 x2
Arctanh arctanh: x
Argmax argmax: x | axis keepdims
Argmin argmin: x | axis keepdims
Argpartition argpartition: x | kth axis
Argsort argsort: x | axis
Array array: x | dtype
ArraySplit array_split: x | indices_or_sections axis
Average average: x weights | axis
Bincount bincount: x | weights minlength sparse
BitwiseAnd bitwise_and: x y
BitwiseInvert bitwise_invert: x
BitwiseLeftShift bitwise_left_shift: x y
BitwiseNot bitwise_not: x
BitwiseOr bitwise_or: x y
BitwiseRightShift bitwise_right_shift: x y
BitwiseXor bitwise_xor: x y
BroadcastTo broadcast_to: x | shape
Cbrt cbrt: x
Ceil ceil: x
Clip clip: x | x_min x_max
Concatenate concatenate: xs | axis
Conjugate conjugate conj: x
Copy copy: x
Corrcoef corrcoef: x
Correlate correlate: x1 x2 | mode
Cos cos: x
Cosh cosh: x
CountNonzero count_nonzero: x | axis
Cross cross: x1 x2 | axisa axisb axisc axis
Cumprod cumprod: x | axis dtype
Cumsum cumsum: x | axis dtype
Deg2rad deg2rad: x
Diag diag: x | k
Diagflat diagflat: x | k
Diagonal diagonal: x | offset axis1 axis2
Diff diff: a | n axis
Digitize digitize: x bins
Divide divide: x1 x2
DivideNoNan divide_no_nan: x1 x2
Dot dot: x1 x2
Dsplit dsplit: x | indices_or_sections
Dstack dstack: xs
Einsum einsum: *operands | subscripts
EmptyLike empty_like: x | dtype
Equal equal: x1 x2
Exp exp activations.exponential: x
Exp2 exp2: x
ExpandDims expand_dims: x | axis
Expm1 expm1: x
Fabs fabs: x
Flip flip: x | axis
Fliplr fliplr: x
Flipud flipud: x
Floor floor: x
FloorDivide floor_divide: x1 x2
Fmax fmax: x1 x2
Fmin fmin: x1 x2
Fmod fmod: x1 x2
Full full: fill_value | shape dtype
FullLike full_like: x fill_value | dtype
Gcd gcd: x1 x2
Geomspace geomspace: start stop | num endpoint dtype axis
GetItem get_item: x key
Greater greater: x1 x2
GreaterEqual greater_equal: x1 x2
Heaviside heaviside: x1 x2
Histogram histogram: x | bins range
Hsplit hsplit: x | indices_or_sections
Hstack hstack: xs
Hypot hypot: x1 x2
I0 i0: x
Imag imag: x
Inner inner: x1 x2
IsIn isin: x1 x2 | assume_unique invert
Isclose isclose: x1 x2 rtol atol | equal_nan
Isfinite isfinite: x
Isinf isinf: x
Isnan isnan: x
Isneginf isneginf: x
Isposinf isposinf: x
Isreal isreal: x
Kron kron: x1 x2
Lcm lcm: x1 x2
Ldexp ldexp: x1 x2
LeftShift left_shift: x y
Less less: x1 x2
LessEqual less_equal: x1 x2
Linspace linspace: start stop | num endpoint retstep dtype axis
Log log: x
Log10 log10: x
Log1p log1p: x
Log2 log2: x
Logaddexp logaddexp: x1 x2
Logaddexp2 logaddexp2: x1 x2
LogicalAnd logical_and: x1 x2
LogicalNot logical_not: x
LogicalOr logical_or: x1 x2
LogicalXor logical_xor: x1 x2
Logspace logspace: start stop | num endpoint base dtype axis
Matmul matmul: x1 x2
Max max: x | axis keepdims initial
Maximum maximum: x1 x2
Mean mean: x | axis keepdims
Median median: x | axis keepdims
Meshgrid meshgrid: *x | indexing
Min min: x | axis keepdims initial
Minimum minimum: x1 x2
Mod mod: x1 x2
Moveaxis moveaxis: x | source destination
Multiply multiply: x1 x2
NanToNum nan_to_num: x | nan posinf neginf
Nanargmax nanargmax: x | axis keepdims
Nanargmin nanargmin: x | axis keepdims
Nancumprod nancumprod: x | axis dtype
Nancumsum nancumsum: x | axis dtype
Nanmax nanmax: x | axis keepdims
Nanmean nanmean: x | axis keepdims
Nanmedian nanmedian: x | axis keepdims
Nanmin nanmin: x | axis keepdims
Nanpercentile nanpercentile: x q | axis method keepdims
Nanprod nanprod: x | axis keepdims
Nanquantile nanquantile: x q | axis method keepdims
Nanstd nanstd: x | axis keepdims
Nansum nansum: x | axis keepdims
Nanvar nanvar: x | axis keepdims
Ndim ndim: x
Negative negative: x
Nextafter nextafter: x1 x2
Nonzero nonzero: x
NotEqual not_equal: x1 x2
OnesLike ones_like: x | dtype
Outer outer: x1 x2
Pad pad: x constant_values | pad_width mode
Percentile percentile: x q | axis method keepdims
Power power: x1 x2
Prod prod: x | axis keepdims dtype
Ptp ptp: x | axis keepdims
Quantile quantile: x q | axis method keepdims
Rad2deg rad2deg: x
Ravel ravel: x
Real real: x
Reciprocal reciprocal: x
Repeat repeat: x | repeats axis
Reshape reshape: x | newshape
RightShift right_shift: x y
Roll roll: x | shift axis
Rot90 rot90: array | k axes
Round round: x | decimals
SearchSorted searchsorted: sorted_sequence values | side
Select select: condlist choicelist default
Sign sign: x
Signbit signbit: x
Sin sin: x
Sinc sinc: x
Sinh sinh: x
Size size: x
Slogdet slogdet: x
Sort sort: x | axis
Split split: x | indices_or_sections axis
Sqrt sqrt: x
Square square: x
Squeeze squeeze: x | axis
Stack stack: x | axis
Std std: x | axis keepdims
Subtract subtract: x1 x2
Sum sum: x | axis keepdims
Swapaxes swapaxes: x | axis1 axis2
Take take: x indices | axis
TakeAlongAxis take_along_axis: x indices | axis
Tan tan: x
Tanh tanh activations.tanh: x
Tensordot tensordot: x1 x2 | axes
Tile tile: x | repeats
Trace trace: x | offset axis1 axis2
Transpose transpose: x | axes
Trapezoid trapezoid: y | x dx axis
Tril tril: x | k
Triu triu: x | k
TrueDivide true_divide: x1 x2
Trunc trunc: x
Unique unique: x | sorted return_index return_inverse return_counts axis size fill_value
UnravelIndex unravel_index: indices | shape
Vander vander: x | N increasing
Var var: x | axis keepdims
Vdot vdot: x1 x2
View view: x | dtype
Vsplit vsplit: x | indices_or_sections
Vstack vstack: xs
Where where: condition x1 x2
ZerosLike zeros_like: x | dtype
"""
