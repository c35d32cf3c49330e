"""Ready-made models, and the table of their names."""

from collections.abc import Callable

from flaxmodels.building import Model as Model
from flaxmodels.building import Sequential as Sequential
from flaxmodels.models.cnn import functional_cnn as functional_cnn
from flaxmodels.models.cnn import simple_cnn as simple_cnn
from flaxmodels.models.rnn import rnn_classifier as rnn_classifier
from flaxmodels.models.rnn import rnn_forecaster as rnn_forecaster
from flaxmodels.names import lookup

# The first two arguments of each function are the shape of one example and the number of outputs.
MODELS: dict[str, Callable[..., Sequential | Model]] = {
    "functional_cnn": functional_cnn,
    "rnn_classifier": rnn_classifier,
    "rnn_forecaster": rnn_forecaster,
    "simple_cnn": simple_cnn,
}


def get(name: str) -> Callable[..., Sequential | Model]:
    """Returns the function that builds the model of this name.

    Args:
        name: A name in `MODELS`.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> get("simple_cnn")((28, 28, 1), 10).output_shape
        (None, 10)
    """
    return lookup("model", name, MODELS)
