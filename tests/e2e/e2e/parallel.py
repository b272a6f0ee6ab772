"""The same for several things at once."""

import threading


def for_each(items, action):
    """Call `action` on every item, each in a thread, and return the results in order.

    The threads are daemons: an interrupted suite must not wait for them. `join` with a time keeps
    the main thread able to receive signals.
    """
    results = [None] * len(items)
    errors = []

    def call(position, item):
        try:
            results[position] = action(item)
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=call, args=pair, daemon=True) for pair in enumerate(items)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)
    if errors:
        raise errors[0]
    return results
