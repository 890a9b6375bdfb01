"""Released checkpoints in the place of trainings (`--config released=true`): Tables 1 to 3, a job for each row that has
one. It needs the hub, or its cache. Sets that a killed job had finished, or another table's, are not measured again.
"""


rule evaluate_released:
    input:
        released_test_sets,
    output:
        f"{RUNS}/{RELEASED_SCALE}/{{table}}/{{row}}.json",
    log:
        f"{LOGS}/{RELEASED_SCALE}/{{table}}-{{row}}.log",
    benchmark:
        f"{BENCHMARKS}/{RELEASED_SCALE}/{{table}}-{{row}}.tsv"
    wildcard_constraints:
        row=r"[A-Za-z0-9.-]+",
    retries: 3
    conda:
        "../../envs/train.yaml"
    resources:
        **(EVALUATION_RESOURCES | {"runtime": 12 * 60}),
    params:
        asked=ASKED,
        benchmarks=lambda wildcards: " ".join(released_table(wildcards.table).benchmarks),
    message:
        "Evaluating {wildcards.row} for {wildcards.table}"
    shell:
        "kept {log}; exec python -m clipa evaluate {params.asked} --model {wildcards.row} --benchmarks {params.benchmarks}"
        " --output {output} >> {log} 2>&1"
