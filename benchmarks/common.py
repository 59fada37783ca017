"""Shared by all benchmarks: the hardware, the summary of repeats, and saving results."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "dm-haiku", "equinox", "keras")


def hardware() -> dict[str, Any]:
    """Processor, cores, load, and versions of the installed packages, as far as the system reports them."""
    cpu = platform.processor()
    if (info := pathlib.Path("/proc/cpuinfo")).exists():
        names = [line.split(":")[1].strip() for line in info.read_text().split("\n") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions,
    }


def summary(values: list[float]) -> dict[str, float]:
    """Minimum, median and number of repeated measurements."""
    return {"min": min(values), "median": statistics.median(values), "repeats": len(values)}


def save(name: str, result: dict[str, Any]) -> None:
    """Prints a result and writes it to results/NAME.json."""
    text = json.dumps(result | {"where": hardware()}, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
