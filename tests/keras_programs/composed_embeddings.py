"""Embeddings composed of smaller tables inside layers, and the dot product of two towers."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(72)
    users, movies, dim, buckets = 10, 12, 4, 4

    class QREmbedding(keras.layers.Layer):
        def __init__(self, vocab, embedding_dim, num_buckets, name=None):
            super().__init__(name=name)
            self.num_buckets = num_buckets
            self.q_embeddings = layers.Embedding(num_buckets, embedding_dim)
            self.r_embeddings = layers.Embedding(num_buckets, embedding_dim)

        def call(self, inputs):
            quotient_index = ops.floor_divide(inputs, self.num_buckets)
            remainder_index = ops.mod(inputs, self.num_buckets)
            return ops.multiply(self.q_embeddings(quotient_index), self.r_embeddings(remainder_index))

    class MDEmbedding(keras.layers.Layer):
        def __init__(self, blocks_vocab, blocks_dims, base_embedding_dim, name=None):
            super().__init__(name=name)
            self.num_blocks = len(blocks_vocab)
            keys, values, indices = [], [], []
            for i, v in enumerate(blocks_vocab):
                keys += v
                values += [i] * len(v)
                indices += list(range(len(v)))
            self.to_block, self.to_index = np.array(values), np.array(indices)
            self.block_embedding_encoders, self.block_embedding_projectors = [], []
            for i in range(self.num_blocks):
                self.block_embedding_encoders.append(layers.Embedding(len(blocks_vocab[i]), blocks_dims[i]))
                if blocks_dims[i] == base_embedding_dim:
                    self.block_embedding_projectors.append(layers.Lambda(lambda x: x))
                else:
                    self.block_embedding_projectors.append(layers.Dense(units=base_embedding_dim))

        def call(self, inputs):
            block = ops.take(self.to_block, inputs)
            index = ops.take(self.to_index, inputs)
            out = 0.0
            for i in range(self.num_blocks):
                e = self.block_embedding_encoders[i](ops.where(block == i, index, 0))
                e = self.block_embedding_projectors[i](e)
                out = out + e * ops.expand_dims(ops.cast(block == i, "float32"), -1)
            return out

    user_input = layers.Input(name="user_id", shape=(), dtype="int32")
    movie_input = layers.Input(name="movie_id", shape=(), dtype="int32")
    ue = QREmbedding(users, dim, buckets, name="user_embedding")(user_input)
    me = MDEmbedding([[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]], [4, 2], dim, name="movie_embedding")(movie_input)
    logits = layers.Dot(axes=1, name="dot_similarity")([ue, me])
    prediction = keras.activations.sigmoid(logits) * 5
    model = keras.Model(inputs=[user_input, movie_input], outputs=prediction, name="baseline_model")
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
    )
    u, m, y = r.integers(0, users, 40), r.integers(0, movies, 40), r.integers(1, 6, 40).astype("float32")
    h = model.fit([u, m], y, batch_size=8, epochs=2, validation_split=0.2, verbose=0, shuffle=False)
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "p": model.predict([u, m], verbose=0),
        "weights": [str(w.shape) for w in model.weights],
    }
