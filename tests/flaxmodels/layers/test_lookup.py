"""Layers with a vocabulary, by hand-counted cases."""

import re

import numpy as np
import pytest

from flaxmodels import Input, layers
from flaxmodels.saving import schema
from training import keras

CITIES = ["Rome", "Oslo", "Rome", "Lima", "Rome", "Oslo"]


def test_adapt_sorts_by_count_and_then_backwards():
    layer = layers.StringLookup()
    layer.adapt(["b", "a", "c", "c"])
    assert layer.get_vocabulary() == ["[UNK]", "c", "b", "a"]
    assert layer.get_vocabulary(include_special_tokens=False) == ["c", "b", "a"]
    assert layer.vocabulary_size() == 4
    assert layer([["a", "z"], ["c", "b"]]).tolist() == [[3, 0], [1, 2]]


def test_one_hot_and_bytes():
    layer = layers.StringLookup(output_mode="one_hot")
    layer.adapt(np.array(CITIES))
    assert layer(np.array([[b"Oslo"], [b"Bonn"]])).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert layer.apply({}, "Rome").tolist() == [[0, 1, 0, 0]]


def test_a_masked_token_is_0_or_counts_nowhere():
    tokens = [["", "a", "a"]]
    assert layers.StringLookup(mask_token="", vocabulary=["a"])(tokens).tolist() == [[0, 2, 2]]
    assert layers.StringLookup(mask_token="", vocabulary=["a"], output_mode="count")(tokens).tolist() == [[0, 2]]


def test_invert_gives_tokens():
    layer = layers.StringLookup(vocabulary=["a", "b"], mask_token="", invert=True)
    assert layer([[0, 1, 2, 3, 9]]).tolist() == [["", "[UNK]", "a", "b", "[UNK]"]]
    assert layers.IntegerLookup(vocabulary=[7], invert=True)([1, 0]).tolist() == [7, -1]


def test_several_positions_for_unknown_integers():
    assert layers.IntegerLookup(vocabulary=[10], num_oov_indices=3)([10, 4, 5, 6]).tolist() == [3, 1, 2, 0]


def test_a_vocabulary_from_a_file_and_with_reserved_tokens(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a\nb\n")
    from_file = layers.StringLookup(vocabulary=str(path))
    assert from_file.get_vocabulary() == ["[UNK]", "a", "b"]
    assert layers.StringLookup(vocabulary=["[UNK]", "a", "b"]).get_vocabulary() == ["[UNK]", "a", "b"]
    (tmp_path / "numbers.txt").write_text("5\n6")
    assert layers.IntegerLookup(vocabulary=tmp_path / "numbers.txt")([6, 7]).tolist() == [2, 0]


def test_tf_idf_weights_the_counts():
    layer = layers.StringLookup(output_mode="tf_idf")
    layer.adapt([["a", "b"], ["a", "a"]])
    idf = np.log(1 + 2 / np.array([3, 2]))
    np.testing.assert_allclose(layer([["a", "a"], ["b", "z"]]), [[0, 2 * idf[0], 0], [idf.mean(), 0, idf[1]]], 1e-6)


def test_max_tokens_and_padding():
    layer = layers.StringLookup(max_tokens=5, output_mode="multi_hot", pad_to_max_tokens=True)
    layer.adapt(iter([["a", "b"], ["a"]]))
    assert layer([["a", "z"]]).tolist() == [[1, 1, 0, 0, 0]]


def test_copies_keep_what_adapt_found():
    layer = layers.TextVectorization(output_sequence_length=2)
    layer.adapt(["b a b"])
    assert layer.clone()(["a b c"]).tolist() == [[3, 2]]


def test_texts():
    layer = layers.TextVectorization(max_tokens=4)
    layer.adapt(["The cat, the dog.", "the cat"])
    assert layer.get_vocabulary() == ["", "[UNK]", "the", "cat"]
    assert layer([["The DOG!"], ["a cat the"]]).tolist() == [[2, 1, 0], [1, 3, 2]]


def test_ngrams_and_functions():
    layer = layers.TextVectorization(
        ngrams=2, split=lambda texts: [text.split("-") for text in texts], standardize=None
    )
    layer.adapt(["a-b"])
    assert layer.get_vocabulary(False) == ["b", "a b", "a"]
    upper = layers.TextVectorization(standardize=np.char.upper, split="character", vocabulary=["A"])
    assert upper(["aba"]).tolist() == [[2, 1, 2]]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: layers.StringLookup()(["a"]),
            "StringLookup has no vocabulary yet, got None; call adapt on data, or give `vocabulary`.",
        ),
        (
            lambda: layers.StringLookup(vocabulary=["a", "a"]),
            "`vocabulary` of StringLookup must have different tokens, got ['a'] more than once; list each token once.",
        ),
        (
            lambda: layers.StringLookup(vocabulary=["a"], num_oov_indices=0)(["b"]),
            "StringLookup with num_oov_indices=0 takes only tokens of its vocabulary, got ['b']; set num_oov_indices=1, "
            "or add them to the vocabulary.",
        ),
        (
            lambda: layers.StringLookup(vocabulary=["a"]).adapt(["b"]),
            "StringLookup cannot adapt to data, because it got a `vocabulary`; leave `vocabulary` out, or call "
            "set_vocabulary.",
        ),
        (
            lambda: layers.StringLookup(vocabulary=["a"])([1]),
            "StringLookup takes strings, got 1 of type int; convert the values with str, or use IntegerLookup for "
            "integers.",
        ),
        (
            lambda: layers.StringLookup(vocabulary=["a"])(Input((1,))),
            "StringLookup computes on the host, so it takes lists or arrays, got a symbol; apply the layer to the data "
            "before the model, such as model.fit(layer(x), y), or map it over the data source.",
        ),
        (
            lambda: layers.TextVectorization(ragged=True),
            "`ragged` of TextVectorization must be False, because all arrays are dense, got True; leave it out, and "
            "shorter sequences are padded with 0.",
        ),
        (
            lambda: layers.CategoryEncoding(3, sparse=True),
            "`sparse` of CategoryEncoding must be False, because all arrays are dense, got True; leave it out.",
        ),
        (
            lambda: layers.StringLookup(vocabulary="no such file"),
            "`vocabulary` of StringLookup must be a list or an existing text file, got 'no such file'.",
        ),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_mistakes(make, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make()


def test_a_description_cannot_name_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("secret\n")
    assert layers.StringLookup(vocabulary=str(path)).get_vocabulary() == ["[UNK]", "secret"]
    message = (
        f"The description of a StringLookup must hold the tokens of its vocabulary, got the path {str(path)!r}; "
        "make the layer in the program, StringLookup(vocabulary=path)."
    )
    for read in (
        lambda: schema.from_config({"class": "StringLookup", "config": {"vocabulary": str(path)}}),
        lambda: keras.layers.StringLookup.from_config({"vocabulary": str(path)}),
    ):
        with pytest.raises(ValueError) as caught:
            read()
        assert str(caught.value) == message
