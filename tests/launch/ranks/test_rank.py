"""A process finds out which rank it is, and what falls to it."""

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.rank import SINGLE_RANK, Rank, own_rank

WORKER = {"MS_ROLE": "MS_WORKER", "RANK_ID": "2", "RANK_SIZE": "4", "DEVICE_ID": "0"}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 50, 1000, 50_000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 64])
def test_shares_are_disjoint_in_order_even_and_cover_all(count: int, ranks: int) -> None:
    shares = [Rank(rank, ranks).share(count) for rank in range(ranks)]
    assert [number for share in shares for number in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("environment", [{}, {"RANK_ID": "1", "RANK_SIZE": "2"}, {**WORKER, "MS_ROLE": "MS_SCHED"}])
def test_a_process_that_is_no_worker_is_alone(environment: dict[str, str]) -> None:
    assert own_rank(environment) == SINGLE_RANK
    assert SINGLE_RANK.is_first
    assert SINGLE_RANK.share(9) == range(9)


def test_a_worker_is_the_rank_that_its_environment_says() -> None:
    assert own_rank(WORKER) == Rank(number=2, world=4, device=0)
    assert not own_rank(WORKER).is_first


@pytest.mark.parametrize("name", ["RANK_ID", "RANK_SIZE", "DEVICE_ID"])
@pytest.mark.parametrize("value", [None, "", "one", "1.5"])
def test_a_worker_without_a_whole_number_is_refused(name: str, value: str | None) -> None:
    environment = {key: text for key, text in {**WORKER, name: value}.items() if text is not None}
    with pytest.raises(LaunchError, match="RANK_ID, RANK_SIZE, DEVICE_ID are not whole numbers; start ranks by"):
        own_rank(environment)


@pytest.mark.parametrize(("rank", "ranks"), [("4", "4"), ("-1", "4"), ("0", "0")])
def test_a_rank_outside_its_job_is_refused(rank: str, ranks: str) -> None:
    with pytest.raises(LaunchError, match=f"RANK_ID = {rank}: must be below RANK_SIZE = {ranks}"):
        own_rank({**WORKER, "RANK_ID": rank, "RANK_SIZE": ranks})
