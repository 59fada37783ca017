"""Small helpers that several experiments share."""

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import models
from seqjax.data.pipeline.buckets import BucketBatches, one_pass, within_limit
from seqjax.data.readers.opening import unpacked_suffix
from seqjax.data.readers.tables import Format, read_inputs
from seqjax.diagnostics.sequences import n_best
from seqjax.errors import UserError, printable
from seqjax.run.experiment import Flag
from seqjax.run.settings import ConfigDict, one_of
from seqjax.typing import Cell


def with_settings(function: Callable[..., Any], group: ConfigDict, *arguments: Any, **others: Any) -> Any:
    """Calls a function with the settings of a group that match its parameter names.

    Args:
      function: has parameters named like the settings, such as `load_labelled`.
      group: of the config, such as config.data.
      *arguments: passed first.
      **others: further arguments; they override the settings.

    Example:
      >>> data = ConfigDict({"path": "a.txt", "seed": 3, "buckets": 5})
      >>> with_settings(lambda path, *, lower, seed: (path, lower, seed), data, lower=True)
      ('a.txt', True, 3)
    """
    parameters = list(inspect.signature(function).parameters)[len(arguments) :]
    return function(*arguments, **{name: group[name] for name in parameters if name in group} | others)


def make_stack(config: ConfigDict, **others: Any) -> Cell:
    """The recurrent layers of config.model: `seqjax.models.make_stack` with the settings that it has parameters for.

    Args:
      config: with model.cell, model.hidden_size, model.num_layers, model.dtype, and perhaps other arguments.
      **others: arguments that are not settings, or are called otherwise.

    Example:
      >>> model = {"cell": "gru", "hidden_size": 8, "num_layers": 2, "dropout": 0.5, "dtype": "float32"}
      >>> make_stack(ConfigDict({"model": model}), bidirectional=True).hidden_size
      16
    """
    return with_settings(models.make_stack, config.model, **{"dtype": compute_dtype(config)} | others)


class passes:
    """An iterable that calls `make` for a new iterator on each pass.

    Args:
      make: `make()` gives all of it, `make(index=i, count=n)` what one of n processes reads.

    Example:
      >>> twice = passes(lambda index=0, count=1: iter([1, 2, 3, 4][index::count]))
      >>> list(twice), list(twice), list(twice.shard(1, 2))
      ([1, 2, 3, 4], [1, 2, 3, 4], [2, 4])
    """

    def __init__(self, make: Callable[..., Iterable[Any]]):
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())

    def shard(self, index: int, count: int) -> "passes":
        """The share of one of several processes."""
        return passes(functools.partial(self._make, index=index, count=count))


def short_enough(lengths: Sequence[int] | np.ndarray, limit: int, items: str) -> np.ndarray:
    """Selects training sequences up to data.max_length; prints how many are left out.

    Args:
      lengths: of the sequences.
      limit: data.max_length; 0 takes all.
      items: what the sequences are, in the plural.

    Returns:
      Their places, (n,).

    Raises:
      UserError: all are longer.

    Example:
      >>> short_enough([3, 9, 4], 5, "pairs").tolist()
      left out of training: 1 of 3 pairs, longer than data.max_length=5
      [0, 2]
    """
    keep, total = within_limit(lengths, limit), len(lengths)
    if not len(keep):
        raise UserError(f"all training {items} are longer than data.max_length={limit}; raise it, or set it to 0 to keep all")
    if len(keep) < total:
        print(f"left out of training: {total - len(keep):,} of {total:,} {items}, longer than data.max_length={limit}")
    return keep


def bucketed(
    config: ConfigDict, lengths: Sequence[int] | np.ndarray, collate: Callable[..., Any], boundaries: Sequence[int], training: bool,
    *, short_first: bool = False,
) -> Any:  # fmt: skip
    """Batches of sequences padded to a few lengths: shuffled and endless in training, else one pass in order.

    Args:
      config: with seed, data.batch_size and data.eval_batch_size.
      lengths: of the sequences.
      collate: `(places, rows, steps) -> batch`.
      boundaries: the lengths that batches are padded to.
      training: which of the two.
      short_first: the first pass of training goes from short to long sequences, as in `BucketBatches`.

    Example:
      >>> config = ConfigDict({"seed": 0, "data": {"batch_size": 2, "eval_batch_size": 4}})
      >>> collate = lambda places, rows, steps: (places.tolist(), rows, steps)
      >>> list(bucketed(config, [3, 1, 5], collate, (3, 5), training=False))
      [([1, 0, 2], 4, 5)]
    """
    if training:
        order = {"seed": config.seed, "short_first": short_first}
        return BucketBatches(lengths, collate, config.data.batch_size, tuple(boundaries), **order)
    size = config.data.eval_batch_size
    return passes(lambda **shard: (batch for _, batch in one_pass(lengths, collate, size, boundaries, **shard)))


