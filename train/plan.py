"""How many optimizer steps a run takes: whole numbers derived from the configuration and the row count."""

from dataclasses import dataclass

from convnext_imagenet.train.config import Config
from convnext_imagenet.train.errors import ConfigError


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run; step s of an epoch takes rows order[s * G : (s + 1) * G], G the global batch."""

    rows: int
    global_batch_size: int
    epochs: int
    steps_per_epoch: int
    warmup_steps: int
    total_steps: int


def plan_steps(config: Config, rows: int) -> StepPlan:
    """Return the step counts of a run over `rows` training rows.

    An epoch drops the last, incomplete global batch of its permutation: at most G - 1 rows, others in each
    epoch. Raises ConfigError when not one batch can be filled.
    """
    batch = config.data.global_batch_size
    if rows < batch:
        raise ConfigError(
            f"data.global_batch_size = {batch}: must not exceed the {rows} training rows; "
            f"pass --set data.global_batch_size={max(1, rows // 8)}"
        )
    steps_per_epoch = rows // batch
    return StepPlan(
        rows=rows,
        global_batch_size=batch,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(config.schedule.warmup_epochs * steps_per_epoch),
        total_steps=config.train.epochs * steps_per_epoch,
    )
