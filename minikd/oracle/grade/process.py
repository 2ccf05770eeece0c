"""A process that is asked and answers over pipes, and is not trusted: every wait has an end, every length a bound."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from minikd.oracle.grade.child import wire

PIECE = 2**16
MAX_PRINTED = 4000
GRACE = 1.0  # seconds in which a process that has hung up may end by itself
SIGNALS = {
    signal.SIGXCPU: "it took more processor time than it may",
    signal.SIGKILL: "it was killed; did it run out of memory?",
}


class Gone(Exception):
    """The process gave no answer and is no more; the message says why."""


class Process:
    """A command in a session of its own, told the descriptors of its two pipes as its last two arguments."""

    def __init__(self, command: Sequence[str], *, folder: str, environment: Mapping[str, str]):
        theirs_in, self._requests = os.pipe()
        self._replies, theirs_out = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs_in), str(theirs_out)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(environment),
                pass_fds=(theirs_in, theirs_out),
                start_new_session=True,
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._printing = True
        self.printed = bytearray()
        for descriptor in (self._requests, self._replies, self._output):
            os.set_blocking(descriptor, False)

    def exchange(self, request: bytes, seconds: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Write a request and read the message that answers it, while taking what the process prints.

        Gone: it did not answer in time, or not with one message.
        """
        deadline = time.monotonic() + seconds
        outgoing, incoming = memoryview(request), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            if self._printing:
                selector.register(self._output, selectors.EVENT_READ)
            if outgoing:
                selector.register(self._requests, selectors.EVENT_WRITE)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if self._output in ready and not self._take_output():
                    selector.unregister(self._output)
                if self._requests in ready:
                    outgoing = outgoing[self._written(outgoing) :]
                    if not outgoing:
                        selector.unregister(self._requests)
                if self._replies in ready:
                    piece = os.read(self._replies, PIECE)
                    if not piece:
                        raise Gone(self._how_it_ended())
                    incoming += piece
                    if (message := _whole(incoming)) is not None:
                        return message
        raise Gone(f"it gave no answer within {seconds:g} s")

    def end(self) -> None:
        """End the process and all that it has started."""
        if self._process.stdout is None or self._process.stdout.closed:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        while self._printing and self._take_output():
            pass
        self._process.stdout.close()
        os.close(self._requests)
        os.close(self._replies)

    def _written(self, data: memoryview) -> int:
        try:
            return os.write(self._requests, data)
        except BrokenPipeError:
            return len(data)  # nobody reads: the end of the replies will say why

    def _take_output(self) -> bool:
        """Read some of what was printed, keep the beginning; False where no more will come, or none for now."""
        try:
            piece = os.read(self._output, PIECE)
        except BlockingIOError:
            return False
        self._printing = bool(piece)
        self.printed += piece[: MAX_PRINTED - len(self.printed)]
        return self._printing

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "it closed its connection to the judge"
        number = -code if code < 0 else code - 128  # bubblewrap reports a signal as a shell does
        if number > 0:
            with suppress(ValueError):
                which = signal.Signals(number)
                return SIGNALS.get(which, f"it crashed ({which.name})")
        return f"it ended its process (exit code {code}) instead of answering"


def _whole(data: bytearray) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The message in `data`, None if it is not all there yet; Gone: it is none."""
    start = wire.LENGTHS.size
    if len(data) < start:
        return None
    try:
        text, block = wire.lengths(data)
        if len(data) < start + text + block:
            return None
        if len(data) > start + text + block:
            raise ValueError("more than one")
        return wire.unpack(bytes(data[start : start + text]), bytes(data[start + text :]))
    except ValueError as error:
        raise Gone(f"it wrote to the judge's pipe what is no answer ({error})") from error
