"""Cases of layers that Keras computes with TensorFlow: arguments, data to adapt to, and inputs.

`tests/recorded/record_strings.py` records Keras' answers. This file imports neither library.
"""

WORDS = [["b", "a", "c", "a"], ["c", "a", "", "d"], ["a", "c", "b", "[UNK]"]]
MORE = [["a", "z", "", "d"], ["b", "y", "x", "a"]]
COLUMN = [["a"], ["b"], ["zz"], [""]]
NUMBERS = [[3, 1, 2, 1], [2, 1, 0, 7], [1, 2, 3, -1]]
MORE_NUMBERS = [[1, 99, 0, 7], [3, 98, -5, 1]]
TEXTS = [
    "The cat, the DOG!",
    "  a dog\tran\n(quickly)  ",
    "É clair: it's an-other été",
    "",
    "the the quick-brown fox & the dog",
    "non breaking\x1cspace 你好",
]
LONG = [
    "x" * n + chr(65 + n % 26) for n in (0, 1, 2, 3, 6, 7, 8, 14, 15, 16, 30, 31, 33, 62, 63, 64, 65, 127, 130, 300)
]
NAMES = ["Rome", "Oslo", "", "naïve", "東京", *LONG]

# (class, arguments, data to adapt to or None, inputs)
CASES: list[tuple[str, dict, object, object]] = [
    ("StringLookup", {}, WORDS, MORE),
    ("StringLookup", {}, ["b", "a", "c", "c"], "a"),
    ("StringLookup", {"mask_token": ""}, WORDS, MORE),
    ("StringLookup", {"max_tokens": 3, "num_oov_indices": 1}, WORDS, MORE),
    ("StringLookup", {"num_oov_indices": 3}, WORDS, [NAMES]),
    ("StringLookup", {"num_oov_indices": 3, "salt": 7}, WORDS, [NAMES]),
    ("StringLookup", {"num_oov_indices": 3, "salt": [133, 137], "mask_token": "Rome"}, WORDS, [NAMES]),
    ("StringLookup", {"num_oov_indices": 0, "vocabulary": ["a", "b"]}, None, [["b", "a"]]),
    ("StringLookup", {"vocabulary": ["[UNK]", "a", "b"]}, None, MORE),
    ("StringLookup", {"vocabulary": ["", "[UNK]", "a", "b"], "mask_token": ""}, None, MORE),
    (
        "StringLookup",
        {"vocabulary": ["a", "b"], "oov_token": "?", "invert": True, "mask_token": ""},
        None,
        [[0, 1, 2, 3, 9]],
    ),
    ("StringLookup", {"vocabulary": ["a", "b"], "invert": True}, None, [[0, 1, 2]]),
    *[
        ("StringLookup", {"output_mode": mode, "mask_token": mask, **more}, WORDS, inputs)
        for mode in ("one_hot", "multi_hot", "count", "tf_idf")
        for mask in (None, "")
        for more in ({}, {"max_tokens": 9, "pad_to_max_tokens": True})
        for inputs in (MORE, COLUMN, MORE[0])
    ],
    (
        "StringLookup",
        {"output_mode": "tf_idf", "vocabulary": ["a", "b"], "idf_weights": [0.5, 0.25]},
        None,
        MORE,
    ),
    (
        "StringLookup",
        {"output_mode": "tf_idf", "vocabulary": ["[UNK]", "a", "b"], "idf_weights": [0.75, 0.5, 0.25]},
        None,
        MORE,
    ),
    ("IntegerLookup", {}, NUMBERS, MORE_NUMBERS),
    ("IntegerLookup", {"mask_token": 0}, NUMBERS, MORE_NUMBERS),
    ("IntegerLookup", {"max_tokens": 4}, NUMBERS, MORE_NUMBERS),
    ("IntegerLookup", {"num_oov_indices": 3}, NUMBERS, MORE_NUMBERS),
    ("IntegerLookup", {"num_oov_indices": 3, "oov_method": "farmhash"}, NUMBERS, MORE_NUMBERS),
    ("IntegerLookup", {"num_oov_indices": 3, "oov_method": "farmhash", "salt": 5}, NUMBERS, MORE_NUMBERS),
    ("IntegerLookup", {"vocabulary": [10, 20, 30], "invert": True, "mask_token": 0}, None, [[0, 1, 2, 4, 7]]),
    *[
        ("IntegerLookup", {"output_mode": mode, "mask_token": mask}, NUMBERS, MORE_NUMBERS)
        for mode in ("one_hot", "multi_hot", "count", "tf_idf")
        for mask in (None, 0)
    ],
    *[
        ("TextVectorization", {"standardize": standardize, "split": split}, TEXTS, TEXTS)
        for standardize in (None, "lower", "strip_punctuation", "lower_and_strip_punctuation")
        for split in ("whitespace", "character")
    ],
    ("TextVectorization", {"split": None}, TEXTS, TEXTS),
    ("TextVectorization", {"split": None}, [["A", "b"], ["c", "a!"]], [["a", "B"], ["c", "d"]]),
    ("TextVectorization", {"split": None, "output_sequence_length": 3}, [["a", "b"]], [["a", "b"], ["c", "d"]]),
    ("TextVectorization", {"ngrams": 2}, TEXTS, TEXTS),
    ("TextVectorization", {"ngrams": [3, 1], "output_mode": "count"}, TEXTS, TEXTS),
    ("TextVectorization", {"output_sequence_length": 3}, TEXTS, [[text] for text in TEXTS]),
    ("TextVectorization", {"output_sequence_length": 20, "max_tokens": 6}, TEXTS, TEXTS),
    ("TextVectorization", {"output_sequence_length": 4}, TEXTS, "the dog and the cat"),
    ("TextVectorization", {"vocabulary": ["the", "dog"]}, None, TEXTS),
    ("TextVectorization", {"vocabulary": ["", "[UNK]", "the", "dog"]}, None, TEXTS),
    *[
        ("TextVectorization", {"output_mode": mode, **more}, TEXTS, TEXTS)
        for mode in ("multi_hot", "count", "tf_idf")
        for more in ({}, {"max_tokens": 7}, {"max_tokens": 30, "pad_to_max_tokens": True})
    ],
    (
        "TextVectorization",
        {"output_mode": "tf_idf", "vocabulary": ["the", "dog"], "idf_weights": [0.5, 2.0]},
        None,
        TEXTS,
    ),
    *[
        ("Hashing", {"num_bins": bins, **more}, None, inputs)
        for bins in (1, 2, 1000)
        for more in ({}, {"salt": 133}, {"salt": [133, 137]}, {"mask_value": ""})
        for inputs in ([NAMES],)
    ],
    ("Hashing", {"num_bins": 1000}, None, [[0, 1, -7, 2**40]]),
    ("Hashing", {"num_bins": 1000}, None, [[0.0, 1.9, -7.9]]),
    ("Hashing", {"num_bins": 11, "mask_value": 7, "salt": 3}, None, [[7, 8, 9]]),
    *[
        ("Hashing", {"num_bins": 4, "output_mode": mode}, None, inputs)
        for mode in ("one_hot", "multi_hot", "count")
        for inputs in (MORE, COLUMN)
    ],
    ("HashedCrossing", {"num_bins": 5}, None, [["A", "B", "A", "B", "A"], [101, 101, 101, 102, 102]]),
    ("HashedCrossing", {"num_bins": 10007}, None, [NAMES, NAMES[::-1], list(range(-3, len(NAMES) - 3))]),
    ("HashedCrossing", {"num_bins": 5, "output_mode": "one_hot"}, None, [[["A"], ["B"]], [[101], [-102]]]),
    ("HashedCrossing", {"num_bins": 5, "output_mode": "one_hot"}, None, [["A", "B"], [101, -102]]),
    ("HashedCrossing", {"num_bins": 50}, None, ["A", 3]),
]
