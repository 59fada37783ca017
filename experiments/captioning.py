r"""Image captioning: a CNN encoder and a recurrent decoder, with or without attention over the image.

Papers: Vinyals, Toshev, Bengio and Erhan 2015, "Show and Tell: A Neural Image Caption Generator" (arXiv:1411.4555);
Xu et al. 2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention" (arXiv:1502.03044).

    python -m experiments.captioning --workdir=/tmp/scenes
        learns to describe drawn scenes of digits and coloured shapes: minutes on two cores
    python -m experiments.captioning --workdir=/tmp/scenes --mode=evaluate --split=test
        fraction of correct captions, BLEU, CIDEr-D; attention_test.png and examples_test.png in the work directory
    python -m experiments.captioning --workdir=/tmp/scenes --mode=predict --image=a.png --n_best=3 --picture=seen.png
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import run
from seqjax.data.captioned import Captioned, collate_captions
from seqjax.data.captions import load_captions
from seqjax.data.pipeline.ahead import Ahead, in_order
from seqjax.data.pipeline.buckets import choose_boundaries, one_pass
from seqjax.data.pipeline.shuffled import channel_statistics
from seqjax.data.transforms.augmentation import Augmentation, augment, normalize, to_float
from seqjax.decoding.captions import CaptionWriter
from seqjax.errors import UserError
from seqjax.interop.torchvision import IMAGENET_MEAN, IMAGENET_STD
from seqjax.models import make_cell
from seqjax.models.captioner import Captioner, coverage_penalty
from seqjax.models.token_decoder import ATTENTIONS, make_attention
from seqjax.run import Field, Flag, at_least, captioning, encoders, fields, one_of, recipe
from seqjax.text import BOS, EOS, UNK, fit_tokenizer, tokenizer_from_dict
from seqjax.training import losses, metrics

WORST = {"meaning": 1, "cider": 10, "bleu4": 100}  # metric -> its maximum, which errors are measured from

FIELDS = {
    **fields.seed("the order of the captions, the augmentation and the dropout"),
    **captioning.data_fields(),
    **fields.batches("captions", 64, 64),
    **fields.buckets(1, "Training captions with more tokens are dropped; 0 keeps all."),
    "data.workers": Field(0, "Threads that check and decode image files in advance.", at_least(0), free=True),
    **{name: fields.augmentation()[name] for name in ("augment.flip", "augment.jitter", "augment.resized_crop")},
    **fields.tokenizer(("char", "word", "subword"), "word"),
    **encoders.fields("resnet18", "layer4"),
    **fields.recurrent(256, 128, units="Hidden units of the decoder, H.", embedding="Width of the embedding, E."),
    "model.attention": Field("bahdanau", "Attention over the feature map; none: Show and Tell.", one_of(*ATTENTIONS)),
    "model.input_feeding": Field(False, "Luong attention: feed the attentional vector into the next step."),
    "model.tie_embeddings": Field(False, "The softmax shares the embedding's weights."),
    **fields.dropouts(dropout=(0.0, "on embeddings, on the mean of the map, between layers and before the softmax")),
    **fields.word_dropout("words"),
    "loss.coverage": Field(0.0, "Weight of the doubly stochastic regulariser; Xu et al. use 1.", at_least(0)),
    **fields.label_smoothing("each target", "the vocabulary"),
    **fields.criterion("meaning", "cider", "bleu4", "loss"),
    **recipe.RECURRENT_FIELDS,
}

# Xu et al.: attention over the map of a frozen pretrained network; set model.weights.
_PHOTOS = {
    "data.source": "file", "data.workers": 8, "data.buckets": 4, "data.max_length": 40, "tokenizer.min_count": 5,
    "model.name": "resnet50", "model.hidden_size": 512, "model.embed_size": 512, "model.dropout": 0.5,
    "loss.coverage": 1.0, "criterion": "cider", "optimizer.frozen": "^encoder/", "optimizer.learning_rate": 4e-4,
    "optimizer.clip_norm": 5.0, "schedule.warmup_steps": 500, "train.log_every": 100,
}  # fmt: skip

PRESETS = {
    # Drawn scenes: minutes on two cores, nothing to download.
    "scenes": {
        "data.eval_batch_size": 200, "model.options": "width=32", "model.layer": "layer2", "model.hidden_size": 192,
        "model.embed_size": 64, "model.dropout": 0.1, "model.word_dropout": 0.5, "optimizer.learning_rate": 2e-3,
        "optimizer.ema": 0.99, "schedule.warmup_steps": 100, "train.steps": 4000, "train.log_every": 100,
        "train.eval_every": 1000, "train.checkpoint_every": 500,
    },
    # Flickr8k, EXPECTED: BLEU-1 67, BLEU-4 19.5 (Xu et al. 2015, table 1, soft attention). NOT YET RUN.
    "flickr8k": _PHOTOS | {
        "data.name": "flickr8k", "train.epochs": 20.0, "train.eval_every": 500, "train.checkpoint_every": 500,
    },
    # COCO, EXPECTED: BLEU-1 70.7, BLEU-4 24.3 (Xu et al. 2015, table 1, soft attention). NOT YET RUN.
    "coco": _PHOTOS | {
        "data.name": "coco", "train.epochs": 10.0, "train.eval_every": 8000, "train.checkpoint_every": 2000,
    },
}  # fmt: skip


class Spec(NamedTuple):
    """What the model must know of the images and captions."""

    tokenizer: dict[str, Any]
    boundaries: list[int]  # the buckets' lengths, in tokens with <eos>
    shape: list[int]  # of an image, (H, W, C)
    mean: list[float]  # of each channel over the training images, values in [0, 1]
    std: list[float]


def load(config: ConfigDict) -> run.Dataset:
    """Reads the images and captions that a config names, image files checked first; scenes are drawn."""
    told = {"cache": run.cache_folder(), "progress": run.counted("image files checked")}
    return run.with_settings(load_captions, config.data, **told)


def check(config: ConfigDict) -> None:
    """Only for drawn scenes can the meaning of a caption be checked."""
    if config.criterion == "meaning" and config.data.source != "embedded":
        raise UserError("criterion=meaning is for data.source=embedded; choose cider, bleu4 or loss")


@functools.lru_cache(maxsize=4)
def encode(tokenizer: Any, part: Captioned, limit: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Image and token ids of every caption, except those longer than the limit, unless it is 0."""
    owners, texts = part.pairs()
    tokens = [tokenizer.encode(text) for text in texts]
    keep = run.short_enough([len(ids) + 1 for ids in tokens], limit, "captions")
    return np.asarray(owners)[keep], [tokens[i] for i in keep]


