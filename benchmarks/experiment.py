"""An experiment prepared for timing: its data, its batches, its step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from seqjax.run import driver, settings
from seqjax.run.experiment import Experiment
from seqjax.training import loop


class Ready(NamedTuple):
    """What a run of an experiment starts with."""

    config: ConfigDict
    dataset: Any
    spec: Any
    pipeline: Any  # at the first training batch
    setup: driver.Setup
    task: loop.Task


def config_of(experiment: Experiment, preset: str, changes: Mapping[str, Any] | None = None) -> ConfigDict:
    """The settings of a preset, with some changes."""
    return settings.build(experiment.fields, dict(experiment.presets[preset]) | dict(changes or {}))


def make_ready(experiment: Experiment, config: ConfigDict) -> Ready:
    """Loads the data and builds everything, as the driver does before it trains."""
    dataset = experiment.load(config)
    spec = experiment.prepare(config, dataset)
    pipeline = experiment.batches(config, spec, dataset.parts["train"], training=True)
    setup = driver.set_up(experiment, config, spec, pipeline.batches_per_epoch)
    return Ready(config, dataset, spec, pipeline, setup, driver.make_task(experiment, config, spec, dataset, setup))
