"""The published formulas in eager PyTorch, as people run them: what equikernels is measured and tested against."""

from .lorentznet import LorentzNet as LorentzNet
