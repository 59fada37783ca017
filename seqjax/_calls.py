"""Values identified by the call that made them: equal calls give equal values, and repr and pickle use the call."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A call of a module-level function."""

    function: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...]  # arguments that differ from their defaults, by name, in signature order

    def again(self) -> Any:
        """Returns the result of the call."""
        args, kwargs = self._written()
        return self.function(*args, **kwargs)

    def __str__(self) -> str:
        args, kwargs = self._written()
        shown = [*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())]
        return f"{self.function.__name__}({', '.join(shown)})"

    def _written(self) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments as written in source: those without a default by position, the others by name."""
        parameters, args, kwargs = inspect.signature(self.function).parameters, [], {}
        for name, value in self.arguments:
            if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
                args += value
            elif parameters[name].default is inspect.Parameter.empty:
                args.append(value)
            else:
                kwargs[name] = value
        return args, kwargs


def recorded(build: Callable[..., Any], attach: Callable[[Any, Call], Any]) -> Callable[..., Any]:
    """Wraps the function so that each result passes through `attach(result, call)`, unless an argument is unhashable."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def make(*args: Any, **kwargs: Any) -> Any:
        made = build(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments.items()
        arguments = tuple((name, value) for name, value in given if not _is(value, signature.parameters[name].default))
        try:
            hash(arguments)
        except TypeError:
            return made
        return attach(made, Call(make, arguments))

    return make


def _is(value: Any, default: Any) -> bool:
    """Whether an argument equals its default and has the same type."""
    plain = type(value) is type(default) and isinstance(value, (bool, int, float, str))
    return value is default or (plain and value == default)


def _shown(value: Any) -> str:
    """Formats an argument; functions and types appear by name."""
    return getattr(value, "__name__", None) or repr(value)
