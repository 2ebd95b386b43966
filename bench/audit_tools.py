"""One tool as a process of its own: `audit_tools.py copies TOOL FOLDER SCRATCH` or `labels TOOL FILE` prints JSON.

`copies` prints pairs of names, `labels` the rows of a file with labels and probabilities, most doubtful first. Each
tool has its defaults and two threads or processes at most. `bench_audit.py` runs it in the interpreter that has the
tool.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

Pairs = set[tuple[str, str]]


def main(task: str, tool: str, *paths: str) -> None:
    """Run the tool, and print what it found, seconds, processor seconds and peak memory.

    What is prepared before, records of the images, does not count.
    """
    if tool in PREPARED:
        PREPARED[tool](*map(Path, paths))
    began, before_s = time.perf_counter(), _processor_s()
    found = TASKS[task][tool](*map(Path, paths))
    seconds = time.perf_counter() - began
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = {
        "found": sorted(found) if task == "copies" else found,
        "seconds": seconds,
        "processor s": _processor_s() - before_s,
        "peak MiB": max(own.ru_maxrss, 0 if tool in PREPARED else children.ru_maxrss) / 1024,
    }
    print(f"\n{json.dumps(answer)}")


def _processor_s() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, kinds))


def _pair(a: object, b: object) -> tuple[str, str]:
    first, second = sorted((Path(str(a)).name, Path(str(b)).name))
    return first, second


def _ours(folder: Path, scratch: Path) -> Pairs:
    import pyarrow.parquet as pq

    from convnext_imagenet.records.audit.evidence import Asked
    from convnext_imagenet.records.audit.job import open_audit
    from convnext_imagenet.records.audit.sources import open_source

    with open_audit(open_source(folder), Asked(), folder, scratch, 2) as job:
        job.write_parts(lambda count: None, lambda: False)
        job.finish((), job.compare())
    table = pq.read_table(scratch / "pairs.parquet", columns=["key_a", "key_b"]).to_pylist()
    return {_pair(row["key_a"], row["key_b"]) for row in table}


def _build(folder: Path, scratch: Path) -> None:
    """Build records of the images, with stored pictures, in one class."""
    import shutil

    images = scratch / "raw" / "photo"
    images.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copyfile(path, images / path.name)
    command = [str(Path(sys.executable).with_name("convnext-ingest")), "build", str(scratch / "raw")]
    options = ["--out", str(scratch / "records"), "--eval-only", "--fingerprints"]
    subprocess.run([*command, *options], check=True, stdout=sys.stderr)
    shutil.rmtree(scratch / "raw")


def _stored(folder: Path, scratch: Path) -> Pairs:
    found = _ours(scratch / "records", scratch / "audit")
    endings = {path.stem: path.name for path in folder.iterdir()}
    named = (tuple(sorted(endings.get(Path(name).stem, name) for name in pair)) for pair in found)
    return {(first, second) for first, second in named}


def _imagededup(folder: Path, scratch: Path) -> Pairs:
    from imagededup.methods import PHash

    found = PHash(verbose=False).find_duplicates(
        image_dir=str(folder), num_enc_workers=2, num_dist_workers=2, recursive=False
    )
    return {_pair(name, other) for name, others in found.items() for other in others}


def _cleanvision(folder: Path, scratch: Path) -> Pairs:
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=2, verbose=False)
    sets = [names for kind in ("exact_duplicates", "near_duplicates") for names in lab.info[kind]["sets"]]
    return {_pair(a, b) for names in sets for a, b in combinations(names, 2)}


def _fastdup(folder: Path, scratch: Path) -> Pairs:
    import fastdup

    run = fastdup.create(work_dir=str(scratch), input_dir=str(folder))
    run.run(num_threads=2, overwrite=True, print_summary=False, verbose=False)
    table = run.similarity()
    return {_pair(a, b) for a, b in zip(table["filename_from"], table["filename_to"], strict=True)}


def _rank_ours(file: Path) -> list[int]:
    import numpy as np

    from convnext_imagenet.records.audit.labels import find_doubts

    stored = np.load(file)
    labels, probabilities = stored["labels"], stored["probabilities"]
    parts = [(np.arange(len(labels)), probabilities)]
    return find_doubts(labels, lambda: iter(parts), probabilities.shape[1]).numbers.tolist()


def _rank_cleanlab(file: Path) -> list[int]:
    import numpy as np
    from cleanlab.filter import find_label_issues

    stored = np.load(file)
    ranked = find_label_issues(
        stored["labels"], stored["probabilities"], return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return [int(row) for row in ranked]


TASKS: dict[str, dict[str, Callable[..., Pairs | list[int]]]] = {
    "copies": {
        "ours": _ours,
        "ours, stored pictures": _stored,
        "imagededup": _imagededup,
        "cleanvision": _cleanvision,
        "fastdup": _fastdup,
    },
    "labels": {"ours": _rank_ours, "cleanlab": _rank_cleanlab},
}

PREPARED = {"ours, stored pictures": _build}

if __name__ == "__main__":
    main(*sys.argv[1:])
