"""Why a worker is gone, read out of Ray's pages."""

import pytest

from convnext_imagenet.launch.cluster.worker_pool import cause_of


class ActorDiedError(Exception):
    """By Ray's name."""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("The actor is dead because its node has died. Node Id: 12 Death cause: ...", "its node died"),
        (
            "The actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY Worker",
            "out of memory",
        ),
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
            "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) "
            "the process was killed by the OOM killer due to high memory usage, consider preventing node deaths",
            "its process was killed or crashed",
        ),
        ("something new", "ActorDiedError"),
    ],
)
def test_the_cause_is_a_few_words(text: str, cause: str):
    assert cause_of(ActorDiedError(text)) == cause
