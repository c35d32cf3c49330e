"""Optimizers: Keras' names, arguments, defaults and numbers, as optax transformations.

`update(grads, state, params)` needs the parameters, any tree of arrays; a parameter's path is its keys,
joined by "/". All optimizers share these arguments:

    learning_rate: A number, which lives in the state (`get_learning_rate`, `set_learning_rate`), or a
        function of the 0-based step, such as `training.schedules` has; with accumulation every micro-step
        counts for it.
    weight_decay: Part of the weights, times the learning rate, that is lost before the optimizer's own step.
    clipnorm: Largest L2 norm of each parameter's gradient. Of the three clips one may be given.
    clipvalue: Largest absolute value of a gradient's entries.
    global_clipnorm: Largest L2 norm of all gradients together; if it is not finite, all become NaN.
    use_ema: Whether the state keeps a moving average of the weights, see `ema_weights`.
    ema_momentum: Part of that average that is kept in a step.
    ema_overwrite_frequency: Steps after which the weights are replaced by the average, again and again.
    loss_scale_factor: What the loss was multiplied by, see `scale_loss`; the gradients are divided by it.
    gradient_accumulation_steps: Calls of update that make one step, with the mean of their gradients. The
        average of the weights moves at every call, as in Keras.
    name: Name of the scope in profiles; by default the optimizer's.
    exclude_from_weight_decay: Regular expressions; a parameter does not decay if one is found in its path.
"""

from training.optimizers.adam import Adam as Adam
from training.optimizers.adam import Adamax as Adamax
from training.optimizers.adam import AdamW as AdamW
from training.optimizers.adam import Lamb as Lamb
from training.optimizers.adam import Nadam as Nadam
from training.optimizers.adam import ScheduleFreeAdamW as ScheduleFreeAdamW
from training.optimizers.adaptive import Adadelta as Adadelta
from training.optimizers.adaptive import Adafactor as Adafactor
from training.optimizers.adaptive import Adagrad as Adagrad
from training.optimizers.adaptive import Ftrl as Ftrl
from training.optimizers.adaptive import RMSprop as RMSprop
from training.optimizers.base import OptimizerState as OptimizerState
from training.optimizers.description import describe as describe
from training.optimizers.description import differences as differences
from training.optimizers.description import is_learning_rate as is_learning_rate
from training.optimizers.description import name_of as name_of
from training.optimizers.gradient import SGD as SGD
from training.optimizers.gradient import Lion as Lion
from training.optimizers.gradient import Muon as Muon
from training.optimizers.names import OPTIMIZERS as OPTIMIZERS
from training.optimizers.names import get as get
from training.optimizers.state import LossScaleState as LossScaleState
from training.optimizers.state import ema_weights as ema_weights
from training.optimizers.state import get_learning_rate as get_learning_rate
from training.optimizers.state import learning_rates as learning_rates
from training.optimizers.state import scale_loss as scale_loss
from training.optimizers.state import scales_loss as scales_loss
from training.optimizers.state import set_learning_rate as set_learning_rate
from training.optimizers.wrappers import LossScaleOptimizer as LossScaleOptimizer
from training.optimizers.wrappers import by_path as by_path
