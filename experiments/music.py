r"""Polyphonic music, frame by frame: train on chorales or your own MIDI files, compose, harmonise a melody.

Papers: Boulanger-Lewandowski, Bengio and Vincent 2012, "Modeling Temporal Dependencies in High-Dimensional Sequences"
(arXiv:1206.6392), for the task, the data and the protocol; Bai, Kolter and Koltun 2018, arXiv:1803.01271, for results.

    python -m experiments.music --workdir=/tmp/canons
        trains on rule-based canons, note by note; the best possible loss is 1.18 nats: minutes on two cores
    python -m experiments.music --workdir=/tmp/canons --mode=sample --seed=7 --output=piece
        writes piece 7 as piece_7.mid, piece_7.png and piece_7.wav
    python -m experiments.music --workdir=/tmp/jsb --config=jsb_notes --config.data.path=jsb-chorales-quarter.json.gz
    python -m experiments.music --workdir=/tmp/jsb --mode=sample --melody=song.mid --output=song_in_four_parts
    python -m experiments.music --workdir=/tmp/jsb --mode=score --input=song.mid
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.music import EMBEDDED, SOURCES, lengths, load_music
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.pipeline.rolls import RollBatches, roll_windows
from seqjax.data.readers.canons import independent_nats, rules_nats
from seqjax.data.readers.rolls import note_name, to_frames
from seqjax.data.records import Dataset, Records
from seqjax.data.transforms.transposition import draw_shifts, transpose
from seqjax.decoding.music import VOICES, RollSampler, RollScorer, draw_frames, sounding_shares
from seqjax.diagnostics.rolls import MOST, plot_expected, plot_surprise
from seqjax.models.music import ORDERS, OUTPUTS, MusicCarry, MusicModel
from seqjax.run import Field, Flag, above, at_least, chord_baselines, fields, music_files, one_of, recipe, within
from seqjax.training import losses, metrics

_NOTES = ("model.output", ("notes",))

FIELDS = {
    **fields.seed("the order of the pieces, their transposition and the dropout"),
    **{name: field for name, field in fields.source(
        "pieces", SOURCES, name="canons", names=f"Embedded dataset ({', '.join(EMBEDDED)}), or a name for your files.",
        path="A MIDI file, a folder of them, or chorales in JSON (.json, .json.gz), which may contain all splits.",
    ).items() if name != "data.data_dir"},  # TFDS has no datasets of music as notes
    **fields.split_seed(),
    "data.frames_per_quarter": Field(1, "Frames per quarter note when MIDI is read and written.", at_least(1)),
    **fields.batches("pieces", 16, 32),
    "data.buckets": Field(3, "Maximum number of padded lengths; each is compiled once.", at_least(1)),
    "data.window": Field(256, "Longer pieces are read in windows of this many frames, with a carry.", at_least(1)),
    "data.transpose": Field(5, "Maximum random transposition of training pieces, in semitones.", within(0, 88)),
    **fields.recurrent(200, 64, embedding="Width of the frame projection and of the note embedding, D."),
    "model.output": Field("notes", "frames: independent pitches; notes: one note after the other.", one_of(*OUTPUTS)),
    "model.order": Field("descending", "Order of the notes of a frame.", one_of(*ORDERS), when=_NOTES),
    "model.note_size": Field(64, "Hidden units of the cell over the notes of a frame.", at_least(1), when=_NOTES),
    "model.reach": Field(12, "Reach of the relative scores around each pitch, in semitones.", within(0, 88)),
    "model.memory": Field(1, "Reach of the relative scores into the past, in frames.", at_least(1)),
    **fields.dropouts(
        dropout=(0.3, "between layers, on the outputs and on those of the cell over notes"),
        input_dropout=(0.1, "on the first layer's inputs"),
        recurrent_dropout=(0.1, "on the recurrent product, one mask for all steps"),
    ),
    "ngram_order": Field(3, "Order of the chord n-gram baseline; 0: none.", at_least(0), free=True),
    **recipe.RECURRENT_FIELDS,
    "sample.length": Field(16, "Frames in the sample shown at each evaluation; 0: no sample.", at_least(0), free=True),
}  # fmt: skip

_JSB = {
    "data.source": "file", "optimizer.learning_rate": 3e-3, "optimizer.ema": 0.998, "schedule.warmup_steps": 100,
    "train.eval_every": 300, "train.checkpoint_every": 300, "train.log_every": 150,
}  # fmt: skip

PRESETS = {
    # Canons and cadences by rules, whose entropy rate is known; nothing to download.
    "canons": {
        "data.buckets": 1, "data.transpose": 0, "model.hidden_size": 128, "model.memory": 4, "model.dropout": 0.1,
        "model.input_dropout": 0.0, "model.recurrent_dropout": 0.0, "optimizer.learning_rate": 4e-3,
        "optimizer.ema": 0.99, "schedule.warmup_steps": 50, "train.epochs": 60.0, "train.eval_every": 200,
        "train.checkpoint_every": 200,
    },
    # The JSB chorales (Bach, 229, 76 and 77 of them) in the published form, pitches independent: set data.path.
    "jsb": _JSB | {
        "model.output": "frames", "model.hidden_size": 256, "model.embed_size": 128, "model.dropout": 0.2,
        "train.epochs": 240.0,
    },
    "jsb_notes": _JSB | {"train.epochs": 120.0},  # the same, note by note
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the pieces."""

    most_notes: int  # of a frame
    boundaries: list[int]  # the buckets' lengths


