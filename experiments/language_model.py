r"""A recurrent language model: learn real text, resume exactly, sample, score.

Papers: Zaremba, Sutskever and Vinyals 2014, "Recurrent Neural Network Regularization" (arXiv:1409.2329);
Karpathy, Johnson and Fei-Fei 2015, "Visualizing and Understanding Recurrent Networks" (arXiv:1506.02078).

    python -m experiments.language_model --workdir=/tmp/lm
        learns Python's own documentation, character by character: 2 minutes on two cores, validation loss about 1.26 nats
        (tiny Shakespeare, 1 MB: 1.56 nats as quickly; with the preset char_large 1.45 in 13 minutes)
    python -m experiments.language_model --workdir=/tmp/lm --config.data.source=file --config.data.path=book.txt
        learns a text of yours
    python -m experiments.language_model --workdir=/tmp/lm --mode=sample --prompt="The " --temperature=0.8 --num_samples=4
    python -m experiments.language_model --workdir=/tmp/lm --mode=score --text="the apple and pear salad" --text="..."
    python -m experiments.language_model --workdir=/tmp/lm --mode=evaluate --split=test

Modes: train (starts or goes on by itself; Ctrl-C stops it with a checkpoint), evaluate, sample, score. All but train read
the config from the work folder. Presets: --config=experiments/configs/language_model.py:NAME with NAME one of hello,
char_small (when nothing is said), char_large, word_small, word_medium.
"""

import time

_BEGIN = time.perf_counter()

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.configs.language_model import FIELDS, PRESETS
from seqjax.data import TokenStream, Windows, encode_documents, load_corpus
from seqjax.decoding import scoring
from seqjax.decoding.text import TextSampler, check_known, score_texts
from seqjax.errors import UserError
from seqjax.models import LanguageModel, make_stack
from seqjax.run import command, process, reporting, session, settings, workdir
from seqjax.run.recipe import (
    Recipe,
    averaged_params,
    data_mesh,
    devices_line,
    make_plan,
    make_recipe,
    shown_params,
)
from seqjax.run.trained import WHICH, read_model
from seqjax.text import BOS, EOS, PAD, UNK, CharTokenizer, NGramModel, WordTokenizer, tokenizer_from_dict
from seqjax.training import loop, losses, train_step

__doc__ += "\nConfig fields, as char_small sets them:\n\n" + settings.describe(FIELDS, PRESETS["char_small"]) + "\n"

CONFIG = command.define_config(pathlib.Path(__file__).parent / "configs" / "language_model.py", "char_small", FIELDS)
flags.adopt_module_key_flags(command)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample", "score"], "What to do.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, plots.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", WHICH, "evaluate, sample, score: which checkpoint to read, or the mean of the newest.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "evaluate: on which part of the data.")
PROMPT = flags.DEFINE_string("prompt", "", "sample: the text to go on from.")
TEMPERATURE = flags.DEFINE_float("temperature", 0.8, "sample: below 1 bolder, above 1 wilder, 0 always the likeliest.", 0.0)
TOP_K = flags.DEFINE_integer("top_k", 0, "sample: draw from the k likeliest only; 0 from all.", 0)
TOP_P = flags.DEFINE_float("top_p", 1.0, "sample: draw from the likeliest that have this probability together.", 0.0, 1.0)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "sample: how many.", 1)
LENGTH = flags.DEFINE_integer("length", 400, "sample: at most this many tokens.", 1)
SEED = flags.DEFINE_integer("seed", 0, "sample: another seed, other samples.", 0, 2**32 - 1)
TEXT = flags.DEFINE_multi_string("text", [], "score: a text to score; give the flag several times to rank several.")


class Text(NamedTuple):
    """The data as the model reads it."""

    name: str
    streams: dict[str, TokenStream]  # train, validation, and test where there is one
    ends: bool  # <eos> ends a document, and the model predicts it
    fingerprint: str  # of all streams


def main() -> int:
    """Does what --mode says."""
    process.keep_freed_memory()
    process.use_compilation_cache()
    sampling = ("prompt", "temperature", "top_k", "top_p", "num_samples", "length", "seed")
    belong = {"split": "evaluate", "text": "score", "checkpoint": ("evaluate", "sample", "score")}
    command.refuse_idle_flags(MODE.value, belong | dict.fromkeys(sampling, "sample"))
    folder = pathlib.Path(WORKDIR.value).expanduser()
    if MODE.value == "train":
        return train(folder, CONFIG.value)
    config = command.stored_config(folder, FIELDS)
    model = load_model(folder, config)
    {"evaluate": evaluate, "sample": draw_samples, "score": score}[MODE.value](folder, config, model)
    return 0


