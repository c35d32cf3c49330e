"""`keras.utils.model_to_dot` and `plot_model`: boxes and edges as in Keras, DOT source, and pictures."""

import struct
import sys
import types
import xml.etree.ElementTree as ElementTree

import keras as theirs
import pytest

from training import keras
from training.keras.utils import drawing


def functional(lib):
    x = lib.Input((4,), name="a")
    y = lib.Input((4,), name="b")
    dense = lib.layers.Dense(4, activation="relu", name="shared")
    both = lib.layers.Add(name="sum")([dense(x), dense(y)])
    return lib.Model(
        [x, y], lib.layers.Dense(2, name="head")(lib.layers.Concatenate(name="cat")([both, x])), name="two"
    )


def sequential(lib):
    return lib.Sequential(
        [lib.Input((4,)), lib.layers.Dense(3, name="first"), lib.layers.Dense(2, name="second")], name="chain"
    )


def nested(lib):
    x = lib.Input((4,), name="x")
    inner = sequential(lib)
    return lib.Model(x, lib.layers.Dense(1, name="last")(functional_inner(lib)(inner(x))), name="outer")


def functional_inner(lib):
    x = lib.Input((2,), name="inside")
    return lib.Model(x, lib.layers.Dense(2, name="in_model")(x), name="inner_model")


def named_edges(dot):
    titles = {box.key: box.title.split(" ")[0] for box in dot.boxes}
    return {(titles[edge.source], titles[edge.target]) for edge in dot.edges}


def keras_edges(model, prefix=()):
    """Returns the edges of a functional model of Keras, without its graph drawing, which needs Graphviz."""
    edges = set()
    for layer in model._operations:
        for node in layer._inbound_nodes:
            if node not in [n for nodes in model._nodes_by_depth.values() for n in nodes]:
                continue
            edges |= {(tensor._keras_history.operation.name, layer.name) for tensor in node.input_tensors}
    return edges


def test_boxes_and_edges_are_those_of_keras():
    dot = keras.utils.model_to_dot(functional(keras))
    expected = functional(theirs)
    assert named_edges(dot) == keras_edges(expected)
    assert sorted(box.title for box in dot.boxes) == sorted(f"{x.name} ({type(x).__name__})" for x in expected.layers)
    assert named_edges(keras.utils.model_to_dot(sequential(keras))) == {("first", "second")}


def test_nested_models_are_expanded():
    folded = keras.utils.model_to_dot(nested(keras))
    assert named_edges(folded) == {("x", "chain"), ("chain", "inner_model"), ("inner_model", "last")}
    dot = keras.utils.model_to_dot(nested(keras), expand_nested=True)
    assert named_edges(dot) == {
        ("x", "first"), ("first", "second"), ("second", "inside"), ("inside", "in_model"), ("in_model", "last"),
    }  # fmt: skip
    assert {box.title.split(" ")[0]: box.cluster for box in dot.boxes}["in_model"] == ("inner_model",)
    source = str(dot)
    assert source.count("subgraph") == 2 and 'label="inner_model"' in source


def test_boxes_show_what_is_requested():
    model = functional(keras)
    model.get_layer("head").trainable = False
    dot = keras.utils.model_to_dot(
        model,
        show_shapes=True,
        show_dtype=True,
        show_layer_names=False,
        show_layer_activations=True,
        show_trainable=True,
    )
    texts = {box.title: [cell.text for row in box.rows for cell in row] for box in dot.boxes}
    assert texts["Add"] == ["Input shape: (None, 4), (None, 4)", "Output shape: (None, 4)", "Output dtype: float32"]
    assert texts["InputLayer"] == ["Output shape: (None, 4)", "Output dtype: float32"]
    assert texts["Dense"][-4:] == [
        "Input shape: (None, 8)", "Output shape: (None, 2)", "Output dtype: float32", "Non-trainable",
    ]  # fmt: skip
    shared = next(box for box in dot.boxes if box.title == "Dense")
    assert shared.rows[0][0].text == "Activation: relu" and shared.rows[1][-1].text == "Trainable"


def test_source_is_escaped():
    dot = keras.utils.model_to_dot(
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name='a<b>"&')], name='x"y')
    )
    source = dot.to_string()
    assert "a&lt;b&gt;&quot;&amp; (Dense)" in source and source.startswith("digraph G {\n  rankdir=TB;")
    cluster = keras.utils.model_to_dot(sequential(keras), subgraph=True).to_string()
    assert cluster.startswith('subgraph "cluster_chain" {')


def test_pictures(tmp_path):
    model = nested(keras)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("dot", b"digraph")):
        path = tmp_path / f"model.{kind}"
        keras.utils.plot_model(
            model, path, show_shapes=True, show_layer_names=True, expand_nested=True, dpi=60, rankdir="LR"
        )
        assert path.read_bytes().startswith(start)
    text = (tmp_path / "model.svg").read_text()
    ElementTree.fromstring(text)
    for word in ("first (Dense)", "in_model (Dense)", "Output shape: (None, 1)", "inner_model"):
        assert word in text
    width, height = struct.unpack(">II", (tmp_path / "model.png").read_bytes()[16:24])
    assert width > height > 0
    dot = keras.utils.model_to_dot(model, splines="curved", rankdir="BT", dpi=40)
    dot.write_png(tmp_path / "again.png")
    dot.write_svg(tmp_path / "again.svg")
    assert dot._repr_svg_() == (tmp_path / "again.svg").read_text()  # the same bytes each time


def test_boxes_do_not_overlap():
    boxes = [drawing.Box(f"n{i}", "x" * (i % 7 + 3)) for i in range(12)]
    edges = [drawing.Edge(f"n{i}", f"n{j}") for i in range(12) for j in (i + 1, i + 3, i + 5) if j < 12]
    places, routes = drawing._layout(boxes, edges, sideways=False)
    solid = [place for place in places if place.box is not None]
    for i, a in enumerate(solid):
        for b in solid[:i]:
            across = abs(a.center[0] - b.center[0]) >= (a.size[0] + b.size[0]) / 2
            along = abs(a.center[1] - b.center[1]) >= (a.size[1] + b.size[1]) / 2
            assert across or along
    assert len(routes) == len(edges)


def test_notebooks_get_an_image(tmp_path, monkeypatch):
    made = types.SimpleNamespace(SVG=lambda filename: ("svg", filename), Image=lambda filename: ("image", filename))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=made))
    for kind, expected in (("svg", "svg"), ("png", "image")):
        path = str(tmp_path / f"x.{kind}")
        assert keras.utils.plot_model(sequential(keras), path, dpi=20) == (expected, path)


def test_wrong_options_are_refused(tmp_path):
    def refusal(call):
        with pytest.raises(ValueError) as caught:
            call()
        return str(caught.value)

    model = sequential(keras)
    assert refusal(lambda: keras.utils.model_to_dot(model, rankdir="XY")) == (
        "`rankdir` must be one of 'TB', 'BT', 'LR', 'RL', got 'XY'; choose one."
    )
    assert refusal(lambda: keras.utils.plot_model(model, tmp_path / "x.gif")) == (
        "The format must be one of png, svg, pdf, jpg, jpeg, dot, got 'gif'; use 'png'."
    )
    unbuilt = keras.Sequential([keras.layers.Dense(2)], name="open")
    assert refusal(lambda: keras.utils.plot_model(unbuilt)) == (
        "open is not built, so its graph is not known; call build, or the model on data, first."
    )
