"""Classifies short texts: words to numbers, padding, embedding, convolution, pooling.

python examples/text.py [--small]
"""

import sys

import numpy as np

from flaxmodels import Sequential, layers
from training import Trainer

GOOD = ["a wonderful film", "i loved every minute", "great acting and a great story", "warm and funny"]
BAD = ["a terrible film", "i hated every minute", "poor acting and a dull story", "cold and boring"]
FILLERS = ["honestly", "the camera work was fine", "i saw it yesterday", "with my family", "on a rainy day", "overall"]
LENGTH = 16


def reviews(count, seed):
    """Makes short reviews of random phrases, and their labels: 1 is good, 0 is bad."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    texts = []
    for label in labels:
        phrases = [rng.choice(GOOD if label else BAD), *rng.choice(FILLERS, 2, replace=False)]
        texts.append(" ".join(rng.permutation(phrases)))
    return texts, labels


def to_ids(texts, vocabulary):
    """Returns word ids [N, LENGTH]; 0 is padding, 1 is an unknown word."""
    ids = np.zeros((len(texts), LENGTH), "int32")
    for row, text in zip(ids, texts, strict=True):
        words = [vocabulary.get(word, 1) for word in text.split()[:LENGTH]]
        row[: len(words)] = words
    return ids


def main(small: bool) -> None:
    texts, labels = reviews(200 if small else 2000, seed=0)
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(words, start=2)}
    model = Sequential([
        layers.Embedding(len(vocabulary) + 2, 16, input_shape=(LENGTH,)),
        layers.Conv1D(32, 3, activation="relu"),
        layers.GlobalMaxPooling1D(),
        layers.Dropout(0.3),
        layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    trainer = Trainer(model, "adam", "binary_crossentropy", metrics=["accuracy"])
    trainer.fit(to_ids(texts, vocabulary), labels, epochs=8 if small else 5, validation_split=0.2, verbose=2)

    new = ["overall a wonderful surprise", "i hated it honestly"]
    for text, (probability,) in zip(new, trainer.predict(to_ids(new, vocabulary)), strict=True):
        print(f"{probability:.2f} good: {text}")


if __name__ == "__main__":
    main(small="--small" in sys.argv)
