"""Tables from published numbers, from accepted records, and from the records of this configuration."""


rule fill_table:
    input:
        published,
    output:
        "tables/{table}.tex",
    log:
        f"{LOGS}/tables/{{table}}.log",
    benchmark:
        f"{BENCHMARKS}/tables/{{table}}.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Filling {wildcards.table} with the published numbers"
    shell:
        "kept {log}; python -m clipa table {wildcards.table} --published {input} --output {output} >> {log} 2>&1"


rule define_numbers:
    input:
        PUBLISHED,
    output:
        "tables/numbers.tex",
    log:
        f"{LOGS}/tables/numbers.log",
    benchmark:
        f"{BENCHMARKS}/tables/numbers.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Defining \\clipanumber for every published number"
    shell:
        "kept {log}; python -m clipa macros --published {input} --output {output} >> {log} 2>&1"


rule fill_recorded_table:
    input:
        published=published,
        measured=recorded,
    output:
        "tables/{scale}/{table}.tex",
    log:
        f"{LOGS}/{{scale}}/tables/recorded-{{table}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/tables/recorded-{{table}}.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Filling {wildcards.table} with accepted records of the {wildcards.scale} scale"
    shell:
        "kept {log}; python -m clipa table {wildcards.table} --published {input.published} --measured {input.measured}"
        " --output {output} >> {log} 2>&1"


rule fill_measured_table:
    input:
        published=published,
        measured=measured,
    output:
        report(
            f"{RUNS}/{{scale}}/tables/{{table}}.tex",
            caption="../report/table.rst",
            category="B.3 Numeric results on ImageNet-1k",
            labels={"table": "{table}", "scale": "{scale}"},
        ),
    log:
        f"{LOGS}/{{scale}}/tables/{{table}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/tables/{{table}}.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Filling {wildcards.table} with measured records"
    shell:
        "kept {log}; python -m clipa table {wildcards.table} --published {input.published} --measured {input.measured}"
        " --output {output} >> {log} 2>&1"
