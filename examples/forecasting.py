"""Forecasts airline passengers with a GRU, and compares its error with that of forecasting the last value.

python examples/forecasting.py [--small]
"""

import sys

import numpy as np

from flaxmodels import Sequential, layers
from training import Trainer, datasets, optimizers, schedules


def main(small: bool) -> None:
    data = datasets.load("airline")  # windows of 12 months and the next month; 24 months for the test
    epochs = 5 if small else 100
    batches = -(-len(data.train) // 32)
    model = Sequential([layers.GRU(8 if small else 64, input_shape=(12, 1)), layers.Dense(1)])
    rate = schedules.CosineDecay(0.01, decay_steps=epochs * batches)
    trainer = Trainer(model, optimizers.Adam(rate), "mse", metrics=["mae"], seed=0)
    history = trainer.fit(data.train, epochs=epochs, validation_data=data.test, verbose=0)
    print(f"loss {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")

    x, y = data.test
    truth = data.info.restore(y)  # in thousands of passengers
    forecast = data.info.restore(trainer.predict(x))
    last = data.info.restore(x[:, -1])
    print(f"mean error of the model: {np.abs(forecast - truth).mean():.1f} {data.info.unit}")
    print(f"mean error of the last value: {np.abs(last - truth).mean():.1f} {data.info.unit}")

    # To forecast several months, each forecast is fed back as the newest month.
    window = x[:1]
    for month in range(3):
        value = trainer.predict(window)
        print(f"month {month + 1}: {data.info.restore(value)[0, 0]:.0f}, truth {truth[month, 0]:.0f}")
        window = np.concatenate([window[:, 1:], value[:, None]], axis=1)


if __name__ == "__main__":
    main(small="--small" in sys.argv)
