"""What a dry run refuses before it compiles anything."""

from pathlib import Path

import pytest

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.dry_run import plan_dry_run
from convnext_imagenet.train.errors import ConfigError


@pytest.mark.parametrize("has_records", [False, True])
def test_a_batch_that_the_devices_cannot_divide_is_refused_as_by_the_run(
    has_records: bool, records_root: Path, config: Config
) -> None:
    records = records_root if has_records else None
    with pytest.raises(ConfigError, match=r"global_batch_size = 8: 8 devices take pairs .* pass --set .*size=32$"):
        plan_dry_run(config, records, "Ascend", 8)
    assert plan_dry_run(config, records, "Ascend", 2).devices == 2