def prepare(config: ConfigDict, data: run.Dataset) -> Spec:
    """Fits the tokenizer, chooses the buckets; the statistics of the channels, or ImageNet's for pretrained weights."""
    part = data.parts["train"]
    tokenizer = run.with_settings(fit_tokenizer, config.tokenizer, texts=part.pairs()[1], pretokenized=True)
    lengths = [len(ids) + 1 for ids in encode(tokenizer, part, config.data.max_length)[1]]
    bounds = list(choose_boundaries(lengths, config.data.buckets))
    statistics = list(IMAGENET_MEAN), list(IMAGENET_STD)
    if not config.model.weights:
        statistics = channel_statistics(part.images, workers=config.data.workers)
    return Spec(tokenizer.to_dict(), bounds, list(part.images.shape), *statistics)


def initialize(config: ConfigDict, spec: Spec, data: run.Dataset, params: Any, state: Any) -> Any:
    """Loads the encoder's weights and statistics from a file, if the config names one."""
    return encoders.pretrained(config, encoders.encoder(config, spec.shape), params, state)


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """The encoder and a decoder of words; the encoder's batch statistics are the model state."""
    m, dtype, tokenizer = config.model, run.compute_dtype(config), tokenizer_from_dict(spec.tokenizer)
    features, augmentation = encoders.encoder(config, spec.shape), Augmentation(**config.augment.to_dict())
    frozen = encoders.is_frozen(config, features)
    model = Captioner(
        tokenizer.vocab_size, features.shape[-1],
        tuple(make_cell(m.cell, m.hidden_size, dtype=dtype) for _ in range(m.num_layers)), m.embed_size,
        make_attention(m.attention, m.hidden_size), m.input_feeding, dropout=m.dropout, tie_embeddings=m.tie_embeddings,
        dtype=dtype,
    )  # fmt: skip

    def see(variables, images, **how):
        images = normalize(images, spec.mean, spec.std)
        maps, state = features.apply({**variables, "params": variables["params"]["encoder"]}, images, **how)
        return maps.reshape(maps.shape[0], -1, maps.shape[-1]), state

    def loss(params, state, carry, batch, rng):
        images, inputs, noise, how = to_float(batch.images), batch.inputs, {}, {}
        if rng is not None:
            dropout, encoder_dropout, unknown, change = jax.random.split(rng, 4)
            noise = {"train": True, "rngs": {"dropout": dropout}}
            how = {} if frozen else {"train": True, "rngs": {"dropout": encoder_dropout}}
            unknown = jax.random.bernoulli(unknown, m.word_dropout, inputs.shape) & (inputs != BOS)
            inputs = jnp.where(unknown, UNK, inputs)
            images, _ = augment(change, images, jnp.zeros((images.shape[0], 1)), augmentation)
        maps, state = see({"params": params, **dict(state)}, images, **how)
        out = model.apply({"params": params["decoder"]}, maps, inputs, **noise)
        smoothing = config.loss.label_smoothing if noise else 0.0
        sums = losses.token_cross_entropy(out.logits, batch.targets, batch.mask, smoothing=smoothing)
        if noise and out.weights is not None:
            sums = sums._replace(loss=sums.loss + config.loss.coverage * coverage_penalty(out.weights, batch.mask))
        correct = (jnp.argmax(out.logits, axis=-1) == batch.targets) & batch.mask
        return carry, state, sums._replace(counts={"token_accuracy": jnp.sum(correct, dtype=jnp.float32)})

    def init(key):
        keys = jax.random.split(key)
        variables = features.init(keys[0])
        one = jnp.zeros((1, 1, features.shape[-1])), jnp.zeros((1, 1), jnp.int32)
        return variables | {"params": {"encoder": variables["params"], "decoder": model.init(keys[1], *one)["params"]}}

    tools = CaptionWriter(
        model, lambda variables, images: see(variables, to_float(images))[0], tokenizer,
        batch_size=config.data.eval_batch_size, length=2 * spec.boundaries[-1] + 10, workers=config.data.workers,
    )  # fmt: skip
    return run.Model(model, init, loss, metrics.token_loss(perplexity=losses.perplexity), tools=tools)


