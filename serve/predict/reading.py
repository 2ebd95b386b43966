"""When a read is tried again, and when failing reads end a job: a place that is away for a while must cost no row.

A failure that passes, such as a store's 503, is waited for. Inputs that fail one after another mean that their place
failed, so the job ends before they become rows (DECISIONS, 2026-11-29).
"""

import threading
from collections.abc import Callable, Iterable
from pathlib import PurePath

from convnext_imagenet.base.errors import FailedError
from convnext_imagenet.base.wording import plural
from convnext_imagenet.serve.inputs.inputs import PlaceGone
from convnext_imagenet.serve.samples import Loaded, Sample, is_worth_a_retry

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0


def retry_pause(calls: int, seconds: float, most_seconds: float, spread: float) -> float | None:
    """Return the pause before the next attempt: doubled after each call, within `most_seconds` since the first.

    `spread` in [0, 1) makes threads that failed together come back one after another. None means no more attempts.
    """
    pause = min(_FIRST_PAUSE_S * 2 ** (calls - 1), _LONGEST_PAUSE_S) * (0.75 + spread / 2)
    return pause if seconds + pause <= most_seconds else None


class RetryRule:
    """Decides the pause before an input is loaded again; a folder that stayed away for the whole time is asked once."""

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds, self._gone, self._lock = most_seconds, set[str](), threading.Lock()

    def pause(self, loaded: Loaded, calls: int, seconds: float) -> float | None:
        """Return the pause before the next attempt, or None to keep this result."""
        error = loaded.error
        if error is None or not is_worth_a_retry(error):
            return None
        folder = str(PurePath(loaded.item.source).parent) if isinstance(error, PlaceGone) else None
        with self._lock:
            if folder in self._gone:
                return None
        pause = retry_pause(calls, seconds, self._most_seconds, loaded.sample_id * 0.618 % 1)
        if pause is None and folder is not None:
            with self._lock:
                self._gone.add(folder)
        return pause


class ReadWatch:
    """Ends a job whose inputs cannot be read one after another.

    `is_readable` reads an input, by its number, once more. With `stop_after` 0 nothing ends the job.
    """

    def __init__(self, stop_after: int, is_readable: Callable[[int], bool]) -> None:
        self._stop_after, self._is_readable = stop_after, is_readable
        self._failed: list[Sample] = []  # the last samples, without a readable one among them
        self._last_read: int | None = None

    def see(self, samples: Iterable[Sample]) -> None:
        """Note the next samples. Raises FailedError when `stop_after` in a row could not be read."""
        for sample in samples:
            if not sample.is_unread:
                self._failed = []
                if sample.status != "read_error":  # "no such file" is an answer, but nothing was read
                    self._last_read = sample.sample_id
                continue
            self._failed.append(sample)
            if len(self._failed) == self._stop_after:
                raise self._failure(f"{plural(self._stop_after, 'input')} in a row could not be read")

    def confirm(self) -> None:
        """Raise FailedError when the last samples could not be read, and neither can one that was readable before.

        Called before a part is published: so no part is published while its place is away.
        """
        if not self._failed or not self._stop_after:
            return
        if self._last_read is None:
            raise self._failure(f"{plural(len(self._failed), 'input')} could not be read, and none before")
        if not self._is_readable(self._last_read):
            raise self._failure("inputs that were readable before cannot be read any more")

    def _failure(self, what: str) -> FailedError:
        last = self._failed[-1]
        return FailedError(
            f"{what}, the last is {last.source} ({last.error}); they got no rows. Check the disk, network or store, "
            f"then run the same command again to resume, or pass --stop-after 0 to write rows with status read_error"
        )
