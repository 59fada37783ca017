"""A CNN up to one of its layers: a feature map by name, with only the parameters that it needs."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from seqjax.cnn.inspection import summary
from seqjax.errors import UserError, nearest
from seqjax.typing import Array, Key


class Features:
    """A feature map of a network.

    Modules that start after the layer are not run and have no parameters here, so a classifier's head costs nothing.

    Args:
      module: an unbound network of `seqjax.cnn`.
      layer: dotted path of a module inside it, such as "layer3", as `feature_names` lists them.
      shape: of an image, (H, W, C).

    Attributes:
      shape: of the map, (h, w, M).

    Raises:
      UserError: there is no such layer, or its output is not a map.

    Example:
      >>> from seqjax import cnn
      >>> features = Features(cnn.create("resnet18", width=8), "layer2", (40, 40, 3))
      >>> variables = features.init(jax.random.key(0))
      >>> sorted(variables["params"]), features.shape
      (['bn1', 'conv1', 'layer1', 'layer2'], (5, 5, 16))
      >>> maps, statistics = features.apply(variables, jnp.ones((2, 40, 40, 3)), train=True)
      >>> maps.shape, sorted(statistics)
      ((2, 5, 5, 16), ['batch_stats'])
    """

    def __init__(self, module: nn.Module, layer: str, shape: tuple[int, int, int]):
        self.module, self.layer, self._input = module, layer, tuple(shape)
        rows = [row for row in summary(module, (1, *shape)).rows if row.path and row.shape is not None]
        names = [row.path for row in rows]
        name = type(module).__name__
        if layer not in names:
            maps = [row.path for row in rows if _is_map(row.shape)]
            raise UserError(f"{name} has no layer {layer!r}{nearest(layer, names)}; layers with maps are {', '.join(maps[-12:])}")
        (row,) = (row for row in rows if row.path == layer)
        if not _is_map(row.shape):
            raise UserError(f"{layer} of {name} gives {row.shape}, which is not a feature map (1, h, w, M); choose an earlier layer")
        self.shape: tuple[int, ...] = cast(tuple[int, ...], row.shape)[1:]
        needed = names[: names.index(layer) + 1] + [other for other in names if other.startswith(f"{layer}.")]
        self._needed = {tuple(path.split(".")) for path in needed}
        self._modules = {tuple(path.split(".")) for path in names}
        self._whole = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape))))

    def init(self, key: Key) -> dict[str, Any]:
        """Initialises the variables that the layer needs, by collection."""
        return jax.jit(lambda key: self.part(self.module.init(key, jnp.zeros((1, *self._input)))))(key)

    def part(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Selects the variables that the layer needs from those of the whole network, such as pretrained ones."""
        found = {}
        for collection, values in variables.items():
            flat = traverse_util.flatten_dict(dict(values))
            kept = {path: leaf for path, leaf in flat.items() if self._owner(path) in self._needed}
            if kept:
                found[collection] = traverse_util.unflatten_dict(kept)
        return found

    def _owner(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the innermost module that a variable belongs to."""
        return next((path[:end] for end in range(len(path) - 1, 0, -1) if path[:end] in self._modules), ())

    def apply(self, variables: Mapping[str, Any], images: Array, *, train: bool = False, rngs: Any = None) -> tuple[Array, dict[str, Any]]:
        """Computes the feature map.

        Args:
          variables: what `init` or `part` returned.
          images: (B, H, W, C), as the network takes them.
          train: as in training, with the batch's own statistics.
          rngs: for dropout in training, such as {"dropout": key}.

        Returns:
          The map (B, h, w, M), and the collections other than the parameters, with statistics updated in training.
        """
        layer = tuple(self.layer.split("."))

        def keep(module, method):
            return method == "__call__" and module.path == layer

        # What comes after the layer is not computed inside jit, so zeros serve as its parameters.
        whole = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self._whole)
        whole = {name: _merged(values, variables.get(name, {})) for name, values in whole.items()}
        kept = [name for name in variables if name != "params"]
        out, state = self.module.apply(
            whole,
            images,
            train=train,
            rngs=rngs,
            mutable=[*kept, "intermediates"] if train else ["intermediates"],
            capture_intermediates=keep,
        )
        del out
        maps: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(state["intermediates"])
        found = maps[*layer, "__call__"][0]
        if not train:
            return found, {name: variables[name] for name in kept}
        return found, self.part({name: state[name] for name in kept})


def _is_map(shape: Any) -> bool:
    return bool(shape) and isinstance(shape[0], int) and len(shape) == 4


def _merged(whole: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces some leaves of the whole."""
    return {
        name: _merged(value, part.get(name, {})) if isinstance(value, Mapping) else part.get(name, value) for name, value in whole.items()
    }
