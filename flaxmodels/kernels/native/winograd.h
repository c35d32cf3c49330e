// Winograd's algorithm for 3 x 3 convolutions; `convolution.c` uses it if `winograd_applies` returns 1.

#pragma once

#include "conv.h"

#define HIDDEN __attribute__((visibility("hidden")))

// Whether the algorithm fits a convolution and is expected to be faster than the plain one.
HIDDEN int winograd_applies(const Conv *c, const WindowAttributes *g);
// Whether that also holds for the gradient of the kernel, which needs more work memory.
HIDDEN int winograd_applies_to_backward_kernel(const Conv *c);

// Each returns 0 if memory runs out.
HIDDEN int winograd_forward(XLA_FFI_CallFrame *frame, Conv *c);
HIDDEN int winograd_backward_input(XLA_FFI_CallFrame *frame, Conv *c);
HIDDEN int winograd_backward_kernel(XLA_FFI_CallFrame *frame, Conv *c);
