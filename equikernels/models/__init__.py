"""Networks, one file each. State-dict keys are those of the published code."""

from .lorentznet import LorentzNet as LorentzNet
