"""Simulated samples without a download: ``equikernels generate jets|hits``. Needs the extra ``generate``."""

from .hits import generate_hits as generate_hits
from .jets import generate_jets as generate_jets
