"""`make bench PART=model`: run one benchmark, or all of them. Each is `bench_PART.py` with a `main()`."""

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(parts: list[str]) -> int:
    """Run the benchmarks named, all when none is; 2 when one does not exist."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    unknown = [part for part in parts if part not in known]
    if unknown:
        print(f"Error: no benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(HERE))
    for part in parts or known:
        spec = importlib.util.spec_from_file_location(f"bench_{part}", known[part])
        if spec is None or spec.loader is None:
            raise RuntimeError(f"{known[part]} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
