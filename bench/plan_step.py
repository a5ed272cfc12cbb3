"""How long does the plan of a step take, and the split of a batch?

    python bench/plan_step.py [--seconds 0.3] [--json FILE]

Needs no weft module: it compiles bench/cpp/plan_bench.cpp, which first checks each plan and each split (every token in
one micro-batch and one row, every rank planned alike), then calls each in a loop, on one core, for `seconds`. A sample
is the mean of about a millisecond of calls; times are microseconds a call.

plan: `make_step_plan` of all DP ranks' states, with two-batch overlap and a cost table for its gate. Decoding ranks
that replay graphs, then ranks in unlike modes (a quarter MIXED, the others DECODE); rows gathered, then dispatched to
experts.
hash of the plan: what ranks compare; over an overlapped step.
split: a batch of 1024 sequences of 1 to 4096 new tokens.

Aims: a plan of 64 ranks <= 20 us, a split of 1024 sequences into two <= 5 us.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import build, commit, cpu_name

AIMS_US = {("plan", 64): 20.0, ("split", 1024): 5.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each row")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()

    program = build("bench_plan")
    load = os.getloadavg()[0]
    done = subprocess.run([str(program), str(args.seconds)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit("plan_step: bench_plan failed")
    print(f"{cpu_name()}, one core, commit {commit()}, load {load:.2f}; every plan and split is right\n")
    print(f"{'what':<16}  {'kind':<24}  {'size':>4}  |  {'min_us':>7}  {'median_us':>9}  {'p90_us':>7}  |  aim_us")
    rows: list[dict[str, object]] = []
    for line in done.stdout.splitlines():
        answer = json.loads(line)
        us = sorted(answer.pop("us"))
        row = answer | {"min_us": us[0], "median_us": statistics.median(us), "p90_us": us[len(us) * 9 // 10]}
        rows.append(row)
        aim = "" if row["kind"] == "EXTEND, 4 parts" else AIMS_US.get((row["what"], row["size"]), "")
        print(f"{row['what']:<16}  {row['kind']:<24}  {row['size']:>4}  |  {row['min_us']:>7.2f}", end="")
        print(f"  {row['median_us']:>9.2f}  {row['p90_us']:>7.2f}  |  {aim}".rstrip())
    if args.json:
        report = {"machine": cpu_name(), "commit": commit(), "load": load, "rows": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
