"""Layers."""

from .lgeb import LGEB as LGEB
