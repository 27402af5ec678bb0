from .op import coordinate_update as coordinate_update
