"""Does equivariance pay? One study for each table and figure that asks: ``equikernels study``."""
