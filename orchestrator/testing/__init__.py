"""A kit for tests of agents: drive a VoiceAgent by text or by a WAV, with no stack, in virtual time.

The orchestrator's own code runs unchanged; the LLM says what a script says, and vad, stt and tts are simulated. See
`docs/testing.md`.
"""

from orchestrator.testing.call import Call
from orchestrator.testing.clock import Stuck, VirtualLoop, run, virtual_time
from orchestrator.testing.expect import Expect
from orchestrator.testing.nodes import SimulatedNodes
from orchestrator.testing.script import Script, Unscripted, calls, calls_raw, fails, hangs, pause, says, step

__all__ = [
    "Call",
    "Expect",
    "Script",
    "SimulatedNodes",
    "Stuck",
    "Unscripted",
    "VirtualLoop",
    "calls",
    "calls_raw",
    "fails",
    "hangs",
    "pause",
    "run",
    "says",
    "step",
    "virtual_time",
]
