from .op import pairwise_invariants as pairwise_invariants
