"""Figures from published numbers, from accepted records, and from the records of this configuration. Only the last two
rules cause training: they ask for the records that are missing."""

IN_REPORT = {"caption": "../report/figure.rst", "category": "§4.1 The inverse scaling law"}


rule draw_figure:
    input:
        published,
    output:
        multiext("figures/{figure}", *FIGURE_FILES[1:]),
        pdf="figures/{figure}.pdf",
        csv="figures/data/{figure}.csv",
    log:
        f"{LOGS}/figures/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/figures/{{figure}}.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Drawing {wildcards.figure} from the published numbers"
    shell:
        "kept {log}; python -m clipa figure {wildcards.figure} --published {input} --output {output.pdf} >> {log} 2>&1"


rule draw_recorded_figure:
    input:
        published=published,
        measured=recorded,
    output:
        multiext("figures/{scale}/{figure}", *FIGURE_FILES[1:]),
        pdf="figures/{scale}/{figure}.pdf",
        csv="figures/{scale}/data/{figure}.csv",
    log:
        f"{LOGS}/{{scale}}/figures/recorded-{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/figures/recorded-{{figure}}.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Drawing {wildcards.figure} from accepted records of the {wildcards.scale} scale"
    shell:
        "kept {log}; python -m clipa figure {wildcards.figure} --published {input.published}"
        " --measured {input.measured}"
        " --output {output.pdf} >> {log} 2>&1"


rule draw_measured_figure:
    input:
        published=published,
        measured=measured,
    output:
        multiext(f"{RUNS}/{{scale}}/figures/{{figure}}", *FIGURE_FILES[1:-1]),
        pdf=f"{RUNS}/{{scale}}/figures/{{figure}}.pdf",
        png=report(f"{RUNS}/{{scale}}/figures/{{figure}}.png", **IN_REPORT),
        csv=f"{RUNS}/{{scale}}/figures/data/{{figure}}.csv",
    log:
        f"{LOGS}/{{scale}}/figures/{{figure}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/figures/{{figure}}.tsv"
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    message:
        "Drawing {wildcards.figure} from measured records"
    shell:
        "kept {log}; python -m clipa figure {wildcards.figure} --published {input.published}"
        " --measured {input.measured}"
        " --output {output.pdf} >> {log} 2>&1"


rule draw_own:
    input:
        own_records,
    output:
        multiext(f"{RUNS}/{SCALE.name}/figures/{{own}}", ".svg", ".png"),
        pdf=f"{RUNS}/{SCALE.name}/figures/{{own}}.pdf",
    log:
        f"{LOGS}/{SCALE.name}/figures/{{own}}.log",
    benchmark:
        f"{BENCHMARKS}/{SCALE.name}/figures/{{own}}.tsv"
    wildcard_constraints:
        own="|".join(DRAWN),
    conda:
        "../../envs/reader.yaml"
    resources:
        **DRAWING_RESOURCES,
    params:
        verb=lambda wildcards: DRAWN[wildcards.own],
    message:
        "Drawing {wildcards.own} from measured records"
    shell:
        "kept {log}; python -m clipa {params.verb} {input} --output {output.pdf} >> {log} 2>&1"
