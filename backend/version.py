"""The one version of the project: of the package, the player and the producer of a Program."""

__version__ = "0.1.0"
