"""Print what the demo made and where: `python demo/summary.py OUT`."""

import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq


def summary(out: Path) -> str:
    """Return lines of text on records, quarantine, accuracy and predictions in `out`."""
    manifest = json.loads((out / "records" / "manifest.json").read_text())
    quarantine = pq.read_table(out / "records" / "quarantine.parquet").to_pylist()
    last = json.loads((out / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    predictions = pq.read_table(out / "predictions", columns=["status", "top1_name"]).to_pylist()
    rows = {name: split["rows"] for name, split in manifest["splits"].items()}
    states = Counter(row["status"] for row in predictions)
    lines = [
        f"records      {out / 'records'}: {rows['train']:,} train and {rows['val']:,} val rows, labels verified",
        *(f"quarantine   {row['key']}: {row['reason']} ({row['detail']})" for row in quarantine),
        f"run          {out / 'run'}: epoch {last['epoch']}, top-1 {100 * last['val_top1']:.2f} % of val",
        f"predictions  {out / 'predictions'}: {', '.join(f'{count} {status}' for status, count in states.items())}",
        f"look at it   convnext-records peek {out / 'records'} --image row.jpg",
        "your data    make records DATA=/path/to/imagenet",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
