"""Converts arrays, datasets and streams to batches on the device.

`arguments` makes a `Source` from the arguments of `fit`, a source makes a `Feed`, and a feed yields chunks of steps.
"""

from training.data.examples import Examples as Examples
from training.data.examples import as_examples as as_examples
from training.data.source import Chunk as Chunk
from training.data.source import Feed as Feed
from training.data.source import FeedOptions as FeedOptions
from training.data.source import Source as Source
