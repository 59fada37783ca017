"""Captioning beyond what every experiment does: pretrained and frozen encoders, pictures, what is refused."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import made_captions
import numpy as np
import pytest
import table

from experiments import captioning
from seqjax import cnn, run
from seqjax.data.image_columns import ArrayImages
from seqjax.errors import UserError
from seqjax.interop.torchvision import IMAGENET_MEAN, to_torch_cnn
from seqjax.run import captioning as helpers
from seqjax.run import encoders, settings

ROW = table.CAPTIONING


def config_of(data, **changes):
    values = {**ROW.settings(data), **table.sources(ROW, data), "data.workers": 0, **changes}
    return settings.build(captioning.FIELDS, values)


def made(data, **changes):
    return _made(data, tuple(sorted(changes.items())))


@functools.cache
def _made(data, changes):
    config = config_of(data, **dict(changes))
    dataset = captioning.load(config)
    spec = captioning.prepare(config, dataset)
    model = captioning.build(config, spec)
    return config, dataset, spec, model, dict(model.init(jax.random.key(0)))


def trained_of(config, spec, model, variables):
    return run.Trained(config, spec, model, variables["params"], {"batch_stats": variables["batch_stats"]}, 1)


def batch_of(config, spec, dataset):
    return next(iter(captioning.batches(config, spec, dataset.parts["train"], training=False)))


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    """A torch file of a whole network, and the network's variables."""
    torch = pytest.importorskip("torch")
    network = cnn.create("resnet20_cifar", width=4)
    variables = network.init(jax.random.key(9), jnp.zeros((1, 16, 16, 3)))
    variables = jax.tree.map(lambda leaf: leaf + 0.25, dict(variables))
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save(to_torch_cnn(network, variables), path)
    return path, variables


def test_pretrained_weights_are_the_files_up_to_the_layer(data, weights):
    path, whole = weights
    config, dataset, spec, model, variables = made(data, **{"model.weights": str(path)})
    assert spec.mean == pytest.approx(IMAGENET_MEAN)
    state = {"batch_stats": variables["batch_stats"]}
    params, state = captioning.initialize(config, spec, dataset, variables["params"], state)
    features = encoders.encoder(config, spec.shape)
    expected = features.part(whole)
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], expected["params"])
    jax.tree.map(np.testing.assert_array_equal, state, {"batch_stats": expected["batch_stats"]})
    assert params["decoder"] is variables["params"]["decoder"] and "fc" not in params["encoder"]


@pytest.mark.parametrize("content, words", [(None, "does not exist"), (b"no weights", "cannot be read as torch weights")])
def test_files_that_are_no_weights(content, words, tmp_path, data):
    pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    if content:
        path.write_bytes(content)
    config, dataset, spec, _, variables = made(data, **{"model.weights": str(path)})
    with pytest.raises(UserError, match=words):
        captioning.initialize(config, spec, dataset, variables["params"], {})


def test_a_frozen_encoder_keeps_its_statistics_and_one_that_learns_does_not(data):
    moved = {}
    for frozen in ("", "^encoder/"):
        config, dataset, spec, model, variables = made(data, **{"optimizer.frozen": frozen, "model.dropout": 0.0})
        state, batch = {"batch_stats": variables["batch_stats"]}, batch_of(config, spec, dataset)
        _, after, _ = jax.jit(model.loss)(variables["params"], state, (), batch, jax.random.key(0))
        moved[frozen] = any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), after, state)))
        said = list(captioning.describe(config, spec, dataset, model))
        assert any("frozen but not pretrained" in line for line in said) == bool(frozen)
    assert moved == {"": True, "^encoder/": False}


def test_padding_of_a_batch_has_no_influence(data):
    """Neither the captions' padding, nor rows that are none, though their images are random; nor on gradients in evaluation."""
    config, dataset, spec, model, variables = made(data)
    batch, state = batch_of(config, spec, dataset), {"batch_stats": variables["batch_stats"]}
    keep = np.arange(len(batch.mask)) < 5
    clean = batch._replace(mask=batch.mask & keep[:, None])
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, batch.images.shape).astype(np.uint8)
    dirty = clean._replace(
        images=np.where(keep[:, None, None, None], batch.images, noise),
        inputs=np.where(clean.mask, batch.inputs, 5),
        targets=np.where(clean.mask, batch.targets, 6),
    )

    def loss(params, batch):
        return model.loss(params, state, (), batch, None)[2].loss

    both = jax.jit(jax.value_and_grad(loss))
    (a, grads), (b, other) = (both(variables["params"], one) for one in (clean, dirty))
    assert a == b
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), grads, other)


def test_the_coverage_penalty_is_of_training_alone(data):
    sums = {}
    for weight in (0.0, 2.0):
        config, dataset, spec, model, variables = made(data, **{"loss.coverage": weight})
        batch, state = batch_of(config, spec, dataset), {"batch_stats": variables["batch_stats"]}
        for rng in (None, jax.random.key(1)):
            sums[weight, rng is None] = float(jax.jit(model.loss)(variables["params"], state, (), batch, rng)[2].loss)
    assert sums[0.0, True] == sums[2.0, True] and sums[2.0, False] > sums[0.0, False]


def test_batches_are_captions_with_their_own_image(data):
    config, dataset, spec, model, _ = made(data)
    part = dataset.parts["train"]
    for batch in captioning.batches(config, spec, part, training=False):
        for image, targets, mask in zip(batch.images, batch.targets, batch.mask):
            if mask.any():
                text = model.tools.tokenizer.decode(targets[mask][:-1])
                owners = [i for i, several in enumerate(part.captions) if text in several]
                assert any((part.images.take(np.array([i]))[0][0] == image).all() for i in owners)


