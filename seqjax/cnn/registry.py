"""The registry of all networks: their names, and how to create one."""

import ast
import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from seqjax.cnn import alexnet, googlenet, inception, lenet, mobilenet, resnet, resnet_cifar, tcn, text_cnn, vgg
from seqjax.cnn.base import field_names
from seqjax.errors import UserError

# name -> the class with the options of the variant; torchvision's name if it has one
MODELS: dict[str, Callable[..., nn.Module]] = {
    **lenet.MODELS,
    **alexnet.MODELS,
    **vgg.MODELS,
    **googlenet.MODELS,
    **inception.MODELS,
    **resnet.MODELS,
    **resnet_cifar.MODELS,
    **mobilenet.MODELS,
    **tcn.MODELS,
    **text_cnn.MODELS,
}


def names() -> list[str]:
    """Returns the names that `create` accepts.

    Example:
      >>> "resnet50" in names()
      True
    """
    return list(MODELS)


def create(name: str, /, **options) -> nn.Module:
    """Creates a network by name.

    Args:
      name: one of names().
      options: fields of the network's class, such as `num_classes`, `in_channels` and `dtype`.

    Returns:
      A linen module.

    Raises:
      ValueError: the name is unknown, or the network has no such option; the message suggests the nearest.

    Example:
      >>> create("resnet18", num_classes=10).num_classes
      10
    """
    if name not in MODELS:
        raise ValueError(f"there is no network {name!r}{_nearest(name, MODELS)}; cnn.names() lists all")
    made = MODELS[name]
    model, fixed = (made.func, made.keywords) if isinstance(made, functools.partial) else (made, {})
    known = [field for field in field_names(model) if field not in fixed]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{_nearest(option, known)}; it has {', '.join(known)}")
    return made(**options)


def create_for(shape: Sequence[int], name: str, *, options: str = "", **others: Any) -> nn.Module:
    """Creates a network for images of one shape, and checks that they are large enough for it.

    Args:
      shape: of an image, (H, W, C).
      name: as in `create`.
      options: further options as text, see `parse_options`.
      **others: further options as in `create`.

    Returns:
      A linen module.

    Raises:
      UserError: `create` or `parse_options` refuses, or images are too small for the network or its auxiliary heads.

    Example:
      >>> create_for((28, 28, 1), "lenet5", num_classes=10).num_classes
      10
    """
    try:
        module = create(name, in_channels=shape[-1], **others, **parse_options(options))
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
        jax.eval_shape(functools.partial(module.init, train=True), keys, jnp.zeros((1, *shape)))
    except (TypeError, ValueError) as error:
        raise UserError(f"model {name}: {error}") from error
    return module


def _nearest(name, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (nearest: {near[0]})" if near else ""


def parse_options(text: str) -> dict[str, Any]:
    """Parses the options of a network from a command line.

    Args:
      text: `name=value` pairs separated by commas; a value is a Python literal, or a word that is taken as a string.

    Raises:
      ValueError: a part is not `name=value`.

    Example:
      >>> parse_options("stem=small, zero_init_residual=True, width=32")
      {'stem': 'small', 'zero_init_residual': True, 'width': 32}
    """
    try:
        call = ast.parse(f"options({text})", mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or call.args or not all(keyword.arg for keyword in call.keywords):
        raise ValueError(f"options={text!r} is not of the form name=value,name=value")
    return {str(keyword.arg): _value(keyword.value, text) for keyword in call.keywords}


def _value(node: ast.expr, text: str) -> Any:
    try:
        return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"options={text!r}: {ast.unparse(node)!r} is neither a literal nor a word") from None
