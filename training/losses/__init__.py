"""Losses with Keras' names, arguments and numbers.

Synopsis:
    loss = losses.get("categorical_crossentropy")
    loss(y_true, y_pred, sample_weight=weights, mask=is_example)   # a scalar
    losses.categorical_crossentropy(y_true, y_pred)                # one number per example
"""

from collections.abc import Callable, Mapping, Sequence

import jax

from flaxmodels.names import lookup, refuse_keras
from training.losses.base import EPSILON as EPSILON
from training.losses.base import LabelShapeError as LabelShapeError
from training.losses.base import Loss as Loss
from training.losses.base import LossFunctionWrapper as LossFunctionWrapper
from training.losses.base import reduce_values as reduce_values
from training.losses.classification import BinaryCrossentropy as BinaryCrossentropy
from training.losses.classification import BinaryFocalCrossentropy as BinaryFocalCrossentropy
from training.losses.classification import CategoricalCrossentropy as CategoricalCrossentropy
from training.losses.classification import CategoricalFocalCrossentropy as CategoricalFocalCrossentropy
from training.losses.classification import (
    CategoricalGeneralizedCrossEntropy as CategoricalGeneralizedCrossEntropy,
)
from training.losses.classification import KLDivergence as KLDivergence
from training.losses.classification import SparseCategoricalCrossentropy as SparseCategoricalCrossentropy
from training.losses.classification import binary_crossentropy as binary_crossentropy
from training.losses.classification import binary_focal_crossentropy as binary_focal_crossentropy
from training.losses.classification import categorical_crossentropy as categorical_crossentropy
from training.losses.classification import categorical_focal_crossentropy as categorical_focal_crossentropy
from training.losses.classification import (
    categorical_generalized_cross_entropy as categorical_generalized_cross_entropy,
)
from training.losses.classification import kl_divergence as kl_divergence
from training.losses.classification import sparse_categorical_crossentropy as sparse_categorical_crossentropy
from training.losses.labels import check_labels as check_labels
from training.losses.margins import CategoricalHinge as CategoricalHinge
from training.losses.margins import Hinge as Hinge
from training.losses.margins import SquaredHinge as SquaredHinge
from training.losses.margins import categorical_hinge as categorical_hinge
from training.losses.margins import hinge as hinge
from training.losses.margins import squared_hinge as squared_hinge
from training.losses.regression import CosineSimilarity as CosineSimilarity
from training.losses.regression import Huber as Huber
from training.losses.regression import LogCosh as LogCosh
from training.losses.regression import MeanAbsoluteError as MeanAbsoluteError
from training.losses.regression import MeanAbsolutePercentageError as MeanAbsolutePercentageError
from training.losses.regression import MeanSquaredError as MeanSquaredError
from training.losses.regression import MeanSquaredLogarithmicError as MeanSquaredLogarithmicError
from training.losses.regression import Poisson as Poisson
from training.losses.regression import cosine_similarity as cosine_similarity
from training.losses.regression import huber as huber
from training.losses.regression import log_cosh as log_cosh
from training.losses.regression import mean_absolute_error as mean_absolute_error
from training.losses.regression import mean_absolute_percentage_error as mean_absolute_percentage_error
from training.losses.regression import mean_squared_error as mean_squared_error
from training.losses.regression import mean_squared_logarithmic_error as mean_squared_logarithmic_error
from training.losses.regression import poisson as poisson
from training.losses.structured import CTC as CTC
from training.losses.structured import Circle as Circle
from training.losses.structured import Dice as Dice
from training.losses.structured import Tversky as Tversky
from training.losses.structured import circle as circle
from training.losses.structured import ctc as ctc
from training.losses.structured import dice as dice
from training.losses.structured import tversky as tversky