# Data and model.


def load_text(config: ConfigDict, tokenizer=None) -> tuple[Text, Any]:
    """Reads the corpus and turns it into streams of tokens, with a tokenizer fitted on the training part."""
    data = config.data
    corpus = load_corpus(
        data.source, name=data.name, path=data.path, validation_path=data.validation_path, test_path=data.test_path,
        documents=data.documents, validation_fraction=data.validation_fraction, data_dir=data.data_dir,
    )  # fmt: skip
    tokenizer = tokenizer or fit_tokenizer(config, corpus.train)
    parts = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
    streams, digest = {}, hashlib.sha256()
    for name, documents in parts.items():
        if documents:
            stream = encode_documents(documents, tokenizer.encode, ends=corpus.ends, eos_id=EOS, reset=data.reset)
            if not len(stream.tokens):
                raise UserError(f"the {name} part of {corpus.name} has no tokens; give some text")
            digest.update(stream.tokens.tobytes() + stream.starts.tobytes())
            streams[name] = stream
    return Text(corpus.name, streams, corpus.ends, digest.hexdigest()), tokenizer


def fit_tokenizer(config: ConfigDict, documents):
    """A character or word tokenizer from the training documents."""
    options = {"min_count": config.tokenizer.min_count, "max_size": config.tokenizer.max_size or None}
    if config.tokenizer.kind == "char":
        return CharTokenizer.fit(documents, **options)
    return WordTokenizer.fit(
        documents, lower=config.tokenizer.lower, pretokenized=config.tokenizer.pretokenized, **options
    )


def make_model(config: ConfigDict, vocab_size: int) -> LanguageModel:
    """The model that a config describes."""
    m = config.model
    dtype = None if m.dtype == "float32" else jnp.dtype(m.dtype)
    noise = {"dropout": m.dropout, "input_dropout": m.embed_dropout}
    cell = make_stack(m.cell, m.hidden_size, m.num_layers, **noise, residual=m.residual, dtype=dtype)
    return LanguageModel(vocab_size, cell, m.embed_size, m.dropout, m.tie_embeddings, dtype)


def make_loss(model: LanguageModel, remat_every: int | None) -> train_step.LossFn:
    """Cross-entropy of a window given the carry of the one before."""

    def loss_fn(params, carry, batch, rng):
        noise = {} if rng is None else {"rngs": {"dropout": rng}}
        carry, logits = model.apply(
            {"params": params}, batch.inputs, carry, resets=batch.resets, train=rng is not None, remat_every=remat_every, **noise
        )
        return carry, losses.token_cross_entropy(logits, batch.targets, batch.mask)

    return loss_fn


class Setup(NamedTuple):
    """Model, optimiser and first state."""

    model: LanguageModel
    loss_fn: train_step.LossFn
    recipe: Recipe
    mesh: Any
    state: train_step.TrainState


def set_up(config: ConfigDict, vocab_size: int, windows_per_epoch: int | None) -> Setup:
    """Builds everything that training changes, from the seed; without an epoch's length, for reading a model only."""
    recipe, mesh = make_recipe(config, windows_per_epoch), data_mesh(config)
    model = make_model(config, vocab_size)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    params = jax.jit(model.init)(init_key, np.zeros((1, 1), np.int32))["params"]
    carry = jax.jit(model.initial_carry, static_argnums=1)(params, config.data.batch_size)
    state = train_step.init_state(params, recipe.optimizer, carry, run_key, mesh, averaged=averaged_params(config))
    return Setup(model, make_loss(model, config.model.remat_every or None), recipe, mesh, state)


