"""Pages made from stored numbers: the verdict on every claim, the errata, and the page of all numbers."""


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
