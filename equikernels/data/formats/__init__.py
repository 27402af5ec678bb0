"""Readers of file formats. Each yields parts of a file; :mod:`equikernels.data.read` chooses and checks."""
