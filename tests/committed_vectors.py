"""The reference vectors in tests/vectors: which they are; `python -m tests.committed_vectors` writes them anew."""

import shutil
from pathlib import Path

from minikd.oracle.vectors import write_vectors

FOLDER = Path(__file__).parent / "vectors"
NAMES = ("softmax", "gelu", "layer_norm", "cross_entropy", "forward_kl", "reverse_kl", "clip_by_global_norm")
"""Something of each kind, in less than half a megabyte."""

if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    print(write_vectors(FOLDER, NAMES), "tests")
