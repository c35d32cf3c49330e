"""A CTC loss that a layer adds, a model that is compiled without a loss, and a second model for decoding."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(8)
    w, hgt, chars, length = 16, 8, 5, 3

    class CTCLayer(layers.Layer):
        def __init__(self, name=None):
            super().__init__(name=name)

        def call(self, y_true, y_pred):
            input_length = ops.cast(ops.shape(y_pred)[1], dtype="int32") * ops.ones_like(y_true[:, 0], dtype="int32")
            label_length = ops.cast(ops.shape(y_true)[1], dtype="int32") * ops.ones_like(y_true[:, 0], dtype="int32")
            loss = ops.ctc_loss(
                ops.cast(y_true, "int32"), ops.log(y_pred + 1e-7), label_length, input_length, mask_index=chars
            )
            self.add_loss(ops.mean(loss))
            return y_pred

    input_img = layers.Input(shape=(w, hgt, 1), name="image", dtype="float32")
    labels = layers.Input(name="label", shape=(None,), dtype="float32")
    x = layers.Conv2D(4, (3, 3), activation="relu", kernel_initializer="he_normal", padding="same", name="Conv1")(
        input_img
    )
    x = layers.MaxPooling2D((2, 2), name="pool1")(x)
    x = layers.Reshape(target_shape=(w // 2, (hgt // 2) * 4), name="reshape")(x)
    x = layers.Dense(6, activation="relu", name="dense1")(x)
    x = layers.Dropout(0.0)(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.0))(x)
    x = layers.Dense(chars + 1, activation="softmax", name="dense2")(x)
    output = CTCLayer(name="ctc_loss")(labels, x)
    model = keras.models.Model(inputs=[input_img, labels], outputs=output, name="ocr_model_v1")
    model.compile(optimizer=keras.optimizers.Adam())
    imgs, ls = r.random((20, w, hgt, 1), dtype="float32"), r.integers(0, chars, (20, length)).astype("float32")
    es = keras.callbacks.EarlyStopping(monitor="val_loss", patience=10, restore_best_weights=True)
    h = model.fit(
        [imgs[:16], ls[:16]],
        batch_size=8,
        validation_data=([imgs[16:], ls[16:]], None),
        epochs=2,
        callbacks=[es],
        verbose=0,
        shuffle=False,
    )
    prediction_model = keras.models.Model(model.input[0], model.get_layer(name="dense2").output)
    preds = prediction_model.predict(imgs[:4], verbose=0)
    dec, logp = ops.ctc_decode(
        preds, sequence_lengths=np.ones(4, "int32") * preds.shape[1], strategy="greedy", mask_index=chars
    )
    return {
        "h": [h.history[n] for n in h.history],
        "n": list(h.history),
        "preds": preds,
        "dec": np.asarray(dec),
        "logp": np.asarray(logp),
        "weights": [str(w.shape) for w in model.weights],
    }