def make_windows(stream: TokenStream, config: ConfigDict) -> Windows:
    """The training windows; a window of 0 takes each stream whole, which is full backpropagation through time."""
    batch, window = config.data.batch_size, config.data.window
    minimum = batch * window or batch
    return Windows(stream, batch, window or -(-len(stream.tokens) // batch), bos_id=BOS, pad_id=PAD, minimum=minimum)


def figures(config: ConfigDict):
    """What is reported: the loss in nats, and the same in the unit that is usual."""
    if config.tokenizer.kind == "char":
        return lambda means: means | {"bits_per_character": losses.bits(means["loss"])}
    return lambda means: means | {"perplexity": losses.perplexity(means["loss"])}


def evaluator(config: ConfigDict, setup: Setup, stream: TokenStream):
    """params -> {"loss": nats} over the whole stream, the carry passed on."""
    batch = config.data.eval_batch_size
    windows = Windows(stream, batch, config.data.eval_window, bos_id=BOS, pad_id=PAD)
    run = train_step.make_evaluate(setup.loss_fn, train_step.make_mesh(batch, list(setup.mesh.devices.flat)))
    return lambda params: run(params, setup.model.initial_carry(params, batch), windows.one_pass())


def make_task(config: ConfigDict, setup: Setup, text: Text, tokenizer) -> loop.Task:
    """What the training loop needs to know."""
    where, recipe = train_step.batch_sharding(setup.mesh), setup.recipe
    step = train_step.make_train_step(
        setup.loss_fn, recipe.optimizer, recipe.schedule, setup.mesh, clip_norm=recipe.clip_norm,
        averaged=averaged_params(config), ema_decay=config.optimizer.ema,
    )  # fmt: skip
    validate = evaluator(config, setup, text.streams["validation"])
    return loop.Task(
        step=step,
        place_batch=lambda batch: jax.device_put(batch, where),
        evaluate=lambda state: validate(shown_params(config, state)),
        figures=figures(config),
        sample=shown_sample(config, setup.model, tokenizer, text.ends),
    )


def baseline(config: ConfigDict, folder: pathlib.Path, text: Text, vocab_size: int) -> float:
    """Validation nats of the n-gram model over the same tokens; counted once for a work folder."""
    path, key = folder / "baseline.json", f"{config.ngram_order}:{text.fingerprint}"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))[key])
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # not counted yet, or for another order or text
        model = NGramModel.fit(*text.streams["train"], order=config.ngram_order, vocab_size=vocab_size)
        nats = model.nats(*text.streams["validation"])
        workdir.write_atomically(path, json.dumps({key: nats}) + "\n")
        return nats


# Modes.


def train(folder: pathlib.Path, config: ConfigDict) -> int:
    """Starts the run of a work folder, or goes on with it."""
    reporting.require_extras()
    settings.validate(config, FIELDS)
    settings.make_absolute(config, "data.path", "data.validation_path", "data.test_path")
    workdir.refuse_another_config(folder, settings.to_json(config), FIELDS)
    text, tokenizer = load_text(config)
    data = make_windows(text.streams["train"], config)
    setup = set_up(config, tokenizer.vocab_size, data.windows_per_epoch)
    task = make_task(config, setup, text, tokenizer)
    with workdir.locked(folder):
        workdir.claim(folder, settings.to_json(config), FIELDS)
        describe(config, text, tokenizer, setup, data)
        baselines = {}
        if config.ngram_order:
            nats = baseline(config, folder, text, tokenizer.vocab_size)
            baselines[f"{config.ngram_order}-gram Kneser-Ney"] = nats
            print(f"baseline to beat: {config.ngram_order}-gram Kneser-Ney, validation {shown(config, nats)}")
        outcome = run_training(folder, config, text, tokenizer, data, setup, task)
        curves = reporting.plot_curves(folder, reporting.read_records(folder), baselines=baselines)
    best = outcome.progress.best
    found = "not evaluated yet" if best is None else f"best validation {shown(config, best)}"
    return session.conclude(outcome, setup.recipe.steps, found, curves)


def run_training(folder, config, text, tokenizer, data, setup, task) -> loop.Outcome:
    """Goes on from the newest checkpoint, or from the beginning, to the end or a signal."""
    saved = {"config": settings.to_json(config), "tokenizer": tokenizer.to_dict(), "ends": text.ends, "text": text.fingerprint}

    def check(meta):
        check_text(folder, text, meta)
        if meta["tokenizer"] != saved["tokenizer"]:
            raise UserError(f"the run in {folder} has another tokenizer, of another version of seqjax; use another --workdir")

    plan = make_plan(config, setup.recipe.steps)
    return session.run(
        folder, task, plan, setup.state, data, meta=saved, check_meta=check, keep=config.train.keep, begin=_BEGIN
    )


def check_text(folder: pathlib.Path, text: Text, saved: dict[str, Any]) -> None:
    """Refuses a text that is not the one a checkpoint was trained on."""
    if saved["text"] != text.fingerprint:
        raise UserError(f"the text {text.name} is not the one that the run in {folder} began with; restore it, or use another --workdir")


def shown(config: ConfigDict, nats: float) -> str:
    """A loss for people."""
    _, *derived = figures(config)({"loss": nats}).items()
    return f"loss {nats:.4f}  " + "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in derived)


