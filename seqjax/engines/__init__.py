"""Engines: ways to run a cell over a sequence, one file an engine, all with the signature of `scan.run`."""

from seqjax.engines import scan
from seqjax.errors import UserError

ENGINES = {"scan": scan.run}


def choose(engine: str):
    """The function that runs a cell on the named engine; "auto" is the plain scan while there is no other."""
    if engine == "auto":
        return scan.run
    if engine not in ENGINES:
        raise UserError(f"engine must be one of {['auto', *ENGINES]}, and it is {engine!r}")
    return ENGINES[engine]
