"""Tests the table of a model's layers."""

import re

import pytest

from flaxmodels import Input, Model, Sequential, layers


def cells(html):
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_a_notebook_shows_the_table_of_summary():
    left, right = Input((4,), name="left"), Input((4,), name="right")
    shared = layers.Dense(3, name="shared")
    model = Model([left, right], layers.Add()([shared(left), shared(right)]), name="twins")
    html = model._repr_html_()
    assert html.startswith("<table><caption>twins: 15 parameters</caption>")
    assert cells(html) == [
        ["layer (class)", "output", "parameters", "inputs"],
        ["shared (Dense)", "(None, 3)", "15", "left"],
        ["shared (Dense)", "(None, 3)", "0", "right"],
        ["add (Add)", "(None, 3)", "0", "shared, shared"],
    ]
    lines = []
    model.summary(lines.append)
    assert [re.split(r" {2,}", line.strip()) for line in lines[0].splitlines()[1:]] == cells(html)


@pytest.mark.parametrize("model", [Sequential([layers.Dense(3)]), Sequential()], ids=["layers", "empty"])
def test_a_model_without_input_shape_shows_its_layers(model):
    html = model._repr_html_()
    assert "<caption>sequential: input shape unknown</caption>" in html
    assert cells(html) == [["layer (class)"], *([f"{name} (Dense)"] for name in model.layers.names)]


def nested():
    inner = Sequential([Input((3,)), layers.Dense(4, name="hidden"), layers.Dense(3, trainable=False)], name="base")
    x = Input((3,))
    return Model(x, layers.Dense(2)(inner(x) + x))


def lines_of(model, **options):
    texts = []
    model.summary(texts.append, **options)
    return texts[0].splitlines()


def test_nested_layers_and_trainable_layers():
    assert lines_of(nested(), expand_nested=True, show_trainable=True) == [
        "model: 39 parameters",
        "layer (class)      output     parameters  inputs       trainable",
        "base (Sequential)  (None, 3)          31  input        yes",
        "  hidden (Dense)   (None, 4)          16  input        yes",
        "  dense (Dense)    (None, 3)          15  hidden       no",
        "add (Add)          (None, 3)           0  base, input  -",
        "dense (Dense)      (None, 2)           8  add          yes",
    ]


def test_width_of_the_table():
    assert lines_of(nested(), line_length=50)[1:4] == [
        "layer (class)   output     parameters  inputs",
        "base            (None, 3)          31  input",
        "(Sequential)",
    ]
    wide = lines_of(nested(), line_length=80, positions=[0.4, 0.6, 0.8, 1.0])[1]
    assert [wide.index(word) for word in ("output", "inputs")] == [34, 66]
    assert lines_of(nested(), positions=[32, 48, 64, 80])[1] == wide
    with pytest.raises(ValueError, match=r"^`positions` must have one number for each of the 4 columns, got \[1\.0\]; give "
                       r"the end of each column\.$"):  # fmt: skip
        lines_of(nested(), positions=[1.0])
    with pytest.raises(ValueError, match=r"^Each column of a summary needs at least 4 characters, got 3 with "
                       r"line_length=18 and positions=None; give more room\.$"):  # fmt: skip
        lines_of(nested(), line_length=18)
