"""The tracking tools. Each class opens, fills and closes one run of its tool; none knows how RUN remembers that.

MLflow can be asked what it has, so an opened run continues. The files that W&B's offline mode and TensorBoard write
cannot be continued safely, so these are written anew whenever they are opened (DECISIONS, 2026-11-29).
"""

import contextlib
import importlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ExpectedError, FailedError
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.track.follow import Tool, TrackedRun

_MOST_PARAMETERS = 100  # in one call to MLflow
_LONGEST_PARAMETER = 6000  # characters, for MLflow


class MlflowTool:
    """A run of MLflow, in the store that MLFLOW_TRACKING_URI or MLflow's own default names; steps are epochs."""

    continues = True

    def __init__(self, folder: Path) -> None:
        self._mlflow = _library("mlflow", "MLflow")
        self._client: Any = self._mlflow.MlflowClient()
        self._run = ""

    def open(self, run: TrackedRun, epochs: int) -> bool:
        """Find the run by the tag `convnext.key`, or create it."""
        found = self._client.get_experiment_by_name(run.project)
        experiment = found.experiment_id if found else self._client.create_experiment(run.project)
        runs = self._client.search_runs([experiment], f"tags.`convnext.key` = '{run.key}'")
        is_there = bool(runs)
        opened = (
            runs[0] if runs else self._client.create_run(experiment, run_name=run.name, tags={"convnext.key": run.key})
        )
        self._run = opened.info.run_id
        self._client.update_run(self._run, status="RUNNING")
        given = [
            self._mlflow.entities.Param(name, str(value)[:_LONGEST_PARAMETER])
            for name, value in run.parameters.items()
            if name not in opened.data.params
        ]
        for first in range(0, len(given), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=given[first : first + _MOST_PARAMETERS])
        return is_there or not epochs

    def send(self, epoch: int, step: int, values: Mapping[str, float], is_sent_again: bool) -> None:
        """Log the metrics of an epoch; after a kill, only those that MLflow does not have."""
        now = int(time.time() * 1000)
        missing = [name for name in values if not (is_sent_again and self._has(name, epoch))]
        metrics = [self._mlflow.entities.Metric(name, values[name], now, epoch) for name in missing]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, is_finished: bool) -> None:
        """Mark a finished run as finished."""
        if is_finished:
            self._client.set_terminated(self._run)

    def discard(self) -> None:
        """Move the run to MLflow's deleted runs."""
        self._client.delete_run(self._run)

    def _has(self, name: str, epoch: int) -> bool:
        return any(metric.step == epoch for metric in self._client.get_metric_history(self._run, name))


class WandbTool:
    """An offline run of Weights & Biases in `folder`, to be uploaded by `wandb sync`; steps are epochs."""

    continues = False

    def __init__(self, folder: Path) -> None:
        self._wandb = _library("wandb", "Weights & Biases")
        self._folder = folder
        self._run: Any = None

    def open(self, run: TrackedRun, epochs: int) -> bool:
        """Begin the folder anew."""
        _empty(self._folder)
        self._run = self._wandb.init(
            project=run.project,
            id=run.key,
            name=run.name,
            dir=str(self._folder),
            mode="offline",
            config=dict(run.parameters),
            settings=self._wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        return not epochs

    def send(self, epoch: int, step: int, values: Mapping[str, float], is_sent_again: bool) -> None:
        """Log the numbers of an epoch."""
        self._run.log({"epoch": epoch, **values}, step=epoch)

    def close(self, is_finished: bool) -> None:
        """Write what remains and close the file."""
        self._run.finish()

    def discard(self) -> None:
        """Close the run; `open` removes its folder."""
        self._run.finish()


class TensorBoardTool:
    """TensorBoard events in `folder`, as the run itself writes them for an epoch; steps are optimizer steps."""

    continues = False

    def __init__(self, folder: Path) -> None:
        _library("tensorboard", "TensorBoard")
        if (own := folder.parent / "events").exists():
            raise TrainError(f"{own}: the run writes its own TensorBoard events; open them with --logdir {own}")
        self._folder = folder
        self._writer: Any = None

    def open(self, run: TrackedRun, epochs: int) -> bool:
        """Begin the folder anew."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        _empty(self._folder)
        self._writer = EventFileWriter(str(self._folder))
        self._writer.add_event(_text_event("config", _markdown_table(run.parameters)))
        return not epochs

    def send(self, epoch: int, step: int, values: Mapping[str, float], is_sent_again: bool) -> None:
        """Write the numbers of an epoch and flush them to disk."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=f"epoch/{name}", simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(summary=Summary(value=scalars), step=step, wall_time=time.time()))
        self._writer.flush()

    def close(self, is_finished: bool) -> None:
        """Close the file."""
        self._writer.close()

    def discard(self) -> None:
        """Close the file; `open` removes it."""
        self._writer.close()


_TOOLS: dict[str, Callable[[Path], Tool]] = {"mlflow": MlflowTool, "wandb": WandbTool, "tensorboard": TensorBoardTool}


class GuardedTool:
    """The tool of a name, which writes its files into `folder`; what its library raises becomes a FailedError."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        with self._telling():
            self._tool = _TOOLS[name](folder)
        self.continues = self._tool.continues

    def open(self, run: TrackedRun, epochs: int) -> bool:
        """Open the run and return whether it still has its epochs."""
        with self._telling():
            return self._tool.open(run, epochs)

    def send(self, epoch: int, step: int, values: Mapping[str, float], is_sent_again: bool) -> None:
        """Store the numbers of an epoch for good."""
        with self._telling():
            self._tool.send(epoch, step, values, is_sent_again)

    def close(self, is_finished: bool) -> None:
        """Close the run."""
        with self._telling():
            self._tool.close(is_finished)

    def discard(self) -> None:
        """Remove the open run."""
        with self._telling():
            self._tool.discard()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Libraries raise errors of their own, of their databases and of their connections, with no common class."""
        try:
            yield
        except (ExpectedError, OSError):
            raise
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise FailedError(f"{self._name}: {first}; run the same command again to send the rest") from error


def _library(name: str, title: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainError(
            f"{title} cannot be imported ({error}); install it with pip install 'convnext_imagenet[tracking]'"
        ) from None


def _empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def _markdown_table(parameters: Mapping[str, Any]) -> str:
    return "\n".join(["| key | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in parameters.items())])


def _text_event(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    value = Summary.Value(tag=tag, metadata=metadata, tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]))
    return Event(summary=Summary(value=[value]), wall_time=time.time())
