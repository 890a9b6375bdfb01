"""Entry point. `snakemake` without a target makes figures, tables and pages from stored numbers, and never trains.

snakemake figures/figure4.pdf                        one figure, in seconds, without torch
snakemake measure_figure4 --config scale=micro-v1    the same from measured numbers; runs what is missing
snakemake --profile slurm all -n                     dry run of the paper's own scale
"""


include: "workflow/Snakefile"


rule published:
    default_target: True
    input:
        rules.figures.input,
        rules.tables.input,
        rules.pages.input,
