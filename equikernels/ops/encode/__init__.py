from .op import encode_invariants as encode_invariants