class Carry(NamedTuple):
    """What passes from window to window."""

    model: MusicCarry
    shift: jax.Array  # int32 (B,), by how many semitones each piece is moved


def load(config: ConfigDict) -> Dataset:
    """Reads the pieces that a config names."""
    return run.with_settings(load_music, config.data)


def prepare(config: ConfigDict, data: Dataset) -> Spec:
    """The most notes of a frame, and the buckets of the training part."""
    boundaries = choose_boundaries(lengths(data.parts["train"]), config.data.buckets)
    return Spec(data.facts["most_notes"], list(boundaries))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """Recurrent layers over frames; pitches independent, or a second cell over the notes of a frame."""
    d, most = config.data, config.data.transpose
    how = {"max_notes": spec.most_notes, "dtype": run.compute_dtype(config)}
    cell = run.make_stack(config, input_dropout=config.model.input_dropout)
    model = run.with_settings(MusicModel, config.model, cell, **how)

    def loss(params, model_state, carry, batch, rng):
        before, frames, (inner, shift) = batch.before, batch.frames, carry
        if rng is not None and most:
            shift = jnp.where(batch.first, draw_shifts(jax.random.fold_in(rng, 1), batch.down, batch.up, most), shift)
            before, frames = transpose(before, shift), transpose(frames, shift)
        noise = {} if rng is None else {"train": True, "rngs": {"dropout": rng}}
        where = {"first": batch.first, "lengths": batch.lengths}
        inner, context = model.apply({"params": params}, before, inner, **where, **noise)
        nats = model.apply({"params": params}, context, frames, method="nats", **noise)
        if rng is not None:  # first frames are learned too
            real = jnp.arange(nats.shape[1])[None] < batch.lengths[:, None]
            sums = losses.Sums(jnp.sum(jnp.where(real, nats, 0)), jnp.sum(real, dtype=jnp.float32))
            return Carry(inner, shift), model_state, sums
        answers = draw_frames(model, params, context, temperature=0)
        return Carry(inner, shift), model_state, metrics.frame_sums(nats, answers, frames, batch.lengths, batch.first)

    none = np.zeros((1, 2, model.pitches), np.uint8)
    scorer = RollScorer(model, batch_size=d.eval_batch_size, boundaries=spec.boundaries, window=d.window)
    return run.Model(
        module=model,
        init=lambda key: model.init(key, none, none, method="whole"),
        loss=loss,
        metric=metrics.frame_loss(),
        initial_carry=lambda params, rows: Carry(model.initial_carry(params, rows), jnp.zeros((rows,), jnp.int32)),
        tools=(RollSampler(model), scorer),
    )


def batches(config: ConfigDict, spec: Spec, part: Records, training: bool) -> Any:
    """Windows of pieces of about the same length."""
    d, rolls = config.data, part["frames"]
    if training:
        return RollBatches(rolls, d.batch_size, spec.boundaries, window=d.window, seed=config.seed)
    how = {"batch_size": d.eval_batch_size, "boundaries": spec.boundaries, "window": d.window}
    return run.passes(lambda **shard: (batch for _, batch in roll_windows(rolls, **how, **shard)))


def baselines(config: ConfigDict, data: Dataset, split: str) -> dict[str, dict[str, Any]]:
    """Pitches by their frequency, the last frame again, an n-gram of chords; of canons the rules themselves."""
    train, validation, part = (data.parts[name]["frames"] for name in ("train", "validation", split))
    found = {
        "pitch frequencies": chord_baselines.pitch_frequencies(train, part),
        "last frame again": chord_baselines.repeat_last(validation, part),
    }
    if config.ngram_order:
        name = f"{config.ngram_order}-gram of chords"
        found[name] = chord_baselines.chord_ngram(train, part, order=config.ngram_order)
    if config.data.source == "embedded" and config.data.name == "canons":
        pieces = [*map(to_frames, part)]
        for name, nats in (("the rules themselves", rules_nats), ("the rules, pitches independent", independent_nats)):
            found[name] = chord_baselines.frame_scores([*map(nats, pieces)], part)
    return found


def sample(trained: run.Trained, data: Dataset) -> str:
    """The start of a piece, seeded by the step."""
    key = jax.random.fold_in(jax.random.key(trained.config.seed), trained.step)
    roll = trained.model.tools[0](trained.params, key, length=trained.config.sample.length)
    return " | ".join(" ".join(note_name(pitch) for pitch in frame[::-1]) or "-" for frame in to_frames(roll))


