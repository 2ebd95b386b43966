"""`convnext-train run --dry-run`: what it prints and writes."""

import functools
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.console import expected_errors
from convnext_imagenet.base.own_process import command_began
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.train.cli_request import load_fitting, with_weights

if TYPE_CHECKING:  # importing it takes seconds, and --help must answer at once
    from convnext_imagenet.train.config.config import Config


def run_dry(
    config: str,
    overrides: tuple[str, ...],
    init_from: Path | None,
    records: Path | None,
    report: Path | None,
    workers: int | None,
    launch: dict[str, Any],
) -> None:
    """Compile and plan CONFIG, print kernels and memory and, with records, a forecast; write them to `report`."""
    begin = command_began()
    from convnext_imagenet.base.stores import without_credentials
    from convnext_imagenet.train.config.config import check_network_is_known
    from convnext_imagenet.train.errors import TrainError

    with expected_errors():
        if records is not None and is_uri(records):
            shown = without_credentials(str(records))
            raise TrainError(
                f"--records {shown}: a URI, from which --dry-run fetches nothing; leave --records out, or pull the "
                f"records first"
            )
        devices, target = launch["devices"] * launch["nodes"], launch["device_target"]
        resolved = load_fitting(config, overrides, records, devices, target)
        weights = None
        if init_from is not None:
            from convnext_imagenet.model.runtime import set_environment

            set_environment()  # before the next line imports MindSpore
            weights, resolved = with_weights(
                config, overrides, init_from, None, "best", functools.partial(click.echo, err=True)
            )
        check_network_is_known(resolved.model)

        from convnext_imagenet.base.files import write_output
        from convnext_imagenet.train.dry_run import dry_run, plan_dry_run
        from convnext_imagenet.train.dry_run_table import report_lines

        plan = plan_dry_run(resolved, records, target, devices)
        click.echo(f"compiling for {plan.target}, which takes a minute or two", err=True)
        found = dry_run(resolved, plan)
        for line in report_lines(found, config):
            click.echo(line)
        run_forecast = None
        if records is not None:
            run_forecast = _print_forecast(resolved, records, weights, workers, plan.target, devices, begin)
        if report is not None:
            value = found.to_json() | {"run": run_forecast}
            write_output(report, json.dumps(value, indent=1).encode() + b"\n")


def _print_forecast(
    config: "Config", records: Path, weights: Path | None, workers: int | None, target: str, devices: int, begin: float
) -> dict[str, Any]:
    """Print steps, checkpoints and memory of a run and, for the CPU, its time; return them for --json."""
    from convnext_imagenet.model.runtime import prepare

    compiled_s = time.monotonic() - begin  # what a run does not need
    prepare("CPU")

    from convnext_imagenet.train.forecast import forecast_lines, forecast_run, with_times

    found = forecast_run(config, records, devices)
    if target == "CPU":
        start_s = time.monotonic() - begin - compiled_s
        found = with_times(found, config, records, weights, workers or len(os.sched_getaffinity(0)), start_s)
    click.echo("\n".join(["", *forecast_lines(found)]))
    return found.to_json()