def batches(config: ConfigDict, spec: Spec, part: Captioned, training: bool) -> Any:
    """Every caption with its image, captions of about the same length together; workers make them ahead."""
    owners, tokens = encode(tokenizer_from_dict(spec.tokenizer), part, config.data.max_length if training else 0)
    make, lengths = collate_captions(part.images, owners, tokens, BOS, EOS), [len(ids) + 1 for ids in tokens]
    if training:
        return Ahead(run.bucketed(config, lengths, make, spec.boundaries, True), config.data.workers)

    def one(**shard):
        plan = one_pass(lengths, lambda *call: call, config.data.eval_batch_size, spec.boundaries, **shard)
        return in_order(lambda call: make(*call), (call for _, call in plan), config.data.workers)

    return run.passes(one)


def validate(trained: run.Trained, part: Captioned, found: dict[str, float]) -> dict[str, float]:
    """Also scores greedy captions of the first thousand images, and derives the error from the criterion."""
    part, criterion = part.take(np.arange(min(len(part), 1000))), trained.config.criterion
    scores = captioning.scores(part, trained.model.tools.greedy(trained.variables, part.images))
    found = found | {name: value[0] if isinstance(value, tuple) else value for name, value in scores.items()}
    return found | ({"error": 1 - found[criterion] / WORST[criterion]} if criterion in WORST else {})


def sample(trained: run.Trained, data: run.Dataset) -> str:
    """Captions of three validation images, different ones at each evaluation."""
    part = data.parts["validation"]
    part = part.take(np.arange(3 * trained.step, 3 * trained.step + 3) % len(part))
    captions = trained.model.tools.greedy(trained.variables, part.images)
    return "\n".join(f"{caption}   ({known[0]})" for caption, known in zip(captions, part.captions))


def describe(config: ConfigDict, spec: Spec, data: run.Dataset, model: run.Model) -> list[str]:
    """The encoder's map and the vocabulary."""
    about = encoders.described(config, encoders.encoder(config, spec.shape))
    return [*about, f"vocabulary: {model.tools.tokenizer.vocab_size:,}"]


def baselines(config: ConfigDict, data: run.Dataset, split: str) -> dict[str, dict[str, Any]]:
    """The most frequent caption, and the caption of the nearest image in pixels."""
    return captioning.baselines(data.parts["train"], data.parts[split])


def evaluate(trained: run.Trained, data: run.Dataset, split: str, options: run.Options) -> run.Report:
    """Loss and the scores of beam search, beside the baselines and the nearest image in the encoder's features."""
    part, writer, how = data.parts[split], trained.model.tools, {"width": options.beam, "n_best": min(options.beam, 4)}
    found = writer.beam(trained.variables, part.images, length_penalty=options.length_penalty, **how)
    captions = [rows[0].text for rows in found]
    scores = {"model": run.measure(EXPERIMENT, trained, part) | captioning.scores(part, captions)}
    scores |= baselines(trained.config, data, split)
    scores["nearest image in features"] = captioning.nearest_in_features(trained, data.parts["train"], part)
    rows = (dict(zip(("image", "captions", "output"), row)) for row in zip(part.names, part.captions, captions))
    return run.Report(scores, rows, [f"beam {options.beam}"], found)


def pictures(trained: run.Trained, data: run.Dataset, split: str, report: run.Report, folder: Any) -> Any:
    """Plots right and wrong captions with scores, and attention word by word."""
    return captioning.draw_captions(trained, data.parts[split], report.answers, folder, split)


SEARCH, PREDICT = ("evaluate", "predict"), ("predict",)

EXPERIMENT = run.Experiment.of(
    __name__, preset="scenes", records="images",
    criterion=lambda config: "loss" if config.criterion == "loss" else "error",
    curve_labels=lambda config, _: {"error": f"1 - {config.criterion} / {WORST.get(config.criterion)}"},
    modes={"predict": captioning.predict},
    flags={
        "image": Flag([], "an image file; repeat the flag for several.", PREDICT),
        "beam": Flag(5, "beam size: hypotheses kept at each step; 1 is greedy.", SEARCH, at_least(1)),
        "length_penalty": Flag(0.0, "0 favours short captions, larger values longer ones.", SEARCH, at_least(0)),
        "n_best": Flag(1, "number of captions per image.", PREDICT, at_least(1)),
        "format": Flag("text", "readable text, or one JSON line per image.", PREDICT, one_of("text", "jsonl")),
        "picture": Flag("", "plot the attention at each word to this PNG file.", PREDICT),
    },
)  # fmt: skip

if __name__ == "__main__":
    run.main(EXPERIMENT)
