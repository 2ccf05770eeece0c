"""Fixtures for all tests: a seeded generator, array modules, the folder of real data."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minikd.backend import select_device
from tests import strict_array


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of the test's own: the same numbers on every run, others in every test."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def cupy() -> Any:
    """The module cupy; the test is skipped where no GPU computes with it."""
    try:
        return select_device("gpu")[0]
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["numpy", "strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """The array modules one after the other; `xp.asarray` uploads, `minikd.backend.to_host` downloads."""
    if request.param == "cupy":
        return request.getfixturevalue("cupy")
    return {"numpy": np, "strict": strict_array.xp}[request.param]


@pytest.fixture(params=["strict", pytest.param("cupy", marks=pytest.mark.gpu)])
def gpu_xp(request: pytest.FixtureRequest) -> Any:
    """CuPy, and its stand-in on a machine without a GPU."""
    return request.getfixturevalue("cupy") if request.param == "cupy" else strict_array.xp


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text, from MINIKD_SHARED_DATA or beside the repository; skips where there is none."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MINIKD_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real text: MINIKD_SHARED_DATA names no folder, nor is {folder} one")
    return folder
