"""The two ways this suite says no."""


class Unusable(Exception):
    """The machine cannot run the suite. The text is one sentence that says what to do."""


class Hopeless(Exception):
    """What is waited for cannot come any more; waiting on would only cost time."""


class CheckFailed(Exception):
    """A check saw something else than it must see."""


def expect(condition, message):
    """An assertion that survives `python -O` and carries the observation with it."""
    if not condition:
        raise CheckFailed(message)
