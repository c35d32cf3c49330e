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
