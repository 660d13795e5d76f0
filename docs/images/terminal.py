"""Draws what a command shows on a terminal as an SVG: how demo.png was made.

python docs/images/terminal.py demo.svg "tta demo" --until Attempts
chromium --headless --no-sandbox --screenshot=demo.png --window-size=1400,1250 demo.svg
"""

from __future__ import annotations

import argparse
import os
import pty
import shlex
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 112


def shown(command: str) -> str:
    """Everything that the command writes to a terminal, control codes included."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(shlex.split(command), stdout=follower, stderr=follower, env=environment) as process:  # noqa: S603
        os.close(follower)
        pieces = []
        while True:
            try:
                pieces.append(os.read(leader, 65536))
            except OSError:
                break
        process.wait()
    os.close(leader)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def main() -> None:
    """Run the command and write the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("picture", type=Path)
    parser.add_argument("command")
    parser.add_argument("--until", default="", help="leave out the line that begins so, and all after it")
    given = parser.parse_args()
    lines = shown(given.command).split("\n")
    texts = [Text.from_ansi(line) for line in lines]
    if given.until:
        end = next((n for n, text in enumerate(texts) if text.plain.startswith(given.until)), len(texts))
        texts = texts[:end]
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(f"[bold green]$[/] {given.command}")
        for text in texts:
            console.print(text)
        console.save_svg(str(given.picture), title=given.command)


if __name__ == "__main__":
    main()
