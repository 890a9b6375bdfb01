"""Attacks on the commands of clipa: kills, full disks, power loss, flipped bits, bad samples, wrong configurations,
hostile files. docs/reliability.md says how they work and what came of them.

    PYTHONPATH=src python -m benchmarks.faults --help
"""
