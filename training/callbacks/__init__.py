"""Callbacks with Keras' names and arguments: early stopping, checkpoints, learning rates, logs."""

from training.callbacks.base import PER_PREDICT_STEP as PER_PREDICT_STEP
from training.callbacks.base import PER_STEP as PER_STEP
from training.callbacks.base import PER_TEST_STEP as PER_TEST_STEP
from training.callbacks.base import Callback as Callback
from training.callbacks.base import History as History
from training.callbacks.base import LambdaCallback as LambdaCallback
from training.callbacks.base import check as check
from training.callbacks.base import overrides as overrides
from training.callbacks.control import LearningRateScheduler as LearningRateScheduler
from training.callbacks.control import SwapEMAWeights as SwapEMAWeights
from training.callbacks.control import TerminateOnNaN as TerminateOnNaN
from training.callbacks.logs import CSVLogger as CSVLogger
from training.callbacks.logs import ProgbarLogger as ProgbarLogger
from training.callbacks.monitors import BackupAndRestore as BackupAndRestore
from training.callbacks.monitors import EarlyStopping as EarlyStopping
from training.callbacks.monitors import ModelCheckpoint as ModelCheckpoint
from training.callbacks.monitors import Monitor as Monitor
from training.callbacks.monitors import ReduceLROnPlateau as ReduceLROnPlateau
from training.callbacks.tensorboard import TensorBoard as TensorBoard
