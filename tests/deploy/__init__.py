"""Tests of equikernels.deploy."""
