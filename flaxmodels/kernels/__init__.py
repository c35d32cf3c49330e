"""Operations with several implementations: kernels of this library, and a reference in XLA operations.

`dispatch` chooses by platform and shape. `native` holds the kernels in C for a CPU. The kernels for an NVIDIA GPU are
in `recurrence`.
"""
