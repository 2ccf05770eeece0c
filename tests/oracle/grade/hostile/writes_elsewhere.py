"""Leaves a file outside of its own folder."""

import tempfile
from pathlib import Path


def softmax(logits, temperature=1.0):
    Path(tempfile.gettempdir(), "here").write_text("this is its own folder")
    Path("@ROOT@", "left-behind").write_text("this is not")
    return logits, lambda dp: dp
