"""Recurrences over time: `scan` for any cell, and LSTM, GRU and SimpleRNN with several implementations each.

On a CPU, all three are computed by kernels in C (`cpu.py`, float32). On an NVIDIA GPU, LSTM and GRU run by a fused
kernel (`fused.py`), an LSTM in float32 by cuDNN (`cudnn.py`). Everywhere else they run by a scan (`reference.py`),
which is also the reference of the others. `dispatch.py` chooses.
"""

from flaxmodels.kernels.recurrence.dispatch import requested, use_implementation
from flaxmodels.kernels.recurrence.products import product
from flaxmodels.kernels.recurrence.recurrences import gru, lstm, simple_rnn
from flaxmodels.kernels.recurrence.reference import Step, expand_mask, scan
from flaxmodels.kernels.recurrence.types import Hidden, Inputs, LSTMState
