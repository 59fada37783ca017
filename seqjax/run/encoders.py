"""Networks of `seqjax.cnn` as image encoders: settings, pretrained weights, freezing."""

from collections.abc import Iterable
from typing import Any, cast

import jax

from seqjax import cnn
from seqjax.interop.torchvision import from_torch_cnn, read_state_dict
from seqjax.run.parts import compute_dtype, with_settings
from seqjax.run.recipe import patterns
from seqjax.run.settings import ConfigDict, Field, one_of
from seqjax.training.freezing import all_frozen

NETWORKS = tuple(name for name in cnn.names() if name not in ("tcn", "text_cnn"))


def fields(name: str, layer: str) -> dict[str, Field]:
    """The settings of an encoder.

    Args:
      name, layer: the defaults.

    Example:
      >>> list(fields("resnet18", "layer4"))
      ['model.name', 'model.options', 'model.layer', 'model.weights']
    """
    return {
        "model.name": Field(name, "The encoder; seqjax.cnn.names() lists them.", one_of(*NETWORKS)),
        "model.options": Field("", "More options for the encoder, such as stem=small,width=32."),
        "model.layer": Field(layer, "The encoder layer whose feature map is used; later layers are dropped."),
        "model.weights": Field("", "File of torch weights to initialise the encoder from, with torchvision's names."),
    }


def encoder(config: ConfigDict, shape: tuple[int, int, int]) -> cnn.Features:
    """The encoder of config.model up to its layer.

    Args:
      config: with the settings of `fields` and model.dtype.
      shape: of an image, (H, W, C).

    Example:
      >>> model = {"name": "resnet18", "options": "width=8", "layer": "layer2", "dtype": "float32"}
      >>> encoder(ConfigDict({"model": model}), (40, 40, 3)).shape
      (5, 5, 16)
    """
    return cnn.Features(with_settings(cnn.create_for, config.model, shape, dtype=compute_dtype(config)), config.model.layer, shape)


def is_frozen(config: ConfigDict, features: cnn.Features) -> bool:
    """Whether optimizer.frozen covers all of the encoder's parameters; the encoder then runs in evaluation mode, so that its statistics
    stay too.

    Example:
      >>> from seqjax.cnn import create
      >>> features = cnn.Features(create("lenet5"), "conv2", (28, 28, 1))
      >>> [is_frozen(ConfigDict({"optimizer": {"frozen": frozen}}), features) for frozen in ("", "conv1", "^encoder/")]
      [False, False, True]
    """
    params = jax.eval_shape(features.init, jax.random.key(0))["params"]
    return all_frozen({"encoder": params}, patterns(config.optimizer.frozen))


def pretrained(config: ConfigDict, features: cnn.Features, params: Any, state: Any) -> tuple[Any, Any]:
    """Loads the encoder's weights and statistics from model.weights into parameters and model state; no change if it is empty.

    Args:
      config: with model.weights.
      features: the encoder.
      params: {"encoder": ..., and others}.
      state: collections of the encoder.

    Raises:
      UserError: a file that holds no weights of this network.
    """
    if not config.model.weights:
        return params, state
    given = features.part(from_torch_cnn(cast(Any, features.module), read_state_dict(config.model.weights), drop_aux=True))
    return params | {"encoder": given["params"]}, {name: given[name] for name in state} if state else state


def described(config: ConfigDict, features: cnn.Features) -> Iterable[str]:
    """Lines about the encoder for the start of a run; warns if a frozen encoder has random weights."""
    yield f"encoder: {config.model.name} up to {config.model.layer}, a map of {' x '.join(map(str, features.shape))}"
    if is_frozen(config, features) and not config.model.weights:
        yield "the encoder is frozen but not pretrained: set model.weights, --init_from, or optimizer.frozen=''"
