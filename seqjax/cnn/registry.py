"""One door to all networks: their names, and how to make one."""

import ast
import difflib
import functools
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from seqjax.cnn import alexnet, googlenet, inception, lenet, mobilenet, resnet, resnet_cifar, tcn, text_cnn, vgg
from seqjax.cnn.base import field_names

# name -> the class with the options that make the variant; torchvision's names where it has one
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
    """The names that create knows.

    Example:
      >>> "resnet50" in names()
      True
    """
    return list(MODELS)


def create(name: str, /, **options) -> nn.Module:
    """Makes a network by name.

    Args:
      name: one of names().
      options: fields of the network's class, such as `num_classes`, `in_channels` and `dtype`.

    Returns:
      A linen module.

    Raises:
      ValueError: the name is unknown, or the network has no such option; says which is nearest.

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


def _nearest(name, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (nearest: {near[0]})" if near else ""


def parse_options(text: str) -> dict[str, Any]:
    """Options of a network as a command line gives them.

    Args:
      text: `name=value` with commas between; a value is a Python literal, or a word that stands for itself.

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
    return {keyword.arg: _value(keyword.value, text) for keyword in call.keywords}


def _value(node: ast.expr, text: str) -> Any:
    try:
        return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"options={text!r}: {ast.unparse(node)!r} is neither a literal nor a word") from None