# Maps each loss function to the class that reduces its values.
FUNCTIONS: dict[Callable[..., jax.Array], type[Loss]] = {
    binary_crossentropy: BinaryCrossentropy,
    binary_focal_crossentropy: BinaryFocalCrossentropy,
    categorical_crossentropy: CategoricalCrossentropy,
    categorical_focal_crossentropy: CategoricalFocalCrossentropy,
    categorical_generalized_cross_entropy: CategoricalGeneralizedCrossEntropy,
    categorical_hinge: CategoricalHinge,
    circle: Circle,
    cosine_similarity: CosineSimilarity,
    ctc: CTC,
    dice: Dice,
    hinge: Hinge,
    huber: Huber,
    kl_divergence: KLDivergence,
    log_cosh: LogCosh,
    mean_absolute_error: MeanAbsoluteError,
    mean_absolute_percentage_error: MeanAbsolutePercentageError,
    mean_squared_error: MeanSquaredError,
    mean_squared_logarithmic_error: MeanSquaredLogarithmicError,
    poisson: Poisson,
    sparse_categorical_crossentropy: SparseCategoricalCrossentropy,
    squared_hinge: SquaredHinge,
    tversky: Tversky,
}

LOSSES: dict[str, type[Loss]] = {
    **{function.__name__: loss for function, loss in FUNCTIONS.items()},
    **{loss.__name__: loss for loss in FUNCTIONS.values()},
    **dict.fromkeys(("bce", "BCE"), BinaryCrossentropy),
    **dict.fromkeys(("kld", "KLD"), KLDivergence),
    **dict.fromkeys(("mae", "MAE"), MeanAbsoluteError),
    **dict.fromkeys(("mape", "MAPE"), MeanAbsolutePercentageError),
    **dict.fromkeys(("mse", "MSE"), MeanSquaredError),
    **dict.fromkeys(("msle", "MSLE"), MeanSquaredLogarithmicError),
}


LossLike = str | Loss | type[Loss] | Callable[..., jax.Array]
# A loss for every output, a list of losses, or a dictionary of losses keyed by output name.
LossesLike = LossLike | Sequence[LossLike | None] | Mapping[str, LossLike | None]


def get(x: LossLike) -> Loss:
    """Returns a loss.

    Args:
        x: A name, a `Loss` object or class, a function of this module, or any function (y_true, y_pred) -> [B].

    Raises:
        TypeError: If `x` is none of these.
        ValueError: If no loss has that name.

    Example:
        >>> get("mse")
        MeanSquaredError(reduction='sum_over_batch_size', name='mean_squared_error', dtype=None)
    """
    if isinstance(x, Loss):
        return x
    if isinstance(x, str):
        return lookup("loss", x, LOSSES, "Or pass a function (y_true, y_pred) -> [B].")()
    if isinstance(x, type) and issubclass(x, Loss):
        return x()
    refuse_keras(x)
    if isinstance(x, type) or not callable(x):
        raise TypeError(f"A loss must be a name, a Loss or a function (y_true, y_pred) -> [B], got {x!r}.")
    return FUNCTIONS[x]() if x in FUNCTIONS else LossFunctionWrapper(x)


def resolve(x: LossLike, y_true_shape: Sequence[int], y_pred_shape: Sequence[int]) -> Loss:
    """Returns a loss like `get`, and chooses the loss for "crossentropy" and "ce" by the shapes.

    A single output is binary. Labels of lower rank, or with a last axis of size 1, are class indices. Other
    labels are one-hot.

    Args:
        x: A name, a loss or a function.
        y_true_shape: The shape of the labels.
        y_pred_shape: The shape of the predictions.

    References:
        Keras `trainers.compile_utils.get_loss`.

    Example:
        >>> resolve("crossentropy", (32,), (32, 10)).name
        'sparse_categorical_crossentropy'
    """
    if not isinstance(x, str) or x.lower() not in ("crossentropy", "ce"):
        return get(x)
    kinds = {
        "binary": BinaryCrossentropy,
        "sparse": SparseCategoricalCrossentropy,
        "one-hot": CategoricalCrossentropy,
    }
    return kinds[kind_of_labels(y_true_shape, y_pred_shape)]()


def kind_of_labels(y_true_shape: Sequence[int], y_pred_shape: Sequence[int]) -> str:
    """Returns from the shapes whether labels are "binary", "sparse" (class indices) or "one-hot".

    Example:
        >>> [kind_of_labels(labels, (32, 10)) for labels in ((32,), (32, 1), (32, 10))]
        ['sparse', 'sparse', 'one-hot']
    """
    true, pred = tuple(y_true_shape), tuple(y_pred_shape)
    if pred[-1:] == (1,):
        return "binary"
    return "sparse" if len(true) < len(pred) or (true[-1:] == (1,) and pred[-1:] > (1,)) else "one-hot"
