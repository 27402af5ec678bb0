import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as equikernels does, if it comes before torch

from .command import main

sys.exit(main())
