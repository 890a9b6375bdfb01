"""Targets with a name. `figures` and `tables` are made from published numbers, `measure_…` and `all` from measured records;
the latter run the stages that are neither in results/recorded nor on disk."""


rule figures:
    input:
        expand("figures/{figure}{file}", figure=FIGURES, file=FIGURE_FILES),
        expand("figures/data/{figure}.csv", figure=FIGURES),


rule tables:
    input:
        expand("tables/{table}.tex", table=TABLES),
        "tables/numbers.tex",


rule pages:
    input:
        "docs/claims.md",
        "docs/errata.md",
        "docs/numbers.html",
        "docs/law.html",


rule data:
    input:
        f"{DATA}/train/manifest.json",
        f"{DATA}/train/annotation.json",
        f"{DATA}/vocabulary/vocabulary.json",
        test_sets({**SCALE.evaluation.benchmarks, **SCALE.evaluation.suite}),


# measure_figure4, measure_table11, …: one rule for each figure or table that the configured experiments fill.
for target in MEASURED + MEASURED_BESIDES:

    rule:
        name:
            f"measure_{target}"
        input:
            measured_files(target),
        localrule: True


rule measure_suite:
    input:
        records_behind("suite"),


rule all:
    input:
        [measured_files(name) for name in MEASURED + MEASURED_BESIDES],
