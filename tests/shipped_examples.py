"""The agents in `examples/`, as tests get hold of them. Knows nothing of how they are tested."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str) -> ModuleType:
    """The example as a module of its own: it shares nothing with one that was loaded before, caches least of all."""
    module_name = f"example_{name}"
    spec = importlib.util.spec_from_file_location(module_name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # annotations that are strings are looked up there
    spec.loader.exec_module(module)
    return module
