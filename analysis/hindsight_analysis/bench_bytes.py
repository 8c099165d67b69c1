"""Bytes that decode steps move, by the GPU's own counters, beside those that are counted.

    python -m hindsight_analysis.bench_bytes --bench build/release/apps/bench/bench_steps --out bytes.json

Runs bench_steps under NVIDIA's Nsight Compute (ncu must be on the path, and may need permission to read
counters) with empty caches, and compares what a launch read from device memory with what a step must
read: page summaries, and keys and values of the listed pages, as the metric bytes_loaded counts them, and
for past queries their cached outputs.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import subprocess
import sys

from hindsight_analysis.step_times import NAME

HEAD_DIM, PAGE, ELEMENT = 128, 16, 2
KERNELS = {
    "step": "decode_step_kernel",
    "attend": "attend_stream_kernel",
    "dense": "dense_stream_kernel",
}
COUNTERS = ("dram__bytes_read.sum", "dram__bytes_write.sum")


def counted_bytes(name: str) -> int:
    """Bytes that the launch must read. Raises ValueError for names of other programs."""
    match = NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name} is no run of bench_steps")
    parts = match.groupdict()
    batch, context, budget = (int(parts[x]) for x in ("batch", "context", "budget"))
    kv_heads, q_heads, window = (int(parts[x]) for x in ("kv_heads", "q_heads", "window"))
    token = 2 * kv_heads * HEAD_DIM * ELEMENT
    if parts["what"] == "dense":
        return batch * context * token
    pages = batch * min(budget, context) * token
    if parts["what"] == "attend":
        return pages
    cached = batch * (window - 1) * q_heads * (HEAD_DIM + 1) * 4
    return batch * (context // PAGE) * token + pages + cached


def profile(bench: str, name: str, launches: int) -> dict[str, list[float]]:
    """Values of the counters, one per launch. Raises RuntimeError where ncu fails."""
    kernel = KERNELS[name.split("/")[0]]
    command = ["ncu", "--clock-control", "none", "--csv", "--print-units", "base", "--metrics"]
    command += [",".join(COUNTERS), "-k", f"regex:{kernel}", "-c", str(launches), bench]
    done = subprocess.run(
        command + [f"--benchmark_filter=^{name}/"], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    values: dict[str, list[float]] = {counter: [] for counter in COUNTERS}
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        values[row["Metric Name"]].append(float(row["Metric Value"].replace(",", "")))
    if not all(values.values()):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"ncu measured no launch of {kernel}: {said[-1] if said else 'no word'}")
    return values


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--bench", required=True, help="the program bench_steps")
    parser.add_argument("--out", required=True, help="JSON file")
    parser.add_argument("--launches", type=int, default=3, help="profiled, for the median")
    parser.add_argument(
        "names",
        nargs="*",
        default=[
            f"{what}/32:8/b{batch}/{context}/w{window}/k2048/cold"
            for what, batch, context, window in (
                ("step", 1, 32768, 1),
                ("step", 1, 131072, 1),
                ("step", 8, 32768, 1),
                ("step", 8, 32768, 4),
                ("step", 8, 32768, 8),
                ("step", 8, 131072, 1),
                ("attend", 8, 32768, 1),
                ("dense", 1, 32768, 1),
            )
        ],
        help="runs of bench_steps, without the ending that Google Benchmark adds",
    )
    options = parser.parse_args(arguments)
    rows = []
    print("| run | counted MB | read MB | written MB | read / counted |")
    print("|---|---|---|---|---|")
    for name in options.names:
        try:
            counted = counted_bytes(name)
            values = profile(options.bench, name, options.launches)
        except (OSError, ValueError, RuntimeError) as error:
            print(f"bench_bytes: {error}", file=sys.stderr)
            return 3
        read, written = (statistics.median(values[counter]) for counter in COUNTERS)
        rows.append({"run": name, "counted": counted, "read": read, "written": written})
        print(
            f"| {name} | {counted / 1e6:.1f} | {read / 1e6:.1f} | {written / 1e6:.1f} "
            f"| {read / counted:.3f} |",
            flush=True,
        )
    with open(options.out, "w", encoding="utf-8") as out:
        json.dump({"counters": COUNTERS, "runs": rows}, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
