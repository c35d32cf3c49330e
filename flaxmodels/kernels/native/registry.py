"""Declares every C kernel: its source files, operands, results, attributes, and derivative.

Everything that Python and C must agree on follows from this table: the sources that the build compiles, the exported
function names, the checks of a call, the batching and derivative rules, and the C header `registry.h`, which `header`
generates. Add a kernel here first (`docs/kernels.md` lists the steps).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

# Cell types of a recurrence.
LSTM, GRU, SIMPLE = range(3)
# Value of `argmax` in a fused max pooling where ReLU blocks the gradient; larger than any index of a tap.
BLOCKED = 8
# Largest window that may reach beyond the image, because a list of its taps is on a thread's stack.
MAX_EDGE_TAPS = 4096
CONSTANTS = {"LSTM": LSTM, "GRU": GRU, "SIMPLE": SIMPLE, "BLOCKED": BLOCKED, "MAX_EDGE_TAPS": MAX_EDGE_TAPS}

MAX_SPATIAL_AXES = 3
C_TYPES = {"float32": "XLA_FFI_DataType_F32", "uint8": "XLA_FFI_DataType_U8"}


class ArrayLike(Protocol):
    """An array or a `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


@dataclasses.dataclass(frozen=True)
class Array:
    """An operand or a result of a kernel.

    Attributes:
        name: The array's name. An array and its gradient have the same name, so that rules match by name.
        axes: Names of the array's axes: `*S` means one to three spatial axes, and an axis with a question mark, as
            `T?`, may be missing.
        dtypes: The dtypes that the kernel accepts.
        optional: Whether a call may omit the array. Optional arrays come last.
        may_be_empty: Whether the array may have no elements, and any rank, if the kernel does not need it.
    """

    name: str
    axes: str
    dtypes: tuple[str, ...] = ("float32",)
    optional: bool = False
    may_be_empty: bool = False

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest number of axes."""
        names = self.axes.split()
        missing, more = "?" in self.axes, (MAX_SPATIAL_AXES - 1) * ("*" in self.axes)
        return len(names) - missing, len(names) + more

    @property
    def has_batch_axis(self) -> bool:
        """Whether the first axis is the batch, so that `vmap` can extend it."""
        return self.axes.startswith("B ")


@dataclasses.dataclass(frozen=True)
class Attributes:
    """Integers that a kernel receives in addition to its operands: a C struct with named fields.

    Attributes:
        struct: The name of the C struct.
        fields: The length of each field, keyed by name; 1 is a single integer.
    """

    struct: str
    fields: Mapping[str, int]

    @property
    def size(self) -> int:
        """The number of integers."""
        return sum(self.fields.values())


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A function in C that XLA calls.

    Attributes:
        name: The kernel's name; the library exports it as `flaxmodels_<name>`.
        sources: The C files that the kernel needs; the first one defines the kernel.
        operands: The arrays that the kernel reads.
        results: The arrays that the kernel writes.
        attributes: The integers that the kernel receives.
        gradients: For each operand in which the kernel is linear, the kernel that computes its gradient.
    """

    name: str
    sources: tuple[str, ...]
    operands: tuple[Array, ...]
    results: tuple[Array, ...]
    attributes: Attributes
    gradients: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def check_call(self, operands: Sequence[ArrayLike], results: Sequence[ArrayLike]) -> None:
        """Checks the number, the dtypes and the ranks of the arrays of a call.

        Raises:
            ValueError: If there are too few or too many arrays, or an array has the wrong rank.
            TypeError: If an array has the wrong dtype.
        """
        for kind, arrays, specs in (("operand", operands, self.operands), ("result", results, self.results)):
            required = sum(not spec.optional for spec in specs)
            if not required <= len(arrays) <= len(specs):
                count = f"{len(specs)}" if required == len(specs) else f"{required} to {len(specs)}"
                names = ", ".join(spec.name for spec in specs)
                raise ValueError(f"The kernel {self.name!r} has {count} {kind}s ({names}), got {len(arrays)}.")
            for spec, array in zip(specs, arrays, strict=False):
                self._check_array(kind, spec, array)

    def _check_array(self, kind: str, spec: Array, array: ArrayLike) -> None:
        dtype, rank = np.dtype(array.dtype).name, len(array.shape)
        what = f"The {kind} {spec.name!r} of the kernel {self.name!r}"
        if dtype not in spec.dtypes:
            raise TypeError(f"{what} must have dtype {' or '.join(spec.dtypes)}, got {dtype}.")
        if spec.may_be_empty and 0 in array.shape:
            return
        low, high = spec.ranks
        if not low <= rank <= high:
            raise ValueError(f"{what} must have the axes [{spec.axes.replace(' ', ', ')}], got shape {array.shape}.")

    def pack_attributes(self, values: Mapping[str, int | Sequence[int]]) -> list[int]:
        """Returns the attributes as one list of integers, in the order of the C struct.

        Raises:
            ValueError: If the names or the lengths differ from the declared ones.
        """
        fields = self.attributes.fields
        if values.keys() != fields.keys():
            raise ValueError(
                f"The kernel {self.name!r} has the attributes {', '.join(fields)}, got {', '.join(values) or 'none'}."
            )
        packed: list[int] = []
        for name, size in fields.items():
            value = values[name]
            integers = [int(value)] if isinstance(value, int | np.integer) else [int(n) for n in value]
            if len(integers) != size:
                raise ValueError(
                    f"The attribute {name!r} of the kernel {self.name!r} has {size} integers, got {len(integers)}."
                )
            packed += integers
        return packed


# Images, windows and outputs have three spatial axes in C; if there are fewer, the leading ones have size 1.
WINDOW = Attributes(
    "WindowAttributes",
    {
        "image_size": 3,
        "window": 3,
        "stride": 3,
        "dilation": 3,
        "output_size": 3,
        "pad_before": 3,
        "channels": 1,
        "features": 1,
        "groups": 1,
        "relu": 1,
        "pooled": 1,
    },
)
# `keep_residuals`: whether the forward pass stores what the backward pass needs.
RECURRENCE = Attributes("RecurrenceAttributes", {"cell_type": 1, "units": 1, "features": 1, "keep_residuals": 1})

# Axes: B batch, S image, K window, O output, C channels, I channels of a group, F features; T steps, U units, G gates.
_IMAGE, _OUTPUT = "B *S C", "B *O F"
_conv = partial(Kernel, sources=("convolution.c", "winograd.c"), attributes=WINDOW)
_CONV_KERNEL, _BIAS = Array("kernel", "*K I F"), Array("bias", "F", optional=True)
# The array that gates the gradient of the outputs: the outputs after ReLU, or `argmax` after max pooling.
_GATE = Array("gate", _OUTPUT, ("float32", "uint8"), optional=True)
_depthwise = partial(Kernel, sources=("depthwise.c",), attributes=WINDOW)
_DEPTHWISE_KERNEL = Array("kernel", "*K C")
_pool = partial(Kernel, sources=("pooling.c",), attributes=WINDOW)
_recurrence = partial(Kernel, sources=("recurrence.c",), attributes=RECURRENCE)
_RECURRENT_KERNEL = Array("recurrent_kernel", "U GU")
_H, _C = Array("h", "B U"), Array("c", "B U", may_be_empty=True)
_MASK = Array("mask", "T B", ("uint8",), may_be_empty=True)

KERNELS = {
    kernel.name: kernel
    for kernel in (
        _conv(
            "conv",
            operands=(Array("x", _IMAGE), _CONV_KERNEL, _BIAS),
            results=(Array("y", _OUTPUT), Array("argmax", _OUTPUT, ("uint8",), optional=True)),
            gradients={"x": "conv_backward_input", "kernel": "conv_backward_kernel"},
        ),
        _conv(
            "conv_backward_input",
            operands=(Array("y", _OUTPUT), _CONV_KERNEL, _GATE),
            results=(Array("x", _IMAGE),),
            gradients={"y": "conv", "kernel": "conv_backward_kernel"},
        ),
        _conv(
            "conv_backward_kernel",
            operands=(Array("x", _IMAGE), Array("y", _OUTPUT), _GATE),
            results=(_CONV_KERNEL, _BIAS),
            gradients={"x": "conv_backward_input", "y": "conv"},
        ),
        _depthwise(
            "depthwise",
            operands=(Array("x", _IMAGE), _DEPTHWISE_KERNEL),
            results=(Array("y", "B *O C"),),
            gradients={"x": "depthwise_backward_input", "kernel": "depthwise_backward_kernel"},
        ),
        _depthwise(
            "depthwise_backward_input",
            operands=(Array("y", "B *O C"), _DEPTHWISE_KERNEL),
            results=(Array("x", _IMAGE),),
            gradients={"y": "depthwise", "kernel": "depthwise_backward_kernel"},
        ),
        _depthwise(
            "depthwise_backward_kernel",
            operands=(Array("x", _IMAGE), Array("y", "B *O C")),
            results=(_DEPTHWISE_KERNEL,),
            gradients={"x": "depthwise_backward_input", "y": "depthwise"},
        ),
        _pool(
            "pool_select",
            operands=(Array("x", _IMAGE), Array("values", _IMAGE)),
            results=(Array("y", "B *O C"),),
            gradients={"values": "pool_scatter"},
        ),
        _pool(
            "pool_scatter",
            operands=(Array("x", _IMAGE), Array("y", "B *O C")),
            results=(Array("values", _IMAGE),),
            gradients={"y": "pool_select"},
        ),
        _recurrence(
            "recurrence",
            operands=(
                Array("x", "T B F"),
                Array("kernel", "F GU", may_be_empty=True),
                Array("bias", "GU"),
                _RECURRENT_KERNEL,
                Array("recurrent_bias", "GU", may_be_empty=True),
                _H,
                _C,
                _MASK,
            ),
            results=(
                Array("hs", "T B U"),
                Array("cs", "T? B U", may_be_empty=True),
                Array("gates", "T B 4U", may_be_empty=True),
            ),
        ),
        _recurrence(
            "recurrence_backward",
            operands=(
                Array("gates", "T B 4U", may_be_empty=True),
                Array("hs", "T B U"),
                Array("cs", "T B U", may_be_empty=True),
                _H,
                _C,
                Array("d_hs", "T B U"),
                Array("d_h", "B U"),
                Array("d_c", "B U", may_be_empty=True),
                _RECURRENT_KERNEL,
                _MASK,
            ),
            results=(
                Array("d_recurrent", "T B GU"),
                Array("d_input", "T B GU", may_be_empty=True),
                Array("d_initial_h", "B U"),
                Array("d_initial_c", "B U", may_be_empty=True),
            ),
        ),
    )
}


def sources() -> list[str]:
    """Returns the names of the C files that make up the library.

    Example:
        >>> "winograd.c" in sources()
        True
    """
    return sorted({source for kernel in KERNELS.values() for source in kernel.sources})


def header() -> str:
    """Returns the C header that declares constants, attribute structs, positions of arrays, and signatures.

    Example:
        >>> "enum { CONV_X, CONV_KERNEL, CONV_BIAS };" in header()
        True
    """
    lines = ["// Generated by flaxmodels/kernels/native/registry.py when the library is built.", "", "#pragma once", ""]
    lines.append(f"enum {{ {', '.join(f'{name} = {value}' for name, value in CONSTANTS.items())} }};")
    structs = {kernel.attributes.struct: kernel.attributes for kernel in KERNELS.values()}
    for attributes in structs.values():
        fields = (f"{name}[{size}]" if size > 1 else name for name, size in attributes.fields.items())
        lines += ["", "typedef struct {", *(f"  int64_t {field};" for field in fields), f"}} {attributes.struct};"]
    for kernel in KERNELS.values():
        lines += ["", *_signature(kernel)]
    return "\n".join(lines) + "\n"


def _signature(kernel: Kernel) -> list[str]:
    """Returns the declarations of one kernel; `ffi.h` defines their types."""
    lines, counts = [], []
    for kind, arrays in (("operands", kernel.operands), ("results", kernel.results)):
        lines.append(f"enum {{ {', '.join(f'{kernel.name}_{array.name}'.upper() for array in arrays)} }};")
        lines.append(f"static const ArraySpec {kernel.name}_{kind}[] = {{")
        for array in arrays:
            first, *others = (C_TYPES[dtype] for dtype in array.dtypes)
            low, high = array.ranks
            second = others[0] if others else first
            lines.append(f'  {{"{array.name}", {{{first}, {second}}}, {low}, {high}, {int(array.may_be_empty)}}},')
        lines.append("};")
        counts += [f"{kernel.name}_{kind}", f"{sum(not array.optional for array in arrays)}", f"{len(arrays)}"]
    lines.append(f"static const Signature {kernel.name}_signature = {{")
    lines.append(f'  "{kernel.name}", {", ".join(counts)}, {kernel.attributes.size},')
    return [*lines, "};", f"XLA_FFI_Error *flaxmodels_{kernel.name}(XLA_FFI_CallFrame *frame);"]