def describe(config, text, tokenizer, setup, data) -> None:
    """Prints what is about to be trained on what."""
    print(f"text: {text.name}")
    for part, stream in text.streams.items():
        types, known = len(np.unique(stream.tokens)), np.mean(stream.tokens != UNK)
        print(f"  {part:<10} {len(stream.tokens):>12,} tokens, {types:,} types, coverage {known:.2%}")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(setup.state.params))
    print(f"model: {setup.model.cell.name}, vocabulary {tokenizer.vocab_size:,}, {parameters:,} parameters")
    epochs = setup.recipe.steps / data.windows_per_epoch
    print(f"run: {setup.recipe.steps:,} steps, {epochs:.1f} passes over the text, on {devices_line(setup.mesh)}")


class Trained(NamedTuple):
    """A model read from a checkpoint."""

    setup: Setup
    tokenizer: Any
    params: Any
    meta: dict[str, Any]
    step: int


def load_model(folder: pathlib.Path, config: ConfigDict) -> Trained:
    """Reads the checkpoint of a run that --checkpoint names."""
    made = {}

    def target(meta):
        tokenizer = tokenizer_from_dict(meta["tokenizer"])
        made.update(meta=meta, tokenizer=tokenizer, setup=set_up(config, tokenizer.vocab_size, None))
        return made["setup"].state

    restored = read_model(folder, target, keep=config.train.keep, which=CHECKPOINT.value)
    return Trained(**made, params=shown_params(config, restored.state), step=restored.step)


def evaluate(folder: pathlib.Path, config: ConfigDict, model: Trained) -> None:
    """Prints the loss on a whole split, beside the n-gram baseline on the same tokens."""
    text, _ = load_text(config, model.tokenizer)
    check_text(folder, text, model.meta)
    if SPLIT.value not in text.streams:
        raise UserError(f"{text.name} has no {SPLIT.value} part; it has {', '.join(text.streams)}")
    stream = text.streams[SPLIT.value]
    print(f"{SPLIT.value} part of {text.name}, {len(stream.tokens):,} tokens")
    nats = evaluator(config, model.setup, stream)(model.params)["loss"]
    print(f"{'model':<20} {shown(config, nats)}")
    if config.ngram_order:
        vocab_size = model.tokenizer.vocab_size
        ngram = NGramModel.fit(*text.streams["train"], order=config.ngram_order, vocab_size=vocab_size)
        print(f"{f'{config.ngram_order}-gram Kneser-Ney':<20} {shown(config, ngram.nats(*stream))}")


# Samples and scores.


def draw_samples(folder: pathlib.Path, config: ConfigDict, model: Trained) -> None:
    """Prints --num_samples texts that begin with --prompt."""
    if not TOP_P.value > 0:
        raise UserError("--top_p=0 keeps nothing; give a value above 0, 1 keeps all")
    _say(check_known(model.tokenizer, PROMPT.value, "the prompt"))
    sampler = TextSampler(model.setup.model, model.tokenizer, ends=model.meta["ends"], reset=config.data.reset)
    options = {"temperature": TEMPERATURE.value, "top_k": TOP_K.value, "top_p": TOP_P.value}
    key, number, length = jax.random.key(SEED.value), NUM_SAMPLES.value, LENGTH.value
    for place, text in enumerate(sampler(model.params, key, PROMPT.value, number=number, length=length, **options), 1):
        print(f"--- sample {place}\n{text}")


def shown_sample(config: ConfigDict, model, tokenizer, ends: bool):
    """The sample that the loop shows at evaluations, seeded by the step."""
    s = config.sample
    if not s.length:
        return None
    _say(check_known(tokenizer, s.prompt, "config.sample.prompt"))
    sampler = TextSampler(model, tokenizer, ends=ends, reset=config.data.reset)

    def sample(state: train_step.TrainState) -> str:
        key = jax.random.fold_in(jax.random.key(config.seed), int(state.step))
        return sampler(shown_params(config, state), key, s.prompt, length=s.length, temperature=s.temperature)[0]

    return sample


def score(folder: pathlib.Path, config: ConfigDict, model: Trained) -> None:
    """Prints each --text with its log-probability and perplexity, the likeliest first."""
    if not TEXT.value:
        raise UserError('--mode=score needs a text: --text="..." once for each')
    for text in TEXT.value:
        _say(check_known(model.tokenizer, text, f"--text={text!r}"))
    how = {"ends": model.meta["ends"], "reset": config.data.reset}
    scores = score_texts(model.setup.model, model.params, model.tokenizer, TEXT.value, **how)
    print("rank  log-probability  perplexity  text")
    for place, i in enumerate(scoring.rank(scores), 1):
        print(f"{place:>4}  {scores.log_prob[i]:>15.3f}  {scores.perplexity[i]:>10.3f}  {TEXT.value[i]}")


def _say(line: str) -> None:
    if line:
        print(line)


if __name__ == "__main__":
    command.run(main)
