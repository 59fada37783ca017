"""Shared by the benchmarks' plots: colour-blind-safe colours, one style, and saving files."""

import pathlib
from typing import Any

IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"

# The palette of Okabe and Ito.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
# That of seqjax.diagnostics.
STYLE = {"axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.3, "axes.titlesize": "medium", "figure.titlesize": "medium"}


def make(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), always a two-dimensional array, drawn without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


def save(figure: Any, name: str, made_from: str | None = None) -> None:
    """Writes a figure to docs/images/NAME.png, with its origin in the metadata."""
    import matplotlib.pyplot as plt

    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", dpi=120, metadata={"Description": made_from} if made_from else None)
    plt.close(figure)
