from .op import k_nearest as k_nearest
from .op import knn_graph as knn_graph
from .op import radius_graph as radius_graph
