"""Learned transformations of point clouds with a regularizer of the program on outputs."""

import numpy as np


def program(keras):
    layers, ops = keras.layers, keras.ops
    r = np.random.default_rng(12)
    n = 16

    def conv_bn(x, filters):
        x = layers.Conv1D(filters, kernel_size=1, padding="valid")(x)
        x = layers.BatchNormalization(momentum=0.0)(x)
        return layers.Activation("relu")(x)

    def dense_bn(x, filters):
        x = layers.Dense(filters)(x)
        x = layers.BatchNormalization(momentum=0.0)(x)
        return layers.Activation("relu")(x)

    class OrthogonalRegularizer(keras.regularizers.Regularizer):
        def __init__(self, num_features, l2reg=0.001):
            self.num_features, self.l2reg = num_features, l2reg
            self.eye = ops.eye(num_features)

        def __call__(self, x):
            x = ops.reshape(x, (-1, self.num_features, self.num_features))
            xxt = ops.tensordot(x, x, axes=(2, 2))
            xxt = ops.reshape(xxt, (-1, self.num_features, self.num_features))
            return ops.sum(self.l2reg * ops.square(xxt - self.eye))

    def tnet(inputs, num_features):
        bias = keras.initializers.Constant(np.eye(num_features).flatten())
        reg = OrthogonalRegularizer(num_features)
        x = conv_bn(inputs, 4)
        x = conv_bn(x, 8)
        x = layers.GlobalMaxPooling1D()(x)
        x = dense_bn(x, 6)
        x = layers.Dense(
            num_features * num_features, kernel_initializer="zeros", bias_initializer=bias, activity_regularizer=reg
        )(x)
        feat_T = layers.Reshape((num_features, num_features))(x)
        return layers.Dot(axes=(2, 1))([inputs, feat_T])

    inputs = keras.Input(shape=(n, 3))
    x = tnet(inputs, 3)
    x = conv_bn(x, 4)
    x = tnet(x, 4)
    x = conv_bn(x, 8)
    x = layers.GlobalMaxPooling1D()(x)
    x = dense_bn(x, 6)
    x = layers.Dropout(0.0)(x)
    outputs = layers.Dense(3, activation="softmax")(x)
    model = keras.Model(inputs=inputs, outputs=outputs, name="pointnet")
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=keras.optimizers.Adam(learning_rate=0.001, epsilon=1e-3),
        metrics=["sparse_categorical_accuracy"],
    )
    x, y = r.normal(size=(20, n, 3)).astype("float32"), r.integers(0, 3, 20)
    h = model.fit(x, y, batch_size=5, epochs=2, validation_data=(x, y), verbose=0, shuffle=False)
    preds = model.predict(x[:4], verbose=0)
    return {
        "h": [h.history[k] for k in h.history],
        "n": list(h.history),
        "arg": ops.convert_to_numpy(ops.argmax(preds, -1)),
        "p": preds,
        "ev": model.evaluate(x, y, verbose=0),
        "weights": [str(w.shape) for w in model.weights],
    }
