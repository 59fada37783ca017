r"""Captions for images: a CNN sees, a recurrent network writes, with attention over the image or without.

Papers: Vinyals, Toshev, Bengio and Erhan 2015, "Show and Tell: A Neural Image Caption Generator" (arXiv:1411.4555); Xu et al.
2015, "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention" (arXiv:1502.03044).

    python -m experiments.captioning --workdir=/tmp/scenes
        learns to describe drawn scenes of digits and coloured shapes: minutes on two cores
    python -m experiments.captioning --workdir=/tmp/scenes --mode=evaluate --split=test
        how many captions are right, BLEU, CIDEr-D; attention_test.png and examples_test.png in the work directory
    python -m experiments.captioning --workdir=/tmp/scenes --mode=predict --image=scene.png --n_best=3 --picture=seen.png
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from seqjax import cnn, run
from seqjax.data.captioned import Captioned, collate_captions
from seqjax.data.captions import load_captions
from seqjax.data.pipeline.buckets import choose_boundaries
from seqjax.data.pipeline.shuffled import channel_statistics
from seqjax.data.readers.scenes import is_right, is_unseen
from seqjax.data.sources import SOURCES
from seqjax.data.transforms.augmentation import Augmentation, augment, normalize, to_float
from seqjax.decoding.captions import CaptionWriter
from seqjax.models import make_cell
from seqjax.models.captioner import Captioner, coverage_penalty
from seqjax.models.token_decoder import ATTENTIONS, make_attention
from seqjax.run import Field, Flag, at_least, fields, one_of, recipe
from seqjax.text import BOS, EOS, fit_tokenizer, tokenizer_from_dict
from seqjax.training import losses, metrics
from seqjax.training.freezing import all_frozen

NETWORKS = tuple(name for name in cnn.names() if name not in ("tcn", "text_cnn"))

FIELDS = {
    **fields.seed("the order of the captions and the dropout"),
    **fields.source(
        "images", SOURCES, name="scenes", names="The embedded set (scenes) or TFDS set (coco_captions); what to call files.",
        path="File of captions.",
    ),
    **fields.split_seed(),
    "data.scenes": Field(20_000, "Scenes to draw for training.", at_least(1), when=("data.source", ("embedded",))),
    **fields.batches("captions", 64, 64),
    **fields.buckets(1, "Training captions with more tokens are left out; 0 keeps all."),
    "data.workers": Field(0, "Threads that check image files and decode them ahead.", at_least(0), free=True),
    **fields.tokenizer(("char", "word", "subword"), "word"),
    "model.name": Field("resnet18", "The encoder; seqjax.cnn.names() lists them.", one_of(*NETWORKS)),
    "model.options": Field("", "Further options of the encoder, such as stem=small,width=32."),
    "model.layer": Field("layer4", "The encoder's layer whose feature map is read; later ones are left out."),
    **fields.recurrent(256, 128, units="Units of the decoder, H.", layers="Layers of the decoder.", embedding="Width of the embedding, E."),
    "model.attention": Field("bahdanau", "How the decoder looks at the feature map; none: Show and Tell.", one_of(*ATTENTIONS)),
    "model.input_feeding": Field(False, "Luong's kinds: the attentional vector goes into the next step too."),
    "model.tie_embeddings": Field(False, "The softmax shares the embedding's weights."),
    **fields.dropouts(dropout=(0.0, "on embeddings, on the mean of the map, between layers and before the softmax")),
    **fields.word_dropout("words"),
    "loss.coverage": Field(0.0, "Weight of the doubly stochastic regulariser; Xu et al.: 1.", at_least(0)),
    **fields.label_smoothing("each target", "the vocabulary"),
    **fields.criterion("meaning", "cider", "bleu4", "loss"),
    **recipe.FIELDS,
}  # fmt: skip

PRESETS = {
    # Drawn scenes: minutes on two cores, nothing to download.
    "scenes": {
        "data.batch_size": 64, "data.eval_batch_size": 250, "model.options": "width=32", "model.layer": "layer2",
        "model.hidden_size": 192, "model.embed_size": 64, "optimizer.learning_rate": 2e-3, "optimizer.ema": 0.99,
        "schedule.warmup_steps": 100, "train.steps": 4000, "train.log_every": 100, "train.eval_every": 500,
        "train.checkpoint_every": 500,
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
    """Reads the images and captions that a config names; scenes are drawn."""
    return run.with_settings(load_captions, config.data)


@functools.lru_cache(maxsize=4)
def encode(tokenizer: Any, part: Captioned, limit: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Every caption's image and token ids; without those that are longer than the limit, unless it is 0."""
    owners, texts = part.pairs()
    tokens = [tokenizer.encode(text) for text in texts]
    keep = run.short_enough([len(ids) + 1 for ids in tokens], limit, "captions")
    return np.asarray(owners)[keep], [tokens[i] for i in keep]


def prepare(config: ConfigDict, data: run.Dataset) -> Spec:
    """Fits the tokenizer and chooses the buckets on the training part; means and deviations of its channels."""
    part = data.parts["train"]
    tokenizer = run.with_settings(fit_tokenizer, config.tokenizer, texts=part.pairs()[1], pretokenized=True)
    lengths = [len(ids) + 1 for ids in encode(tokenizer, part, config.data.max_length)[1]]
    bounds = list(choose_boundaries(lengths, config.data.buckets))
    return Spec(tokenizer.to_dict(), bounds, list(part.images.shape), *channel_statistics(part.images, workers=config.data.workers))


