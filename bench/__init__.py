"""The benchmark suite: ``equikernels bench`` where installed, ``python -m bench`` in a checkout."""
