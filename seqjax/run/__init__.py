"""The driver: what every experiment shares, once.

An experiment imports what it needs from here:

    from seqjax import run
    from seqjax.run import Field, Flag, at_least, fields, recipe
"""

from seqjax.run.command import load_trained, main
from seqjax.run.evaluation import metrics as measure
from seqjax.run.experiment import Dataset, Experiment, Flag, Model, Options, Pipeline, Report, Trained
from seqjax.run.parts import (
    bucketed,
    compute_dtype,
    make_stack,
    passes,
    prediction_flags,
    print_json,
    print_translations,
    short_enough,
    with_settings,
)
from seqjax.run.process import cache_folder
from seqjax.run.reporting import counted, printable, register_logger
from seqjax.run.scores import accuracy, confusion, ranked
from seqjax.run.settings import Field, above, at_least, one_of, within

__all__ = [
    "Dataset", "Experiment", "Field", "Flag", "Model", "Options", "Pipeline", "Report", "Trained", "above", "accuracy", "at_least",
    "bucketed", "cache_folder", "compute_dtype", "confusion", "counted", "load_trained", "main", "make_stack", "measure", "one_of",
    "passes", "prediction_flags", "print_json", "print_translations", "printable", "ranked", "register_logger", "short_enough",
    "with_settings", "within",
]  # fmt: skip
