"""Language models for decoding speech: an n-gram of a text file, or a run of experiments/language_model.py."""

import importlib.util
import pathlib
import sys
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.data.readers.opening import is_folder, text_lines
from seqjax.decoding.fusion import IMPOSSIBLE, First, Fusion, ngram_fusion
from seqjax.errors import UserError
from seqjax.run import cli, driver
from seqjax.text import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, NGramModel


def read_fusion(path: str, tokenizer: Any, beside: str, *, order: int, weight: float, bonus: float) -> Fusion:
    """The language model that a path names.

    Args:
      path: a text file, whose lines an n-gram over the recogniser's labels is fitted on; or the work directory of a language model,
        whose tokens must be the recogniser's labels: characters with characters, words with words.
      tokenizer: of the recogniser.
      beside: a file in the folder of the experiments.
      order: of the n-gram.
      weight, bonus: as in `Fusion`.

    Raises:
      UserError: no such file or run, or one of other tokens.
    """
    if is_folder(path):
        return _recurrent(pathlib.Path(path), tokenizer, beside, weight, bonus)
    labels = [np.append(tokenizer.encode(" ".join(line.split())), EOS) for line in text_lines(path) if line.strip()]
    if not labels:
        raise UserError(f"{path} has no text; give a file with one text per line")
    tokens = np.concatenate(labels)
    starts = np.zeros(len(tokens), bool)
    starts[np.cumsum([0] + [len(each) for each in labels[:-1]])] = True
    known = tokens != UNK
    if not known.all():  # an n-gram across an unknown label would be wrong: restart after it
        starts[1:] |= ~known[:-1]
        tokens, starts = tokens[known], starts[known]
    model = NGramModel.fit(tokens, starts, order=order, vocab_size=tokenizer.vocab_size, excluded=(PAD, UNK, BOS))
    return ngram_fusion(model, weight=weight, bonus=bonus)


def _recurrent(folder: pathlib.Path, tokenizer: Any, beside: str, weight: float, bonus: float) -> Fusion:
    experiment = _experiment(pathlib.Path(beside).with_name("language_model.py")).EXPERIMENT
    options = types.SimpleNamespace(checkpoint="best", accept_changed_data=False)
    trained, _ = driver.read(experiment, cli.Command(mode="sample", workdir=folder, preset=None, given={}, options=options))
    other, known = trained.model.tools, {}
    for place, token in enumerate(other.vocabulary):
        known[token] = place
    if type(other) is not type(tokenizer):
        kind = trained.config.tokenizer.kind
        raise UserError(
            f"the language model in {folder} has another kind of tokens ({kind}) than the recogniser; train one with its tokenizer.kind"
        )
    ids = np.array([known.get(token, UNK) for token in tokenizer.vocabulary], np.int32)
    end = EOS if trained.spec.ends else -1
    never = np.array([token in SPECIAL_TOKENS and token != SPECIAL_TOKENS[EOS] for token in tokenizer.vocabulary])
    memory = trained.model.module.initial_carry(trained.params, 1)
    start = First(_without_rows(memory), BOS, end)
    return Fusion(_Step(trained.model.module), (trained.params, jnp.asarray(ids), jnp.asarray(never)), start, weight, bonus)


class _Step:
    """One step of a language model over the recogniser's labels."""

    def __init__(self, module: Any):
        self._module = module

    def __call__(self, params: Any, memory: Any, labels: Any) -> Any:
        weights, ids, never = params
        memory, logits = self._module.apply({"params": weights}, ids[labels][:, None], memory)
        return memory, jnp.where(never[None], IMPOSSIBLE, logits[:, 0][:, ids])


def _without_rows(memory: Any) -> Any:
    return jax.tree.map(lambda array: array[0], memory)


def _experiment(path: pathlib.Path) -> Any:
    spec = cast(Any, importlib.util.spec_from_file_location("language_model_of_speech", path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
