"""What can be asked for by name. `figures` and `tables` come from the published numbers; `measure_…` and `all` from
measured ones, and plan the stages that neither results/recorded nor the disk has."""


rule figures:
    input:
        expand("figures/{figure}.{kind}", figure=FIGURES, kind=["pdf", "png"]),
        expand("figures/data/{figure}.csv", figure=FIGURES),


rule tables:
    input:
        expand("tables/{table}.tex", table=TABLES),


rule data:
    input:
        f"{DATA}/train/manifest.json",
        f"{DATA}/train/annotation.json",
        f"{DATA}/vocabulary/vocabulary.json",
        test_sets({**SCALE.evaluation.benchmarks, **SCALE.evaluation.suite}),


rule measure_figure4:
    input:
        measured_files("figure4"),


rule measure_figure9:
    input:
        measured_files("figure9"),


rule measure_figure10:
    input:
        measured_files("figure10"),


rule measure_table11:
    input:
        measured_files("table11"),


rule measure_suite:
    input:
        PLAN.suite_cells(),


rule all:
    input:
        [measured_files(name) for name in FIGURES + TABLES],
