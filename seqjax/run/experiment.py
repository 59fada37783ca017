"""What an experiment is: its settings and a handful of functions. The driver does the rest.

An experiment is one file. It describes itself by an :class:`Experiment` and ends with

    if __name__ == "__main__":
        run.main(EXPERIMENT)

The path of a run through its functions:

    load(config)                                   -> Dataset: parts by name, fingerprint, notes
    prepare(config, dataset)                       -> Spec: what the model must know of the data, kept in every checkpoint
    build(config, spec)                            -> Model
    batches(config, spec, records, training=True)  -> a pipeline to train on
    batches(config, spec, records, training=False) -> an iterable of batches, in order, to evaluate on
    evaluate(trained, dataset, split, options)     -> Report
    modes[name](trained, options)                  -> predict, sample, score, ... of a trained model
"""

import json
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from seqjax.run.settings import ANYTHING, Check, ConfigDict, Field
from seqjax.training import metrics
from seqjax.training.train_step import LossFn

PyTree = Any
Options = types.SimpleNamespace  # the flags of a mode, by name


class Dataset(Protocol):
    """Data as `load` returns them; an experiment may add attributes of its own."""

    name: str
    parts: Mapping[str, Any]  # "train" and "validation", and "test" where there is one; each with a length
    fingerprint: str  # hash of the content: a run can only be resumed on the same data
    notes: Iterable[str]  # lines for the user: what was held out, left out or found twice
    made_from: Mapping[str, str]  # package -> version, where the content depends on one


class Pipeline(Protocol):
    """Batches that can stop and continue exactly (grain's protocol), and that several processes can share.

    `seqjax.data` has three: windows of a text, length buckets, shuffled images. One of your own needs no `shard` as long
    as it runs in a single process.
    """

    batches_per_epoch: int  # of whole batches, however many processes share them

    def __next__(self) -> Any:
        """The next batch; there is always one."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The iterator's state, JSON-able."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state from get_state."""
        ...

    def shard(self, index: int, count: int) -> "Pipeline":
        """The same batches, of which only rows index B / count up to (index + 1) B / count are made.

        One process of several reads each shard; one below the other they are the whole batches. The state is that of the
        whole, the same for every shard: a run may be resumed with another number of processes. `batches(...,
        training=False)` gives an iterable with the same method where evaluation is to be shared too.
        """
        ...


class Model(NamedTuple):
    """A network, its loss, and what it keeps from batch to batch."""

    module: Any  # the network itself, for the experiment's own modes
    init: Callable[[jax.Array], Mapping[str, PyTree]]  # key -> {"params": ..., and further collections: the model state}
    loss: LossFn  # (params, model_state, carry, batch, rng) -> (carry, model_state, Sums)
    metric: metrics.Metric = metrics.token_loss()  # the metric that summed batches are reported as
    initial_carry: Callable[[PyTree, int], PyTree] = lambda params, batch_size: ()
    tools: Any = None  # other objects the experiment makes once: tokenizers, a decoder, compiled functions


class Flag(NamedTuple):
    """A command-line flag of some modes: its type is that of its default; a list flag may be repeated."""

    default: Any
    text: str  # one line, for --help
    modes: tuple[str, ...]
    check: Check = ANYTHING
    read: Callable[[Any, ConfigDict], Any] | None = None  # (value, config) -> what the mode gets, read before the model is


class Report(NamedTuple):
    """The result of an evaluation."""

    scores: dict[str, dict[str, Any]]  # "model" and each baseline -> metric -> number, or (number, low, high) with its interval
    rows: Iterable[Mapping[str, Any]] = ()  # predictions, a JSON object each
    notes: Iterable[str] = ()  # further lines
    answers: Any = None  # for `pictures`


class Trained(NamedTuple):
    """A model with its weights, at the end of a run or in the middle of one."""

    config: ConfigDict
    spec: Any
    model: Model
    params: PyTree
    model_state: PyTree
    step: int
    report: Callable[[str], None] = print  # for lines that are not the output itself

    @property
    def variables(self) -> dict[str, PyTree]:
        """What `module.apply` takes."""
        return {"params": self.params, **dict(self.model_state or {})}


