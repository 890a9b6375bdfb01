"""Training stages, all kinds in one rule. The declared output is the small file written last: Snakemake deletes the
outputs of a failed job, so checkpoints are never declared. A killed stage resumes from its newest checkpoint.
"""


rule train:
    input:
        parent_stage,
        training_data,
    output:
        f"{RUNS}/{{scale}}/{{run}}/{{kind}}/seed{{seed}}-{{fingerprint}}/stage.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/{{kind}}-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/{{kind}}-seed{{seed}}-{{fingerprint}}.tsv"
    priority: longest_first
    conda:
        "../../envs/train.yaml"
    threads: SCALE.resources.cpus
    resources:
        **TRAINING_RESOURCES,
    params:
        stage=resolved_stage,
    message:
        "{wildcards.kind} of {wildcards.run}, seed {wildcards.seed}"
    shell:
        "kept {log}; exec python -m clipa train $REQUEUE {params.stage} >> {log} 2>&1"
