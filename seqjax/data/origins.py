"""The versions of Python and of packages that generated data depends on."""

import importlib.metadata
import platform
from collections.abc import Mapping

SPELLINGS = {"babel": "Babel", "pillow": "Pillow", "python": "Python"}  # others are spelled as pip spells them


def versions(*packages: str) -> dict[str, str]:
    """The versions installed here, for the `made_from` of a dataset.

    Args:
      *packages: package names as pip spells them, or "python".

    Returns:
      Package -> version.

    Example:
      >>> list(versions("python", "numpy"))
      ['python', 'numpy']
    """
    return {name: platform.python_version() if name == "python" else importlib.metadata.version(name) for name in packages}


def origin_notes(made_from: Mapping[str, str]) -> tuple[str, ...]:
    """The note that names the versions; () if the data depends on this project alone.

    Example:
      >>> origin_notes({"babel": "2.19.0", "pillow": "12.0.0"}), origin_notes({})
      (('made from Babel 2.19.0 and Pillow 12.0.0',), ())
    """
    made = [f"{SPELLINGS.get(name, name)} {version}" for name, version in made_from.items()]
    return (f"made from {' and '.join(made)}",) if made else ()


def explain_difference(saved: Mapping[str, str], here: Mapping[str, str]) -> str:
    """For data with different fingerprints, says which versions differ and how to restore the saved ones.

    Args:
      saved: the `made_from` of the data a run was trained on.
      here: the `made_from` of the data as loaded now.

    Returns:
      One sentence without a period; "" if no version differs, so that the cause lies elsewhere.

    Example:
      >>> explain_difference({"babel": "2.18.0"}, {"babel": "2.19.0"})
      "made from Babel 2.18.0 there and 2.19.0 here; pip install 'babel==2.18.0' to resume"
      >>> explain_difference({"python": "3.11.7"}, {"python": "3.12.1"})
      'made from Python 3.11.7 there and 3.12.1 here; run with Python 3.11.7 to resume'
      >>> explain_difference({"babel": "2.19.0"}, {"babel": "2.19.0"})
      ''
    """
    names = [name for name in {**saved, **here} if saved.get(name) != here.get(name)]
    if not names:
        return ""
    made = [_both_sides(SPELLINGS.get(name, name), saved.get(name), here.get(name)) for name in names]
    wanted = [f"'{name}=={saved[name]}'" for name in names if name in saved and name != "python"]
    ways = [f"pip install {' '.join(wanted)}"] if wanted else []
    if "python" in names and "python" in saved:
        ways.append(f"run with Python {saved['python']}")
    return f"made from {', '.join(made)}; {' and '.join(ways) or 'choose the same source and settings'} to resume"


def _both_sides(name: str, saved: str | None, here: str | None) -> str:
    if saved and here:
        return f"{name} {saved} there and {here} here"
    return f"{name} {saved} there and without it here" if saved else f"{name} {here} here and without it there"
