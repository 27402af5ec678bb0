from ..message_passing.direction import Normed as Normed
from .op import message_passing as message_passing
from .statistics import message_statistics as message_statistics
