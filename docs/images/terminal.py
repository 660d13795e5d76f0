"""Draws what a command shows on a terminal as an SVG: how demo.png is made.

python docs/images/terminal.py demo.svg "tta demo" --leave-out 2. 3. 4. 5. Every
chromium --headless --no-sandbox --screenshot=demo.png --window-size=994,1466 demo.svg
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

COLUMNS = 80


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
    parser.add_argument(
        "--leave-out", nargs="*", default=[], help="paragraphs that begin so are shown as ..."
    )
    given = parser.parse_args()
    paragraphs = [part.strip("\n") for part in shown(given.command).split("\n\n")]
    texts = []
    for text in (Text.from_ansi(part) for part in paragraphs):
        left_out = any(text.plain.startswith(start) for start in given.leave_out)
        if not left_out:
            texts += [text, Text()]
        elif texts[-2:] != [Text("..."), Text()]:
            texts += [Text("..."), Text()]
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(f"[bold green]$[/] {given.command}")
        for text in texts:
            console.print(text)
        console.save_svg(str(given.picture), title=given.command)


if __name__ == "__main__":
    main()
