"""The table of all CNNs. To test a new one, add a row: the generic suite runs over this list."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import cnn


class Row(NamedTuple):
    name: str  # for cnn.create
    full: tuple[int, ...]  # the input size of the published numbers
    parameters: int  # with no options
    gmac: float | None  # 1e9 multiply-adds with no options, to three places
    shape: tuple[int, ...]  # of a cheap input
    other: tuple[int, ...]  # another size
    options: dict[str, Any]  # options that make the network cheap
    norm: bool = False  # has batch norms
    aux: int = 0  # auxiliary heads
    dropout: bool = False
    tokens: bool = False  # takes tokens, not floats
    default: bool = False  # its values are tested by default, those of the others in the slow tests
    deep: bool = False  # slow to trace, so only the counts are tested by default


def _images(name, parameters, gmac, size, other, full=224, **settings):
    shapes = {"shape": (3, size, size, 3), "other": (1, *other, 3), "full": (1, full, full, 3)}
    settings = {"options": {"num_classes": 4}} | settings
    return Row(name=name, parameters=parameters, gmac=gmac, **shapes, **settings)


def _grey(name, parameters, **settings):
    shapes = {"full": (1, 32, 32, 1), "shape": (3, 20, 20, 1), "other": (1, 28, 36, 1)}
    return Row(name=name, parameters=parameters, gmac=None, **shapes, options={"num_classes": 4}, **settings)


def _vgg(depth, plain, normed, gmac):
    small = {"num_classes": 4, "channels": (8, 8, 16, 16, 16), "hidden": 32}
    settings = {"size": 32, "other": (64, 96), "dropout": True, "options": small}
    return [
        _images(f"vgg{depth}", plain, gmac, **settings),
        _images(f"vgg{depth}_bn", normed, gmac, norm=True, **settings),
    ]


def _cifar(depth, parameters, **settings):
    return _images(f"resnet{depth}_cifar", parameters, None, 8, (12, 9), full=32, norm=True, **settings)


ROWS = [
    _grey("lenet5", 61_706, default=True),
    _grey("lenet5_1998", 60_850),
    _images("alexnet", 61_100_840, 0.714, 63, (80, 70), dropout=True),
    *_vgg(11, 132_863_336, 132_868_840, 7.609),
    *_vgg(13, 133_047_848, 133_053_736, 11.308),
    *_vgg(16, 138_357_544, 138_365_992, 15.470),
    *_vgg(19, 143_667_240, 143_678_248, 19.632),
    _images("googlenet", 13_004_888, 1.498, 32, (64, 48), norm=True, aux=2, dropout=True),
    _images("inception_v3", 27_161_264, 5.713, 299, (107, 80), full=299, norm=True, aux=1, dropout=True),
    _images("resnet18", 11_689_512, 1.814, 32, (40, 33), norm=True, options={"num_classes": 4, "width": 8}),
    _images("resnet34", 21_797_672, 3.664, 32, (40, 33), norm=True, options={"num_classes": 4, "width": 8}),
    _images("resnet50", 25_557_032, 4.089, 32, (40, 33), norm=True, options={"num_classes": 4, "width": 8}),
    _images("resnet101", 44_549_160, 7.801, 32, (40, 33), deep=True, norm=True, options={"num_classes": 4, "width": 8}),
    _images("resnet152", 60_192_808, 11.514, 32, (40, 33), deep=True, norm=True, options={"num_classes": 4, "width": 8}),
    _cifar(20, 269_722, default=True),
    _cifar(32, 464_154),
    _cifar(44, 658_586, deep=True),
    _cifar(56, 853_018, deep=True),
    _cifar(110, 1_727_962, deep=True),
    _images("mobilenet_v1", 4_231_976, 0.569, 32, (40, 33), norm=True, dropout=True, options={"num_classes": 4, "width": 0.25}),
    _images("mobilenet_v2", 3_504_872, 0.301, 32, (40, 33), norm=True, dropout=True, options={"num_classes": 4, "width_mult": 0.25}),
    Row(
        "tcn", (1, 784, 1), 66_910, None, (3, 12, 1), (1, 7, 1), {"num_classes": 4, "channels": (5, 5), "kernel_size": 3},
        dropout=True, default=True,
    ),
    Row(
        "text_cnn", (1, 50), 6_360_902, None, (3, 12), (1, 7), {"num_classes": 4, "vocab_size": 11, "embed_size": 6, "maps": 5},
        dropout=True, tokens=True, default=True,
    ),
]  # fmt: skip


def names(rows):
    return [row.name for row in rows]


def draw(row, seed=0):
    """Random inputs of the cheap shape."""
    rng = np.random.default_rng(seed)
    if row.tokens:
        return jnp.asarray(rng.integers(0, row.options["vocab_size"], row.shape), jnp.int32)
    return jnp.asarray(rng.normal(size=row.shape), jnp.float32)


def abstract(row, shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32 if row.tokens else jnp.float32)


def make(row, **options):
    return cnn.create(row.name, **(row.options | options))


def shapes(model, x, **options):
    """The output of init, as shapes."""
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **options), x)


def draw_variables(row, seed=1):
    """A model and random variables, drawn without compiling anything; every bias is away from zero."""
    model, rng = make(row), np.random.default_rng(seed)

    def fill(path, leaf):
        kind = path[-1].key
        if leaf.ndim > 1:
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1))
        elif kind in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.1
        return jnp.asarray(values, leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(fill, shapes(model, abstract(row, row.shape)))
