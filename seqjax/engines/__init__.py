"""Engines: ways to run a cell over a sequence, one file an engine, all with the signature of `scan.run`."""

from seqjax.engines import scan
from seqjax.errors import UserError

ENGINES = {"scan": scan.run}


def check_name(engine: str) -> None:
    """Refuses a name that no engine has."""
    if engine not in ("auto", *ENGINES):
        raise UserError(f"engine must be one of {['auto', *ENGINES]}, and it is {engine!r}")


def run(engine, cell, params, carry, initial, xs, **settings):
    """Runs a cell on the named engine; "auto" is the plain scan while there is no other."""
    return ENGINES["scan" if engine == "auto" else engine](cell, params, carry, initial, xs, **settings)
