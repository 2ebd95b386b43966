"""One tool as a process of its own: `audit_tools.py copies TOOL FOLDER SCRATCH` or `labels TOOL FILE` prints JSON.

`copies` prints pairs of names, `labels` the rows of a file with labels and probabilities, most doubtful first. Each
tool has its defaults and two threads or processes at most. `bench_audit.py` runs it in the interpreter that has the
tool.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

Pairs = set[tuple[str, str]]


def main(task: str, tool: str, *paths: str) -> None:
    """Run the tool, and print what it found, seconds, processor seconds and peak memory."""
    began = time.perf_counter()
    found = TASKS[task][tool](*map(Path, paths))
    seconds = time.perf_counter() - began
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = {
        "found": sorted(found) if task == "copies" else found,
        "seconds": seconds,
        "processor s": sum(each.ru_utime + each.ru_stime for each in (own, children)),
        "peak MiB": max(own.ru_maxrss, children.ru_maxrss) / 1024,
    }
    print(f"\n{json.dumps(answer)}")


def _pair(a: object, b: object) -> tuple[str, str]:
    first, second = sorted((Path(str(a)).name, Path(str(b)).name))
    return first, second


def _ours(folder: Path, scratch: Path) -> Pairs:
    import pyarrow.parquet as pq

    from convnext_imagenet.records.audit.evidence import Asked, Evidence
    from convnext_imagenet.records.audit.job import open_audit
    from convnext_imagenet.records.audit.sources import open_source

    with open_audit(open_source(folder), Asked(), folder, scratch, 2) as job:
        job.write_parts(lambda count: None, lambda: False)
        job.finish(Evidence())
    table = pq.read_table(scratch / "pairs.parquet", columns=["key_a", "key_b"]).to_pylist()
    return {_pair(row["key_a"], row["key_b"]) for row in table}


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
    "copies": {"ours": _ours, "imagededup": _imagededup, "cleanvision": _cleanvision, "fastdup": _fastdup},
    "labels": {"ours": _rank_ours, "cleanlab": _rank_cleanlab},
}

if __name__ == "__main__":
    main(*sys.argv[1:])
