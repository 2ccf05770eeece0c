"""The versions that numbers depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("minikd", "numpy", "tokenizers")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the bytes of a result, by name."""
    return {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}}


def package_version(name: str) -> str:
    """Of an installed package; `not installed` where it is run from its source alone."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
