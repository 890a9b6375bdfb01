"""Pages made from stored numbers: the verdict on every claim, the errata, the page of all numbers, and the page to explore."""


rule check_claims:
    input:
        CLAIMS,
        PUBLISHED,
        RECORDED,
    output:
        "docs/claims.md",
        "docs/errata.md",
    log:
        f"{LOGS}/pages/claims.log",
    benchmark:
        f"{BENCHMARKS}/pages/claims.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Checking every claim of the paper against its tables and against accepted records"
    shell:
        "kept {log}; python -m clipa claims --write docs >> {log} 2>&1"


rule list_numbers:
    input:
        CLAIMS,
        PUBLISHED,
        RECORDED,
    output:
        "docs/numbers.html",
    log:
        f"{LOGS}/pages/numbers.log",
    benchmark:
        f"{BENCHMARKS}/pages/numbers.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Listing every number, published and measured apart"
    shell:
        "kept {log}; python -m clipa numbers --output {output} >> {log} 2>&1"


rule export_numbers:
    input:
        CLAIMS,
        PUBLISHED,
        RECORDED,
    output:
        "tables/numbers.{format}",
    log:
        f"{LOGS}/pages/numbers-{{format}}.log",
    benchmark:
        f"{BENCHMARKS}/pages/numbers-{{format}}.tsv"
    wildcard_constraints:
        format="csv|json|parquet",
    conda:
        "../../envs/parquet.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Writing every number as one flat table ({wildcards.format})"
    shell:
        "kept {log}; python -m clipa numbers --output {output} >> {log} 2>&1"


rule draw_explorable:
    input:
        CLAIMS,
        PUBLISHED,
        RECORDED,
    output:
        "docs/law.html",
    log:
        f"{LOGS}/pages/law.log",
    benchmark:
        f"{BENCHMARKS}/pages/law.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Drawing the law as charts to explore, published and measured numbers apart"
    shell:
        "kept {log}; python -m clipa explore --output {output} >> {log} 2>&1"
