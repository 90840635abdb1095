"""Does each engine load? Tried in a process of its own, for an engine may hang, crash, or take all the memory.

As a program (`python -m antiphon.examine_engines SERVICE ENGINE`) it is that process.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from antiphon.findings import Finding, ok, problem
from protocol.engine import SERVICES
from protocol.errors import AntiphonError

TIMEOUT_S = 30.0
AT_ONCE = 2


def examine() -> list[Finding]:
    """Load every engine that is installed; takes as long as the slowest ones."""
    from services.runtime.loading import engines_of

    pairs = [(service, engine) for service in SERVICES for engine in engines_of(service)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda pair: _try(*pair), pairs))


def _try(service: str, engine: str) -> Finding:
    about = f"engine {service}/{engine}"
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter, names from our own package
            [sys.executable, "-P", "-m", "antiphon.examine_engines", service, engine],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return problem(
            about, f"has not loaded within {TIMEOUT_S:g} s", f"see why: antiphon {service} --engine {engine}"
        )
    if done.returncode == 0:
        return ok(about, f"loads in {time.monotonic() - began:.1f} s")
    said = done.stderr.strip().splitlines()
    reason = said[-1] if said else f"it ended with {done.returncode}"
    return problem(about, f"does not load: {reason}", f"see all of it: antiphon {service} --engine {engine}")


async def _load(service: str, name: str) -> None:
    from services.runtime.loading import load_engine

    engine = load_engine(service, name)
    try:
        await engine.load(1)
    finally:
        await engine.close()


def main() -> None:
    """Load one engine and give it back; exit code 1, and the reason on standard error, when that fails."""
    try:
        asyncio.run(_load(sys.argv[1], sys.argv[2]))
    except AntiphonError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
