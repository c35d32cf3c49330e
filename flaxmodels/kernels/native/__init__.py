"""C kernels for the CPU: declared in `registry.py`, built and loaded by `build.py`, called through `calls.py`.

The kernels are optional. Without a C compiler, or with FLAXMODELS_NATIVE=0, XLA computes the same functions, up to
rounding. `kernels_info` reports which is the case. `docs/kernels.md` explains the design.
"""

from flaxmodels.kernels.native.build import SWITCH, KernelsInfo, available, kernels_info, prefix, threads
from flaxmodels.kernels.native.calls import Geometry, call, fold_into_batch, window_primitive
from flaxmodels.kernels.native.registry import BLOCKED, GRU, LSTM, MAX_EDGE_TAPS, SIMPLE

__all__ = [
    "BLOCKED",
    "GRU",
    "LSTM",
    "MAX_EDGE_TAPS",
    "SIMPLE",
    "SWITCH",
    "Geometry",
    "KernelsInfo",
    "available",
    "call",
    "fold_into_batch",
    "kernels_info",
    "prefix",
    "threads",
    "window_primitive",
]
