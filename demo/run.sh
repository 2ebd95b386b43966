#!/usr/bin/env bash
# All steps on handwritten digits: raw tree -> records -> training -> accuracy -> Parquet.
# BIN is the folder of the installed commands, OUT the folder for all results. A second run does only what is missing.
set -eu
BIN=${BIN:-.venv/bin}
OUT=${OUT:-demo-out}
started=$SECONDS

say() { printf '\n== %s\n' "$*"; }

say "1/5 raw tree: digits in the layout of ILSVRC2012, with four unusual files"
"$BIN/python" demo/make_raw_tree.py "$OUT/raw"

say "2/5 ingest: check labels against the devkit, decode every image once"
"$BIN/convnext-ingest" build "$OUT/raw" --out "$OUT/records" --classes found --max-quarantine 1

say "3/5 train: the preset demo"
"$BIN/convnext-train" run demo --records "$OUT/records" --out "$OUT/run"

say "4/5 evaluate: score every row of val once"
"$BIN/convnext-serve" eval "$OUT/run" --records "$OUT/records" --split val

say "5/5 predict a folder to Parquet: one of its files is not an image"
"$BIN/convnext-serve" predict "$OUT/run" "$OUT/raw/score" --out "$OUT/predictions" --max-errors 1

say "done in $((SECONDS - started)) s"
"$BIN/python" demo/summary.py "$OUT"
