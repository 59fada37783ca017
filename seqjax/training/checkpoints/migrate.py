"""Migrates checkpoints of older formats to the current one, step by step: the meta and the state's leaves.

The formats so far:

    0   before optimizer.ema existed: the state has no average
    1   batch statistics in the carry; the average of the parameters alone, or the pair (parameters, carry) for images;
        the meta holds what the model must know about the data under `facts`, or beside the config for language models
    2   batch statistics in `model_state`; the average is the pair (params, model_state); the meta is that of `to_2`
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seqjax.training.checkpoints.trees import Path

Meta = dict[str, Any]
Leaves = dict[Path, np.ndarray]


def format_of(meta: Meta) -> int:
    """The format of a checkpoint with SEAL.json, which does not record it.

    Example:
      >>> format_of({"config": {"optimizer": {"name": "adam"}}})
      0
    """
    return 1 if "ema" in meta["config"]["optimizer"] else 0


def meta_to_1(meta: Meta) -> Meta:
    """Format 0 had no average, no early stopping, and no counts beside the loss."""
    config = meta["config"] | {"optimizer": {"ema": 0.0} | meta["config"]["optimizer"]}
    progress = {"counts": {}, "without_best": 0} | meta["progress"]
    return meta | {"config": config, "progress": progress}


def leaves_to_1(leaves: Leaves) -> Leaves:
    """Without an average, its tree has no leaves."""
    return leaves


def meta_to_2(meta: Meta) -> Meta:
    """One meta for all experiments."""
    if "facts" in meta:
        spec = {name: value for name, value in meta["facts"].items() if name != "fingerprint"}
        fingerprint = meta["facts"]["fingerprint"]
    else:
        spec, fingerprint = {"tokenizer": meta["tokenizer"], "ends": meta["ends"]}, meta["text"]
    return {
        "experiment": _experiment(spec),
        "config": meta["config"],
        "spec": spec,
        "fingerprint": fingerprint,
        "made_from": {},
        "began_from": None,
        "data": meta["data"],
        "progress": meta["progress"],
    }


def _experiment(spec: Mapping[str, Any]) -> str:
    """The experiment of a format 1 checkpoint, recognised by what it alone stored about its data."""
    known = {
        "ends": "language_model",
        "shape": "image_classification",
        "tags": "tagging",
        "tokenizers": "translation",
        "classes": "text_classification",  # images have classes too, and a shape
    }
    return next((name for key, name in known.items() if key in spec), "")


def leaves_to_2(leaves: Leaves) -> Leaves:
    """Batch statistics leave the carry; an average of the parameters alone becomes the first of a pair."""
    params = {path[1:] for path in leaves if path[0] == "params"}
    alone = any(("average", *path) in leaves for path in params)

    def renamed(path: Path) -> Path:
        if path[:2] == ("carry", "batch_stats"):
            return ("model_state", *path[1:])
        return ("average", "0", *path[1:]) if alone and path[0] == "average" else path

    return {renamed(path): leaf for path, leaf in leaves.items()}


META: tuple[Callable[[Meta], Meta], ...] = (meta_to_1, meta_to_2)
LEAVES: tuple[Callable[[Leaves], Leaves], ...] = (leaves_to_1, leaves_to_2)


def with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Adds settings that did not exist when a config was saved.

    Args:
      config: nested dicts.
      defaults: the default of every setting, by dotted name.

    Returns:
      Nested dicts; existing settings are unchanged.

    Example:
      >>> with_defaults({"optimizer": {"name": "sgd"}}, {"optimizer.name": "adam", "optimizer.ema": 0.0})
      {'optimizer': {'name': 'sgd', 'ema': 0.0}}
    """
    full = {name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    for name, value in defaults.items():
        *above, last = name.split(".")
        place = full
        for part in above:
            place[part] = dict(place.get(part, {}))
            place = place[part]
        place.setdefault(last, value)
    return full
