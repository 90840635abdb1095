"""What is wrong with a grammar, with keywords or with words: what only pocketsphinx and its dictionary can tell.

pocketsphinx takes a grammar with an undefined rule or a left recursion and only logs it, so its log counts here.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from services.stt.pocketsphinx_messages import Search

MAX_NAMED = 10  # missing words in one message
LOGGED = re.compile(r"^ERROR: [^:]*: (.*?)(?: at line \d+ current token .*)?$", re.MULTILINE)


def fault_in(search: Search, decoder: Any) -> tuple[str, str]:
    """The option that is wrong and what is wrong with it, or two empty strings. Blocks."""
    added = {word for word, _ in search.words}
    if search.grammar:
        words, error = _grammar_words(search.grammar, decoder)
        option, error = "grammar", error or _unknown(words, added, decoder)
    else:
        phrases = " ".join(phrase for phrase, _ in search.keywords)
        option, error = "keywords", _unknown(phrases.split(), added, decoder)
    return (option, error) if error else ("", "")


def _unknown(words: Iterable[str], added: set[str], decoder: Any) -> str:
    """A sentence that names the words without a pronunciation, or ""."""
    missing = sorted({word for word in words if word not in added and decoder.lookup_word(word) is None})
    if not missing:
        return ""
    named = ", ".join(repr(word) for word in missing[:MAX_NAMED])
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    hint = "the dictionary is lower-case" if any(word != word.lower() for word in missing) else ""
    return f"not in the dictionary: {named}{more}; {hint or 'give their pronunciation in the option words'}"


def _grammar_words(grammar: str, decoder: Any) -> tuple[set[str], str]:
    """The words of a grammar, and what pocketsphinx says against it."""
    with _error_log() as complaints, tempfile.NamedTemporaryFile(prefix="antiphon-", suffix=".fsg") as file:
        try:
            decoder.parse_jsgf(grammar).writefile(file.name)
        except (RuntimeError, ValueError) as error:
            raised = str(error)
        else:
            raised = ""
        found = complaints()
        lines = file.read().decode().splitlines()
    words = {parts[4] for line in lines if len(parts := line.split()) == 5 and parts[0] in ("TRANSITION", "T")}
    return words, found[0] if found else raised


@contextmanager
def _error_log() -> Iterator[Callable[[], list[str]]]:
    """Catch what pocketsphinx logs as errors; gives a function that returns them. It writes to descriptor 2."""
    from pocketsphinx import set_loglevel

    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        set_loglevel("ERROR")

        def complaints() -> list[str]:
            file.seek(0)
            return LOGGED.findall(file.read().decode(errors="replace"))

        try:
            yield complaints
        finally:
            set_loglevel("FATAL")
            os.dup2(kept, 2)
            os.close(kept)