_FUNCTIONS = (
    "load", "prepare", "build", "batches", "check", "initialize", "describe", "baselines", "validate", "evaluate", "sample",
    "pictures",
)  # fmt: skip


class Experiment(NamedTuple):
    """An experiment; see the module for the order in which its functions are called."""

    name: str
    doc: str  # the file's docstring, shown by --help
    fields: Mapping[str, Field]
    presets: Mapping[str, Mapping[str, Any]]
    preset: str  # the default one
    load: Callable[[ConfigDict], Dataset]
    prepare: Callable[[ConfigDict, Dataset], Any]
    spec: type  # the NamedTuple that `prepare` returns
    build: Callable[[ConfigDict, Any], Model]
    batches: Callable[..., Any]
    evaluate: Callable[[Trained, Dataset, str, Options], Report] | None = None  # None: the metric over the part's batches
    modes: Mapping[str, Callable[[Trained, Options], None]] = {}
    flags: Mapping[str, Flag] = {}
    unit: str = "tokens"  # what one prediction is made for, in the plural
    records: str = "parts"  # what the data consist of, in the plural: texts, images, pairs
    criterion: Callable[[ConfigDict], str] = lambda config: "loss"  # the reported metric that selects the best checkpoint; lower is better
    check: Callable[[ConfigDict], None] | None = None  # refuses settings that do not fit each other
    initialize: Callable[..., tuple[PyTree, PyTree]] | None = None  # (config, spec, dataset, params, model_state) -> the last two
    describe: Callable[..., Iterable[str]] | None = None  # (config, spec, dataset, model) -> further lines at the start
    baselines: Callable[..., dict[str, dict[str, float]]] | None = None  # (config, dataset, split) -> name -> metrics
    validate: Callable[..., dict[str, float]] | None = None  # (trained, records, metrics) -> all metrics of an evaluation in training
    sample: Callable[[Trained, Dataset], str] | None = None  # samples shown at evaluations
    pictures: Callable[..., Iterable[Any]] | None = None  # (trained, dataset, split, report, folder) -> paths
    curve_labels: Callable[[ConfigDict, Any], Mapping[str, str]] = lambda config, spec: {}  # metric -> axis label in curves.png

    @classmethod
    def of(cls, module: str, **parts: Any) -> "Experiment":
        """The experiment that a module describes by its docstring and by what it defines under these names:

        FIELDS, PRESETS, Spec; load, prepare, build, batches; and where it has them check, initialize, describe, baselines,
        validate, evaluate, sample, pictures.

        Args:
          module: its `__name__`.
          **parts: the other attributes, and those that the module defines under another name.

        Raises:
          TypeError: the module lacks a part.
        """
        file = sys.modules[module]
        known = {"fields": "FIELDS", "presets": "PRESETS", "spec": "Spec", "doc": "__doc__"}
        found = {name: getattr(file, known.get(name, name), None) for name in (*known, *_FUNCTIONS)}
        path = pathlib.Path(getattr(file, "__file__", None) or module)
        found = {"name": path.stem, **{name: part for name, part in found.items() if part is not None}}
        missing = [known.get(n, n) for n in (*known, "load", "prepare", "build", "batches") if n not in found | parts]
        if missing:
            raise TypeError(f"the experiment {path} does not define {', '.join(missing)}")
        return cls(**found | parts)


def spec_to_json(spec: Any) -> dict[str, Any]:
    """A spec as JSON values, as every checkpoint holds it.

    Example:
      >>> class Spec(NamedTuple):
      ...     classes: tuple[str, ...]
      >>> spec_to_json(Spec(("cat", "dog")))
      {'classes': ['cat', 'dog']}
    """
    return json.loads(json.dumps(spec._asdict()))


def spec_from_json(experiment: Experiment, values: Mapping[str, Any]) -> Any:
    """Restores the spec from a checkpoint.

    Example:
      >>> class Spec(NamedTuple):
      ...     classes: list[str]
      >>> spec_from_json(types.SimpleNamespace(spec=Spec), {"classes": ["cat", "dog"]})
      Spec(classes=['cat', 'dog'])
    """
    return experiment.spec(**values)
