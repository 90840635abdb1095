"""A node process that ends with the process that started it. Run as a module, it is that node.

The folder of the agent's file comes last on its import path, as in the process that holds the agent: engines of the
user's own are found there, and take the place of none of ours.
"""

from __future__ import annotations

import sys

from antiphon.tied import tie


def command(parent: int, folder: str, *arguments: str) -> list[str]:
    """What starts `antiphon` with these arguments, tied to `parent`."""
    return [sys.executable, "-P", "-m", __name__, str(parent), folder, *arguments]


def main(parent: int, folder: str, arguments: list[str]) -> None:
    """Be that node for as long as the parent lives."""
    if not tie(parent):
        return
    sys.path.append(folder)
    from antiphon.main import main as antiphon

    antiphon(arguments, prog_name="antiphon")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
