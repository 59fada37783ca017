r"""A recurrent language model: learn real text, resume exactly, sample, score.

Papers: Zaremba, Sutskever and Vinyals 2014, "Recurrent Neural Network Regularization" (arXiv:1409.2329);
Karpathy, Johnson and Fei-Fei 2015, "Visualizing and Understanding Recurrent Networks" (arXiv:1506.02078).

    python -m experiments.language_model --workdir=/tmp/lm
        learns Python's own documentation, character by character (README.md has the time and the losses)
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
from ml_collections import ConfigDict, config_flags

from experiments.configs.language_model import FIELDS
from seqjax.data import TokenStream, Windows, encode_documents, load_corpus
from seqjax.decoding import scoring
from seqjax.decoding.text import TextSampler, check_known, score_texts
from seqjax.errors import UserError
from seqjax.models import LanguageModel, make_stack
from seqjax.text import BOS, EOS, PAD, UNK, CharTokenizer, NGramModel, WordTokenizer, tokenizer_from_dict
from seqjax.training import command, loop, losses, optimizers, reporting, settings, tbptt, workdir
from seqjax.training.checkpoints import Checkpoints

__doc__ += "\nConfig fields:\n\n" + settings.describe(FIELDS) + "\n"

CONFIG = command.define_config(pathlib.Path(__file__).parent / "configs" / "language_model.py", "char_small", FIELDS)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "sample", "score"], "What to do.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, plots.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "newest"], "evaluate, sample, score: which checkpoint to read.")
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
    command.keep_freed_memory()
    command.use_compilation_cache()
    folder = pathlib.Path(WORKDIR.value).expanduser()
    if MODE.value == "train":
        return train(folder, CONFIG.value)
    config = stored_config(folder)
    if MODE.value == "evaluate":
        return evaluate(folder, config)
    model, tokenizer, params, meta, step = load_model(folder, config)
    ends = meta["ends"]
    print(f"checkpoint of step {step}")
    act = draw_samples if MODE.value == "sample" else score
    act(model, tokenizer, config, params, ends)
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
    streams = {
        name: encode_documents(documents, tokenizer.encode, ends=corpus.ends, eos_id=EOS, reset=data.reset)
        for name, documents in parts.items()
        if documents
    }
    digest = hashlib.sha256()
    for stream in streams.values():
        digest.update(stream.tokens.tobytes() + stream.starts.tobytes())
    return Text(corpus.name, streams, corpus.ends, digest.hexdigest()), tokenizer


def fit_tokenizer(config: ConfigDict, documents):
    """A character or word tokenizer from the training documents."""
    options = {"min_count": config.tokenizer.min_count, "max_size": config.tokenizer.max_size or None}
    if config.tokenizer.kind == "char":
        if config.tokenizer.lower or config.tokenizer.pretokenized:
            raise UserError("tokenizer.lower and tokenizer.pretokenized are for words; set tokenizer.kind=word or leave them off")
        return CharTokenizer.fit(documents, **options)
    return WordTokenizer.fit(
        documents, lower=config.tokenizer.lower, pretokenized=config.tokenizer.pretokenized, **options
    )


def make_model(config: ConfigDict, vocab_size: int) -> LanguageModel:
    """The model that a config describes."""
    m = config.model
    dtype = None if m.dtype == "float32" else jnp.dtype(m.dtype)
    cell = make_stack(m.cell, m.hidden_size, m.num_layers, dropout=m.dropout, residual=m.residual, dtype=dtype)
    return LanguageModel(vocab_size, cell, m.embed_size, m.dropout, m.tie_embeddings, dtype)


def make_loss(model: LanguageModel, remat_every: int | None) -> tbptt.LossFn:
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
    loss_fn: tbptt.LossFn
    optimizer: Any
    schedule: Any
    mesh: Any
    state: tbptt.TrainState
    steps: int


def set_up(config: ConfigDict, vocab_size: int, windows_per_epoch: int, devices=None) -> Setup:
    """Builds everything that training changes, from the seed."""
    if bool(config.train.steps) == bool(config.train.epochs):
        raise UserError("give the length of the run as config.train.steps or as config.train.epochs, and set the other to 0")
    steps = config.train.steps or max(1, round(config.train.epochs * windows_per_epoch))
    s, o = config.schedule, config.optimizer
    schedule = optimizers.make_schedule(
        s.name, o.learning_rate, steps=steps, warmup_steps=s.warmup_steps, final_fraction=s.final_fraction,
        steps_per_epoch=windows_per_epoch, hold_epochs=s.hold_epochs, decay=s.decay,
    )  # fmt: skip
    optimizer = optimizers.make_optimizer(
        o.name, schedule, clip_norm=o.clip_norm, b1=o.b1, b2=o.b2, momentum=o.momentum, weight_decay=o.weight_decay
    )
    mesh = tbptt.make_mesh(config.data.batch_size, devices)
    model = make_model(config, vocab_size)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    params = jax.jit(model.init)(init_key, np.zeros((1, 1), np.int32))["params"]
    carry = jax.jit(model.initial_carry, static_argnums=1)(params, config.data.batch_size)
    state = tbptt.init_state(params, optimizer, carry, run_key, mesh)
    return Setup(model, make_loss(model, config.model.remat_every or None), optimizer, schedule, mesh, state, steps)


def make_windows(stream: TokenStream, config: ConfigDict) -> Windows:
    """The training windows; a window of 0 takes each stream whole, which is full backpropagation through time."""
    batch = config.data.batch_size
    window = config.data.window or max(1, -(-len(stream.tokens) // batch))
    return Windows(stream, batch, window, bos_id=BOS, pad_id=PAD, minimum=batch * window)


def figures(config: ConfigDict):
    """What is reported beside the loss in nats."""
    if config.tokenizer.kind == "char":
        return lambda nats: {"bits_per_character": losses.bits(nats)}
    return lambda nats: {"perplexity": losses.perplexity(nats)}


def evaluator(config: ConfigDict, setup: Setup, stream: TokenStream):
    """params -> nats over the whole stream, the carry passed on."""
    batch = config.data.eval_batch_size
    windows = Windows(stream, batch, config.data.eval_window, bos_id=BOS, pad_id=PAD)
    run = tbptt.make_evaluate(setup.loss_fn, tbptt.make_mesh(batch, list(setup.mesh.devices.flat)))
    return lambda params: run(params, setup.model.initial_carry(params, batch), windows.one_pass())


def baseline(config: ConfigDict, folder: pathlib.Path, text: Text, vocab_size: int) -> dict[str, float]:
    """Validation nats of the n-gram model over the same tokens; counted once for a work folder."""
    order = config.ngram_order
    if not order:
        return {}
    path, name = folder / "baseline.json", f"{order}-gram Kneser-Ney"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("fingerprint") != text.fingerprint:
        model = NGramModel.fit(*text.streams["train"], order=order, vocab_size=vocab_size)
        known = {"fingerprint": text.fingerprint, "nats": model.nats(*text.streams["validation"])}
        workdir.write_atomically(path, json.dumps(known) + "\n")
    return {name: known["nats"]}


# Modes.


def train(folder: pathlib.Path, config: ConfigDict) -> int:
    """Starts the run of a work folder, or goes on with it."""
    settings.validate(config, FIELDS)
    if (folder / "config.json").exists():
        workdir.claim(folder, settings.to_json(config))  # says at once where the configs differ
    text, tokenizer = load_text(config)
    data = make_windows(text.streams["train"], config)
    setup = set_up(config, tokenizer.vocab_size, data.windows_per_epoch)
    with workdir.locked(folder):
        workdir.claim(folder, settings.to_json(config))
        describe(config, text, tokenizer, setup, data)
        baselines = baseline(config, folder, text, tokenizer.vocab_size)
        for name, nats in baselines.items():
            shown = "  ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in figures(config)(nats).items())
            print(f"baseline to beat: {name}, validation loss {nats:.4f}  {shown}")
        return run_training(folder, config, text, tokenizer, data, setup, baselines)


def run_training(folder, config, text, tokenizer, data, setup, baselines) -> int:
    """The part of train that holds the work folder."""
    checkpoints = Checkpoints(folder, keep=config.train.keep)
    meta = {"config": settings.to_json(config), "tokenizer": tokenizer.to_dict(), "ends": text.ends, "text": text.fingerprint}

    def same_run(saved):
        check_text(folder, text, saved)
        if saved["tokenizer"] != meta["tokenizer"]:
            raise UserError(f"the run in {folder} has another tokenizer, of another version of seqjax; use another --workdir")

    restored = loop.restore(checkpoints, setup.state, data, same_run)
    state, progress, first = restored or (setup.state, loop.Progress(), 0)
    if restored:
        print(f"going on from the checkpoint of step {first}" + (", which is the last" if first >= setup.steps else ""))
    step = tbptt.make_train_step(setup.loss_fn, setup.optimizer, setup.schedule, setup.mesh, clip_norm=config.optimizer.clip_norm)
    where = tbptt.batch_sharding(setup.mesh)
    validate = evaluator(config, setup, text.streams["validation"])
    task = loop.Task(
        step, lambda batch: jax.device_put(batch, where), lambda state: validate(state.params), figures(config),
        shown_sample(config, setup.model, tokenizer, text.ends),
    )  # fmt: skip
    t, s = config.train, config.schedule
    patience = s.patience if s.name == "plateau" else 0
    plan = loop.Plan(setup.steps, t.log_every, t.eval_every, t.checkpoint_every, t.max_skipped, patience, s.decay)
    print(f"ready after {time.perf_counter() - _BEGIN:.1f} s; Ctrl-C stops with a checkpoint, the same command goes on")
    with reporting.Reporter(folder, first_step=first, total_steps=setup.steps) as reporter:
        try:
            outcome = loop.fit(
                task, plan, state, data, progress=progress, reporter=reporter, checkpoints=checkpoints, meta=meta
            )
        finally:
            checkpoints.close()
    curves = reporting.plot_curves(folder, reporting.read_records(folder), baselines=baselines)
    best = "none yet" if outcome.progress.best is None else f"{outcome.progress.best:.4f}"
    done = int(outcome.state.step)
    print(f"step {done} of {setup.steps}, {outcome.progress.seconds / 60:.1f} minutes, best validation loss {best} nats")
    print(f"curves: {curves}")
    if outcome.signal is None:
        return 0
    print("stopped; the same command goes on from here")
    return 128 + outcome.signal


def check_text(folder: pathlib.Path, text: Text, saved: dict[str, Any]) -> None:
    """Refuses a text that is not the one a checkpoint was trained on."""
    if saved["text"] != text.fingerprint:
        raise UserError(f"the text {text.name} is not the one that the run in {folder} began with; restore it, or use another --workdir")


def describe(config, text, tokenizer, setup, data) -> None:
    """Prints what is about to be trained on what."""
    print(f"text: {text.name}; " + ", ".join(f"{part} {len(s.tokens):,} tokens" for part, s in text.streams.items()))
    unknown = np.mean(text.streams["validation"].tokens == UNK)
    print(f"vocabulary: {tokenizer.vocab_size:,} tokens; {unknown:.3%} of the validation tokens are unknown")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(setup.state.params))
    epochs = setup.steps / data.windows_per_epoch
    print(f"model: {setup.model.cell.name}, {parameters:,} parameters; {setup.steps:,} steps, {epochs:.1f} passes over the text")
    print(f"devices: {setup.mesh.size} {setup.mesh.devices.flat[0].platform}")


def stored_config(folder: pathlib.Path) -> ConfigDict:
    """The run's own config; flags that say otherwise are refused."""
    stored = ConfigDict(workdir.read_config(folder))
    settings.validate(stored, FIELDS)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if flags.FLAGS["config"].present or overrides:
        differ = settings.differences(settings.to_json(stored), settings.to_json(CONFIG.value))
        if differ:
            raise UserError(f"the run in {folder} has another config ({'; '.join(differ)}); leave the --config flags out")
    return stored.lock()


