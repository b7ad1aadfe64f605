#!/usr/bin/env bash
# Runs the kit on a machine with a GPU, Python, jax, torch and torchvision; TensorFlow and a network are not needed.
#   usage: bash run.sh OUT [SECONDS]      writes OUT/results.jsonl, OUT/table.md and OUT/log, and prints the table
exec python3 "$(dirname "$0")/kit.py" "$@"
