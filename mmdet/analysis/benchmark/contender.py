"""A detector at work in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

WORKERS = Path(__file__).parent / 'workers'


class Contender:
    """Starts a worker, which is then asked for one round after the other.

    Args:
        name: in the table.
        python: interpreter.
        script: in ``workers/``; see its ``serve.py``.
        settings: what it prepares.
        folder: it runs there, and what it prints goes to a file there.
    """

    def __init__(self, name: str, python: str, script: str, settings: dict, folder: Path) -> None:
        self.name = name
        self.said = folder / f'{name}.log'
        own = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH' or python == sys.executable}
        # a pipe of their own for the answers: libraries print what they like
        end, start = os.pipe()
        with self.said.open('w') as file:
            self.process = subprocess.Popen(
                [python, str(WORKERS / f'{script}.py'), str(start), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                text=True,
                cwd=folder,
                env=own,
                pass_fds=[start],
            )
        os.close(start)
        self.answers = os.fdopen(end)
        #: what the work returned when it was tried, where that is a number or a list
        self.first = self._answer()

    def _answer(self):
        line = self.answers.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        lines = [line for line in self.said.read_text().splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f'it ended with {self.process.returncode}')

    def ask(self, what: str = 'time'):
        """Seconds of the work done once ('time'), the bytes it takes ('peak'; NaN if not known), or its 'profile'.

        Raises:
            RuntimeError: the worker has failed; its last words.
        """
        self.process.stdin.write(f'{what}\n')
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.answers.close()
