from .op import edge_network as edge_network
from .spec import EdgeLayer as EdgeLayer
from .spec import EdgeNetwork as EdgeNetwork
from .spec import EdgeOutput as EdgeOutput
