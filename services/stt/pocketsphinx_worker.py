"""The process in which pocketsphinx decodes: one decoder, one utterance at a time. Knows the pipes and no asyncio.

`python -m services.stt.pocketsphinx_worker recognise` (or `check`). It ends when its standard input ends: also when
the node was killed, for nobody else holds the other end. It ignores SIGINT and SIGTERM, which reach the whole process
group: the node drains, and needs its decoders for that.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, BinaryIO

from services.stt.pocketsphinx_check import fault_in
from services.stt.pocketsphinx_decoder import Recogniser, bare_decoder
from services.stt.pocketsphinx_messages import Begin, Check, Finish, Listen, Reply, Request, read_request, reply_line


class Desk:
    """Answers requests, with the decoder that they are for."""

    def __init__(self, purpose: str) -> None:
        self._recogniser = Recogniser() if purpose == "recognise" else None
        self._decoder: Any = bare_decoder() if self._recogniser is None else None

    def answer(self, request: Request) -> Reply:
        """Do what is asked; what pocketsphinx raises is the reply's error."""
        try:
            return self._check(request) if isinstance(request, Check) else self._recognise(request)
        except Exception as error:  # noqa: BLE001  # told to the node, which replaces this process
            return Reply(request.number, error=f"{type(error).__name__}: {error}")

    def _check(self, request: Check) -> Reply:
        option, error = fault_in(request.search, self._decoder)
        return Reply(request.number, option=option, error=error)

    def _recognise(self, request: Begin | Listen | Finish) -> Reply:
        recogniser = self._recogniser
        assert recogniser is not None
        if isinstance(request, Begin):
            recogniser.begin(request.search, request.cepstral_mean)
            return Reply(request.number)
        if isinstance(request, Listen):
            return Reply(request.number, recogniser.listen(request.pcm))
        text, confidence = recogniser.finish(request.pcm)
        return Reply(request.number, text, confidence, recogniser.cepstral_mean)


def main() -> None:
    """Serve requests from standard input until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    replies = _claim_output()
    try:
        desk = Desk(sys.argv[1])
    except Exception as error:  # noqa: BLE001  # told to the node, which tells the person
        replies.write(reply_line(Reply(0, error=f"{type(error).__name__}: {error}")))
        return
    replies.write(reply_line(Reply(0)))
    while (request := read_request(sys.stdin.buffer)) is not None:
        try:
            replies.write(reply_line(desk.answer(request)))
        except BrokenPipeError:  # the node is gone
            return


def _claim_output() -> BinaryIO:
    """Standard output, taken from pocketsphinx: its parser of grammars prints there what it does not understand."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return replies


if __name__ == "__main__":
    main()
