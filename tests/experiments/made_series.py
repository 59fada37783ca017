"""Made-up time series: two of days with a week in them, missing values, and covariates of every kind."""

import pathlib

import numpy as np
from made import Data

FUTURE = 6  # days after the last value, of which the holidays are known


def write_series(path: pathlib.Path, seed: int = 0, steps: int = 120) -> pathlib.Path:
    """Long form: shop, day, sales, holiday (known in the future), visitors (known in the past only), and a region."""
    rng, lines = np.random.default_rng(seed), ["shop,day,sales,holiday,visitors,region"]
    for shop, (size, region) in {"north": (10, "a"), "south": (200, "b")}.items():
        week = np.array([0, 1, 2, 1, 3, 4, 2])
        holiday = (rng.random(steps + FUTURE) < 0.1).astype(int)
        sales = size * (5 + week[np.arange(steps) % 7] - 3 * holiday[:steps] + 0.5 * rng.normal(size=steps))
        for t, day in enumerate(np.datetime64("2024-01-01") + np.arange(steps + FUTURE)):
            known = f"{holiday[t]}"
            if t >= steps:
                lines.append(f"{shop},{day},,{known},,{region}")
            else:
                value = "" if t % 29 == 5 else f"{sales[t]:.2f}"
                lines.append(f"{shop},{day},{value},{known},{sales[t] / size + rng.normal():.3f},{region}")
    path.write_text("\n".join(lines) + "\n")
    return path


SERIES = Data(
    lambda folder: write_series(folder / "shops.csv"),
    lambda folder: {
        "data.source": "file", "data.path": folder / "shops.csv", "data.time_field": "day", "data.value_field": "sales",
        "data.series_field": "shop", "data.known_fields": "holiday", "data.past_fields": "visitors",
        "data.static_fields": "region",
    },
    lambda folder: write_series(folder / "shops.csv", seed=1),
)  # fmt: skip
