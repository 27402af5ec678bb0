from .op import gather_segment_reduce as gather_segment_reduce
from .op import segment_reduce as segment_reduce
from .op import segment_softmax as segment_softmax