def load_model(folder: pathlib.Path, config: ConfigDict):
    """Reads a trained model: (model, tokenizer, params, meta, step)."""
    made = {}

    def target(meta):
        made["meta"], made["tokenizer"] = meta, tokenizer_from_dict(meta["tokenizer"])
        made["setup"] = set_up(config, made["tokenizer"].vocab_size, 1, jax.devices()[:1])
        return made["setup"].state

    checkpoints = Checkpoints(folder, keep=config.train.keep)
    restored = checkpoints.restore(target, mend=False, best=CHECKPOINT.value == "best")
    checkpoints.close()
    if restored is None:
        raise UserError(f"the run in {folder} has no checkpoint yet; train it first")
    return made["setup"].model, made["tokenizer"], restored.state.params, made["meta"], restored.step


def evaluate(folder: pathlib.Path, config: ConfigDict) -> int:
    """Prints the loss on a whole split, beside the n-gram baseline on the same tokens."""
    _, tokenizer, params, meta, step = load_model(folder, config)
    text, _ = load_text(config, tokenizer)
    check_text(folder, text, meta)
    if SPLIT.value not in text.streams:
        raise UserError(f"{text.name} has no {SPLIT.value} part; it has {', '.join(text.streams)}")
    stream = text.streams[SPLIT.value]
    setup = set_up(config, tokenizer.vocab_size, 1, jax.devices()[:1])
    results = {"model": evaluator(config, setup, stream)(params)}
    if config.ngram_order:
        ngram = NGramModel.fit(*text.streams["train"], order=config.ngram_order, vocab_size=tokenizer.vocab_size)
        results[f"{config.ngram_order}-gram Kneser-Ney"] = ngram.nats(*stream)
    print(f"checkpoint of step {step}, {SPLIT.value} part of {text.name}, {len(stream.tokens):,} tokens")
    for name, nats in results.items():
        shown = "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in figures(config)(nats).items())
        print(f"{name:<20} {nats:.4f} nats  {shown}")
    return 0