def build(config: ConfigDict, spec: Spec) -> run.Model:
    """A network of seqjax.cnn up to a layer, and a decoder of words; the network's batch statistics are the model state."""
    m, dtype, tokenizer = config.model, run.compute_dtype(config), tokenizer_from_dict(spec.tokenizer)
    network = run.with_settings(cnn.create_for, config.model, spec.shape, dtype=dtype)
    features = cnn.Features(network, m.layer, spec.shape)
    cells = tuple(make_cell(m.cell, m.hidden_size, dtype=dtype) for _ in range(m.num_layers))
    model = Captioner(
        tokenizer.vocab_size, features.shape[-1], cells, m.embed_size, make_attention(m.attention, m.hidden_size), m.input_feeding,
        dropout=m.dropout, tie_embeddings=m.tie_embeddings, dtype=dtype,
    )  # fmt: skip
    frozen = all_frozen({"encoder": jax.eval_shape(features.init, jax.random.key(0))["params"]}, recipe.patterns(config.optimizer.frozen))

    def see(variables, images, **how):
        images = normalize(to_float(images), spec.mean, spec.std)
        maps, state = features.apply({**variables, "params": variables["params"]["encoder"]}, images, **how)
        return maps.reshape(maps.shape[0], -1, maps.shape[-1]), state

    def loss(params, state, carry, batch, rng):
        noise, inputs = {}, batch.inputs
        variables = {"params": params, **dict(state)}
        if rng is not None:
            dropout, encoder, word = jax.random.split(rng, 3)
            noise = {"train": True, "rngs": {"dropout": dropout}}
            unknown = jax.random.bernoulli(word, m.word_dropout, inputs.shape) & (inputs != BOS)
            inputs = jnp.where(unknown, 1, inputs)
        how = {"train": True, "rngs": {"dropout": encoder}} if noise and not frozen else {}
        maps, updated = see(variables, batch.images, **how)
        out = model.apply({"params": params["decoder"]}, maps, inputs, **noise)
        smoothing = config.loss.label_smoothing if noise else 0.0
        sums = losses.token_cross_entropy(out.logits, batch.targets, batch.mask, smoothing=smoothing)
        if noise and out.weights is not None and config.loss.coverage:
            sums = sums._replace(loss=sums.loss + config.loss.coverage * coverage_penalty(out.weights, batch.mask))
        correct = (jnp.argmax(out.logits, axis=-1) == batch.targets) & batch.mask
        return carry, updated or state, sums._replace(counts={"token_accuracy": jnp.sum(correct, dtype=jnp.float32)})

    def init(key):
        encoder, decoder = jax.random.split(key)
        variables = features.init(encoder)
        one = jnp.zeros((1, features.shape[0] * features.shape[1], features.shape[2])), jnp.zeros((1, 1), jnp.int32)
        params = {"encoder": variables.pop("params"), "decoder": model.init(decoder, *one)["params"]}
        return {"params": params, **variables}

    tools = CaptionWriter(
        model, lambda variables, images: see(variables, images)[0], tokenizer, batch_size=config.data.eval_batch_size,
        length=2 * spec.boundaries[-1] + 10, workers=config.data.workers,
    )  # fmt: skip
    return run.Model(model, init, loss, metrics.token_loss(perplexity=losses.perplexity), tools=tools)


def batches(config: ConfigDict, spec: Spec, part: Captioned, training: bool) -> Any:
    """Every caption with its image, captions of about the same length together."""
    owners, tokens = encode(tokenizer_from_dict(spec.tokenizer), part, config.data.max_length if training else 0)
    make = collate_captions(part.images, owners, tokens, BOS, EOS)
    return run.bucketed(config, [len(ids) + 1 for ids in tokens], make, spec.boundaries, training)


def scored(part: Captioned, captions: list[str]) -> dict[str, Any]:
    """What captions are worth: overlap with the references, and of scenes how many are right."""
    found = metrics.caption_scores(captions, part.captions)
    if not part.scenes:
        return found
    right = np.array([is_right(caption, scene) for caption, scene in zip(captions, part.scenes)])
    unseen = np.array([is_unseen(scene) for scene in part.scenes])
    groups = {"meaning": right, "meaning_seen": right[~unseen], "meaning_unseen": right[unseen]}
    return {name: run.accuracy(of)["accuracy"] for name, of in groups.items() if len(of)} | found


def validate(trained: run.Trained, part: Captioned, found: dict[str, float]) -> dict[str, float]:
    """Greedy captions of the first thousand images too, and the error that the criterion makes of them."""
    part = part.take(np.arange(min(len(part), 1000)))
    scores = scored(part, trained.model.tools.greedy(trained.variables, part.images))
    scores = {name: value[0] if isinstance(value, tuple) else value for name, value in scores.items()}
    criterion, largest = trained.config.criterion, {"meaning": 1, "cider": 10, "bleu4": 100}
    return found | scores | ({"error": 1 - scores[criterion] / largest[criterion]} if criterion in largest else {})


EXPERIMENT = run.Experiment.of(
    __name__, preset="scenes", records="images",
    criterion=lambda config: "loss" if config.criterion == "loss" else "error",
)  # fmt: skip

if __name__ == "__main__":
    run.main(EXPERIMENT)