def compute_dtype(config: ConfigDict) -> Any:
    """The `dtype=` argument of a model for config.model.dtype: None for float32, the parameters' own dtype.

    Example:
      >>> compute_dtype(ConfigDict({"model": {"dtype": "bfloat16"}}))
      dtype(bfloat16)
    """
    return None if config.model.dtype == "float32" else jnp.dtype(config.model.dtype)


def input_texts(path: str, config: ConfigDict) -> list[str]:
    """Texts to make predictions for. A table is read with the format of the run's own tables, if it was trained on tables.

    Args:
      path: a file, or "-" for the standard input. Of a `.csv`, `.tsv` or `.jsonl` the texts are one field, that of the run's own
        tables or else "text"; of any other file they are the lines.
      config: of the run.

    Example:
      >>> import tempfile
      >>> data = {"source": "file", "text_field": "review", "delimiter": ";", "quoting": "double", "header": True, "encoding": "utf-8"}
      >>> with tempfile.NamedTemporaryFile(suffix=".csv") as file:
      ...     _ = file.write(b"id;review\\n1;a fine film\\n")
      ...     file.flush()
      ...     input_texts(file.name, ConfigDict({"data": data}))
      ['a fine film']
    """
    data = config.data
    own = {name: data[name] for name in Format._fields if name in data}
    encoding = own["encoding"] if "encoding" in own and path != "-" else "utf-8"  # standard input may have another encoding
    of_tables = len(own) == len(Format._fields) and data.source == "file" and not ("target_path" in data and data.target_path)
    format = Format(**own) if of_tables and unpacked_suffix(path) in (".csv", ".tsv") else Format(encoding=encoding)
    if not of_tables:
        return read_inputs(path, format=format)
    field = data.text_field if "text_field" in data else data.source_field or ("source" if data.header else "1")
    return read_inputs(path, field, format)


def prediction_flags(items: str, item: str) -> dict[str, Flag]:
    """The flags --input, which the mode gets as the lines of the file, and --format of a mode `predict`.

    Example:
      >>> list(prediction_flags("texts", "text"))
      ['input', 'format']
    """
    return {
        "input": Flag(
            "-", f"a file of {items}, one per line, or a table like the run's own; - is standard input.", ("predict",), read=input_texts
        ),
        "format": Flag("text", f"readable text, or one JSON line per {item}.", ("predict",), one_of("text", "jsonl")),
    }


def print_json(row: dict[str, Any]) -> None:
    """Prints a row as a line of JSON.

    Example:
      >>> print_json({"text": "7. März", "label": "de"})
      {"text": "7. März", "label": "de"}
    """
    print(json.dumps(row, ensure_ascii=False))


def print_translations(source: str, found: Sequence[Any], format: str, number: int) -> None:
    """Prints the outputs for one source: as a line of JSON, or as text: the best one, or the source and several with scores.

    Args:
      source: what was asked.
      found: the outputs with `text`, `score` and `to_json`, the best first.
      format: "jsonl" or "text".
      number: how many outputs were asked for.

    Example:
      >>> from types import SimpleNamespace
      >>> found = [SimpleNamespace(text="a house", score=-0.25), SimpleNamespace(text="house", score=-1.5)]
      >>> print_translations("ein Haus", found, "text", 2)
      ein Haus
      1  -0.2500  a house
      2  -1.5000  house
    """
    if format == "jsonl":
        print_json({"source": source, "translations": [row.to_json() for row in found]})
    elif number == 1:
        print(printable(found[0].text))
    else:
        print(printable(source) + "\n" + printable(n_best([row.text for row in found], [row.score for row in found])))
