"""Runs `convnext-serve` again and again without loading MindSpore again: a clean process that forks for each run.

It reads a line of JSON for each run, with the command's arguments and a log file, and answers with the child's process
id and, at its end, with its exit code (negative for a signal). No MindSpore, no store and no thread is begun before the
fork, so a child does all that the command does, but for the imports.
"""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path


class Forks:
    """The test's side: starts the clean process, and runs in it one command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, arguments: list[str], log: Path) -> int:
        """Begin a run; return its process id."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps([arguments, str(log)]) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """The exit code of the run that was begun last, negative for a signal."""
        return int(self._read())

    def close(self) -> None:
        """End the clean process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the clean process has died"
        return line


def _exit_code(arguments: list[str], log: str) -> int:
    """Live the forked child's life; the code that the command would exit with."""
    from convnext_imagenet.serve.cli import main

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    try:
        main(arguments, prog_name="convnext-serve")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def serve() -> None:
    """Fork for each line of standard input, until it ends."""
    import convnext_imagenet.model.runtime
    import convnext_imagenet.serve.inputs.kinds
    import convnext_imagenet.serve.messages
    import convnext_imagenet.serve.predict.cluster
    import convnext_imagenet.serve.predict.job  # noqa: F401 - loaded once, for all children

    for line in sys.stdin:
        arguments, log = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(_exit_code(arguments, log))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
