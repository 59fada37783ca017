"""Plots diagnostics of each layer during training, from the records of a run, as a PNG file."""

import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from seqjax.diagnostics.pictures import _figure, _save

PANELS = {  # prefix of names -> title and axis label; the first three axes are logarithmic
    "gradient_norm": ("Gradient norm by layer", "|g|"),
    "update_ratio": ("Update-to-weight ratio", "|w' - w| / |w|"),
    "carry_gradient": ("Gradient of the carry through the last output", "|dL / d carry|"),
    "gate": ("Gates: fraction of steps, mean over units", "open above 0.9, shut below 0.1"),
}
DRAWN = {"gradient_norm", "update_ratio", "carry_gradient_start", "carry_gradient_end", "gate_open", "gate_shut"}
LEGEND = 12  # lines listed in a legend


def plot_diagnostics(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> pathlib.Path | None:
    """Plots the records of kind "diagnostics", one panel per kind of quantity.

    Args:
      path: the PNG file to write.
      records: records of the metrics file.

    Returns:
      The path; None if there are no such records.

    Example:
      >>> import tempfile
      >>> records = [{"kind": "diagnostics", "step": n, "update_ratio/rnn/0": 1 / n, "gate_open/network0/layer1/f": 0.5} for n in (1, 2)]
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plot_diagnostics(pathlib.Path(folder) / "diagnostics.png", records).name
      'diagnostics.png'
    """
    records = [record for record in records if record["kind"] == "diagnostics"]
    if not records:
        return None
    names = [name for name in dict.fromkeys(name for record in records for name in record) if name.split("/")[0] in DRAWN]
    figure = _figure((13, 8))
    for axes, (start, (title, label)) in zip(figure.subplots(2, 2).flat, PANELS.items()):
        lines = [name for name in names if name.startswith(start)]
        for place, name in enumerate(lines):
            values = [math.nan if record.get(name) is None else record[name] for record in records]
            shown = name.removeprefix(start).lstrip("_/") if place < LEGEND else None
            axes.plot([record["step"] for record in records], values, marker="." if len(records) < 60 else None, label=shown)
        axes.set(title=title, ylabel=label, xlabel="step")
        if start == "gate":
            axes.set_ylim(-0.02, 1.02)
        elif any((record.get(name) or 0) > 0 for name in lines for record in records):
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
        if lines:
            axes.legend(fontsize=7)
    return _save(figure, path)
