"""Looking names up in tables, and the errors for unknown names."""

import re

import pytest

from flaxmodels.names import lookup

TABLE = {"mse": 1, "mae": 2, "poisson": 3}


def test_known_name_returns_its_entry():
    assert lookup("loss", "mae", TABLE) == 2


def test_entry_may_be_none():
    assert lookup("loss", "none", {"none": None}) is None


@pytest.mark.parametrize(
    ("name", "alternative", "sentence"),
    [
        ("mes", "", "Unknown loss 'mes'. Did you mean 'mse'? Known: 'mae', 'mse', 'poisson'."),
        ("xyz", "", "Unknown loss 'xyz'. Known: 'mae', 'mse', 'poisson'."),
        ("mes", "Or pass f.", "Unknown loss 'mes'. Did you mean 'mse'? Known: 'mae', 'mse', 'poisson'. Or pass f."),
        ("", "", "Unknown loss ''. Known: 'mae', 'mse', 'poisson'."),
        (3, "", "Unknown loss 3. Known: 'mae', 'mse', 'poisson'."),
        (["mse"], "", "Unknown loss ['mse']. Did you mean 'mse'? Known: 'mae', 'mse', 'poisson'."),
    ],
)
def test_unknown_name_lists_closest_and_known_names(name, alternative, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        lookup("loss", name, TABLE, alternative)


def test_error_says_where_the_unknown_name_occurs():
    with pytest.raises(ValueError, match="^Unknown loss 'xyz' in a file. Known: 'mae', 'mse', 'poisson'.$"):
        lookup("loss", "xyz", TABLE, place="in a file")
