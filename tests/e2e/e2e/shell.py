"""Short commands: run to the end, keep the output, say what failed."""

import subprocess


class CommandFailed(Exception):
    """A command ended with a code that was not expected."""


def run(args, *, timeout=60, check=True, stdin=None, cwd=None, env=None):
    """Run a command; the result has text in `stdout` and `stderr`."""
    args = [str(a) for a in args]
    result = subprocess.run(
        args, input=stdin, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=env,
        **({"stdin": subprocess.DEVNULL} if stdin is None else {}),
    )
    if check and result.returncode != 0:
        raise CommandFailed(
            f"{' '.join(args)}: exit code {result.returncode}: {(result.stderr or result.stdout).strip()[-2000:]}"
        )
    return result
