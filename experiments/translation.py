r"""Translation with encoder and decoder: train, resume exactly, score with BLEU, see where attention looks, translate.

Papers: Sutskever, Vinyals and Le 2014, "Sequence to Sequence Learning with Neural Networks" (arXiv:1409.3215); Bahdanau, Cho
and Bengio 2014, "Neural Machine Translation by Jointly Learning to Align and Translate" (arXiv:1409.0473); Luong, Pham and
Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation" (arXiv:1508.04025).

    python -m experiments.translation --workdir=/tmp/dates
        learns to read dates written in 32 languages: minutes on two cores
    python -m experiments.translation --workdir=/tmp/dates --mode=evaluate --split=test
        BLEU, chrF, exact matches; attention_test.png and outputs_test.jsonl in the work folder
    echo "7. März 2024" | python -m experiments.translation --workdir=/tmp/dates --mode=predict --n_best=3
    python -m experiments.translation --workdir=/tmp/m30k --config=experiments/configs/translation.py:multi30k \
        --config.data.path=train.de.gz --config.data.target_path=train.en.gz \
        --config.data.validation_path=val.de.gz --config.data.validation_target_path=val.en.gz \
        --config.data.test_path=test_2016_flickr.de.gz --config.data.test_target_path=test_2016_flickr.en.gz

Modes: train (starts or goes on by itself; Ctrl-C stops it with a checkpoint), evaluate, predict. All but train read the config
from the work folder. Presets: --config=experiments/configs/translation.py:NAME.
"""

import time

_BEGIN = time.perf_counter()

import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.configs.translation import FIELDS, PRESETS
from seqjax.data.buckets import BucketBatches, choose_boundaries, one_pass, within_limit
from seqjax.data.collate import collate_pairs
from seqjax.data.parallel import Pairs, ParallelSet, load_parallel
from seqjax.data.tables import read_inputs
from seqjax.decoding.translation import Hypothesis, Translator
from seqjax.diagnostics import sequences
from seqjax.errors import UserError
from seqjax.models import make_cell, make_stack
from seqjax.models.seq2seq import Seq2Seq, make_attention
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
from seqjax.text import BOS, EOS, fit_tokenizer, tokenizer_from_dict
from seqjax.training import loop, losses, metrics, train_step

__doc__ += "\nConfig fields, as dates sets them:\n\n" + settings.describe(FIELDS, PRESETS["dates"]) + "\n"