def test_scores_of_scenes_tell_seen_from_unseen_combinations():
    from seqjax.data.captions import load_captions

    part = load_captions("embedded", name="scenes", scenes=2).parts["validation"].take(np.arange(20))
    right = [several[0] for several in part.captions]
    wrong = [text if i % 2 else "a red circle" for i, text in enumerate(right)]  # those of seen combinations
    found = helpers.scores(part, wrong)
    assert [found[name][0] for name in ("meaning", "meaning_seen", "meaning_unseen")] == [0.5, 0.0, 1.0]
    assert helpers.scores(part, right)["bleu4"] == pytest.approx(100)


def test_the_most_frequent_caption_and_the_nearest_image(data):
    dataset = captioning.load(config_of(data))
    train = dataset.parts["train"]
    found = helpers.baselines(train, train)
    assert found["nearest image in pixels"]["bleu4"] == pytest.approx(100)
    assert found["most frequent caption"]["bleu4"] < 100
    captions = [several for several in train.captions]
    texts = [text for several in captions for text in several]
    frequent = max(sorted(set(texts)), key=texts.count)
    assert found["most frequent caption"] == helpers.scores(train, [frequent] * len(train))


@pytest.mark.parametrize("attention", ["bahdanau", "none"])
def test_pictures_of_scenes_and_of_the_users_own_images(attention, tmp_path, data, capsys):
    from seqjax.data.captions import load_captions

    config, dataset, spec, model, variables = made(data, **{"model.attention": attention})
    part = load_captions("embedded", name="scenes", scenes=2).parts["validation"].take(np.arange(4))
    small = ArrayImages(part.images.take(np.arange(4))[0][:, :16, :16], np.arange(4))
    part = dataclasses.replace(part, images=small)
    trained = trained_of(config, spec, model, variables)
    found = model.tools.beam(trained.variables, part.images, width=2, n_best=1)
    paths = list(helpers.draw_captions(trained, part, found, tmp_path, "test"))
    assert [path.name for path in paths] == ["examples_test.png", "attention_test.png"][: 1 + (attention != "none")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    image = data / "test0.png"
    options = run.Options(
        image=[str(image)], beam=2, n_best=1, length_penalty=0.0, format="text", picture=str(tmp_path / "seen.png"),
    )  # fmt: skip
    helpers.predict(trained, options)
    said = capsys.readouterr()
    assert said.out.startswith(f"{image}: ") and (tmp_path / "seen.png").stat().st_size > 2000


def test_what_is_refused(refuses, tmp_path, data):
    workdir = f"--workdir={tmp_path / 'run'}"
    own = [f"--config.{name}={value}" for name, value in table.sources(ROW, data).items()]
    refuses([workdir, *own], "criterion=meaning is for data.source=embedded; choose cider")
    refuses([workdir, "--config.data.path=x.json"], "data.path")
    refuses([workdir, "--config.model.layer=layer7", "--config.data.scenes=5"], "no layer 'layer7'", "nearest")
    refuses([workdir, "--config.model.cell=lru", "--config.model.attention=bahdanau", "--config.data.scenes=5"], "bahdanau")


def test_all_faults_of_files_stop_a_run(refused, tmp_path):
    parts = made_captions.write_set(tmp_path, {"train": 5, "validation": 2})
    parts["train"].append(("gone.png", ["A ghost"]))
    paths = {part: made_captions.write_coco(tmp_path, part, rows) for part, rows in parts.items()}
    (tmp_path / "train1.png").write_bytes(b"")
    config = settings.build(captioning.FIELDS, {
        "data.source": "file", "data.path": str(paths["train"]), "data.validation_path": str(paths["validation"]), "criterion": "cider",
    })  # fmt: skip
    with pytest.raises(UserError) as error:
        captioning.load(config)
    assert "gone.png" in str(error.value) and "train1.png" in str(error.value)


@pytest.mark.slow
def test_coco_and_karpathy_files_train_too(tmp_path):
    """The settings of the presets' formats give batches: one step of a tiny model on each."""
    parts = made_captions.write_set(tmp_path, {"train": 6, "val": 3})
    coco = {part: made_captions.write_coco(tmp_path, part, rows) for part, rows in parts.items()}
    made_captions.write_karpathy(tmp_path, parts)
    for preset, paths in {
        "coco": {"data.path": str(coco["train"]), "data.validation_path": str(coco["val"])},
        "flickr8k": {"data.path": str(tmp_path / "dataset.json")},
    }.items():
        values = captioning.PRESETS[preset] | paths | {
            "data.image_size": 16, "data.workers": 1, "data.batch_size": 4, "data.eval_batch_size": 4, "tokenizer.min_count": 1,
            "model.name": "resnet20_cifar", "model.options": "width=4", "model.layer": "layer1.0", "model.hidden_size": 8,
            "model.embed_size": 8,
        }  # fmt: skip
        config = settings.build(captioning.FIELDS, values)
        dataset = captioning.load(config)
        spec = captioning.prepare(config, dataset)
        model = captioning.build(config, spec)
        variables = dict(model.init(jax.random.key(0)))
        batch = next(captioning.batches(config, spec, dataset.parts["train"], training=True))
        loss = model.loss(variables["params"], {"batch_stats": variables["batch_stats"]}, (), batch, jax.random.key(1))[2]
        assert np.isfinite(float(loss.loss)) and len(dataset.parts["validation"]) == 3


@pytest.mark.slow
def test_predictions_are_json(runs):
    workdir, _ = runs.evaluated(ROW)
    rows = [json.loads(line) for line in (workdir / "predictions_validation.jsonl").read_text().splitlines()]
    assert all(row.keys() == {"image", "captions", "output"} for row in rows) and len(rows) == 12
