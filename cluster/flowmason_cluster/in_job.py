"""`python -m flowmason_cluster.in_job MARK run …`: `fm` inside a Ray job, its answer told from its other lines.

A job has one log for both streams. What `fm` prints on stdout is written to it last, between two lines that carry the
mark which the submitter chose, so that `fm run --submit` can hand it to its own stdout.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile

_FM = "from flowmason.cli import main; main()"


def mark_line(mark: str) -> str:
    """The line before and after the answer."""
    return f"----- output {mark} -----"


def main() -> int:
    """Run `fm` to its end; returns its exit code."""
    mark, *arguments = sys.argv[1:]
    # Ray signals the whole job; fm answers, and this process waits for it. A handler, because a child inherits
    # what is ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with tempfile.TemporaryFile("w+b") as answer:
        code = subprocess.call([sys.executable, "-u", "-c", _FM, *arguments], stdout=answer)
        if answer.seek(0, os.SEEK_END):
            answer.seek(0)
            log = sys.stdout.buffer
            log.write(f"{mark_line(mark)}\n".encode())
            shutil.copyfileobj(answer, log)
            log.write(f"\n{mark_line(mark)}\n".encode())
            log.flush()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main())