CONFIG = command.define_config(pathlib.Path(__file__).parent / "configs" / "translation.py", "dates", FIELDS)
flags.adopt_module_key_flags(command)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "predict"], "What to do.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures.", required=True)
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", WHICH, "evaluate, predict: which checkpoint to read, or the mean of the newest.")
SPLIT = flags.DEFINE_enum("split", "validation", ["train", "validation", "test"], "evaluate: on which part of the data.")
BEAM = flags.DEFINE_integer("beam", 5, "evaluate, predict: hypotheses that go on at each step; 1 is greedy.", 1)
PENALTY = flags.DEFINE_float("length_penalty", 1.0, "evaluate, predict: 0 favours short outputs, more favours longer ones.", 0.0)
INPUT = flags.DEFINE_string("input", "-", "predict: a file of sources, a line each (or .jsonl with a field text); - is standard input.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "jsonl"], "predict: for people, or a line of JSON for each source.")
N_BEST = flags.DEFINE_integer("n_best", 1, "predict: how many translations of each source.", 1)
ATTENTION = flags.DEFINE_string("attention", "", "predict: a PNG file to draw attention into, of the first six sources.")


def main() -> int:
    """Does what --mode says."""
    process.keep_freed_memory()
    process.use_compilation_cache()
    reading = dict.fromkeys(("checkpoint", "beam", "length_penalty"), ("evaluate", "predict"))
    predicting = dict.fromkeys(("input", "format", "n_best", "attention"), "predict")
    command.refuse_idle_flags(MODE.value, reading | predicting | {"split": "evaluate"})
    folder = pathlib.Path(WORKDIR.value).expanduser()
    if MODE.value == "train":
        return train(folder, CONFIG.value)
    config = command.stored_config(folder, FIELDS)
    {"evaluate": evaluate, "predict": predict}[MODE.value](folder, config)
    return 0


# Data and model.


class Facts(NamedTuple):
    """What the model must know of the data; kept in every checkpoint, JSON-able."""

    fingerprint: str
    tokenizers: list[dict[str, Any]]  # of the source and the target
    boundaries: list[int]  # the buckets' lengths


def load_data(config: ConfigDict) -> ParallelSet:
    """Reads the pairs that a config names."""
    d = config.data
    return load_parallel(
        d.source, name=d.name, path=d.path, target_path=d.target_path, validation_path=d.validation_path,
        validation_target_path=d.validation_target_path, test_path=d.test_path, test_target_path=d.test_target_path,
        data_dir=d.data_dir, source_language=d.source_language, target_language=d.target_language,
        validation_fraction=d.validation_fraction, seed=d.seed,
    )  # fmt: skip


def fit_tokenizers(config: ConfigDict, pairs: Pairs) -> list[Any]:
    """Of the source and the target; the same one twice where they are joint."""
    t = config.tokenizer
    options = {"vocab_size": t.vocab_size, "min_count": t.min_count, "lower": t.lower}
    fit = functools.partial(fit_tokenizer, t.kind, **options)
    return [fit([*pairs.source, *pairs.target])] * 2 if t.joint else [fit(pairs.source), fit(pairs.target)]


class Tokens(NamedTuple):
    """Pairs as token ids."""

    source: list[np.ndarray]
    target: list[np.ndarray]

    def lengths(self) -> np.ndarray:
        """Of the buckets that the pairs need: the longer side, the target with <eos>."""
        return np.array([max(len(source), len(target) + 1) for source, target in zip(*self)])


def encode(tokenizers: list[Any], pairs: Pairs) -> Tokens:
    """Pairs as token ids."""
    source, target = tokenizers
    return Tokens([source.encode(text) for text in pairs.source], [target.encode(text) for text in pairs.target])


def make_model(config: ConfigDict, sizes: list[int]) -> Seq2Seq:
    """The model that a config describes, for vocabularies of these sizes."""
    m = config.model
    dtype = None if m.dtype == "float32" else jnp.dtype(m.dtype)
    encoder = make_stack(
        m.cell, m.hidden_size, m.num_layers, dropout=m.dropout, input_dropout=0.0,
        recurrent_dropout=m.recurrent_dropout, bidirectional=True, dtype=dtype,
    )  # fmt: skip
    layers = tuple(make_cell(m.cell, m.hidden_size, dtype=dtype) for _ in range(m.num_layers))
    return Seq2Seq(
        *sizes, encoder, layers, m.embed_size, make_attention(m.attention, m.hidden_size), m.input_feeding,
        dropout=m.dropout, share_embeddings=m.share_embeddings, tie_embeddings=m.tie_embeddings, dtype=dtype,
    )  # fmt: skip


def make_loss(model: Seq2Seq, config: ConfigDict) -> train_step.LossFn:
    """Cross-entropy of the target's tokens; nothing is carried from batch to batch."""
    smoothing, sampling = config.loss.label_smoothing, config.model.scheduled_sampling

    def loss_fn(params, carry, batch, rng):
        noise, samples = {}, None
        if rng is not None:
            dropout, choice = jax.random.split(rng)
            noise = {"train": True, "rngs": {"dropout": dropout}}
            samples = jax.random.bernoulli(choice, sampling, batch.inputs.shape) if sampling else None
        out = model.apply({"params": params}, batch.source, batch.source_lengths, batch.inputs, samples=samples, **noise)
        sums = losses.token_cross_entropy(out.logits, batch.targets, batch.mask, smoothing=smoothing if noise else 0.0)
        correct = (jnp.argmax(out.logits, axis=-1) == batch.targets) & batch.mask
        return carry, sums._replace(counts={"token_accuracy": jnp.sum(correct, dtype=jnp.float32)})

    return loss_fn


def figures(means: dict[str, float]) -> dict[str, float]:
    """What is reported: nats and perplexity for a token, and what decoding gave where it was done."""
    if "bleu" not in means:  # of training, whose loss may be smoothed
        return means
    return {"loss": means["loss"], "perplexity": losses.perplexity(means["loss"])} | means


class Setup(NamedTuple):
    """Model, optimiser and first state."""

    tokenizers: list[Any]
    model: Seq2Seq
    loss_fn: train_step.LossFn
    recipe: Recipe
    mesh: Any
    state: train_step.TrainState
    translator: Translator


def set_up(config: ConfigDict, facts: Facts, batches_per_epoch: int | None) -> Setup:
    """Builds everything that training changes, from the seed; without an epoch's length, for reading a model only."""
    recipe, mesh = make_recipe(config, batches_per_epoch), data_mesh(config)
    tokenizers = [tokenizer_from_dict(d) for d in facts.tokenizers]
    model = make_model(config, [tokenizer.vocab_size for tokenizer in tokenizers])
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    one = np.ones((1, 1), np.int32)
    params = jax.jit(model.init)(init_key, one, one[0], one)["params"]
    state = train_step.init_state(params, recipe.optimizer, (), run_key, mesh, averaged=averaged_params(config))
    translator = Translator(model, batch_size=config.data.eval_batch_size, boundaries=facts.boundaries)
    return Setup(tokenizers, model, make_loss(model, config), recipe, mesh, state, translator)


def evaluator(config: ConfigDict, setup: Setup, tokens: Tokens, boundaries: list[int]):
    """params -> {"loss": nats, ...} of teacher forcing over all pairs."""
    batch = config.data.eval_batch_size
    run = train_step.make_evaluate(setup.loss_fn, train_step.make_mesh(batch, list(setup.mesh.devices.flat)))
    collate = collate_pairs(tokens.source, tokens.target, BOS, EOS)
    lengths = tokens.lengths()
    return lambda params: run(params, (), (made for _, made in one_pass(lengths, collate, batch, boundaries)))


def score(config: ConfigDict, outputs: list[str], references: tuple[str, ...]) -> dict[str, float]:
    """What outputs are worth, and the error that the criterion makes of it."""
    exact = metrics.exact_match(outputs, references) / len(references)
    found = {"bleu": metrics.bleu(outputs, references).score, "exact": exact}
    if config.criterion != "loss":
        found["error"] = 1 - (found["exact"] if config.criterion == "exact" else found["bleu"] / 100)
    return found


def make_task(config: ConfigDict, setup: Setup, data: ParallelSet, facts: Facts) -> loop.Task:
    """What the training loop needs to know."""
    where, recipe = train_step.batch_sharding(setup.mesh), setup.recipe
    step = train_step.make_train_step(
        setup.loss_fn, recipe.optimizer, recipe.schedule, setup.mesh, clip_norm=recipe.clip_norm,
        averaged=averaged_params(config), ema_decay=config.optimizer.ema,
    )  # fmt: skip
    pairs = data.parts["validation"]
    tokens = encode(setup.tokenizers, pairs)
    validate = evaluator(config, setup, tokens, facts.boundaries)

    def run(state):
        params = shown_params(config, state)
        outputs = [setup.tokenizers[1].decode(ids) for ids in setup.translator.greedy(params, tokens.source)]
        return validate(params) | score(config, outputs, pairs.target)

    return loop.Task(
        step=step,
        place_batch=lambda batch: jax.device_put(batch, where),
        evaluate=run,
        figures=figures,
        sample=functools.partial(shown_sample, config, setup, pairs, tokens),
        criterion="loss" if config.criterion == "loss" else "error",
    )


def shown_sample(config: ConfigDict, setup: Setup, pairs: Pairs, tokens: Tokens, state: train_step.TrainState) -> str:
    """Three translations of the validation part, others at each evaluation."""
    start = 3 * int(state.step) % len(pairs.source)
    outputs = setup.translator.greedy(shown_params(config, state), tokens.source[start : start + 3])
    return "\n".join(
        f"{source} -> {setup.tokenizers[1].decode(ids)} ({target})"
        for source, ids, target in zip(pairs.source[start:], outputs, pairs.target[start:])
    )


# Modes.


def train(folder: pathlib.Path, config: ConfigDict) -> int:
    """Starts the run of a work folder, or goes on with it."""
    reporting.require_extras()
    settings.validate(config, FIELDS)
    settings.make_absolute(config, *(f"data.{part}{side}path" for part in ("", "validation_", "test_") for side in ("", "target_")))
    workdir.refuse_another_config(folder, settings.to_json(config), FIELDS)
    data = load_data(config)
    tokenizers = fit_tokenizers(config, data.parts["train"])
    tokens = encode(tokenizers, data.parts["train"])
    keep = within_limit(tokens.lengths(), config.data.max_length, "pairs")
    tokens = Tokens(*([side[i] for i in keep] for side in tokens))
    lengths = tokens.lengths()
    boundaries = choose_boundaries(lengths, config.data.buckets)
    facts = Facts(data.fingerprint, [tokenizer.to_dict() for tokenizer in tokenizers], list(boundaries))
    collate = collate_pairs(tokens.source, tokens.target, BOS, EOS)
    batches = BucketBatches(lengths, collate, config.data.batch_size, boundaries, seed=config.seed)
    setup = set_up(config, facts, batches.batches_per_epoch)
    task = make_task(config, setup, data, facts)
    with workdir.locked(folder):
        workdir.claim(folder, settings.to_json(config), FIELDS)
        describe(data, setup, batches)
        saved = {"config": settings.to_json(config), "facts": facts._asdict()}
        outcome = session.run(
            folder, task, make_plan(config, setup.recipe.steps), setup.state, batches, meta=saved, keep=config.train.keep,
            begin=_BEGIN, check_meta=functools.partial(check_data, folder, data),
        )  # fmt: skip
        curves = reporting.plot_curves(folder, reporting.read_records(folder), baselines={})
    best = outcome.progress.best
    found = "not evaluated yet" if best is None else f"best validation {shown_best(config, best)}"
    return session.conclude(outcome, setup.recipe.steps, found, curves)


def shown_best(config: ConfigDict, best: float) -> str:
    """The best value of the criterion for people."""
    if config.criterion == "loss":
        return f"loss {best:.4f}"
    return f"exact {1 - best:.2%}" if config.criterion == "exact" else f"BLEU {100 * (1 - best):.2f} (greedy)"


def check_data(folder: pathlib.Path, data: ParallelSet, saved: dict[str, Any]) -> None:
    """Refuses pairs that are not those a checkpoint was trained on."""
    workdir.refuse_other_data(folder, f"the pairs of {data.name}", data.fingerprint, saved)


def describe(data: ParallelSet, setup: Setup, batches: BucketBatches) -> None:
    """Prints what is about to be trained on what."""
    print(f"pairs: {data.name}")
    for part, pairs in data.parts.items():
        print(f"  {part:<10} {len(pairs.source):>9,}")
    for note in data.notes:
        print(f"  {note}")
    print("vocabularies: " + " and ".join(f"{tokenizer.vocab_size:,}" for tokenizer in setup.tokenizers))
    print(batches.summary("tokens"))
    copies = metrics.bleu(list(data.parts["validation"].source), list(data.parts["validation"].target))
    print(f"baseline: the source copied, validation BLEU {copies.score:.2f}")
    number = sum(leaf.size for leaf in jax.tree.leaves(setup.state.params))
    epochs = setup.recipe.steps / batches.batches_per_epoch
    print(f"model: {number:,} parameters\nrun: {setup.recipe.steps:,} steps, {epochs:.1f} passes, on {devices_line(setup.mesh)}")


class Trained(NamedTuple):
    """A model read from a checkpoint."""

    setup: Setup
    facts: Facts
    params: Any


def load_model(folder: pathlib.Path, config: ConfigDict) -> Trained:
    """Reads the checkpoint of a run that --checkpoint names."""
    made = {}

    def target(meta):
        facts = Facts(**meta["facts"])
        made.update(facts=facts, setup=set_up(config, facts, None))
        return made["setup"].state

    report = print if MODE.value == "evaluate" else command.note  # predictions stand alone on standard output
    restored = read_model(folder, target, keep=config.train.keep, which=CHECKPOINT.value, report=report)
    return Trained(**made, params=shown_params(config, restored.state))


def translate(trained: Trained, sources: list[str], n_best: int) -> list[list[Hypothesis]]:
    """The n-best translations of each source, as tokens."""
    tokens = [trained.setup.tokenizers[0].encode(source) for source in sources]
    return trained.setup.translator.beam(
        trained.params, tokens, width=BEAM.value, n_best=n_best, length_penalty=PENALTY.value
    )


def evaluate(folder: pathlib.Path, config: ConfigDict) -> None:
    """Prints loss, BLEU, chrF and exact matches on a whole part beside the baseline, and draws where attention looks."""
    trained = load_model(folder, config)
    data = load_data(config)
    check_data(folder, data, {"facts": trained.facts._asdict()})
    pairs = command.chosen_part(data, SPLIT.value)
    tokens = encode(trained.setup.tokenizers, pairs)
    loss = evaluator(config, trained.setup, tokens, trained.facts.boundaries)(trained.params)["loss"]
    begin = time.perf_counter()
    found = [row[0] for row in translate(trained, list(pairs.source), 1)]
    outputs = [trained.setup.tokenizers[1].decode(best.tokens) for best in found]
    seconds = time.perf_counter() - begin
    print(f"{SPLIT.value} part of {data.name}, {len(outputs):,} pairs, beam {BEAM.value}, {seconds:.0f} s")
    print(f"loss {loss:.4f}  perplexity {losses.perplexity(loss):.4g}")
    for name, texts in (("model", outputs), ("source copied", list(pairs.source))):
        scores, right = metrics.bleu(texts, list(pairs.target)), metrics.exact_match(texts, pairs.target)
        low, high = metrics.accuracy_interval(right, len(texts))
        print(f"{name}: BLEU {scores.score:.2f}  chrF {scores.chrf:.2f}  exact {right / len(texts):.2%} ({low:.2%} to {high:.2%})")
    print(f"sacrebleu {scores.signature}")
    by_language(data, outputs)
    rows = (dict(zip(("source", "target", "output"), row)) for row in zip(pairs.source, pairs.target, outputs))
    print(workdir.write_json_lines(folder / f"outputs_{SPLIT.value}.jsonl", rows))
    draw_attention(folder / f"attention_{SPLIT.value}.png", config, trained, list(pairs.source), found)


def by_language(data: ParallelSet, outputs: list[str]) -> None:
    """Exact matches by the language of the source, where the data say which it is; the worst first."""
    languages = data.languages.get(SPLIT.value)
    if languages:
        right: dict[str, list[bool]] = {}
        for language, output, target in zip(languages, outputs, data.parts[SPLIT.value].target):
            right.setdefault(language, []).append(output == target)
        shares = sorted((np.mean(found), language) for language, found in right.items())
        print(f"{len(shares)} languages: " + "  ".join(f"{language} {share:.1%}" for share, language in shares))


def draw_attention(path: pathlib.Path, config: ConfigDict, trained: Trained, sources: list[str], found: list[Hypothesis]) -> None:
    """Draws where attention looked for the first six sources."""
    if config.model.attention == "none":
        return
    encoder, decoder = trained.setup.tokenizers
    maps = []
    for source, best in list(zip(sources, found))[:6]:
        if len(encoder.encode(source)):
            weights = trained.setup.translator.attention(trained.params, encoder.encode(source), best.tokens)
            maps.append((weights, [*(decoder.vocabulary[i] for i in best.tokens), "<eos>"], encoder.tokenize(source)))
    if maps:
        report = print if MODE.value == "evaluate" else command.note
        report(str(sequences.plot_attentions(path, maps)))


def predict(folder: pathlib.Path, config: ConfigDict) -> None:
    """Translates --input, a line after the other."""
    if ATTENTION.value and config.model.attention == "none":
        raise UserError(f"the run in {folder} has no attention to draw; leave --attention out")
    sources = read_inputs(INPUT.value)
    trained = load_model(folder, config)
    found = translate(trained, sources, N_BEST.value)
    for source, rows in zip(sources, found):
        texts = [trained.setup.tokenizers[1].decode(h.tokens) for h in rows]
        if FORMAT.value == "jsonl":
            answers = [{"text": text, "score": h.score, "log_prob": h.log_prob, "finished": h.finished} for text, h in zip(texts, rows)]
            print(json.dumps({"source": source, "translations": answers}, ensure_ascii=False))
        elif N_BEST.value == 1:
            print(texts[0])
        else:
            print(source)
            print(sequences.n_best(texts, [h.score for h in rows]))
    if ATTENTION.value:
        draw_attention(pathlib.Path(ATTENTION.value), config, trained, sources, [rows[0] for rows in found])


if __name__ == "__main__":
    command.run(main)
