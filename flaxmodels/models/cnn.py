"""Small convolutional networks for images."""

from flaxmodels import layers
from flaxmodels.building import Input, Model, Sequential


def simple_cnn(input_shape: tuple[int, int, int], num_category: int, name: str | None = None) -> Sequential:
    """Builds the small CNN of Keras' early MNIST example as a stack of layers.

    Conv2D(32, 3x3, relu), Conv2D(64, 3x3, relu), MaxPooling2D(2x2), Dropout(0.25), Flatten, Dense(128, relu),
    Dropout(0.5), Dense(num_category, softmax).

    Args:
        input_shape: Shape (H, W, C) of one image.
        num_category: Number of classes.
        name: Name of the model.

    Shapes: images [B, H, W, C] -> probabilities [B, num_category].

    Raises:
        ValueError: If the images are smaller than 6x6.

    Example:
        >>> simple_cnn(input_shape=(28, 28, 1), num_category=10).output_shape
        (None, 10)
    """
    return Sequential(
        [
            Input(input_shape),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(num_category, activation="softmax"),
        ],
        name=name,
    )


def functional_cnn(input_shape: tuple[int, int, int], num_category: int, name: str | None = None) -> Model:
    """Builds a small CNN that pools after each convolution, as a graph of layers.

    Conv2D(32, 3x3, relu), MaxPooling2D(2x2), Conv2D(64, 3x3, relu), MaxPooling2D(2x2), Flatten, Dense(128, relu),
    Dense(num_category, softmax).

    Args:
        input_shape: Shape (H, W, C) of one image.
        num_category: Number of classes.
        name: Name of the model.

    Shapes: images [B, H, W, C] -> probabilities [B, num_category].

    Raises:
        ValueError: If the images are smaller than 10x10.

    Example:
        >>> functional_cnn(input_shape=(28, 28, 1), num_category=10).output_shape
        (None, 10)
    """
    inputs = Input(shape=input_shape)
    x = layers.Conv2D(32, (3, 3), activation="relu")(inputs)
    x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Conv2D(64, (3, 3), activation="relu")(x)
    x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    outputs = layers.Dense(num_category, activation="softmax")(x)
    return Model(inputs=inputs, outputs=outputs, name=name)