# Samples and scores.


def draw_samples(model, tokenizer, config: ConfigDict, params, ends: bool) -> None:
    """Prints --num_samples texts that begin with --prompt."""
    if not TOP_P.value > 0:
        raise UserError("--top_p=0 keeps nothing; give a value above 0, 1 keeps all")
    _say(check_known(tokenizer, PROMPT.value, "the prompt"))
    sampler = TextSampler(model, tokenizer, ends=ends, reset=config.data.reset)
    options = {"temperature": TEMPERATURE.value, "top_k": TOP_K.value, "top_p": TOP_P.value}
    key, number, length = jax.random.key(SEED.value), NUM_SAMPLES.value, LENGTH.value
    for place, text in enumerate(sampler(params, key, PROMPT.value, number=number, length=length, **options), 1):
        print(f"--- sample {place}\n{text}")


def shown_sample(config: ConfigDict, model, tokenizer, ends: bool):
    """The sample that the loop shows at evaluations, seeded by the step."""
    s = config.sample
    if not s.length:
        return None
    _say(check_known(tokenizer, s.prompt, "config.sample.prompt"))
    sampler = TextSampler(model, tokenizer, ends=ends, reset=config.data.reset)

    def sample(state: tbptt.TrainState) -> str:
        key = jax.random.fold_in(jax.random.key(config.seed), int(state.step))
        return sampler(state.params, key, s.prompt, length=s.length, temperature=s.temperature)[0]

    return sample


def score(model, tokenizer, config: ConfigDict, params, ends: bool) -> None:
    """Prints each --text with its log-probability and perplexity, the likeliest first."""
    if not TEXT.value:
        raise UserError('--mode=score needs a text: --text="..." once for each')
    for text in TEXT.value:
        _say(check_known(tokenizer, text, f"--text={text!r}"))
    scores = score_texts(model, params, tokenizer, TEXT.value, ends=ends, reset=config.data.reset)
    print("rank  log-probability  perplexity  text")
    for place, i in enumerate(scoring.rank(scores), 1):
        print(f"{place:>4}  {scores.log_prob[i]:>15.3f}  {scores.perplexity[i]:>10.3f}  {TEXT.value[i]}")


def _say(line: str) -> None:
    if line:
        print(line)


if __name__ == "__main__":
    command.run(main)
