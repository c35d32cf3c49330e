"""The registry of C kernels agrees with the C sources and the library, and checks calls in Python."""

import ctypes
import re

import jax
import jax.numpy as jnp
import pytest

from flaxmodels.kernels import native
from flaxmodels.kernels.native import Geometry, build, registry
from flaxmodels.kernels.native.registry import KERNELS

GEOMETRY = Geometry((5, 6), (3, 2), (1, 1), (1, 1))
X, KERNEL = jnp.ones((2, 5, 6, 4)), jnp.ones((3, 2, 4, 8))
OUT = jax.ShapeDtypeStruct((2, *GEOMETRY.output_sizes(), 8), jnp.float32)


def defined_in(source):
    return re.findall(r"^KERNEL\((\w+)\)", (build.FOLDER / source).read_text(), re.MULTILINE)


def test_each_kernel_is_defined_in_its_first_source_and_nowhere_else():
    declared = {name: kernel.sources[0] for name, kernel in KERNELS.items()}
    assert declared == {name: source for source in registry.sources() for name in defined_in(source)}


def test_all_c_files_are_built():
    assert registry.sources() == sorted(path.name for path in build.FOLDER.glob("*.c"))


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
def test_the_library_exports_exactly_the_declared_kernels(tmp_path):
    path = native.kernels_info().library
    if path is None:
        pytest.skip("the library is not cached")
    library = ctypes.CDLL(str(path))
    assert all(hasattr(library, f"flaxmodels_{name}") for name in KERNELS)
    symbols = set(re.findall(rb"\0flaxmodels_(\w+)(?=\0)", path.read_bytes()))
    assert {symbol.decode() for symbol in symbols} == {*KERNELS, "lanes"}


def test_the_header_declares_positions_attributes_and_signatures():
    header = registry.header()
    assert "enum { CONV_BACKWARD_KERNEL_X, CONV_BACKWARD_KERNEL_Y, CONV_BACKWARD_KERNEL_GATE };" in header
    assert "  int64_t image_size[3];" in header and "} WindowAttributes;" in header
    assert '{"gate", {XLA_FFI_DataType_F32, XLA_FFI_DataType_U8}, 3, 5, 0},' in header
    for name in KERNELS:
        assert f"static const Signature {name}_signature" in header


def test_gradients_are_declared_kernels_with_matching_names():
    for kernel in KERNELS.values():
        names = {array.name for array in kernel.operands} | {kernel.results[0].name}
        for operand, gradient in kernel.gradients.items():
            declared = KERNELS[gradient]
            assert declared.results[0].name == operand
            assert {array.name for array in declared.operands if not array.optional} <= names


@pytest.mark.parametrize(
    ("operands", "out", "error", "sentence"),
    [
        ([X], OUT, ValueError, "The kernel 'conv' has 2 to 3 operands (x, kernel, bias), got 1."),
        ([X, KERNEL], [OUT] * 3, ValueError, "The kernel 'conv' has 1 to 2 results (y, argmax), got 3."),
        (
            [X.astype(jnp.int32), KERNEL],
            OUT,
            TypeError,
            "The operand 'x' of the kernel 'conv' must have dtype float32, got int32.",
        ),
        (
            [X, KERNEL[0, 0, 0]],
            OUT,
            ValueError,
            "The operand 'kernel' of the kernel 'conv' must have the axes [*K, I, F], got shape (8,).",
        ),
        (
            [X, KERNEL],
            jax.ShapeDtypeStruct(OUT.shape, jnp.bfloat16),
            TypeError,
            "The result 'y' of the kernel 'conv' must have dtype float32, got bfloat16.",
        ),
    ],
)
def test_calls_that_do_not_fit_the_registry_are_refused_in_python(operands, out, error, sentence):
    with pytest.raises(error) as raised:
        native.call("conv", out, *operands, attributes=GEOMETRY.attributes(4, 8))
    assert str(raised.value) == sentence


def test_a_dtype_error_lists_all_accepted_dtypes():
    with pytest.raises(TypeError) as raised:
        KERNELS["conv_backward_input"].check_call([OUT, KERNEL, X.astype(jnp.int8)], [X])
    assert str(raised.value) == (
        "The operand 'gate' of the kernel 'conv_backward_input' must have dtype float32 or uint8, got int8."
    )


def test_optional_axes_and_empty_arrays_fit():
    recurrence = KERNELS["recurrence"]
    cs = recurrence.results[1]
    assert cs.axes == "T? B U" and cs.ranks == (2, 3)
    empty, matrix, sequence = jnp.zeros(0), jnp.ones((5, 5)), jnp.ones((3, 2, 5))
    mask = jnp.zeros((0, 0), jnp.uint8)
    operands = [sequence, empty, jnp.ones(5), matrix, empty, jnp.ones((2, 5)), empty, mask]
    recurrence.check_call(operands, [sequence, jnp.ones((2, 5)), empty])
    with pytest.raises(ValueError, match=r"The operand 'h' .* must have the axes \[B, U\], got shape \(0,\)\."):
        recurrence.check_call([*operands[:5], empty, *operands[6:]], [sequence, empty, empty])


def test_attributes_are_packed_in_the_order_of_the_struct():
    attributes = {"keep_residuals": True, "units": 5, "features": 7, "cell_type": native.GRU}
    assert KERNELS["recurrence"].pack_attributes(attributes) == [1, 5, 7, 1]
    packed = KERNELS["conv"].pack_attributes(GEOMETRY.attributes(4, 8, relu=True))
    assert packed == [1, 5, 6, 1, 3, 2, 1, 1, 1, 1, 1, 1, 1, 3, 5, 0, 0, 0, 4, 8, 1, 1, 0]


def test_wrong_attributes_are_refused_in_python():
    with pytest.raises(ValueError) as raised:
        KERNELS["recurrence"].pack_attributes({"units": 5})
    assert str(raised.value) == (
        "The kernel 'recurrence' has the attributes cell_type, units, features, keep_residuals, got units."
    )
    with pytest.raises(ValueError) as raised:
        KERNELS["conv"].pack_attributes(GEOMETRY.attributes(4, 8) | {"window": (3, 2)})
    assert str(raised.value) == "The attribute 'window' of the kernel 'conv' has 3 integers, got 2."
