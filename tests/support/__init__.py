"""Shared by the tests: sample inputs, comparisons, blocks, emulators, reports."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the source tree
