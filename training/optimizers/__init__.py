"""Optimizers with Keras' names, arguments, defaults and numbers, as optax transformations.

`update(grads, state, params)` needs the parameters, any pytree of arrays. The path of a parameter is its keys, joined
by "/". All optimizers take these arguments:

    learning_rate: A number, which is kept in the state (see `get_learning_rate` and `set_learning_rate`), or a function
        of the 0-based step, such as `training.schedules`. With accumulation, micro-steps count.
    weight_decay: The weight decay per step, relative to the learning rate. It is applied before the rule.
    clipnorm: The maximum L2 norm of the gradient of each parameter. At most one of the three clips is allowed.
    clipvalue: The maximum absolute value of the elements of a gradient.
    global_clipnorm: The maximum L2 norm of all gradients together; if the norm is not finite, all gradients become NaN.
    use_ema: Whether to keep a moving average of the weights in the state, see `ema_weights`.
    ema_momentum: The decay of that average.
    ema_overwrite_frequency: The number of steps between two overwrites of the weights with their average.
    loss_scale_factor: The factor of the loss, see `scale_loss`; the gradients are divided by it.
    gradient_accumulation_steps: The number of calls of update per parameter update, which uses the mean of their
        gradients. As in Keras, the average of the weights is updated at each call.
    name: The name of the scope in profiles; by default the optimizer's name.
    exclude_from_weight_decay: Regular expressions; parameters whose path contains a match do not decay.
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
from training.optimizers.keras_variables import get_keras_variables as get_keras_variables
from training.optimizers.keras_variables import set_keras_variables as set_keras_variables
from training.optimizers.names import OPTIMIZERS as OPTIMIZERS
from training.optimizers.names import OptimizerLike as OptimizerLike
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