def describe(config: ConfigDict, spec: Spec, data: Dataset, model: run.Model) -> list[str]:
    """Lines on the number of notes per frame."""
    notes = np.concatenate([roll.sum(axis=1) for roll in data.parts["train"]["frames"]])
    return [f"notes of a frame: {notes.mean():.2f} in training, at most {spec.most_notes}"]


def evaluate(trained: run.Trained, data: Dataset, split: str, options: run.Options) -> run.Report:
    """Loss per frame by the published protocol, and frame accuracy, with baselines; the loss of each piece."""
    part = data.parts[split]
    found = {"model": run.measure(EXPERIMENT, trained, part)} | baselines(trained.config, data, split)
    scored = trained.model.tools[1](trained.params, part["frames"])
    rows = (
        {"piece": part.places.at(i), "loss": float(piece.nats[1:].mean()), "nats": piece.nats.round(4).tolist()}
        for i, piece in enumerate(scored)
    )
    return run.Report(found, rows, answers=scored)


def pictures(trained: run.Trained, data: Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots the best, median and worst predicted piece with the predictions, and the loss along pieces."""
    part, scored = data.parts[split], report.answers
    order = np.argsort([piece.nats[1:].mean() for piece in scored])
    for name, place in {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}.items():
        roll, where = part["frames"][place][:MOST], part.places.at(place).rsplit("/", 1)[-1]
        shares = sounding_shares(trained.model.module, trained.params, roll, jax.random.key(0))
        path = folder / f"expected_{split}_{name}.png"
        yield plot_expected(path, roll, shares, scored[place].nats, f"{where} ({name})")
    yield plot_surprise(folder / f"loss_along_{split}.png", [piece.nats for piece in scored], f"{split} part")


def draw_pieces(trained: run.Trained, options: run.Options) -> None:
    """Writes pieces as MIDI, picture and sound: from scratch, after a prompt, or around a melody."""
    sampler, frames_per_quarter = trained.model.tools[0], trained.config.data.frames_per_quarter
    prompt, fixed, length = music_files.given(options, frames_per_quarter)
    for number in range(options.seed, options.seed + options.num_samples):
        how = {"prompt": prompt, "temperature": options.temperature, "fixed": fixed, "voice": options.voice}
        roll = sampler(trained.params, jax.random.key(number), length=length, **how)
        music_files.write(options, number, roll, frames_per_quarter, given=0 if prompt is None else len(prompt))


def score(trained: run.Trained, options: run.Options) -> None:
    """Prints the loss of the pieces of each --input in nats per frame, excluding the first frame."""
    rolls, places = options.input["frames"], options.input.places
    most = max(trained.spec.most_notes, *(int(roll.sum(axis=1).max()) for roll in rolls))
    scored = build(trained.config, trained.spec._replace(most_notes=most)).tools[1](trained.params, rolls)
    print("nats / frame  frames  piece")
    for place, piece in enumerate(scored):
        print(f"{piece.nats[1:].mean():>12.3f}  {len(piece.nats):>6}  {run.printable(places.at(place))}")
    print(f"{np.concatenate([piece.nats[1:] for piece in scored]).mean():>12.3f}  {sum(map(len, rolls)):>6}  all")


SAMPLE = ("sample",)

EXPERIMENT = run.Experiment.of(
    __name__,
    preset="canons",
    records="pieces",
    unit="frames",
    modes={"sample": draw_pieces, "score": score},
    flags={
        "seed": Flag(0, "number of the piece; the same number gives the same piece.", SAMPLE, within(0, 2**32)),
        "num_samples": Flag(1, "how many pieces, with this number and the following ones.", SAMPLE, at_least(1)),
        "length": Flag(64, "frames to write; with a melody, at most this many.", SAMPLE, at_least(1)),
        "temperature": Flag(1.0, "0 is greedy, below 1 safer, above 1 more random.", SAMPLE, at_least(0)),
        "prompt": Flag("", "a MIDI file (or JSON of one piece) to continue.", SAMPLE, read=music_files.read_piece),
        "prompt_bars": Flag(4, "bars of the prompt to use, of four quarter notes each; 0: all.", SAMPLE, at_least(0)),
        "melody": Flag("", "like --prompt, but only one voice is kept.", SAMPLE, read=music_files.read_piece),
        "voice": Flag("top", "the voice of --melody to keep.", SAMPLE, one_of(*VOICES)),
        "tempo": Flag(100.0, "tempo of the output, in quarter notes per minute.", SAMPLE, above(0)),
        "output": Flag(
            "music", "prefix of the output files: music_0.mid, .png and .wav.", SAMPLE, read=music_files.output_stem
        ),
        "input": Flag([], "a MIDI or JSON file, or a folder; may be repeated.", ("score",), read=music_files.read_all),
    },
)

if __name__ == "__main__":
    run.main(EXPERIMENT)
