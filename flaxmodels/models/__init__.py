"""Ready-made models, and the table of their names."""

from flaxmodels.building import Model as Model
from flaxmodels.building import Sequential as Sequential
from flaxmodels.models.cnn import functional_cnn as functional_cnn
from flaxmodels.models.cnn import simple_cnn as simple_cnn
from flaxmodels.models.rnn import rnn_classifier as rnn_classifier
from flaxmodels.models.rnn import rnn_forecaster as rnn_forecaster
from flaxmodels.names import lookup

# Each takes the shape of an example and the number of outputs first.
MODELS = {
    "functional_cnn": functional_cnn,
    "rnn_classifier": rnn_classifier,
    "rnn_forecaster": rnn_forecaster,
    "simple_cnn": simple_cnn,
}


def get(name):
    """The function that builds a model, by its name."""
    return lookup("model", name, MODELS)
