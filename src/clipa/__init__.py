"""The inverse scaling law for CLIP training (arXiv:2305.07017), executable.

Floors, imports downwards only: ``cli`` → ``figures tables law accept demo`` | ``train evaluate data`` →
``models`` → ``runs results config`` (ground: no torch).
"""

__version__ = "0.1.0"
