"""All that the agent says in a conversation, as one WAV file. An interrupted reply is kept as far as it was heard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import soundfile

from antiphon.exit_codes import UnwritableOutput
from protocol.audio import AudioFormat


class ReplyFile:
    """Opens the file at once, so that a path that cannot be written is known before the conversation."""

    def __init__(self, path: Path, format: AudioFormat) -> None:
        self.path = path
        self.format = format
        self.written_ms = 0.0
        self._generation = -1
        self._reply = bytearray()  # of the newest generation: it may still be cut
        try:
            self._file = soundfile.SoundFile(
                str(path), "w", samplerate=format.sample_rate, channels=1, subtype="PCM_16", format="WAV"
            )
        except (OSError, soundfile.LibsndfileError) as error:
            reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
            raise UnwritableOutput(f"{path} cannot be written: {str(reason).rstrip('.')}") from None

    def take(self, generation: int, pcm: bytes) -> None:
        """Audio of this generation came."""
        if generation != self._generation:
            self._write()
            self._generation = generation
        self._reply += pcm

    def clear(self, heard_ms: int) -> None:
        """The reply was interrupted after so many milliseconds."""
        del self._reply[self.format.frame_bytes(heard_ms) :]
        self._write()

    def close(self) -> None:
        """Write what is left. Safe to repeat."""
        if not self._file.closed:
            self._write()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        self._file.buffer_write(bytes(self._reply), dtype="int16")
        self.written_ms += self.format.duration_ms(len(self._reply))
        self._reply.clear()
