"""What the person sees: one line per check, the end of the logs of a failure, and the sum."""

import threading
import time
import traceback

from .fail import CheckFailed

LOG_LINES = 12


class Report:
    """Counts and prints. Checks of different frontends run at once, so printing takes a lock."""

    def __init__(self):
        self._lock = threading.Lock()
        self.log_tails = lambda where, lines: ()
        self.passed = self.failed = 0
        self._silent = False

    def silence(self):
        """The cluster is being removed under running checks: what they say from now on means nothing."""
        self._silent = True

    def say(self, text):
        with self._lock:
            print(text, flush=True)

    def check(self, where, name, body):
        """Run one check to its verdict. A check may return a remark, such as a time it measured."""
        started = time.monotonic()
        try:
            remark = body()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a check is its failure
            if self._silent:
                return False
            self._fail(where, name, started, error)
            return False
        self._line("ok  ", where, name, started, remark)
        with self._lock:
            self.passed += 1
        return True

    def give_up(self, sentence):
        """Something ended the run before its checks could: a failure without a check."""
        with self._lock:
            self.failed += 1
        self.say(f"FAIL {sentence}")

    def give_up_with_trace(self, error, log_tails=lambda lines: ()):
        self.give_up("\n".join(["the suite could not go on", *_explain(error, log_tails(LOG_LINES))]))

    def failed_to_run(self, where, name, error):
        """Something between checks went wrong."""
        if not self._silent:
            self._fail(where, name, time.monotonic(), error)

    def _fail(self, where, name, started, error):
        self._line("FAIL", where, name, started, None)
        self.say("\n".join(_explain(error, self.log_tails(where, LOG_LINES))))
        with self._lock:
            self.failed += 1

    def _line(self, verdict, where, name, started, remark):
        seconds = time.monotonic() - started
        self.say(f"{verdict} {where:<17} {name}   {seconds:.1f}s" + (f"   ({remark})" if remark else ""))

    def finish(self):
        """The last line, for people and for scripts; the exit code says the same."""
        self.say(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0


def _explain(error, log_tails):
    """A failed check speaks for itself; anything else needs its trace."""
    text = str(error) if isinstance(error, CheckFailed) else "".join(traceback.format_exception(error)[-6:])
    yield from (f"       {line}" for line in text.strip().splitlines())
    for title, lines in log_tails:
        yield f"     end of {title}.log:"
        yield from (f"       {line[:300]}" for line in lines)
