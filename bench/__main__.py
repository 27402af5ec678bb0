import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as bin/equikernels does, before torch is imported

from .command import main

sys.exit(main())
