"""Training stages. The declared output is the small file written last: Snakemake deletes the outputs of a failed
job, so checkpoints are never declared. A stage that was killed goes on from its newest checkpoint."""


rule pretrain:
    input:
        training_data,
    output:
        f"{RUNS}/{{scale}}/{{run}}/pretrain/seed{{seed}}-{{fingerprint}}/stage.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/pretrain-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/pretrain-seed{{seed}}-{{fingerprint}}.tsv"
    priority: longest_first
    conda:
        "../../envs/train.yaml"
    threads: SCALE.resources.cpus
    resources:
        **TRAINING_RESOURCES,
    params:
        asked=ASKED,
    message:
        "Pre-training {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec python -m clipa train {params.asked} --run {wildcards.run} --kind pretrain"
        " --seed {wildcards.seed} --fingerprint {wildcards.fingerprint} > {log} 2>&1"


rule finetune:
    input:
        parent_stage,
        training_data,
    output:
        f"{RUNS}/{{scale}}/{{run}}/finetune/seed{{seed}}-{{fingerprint}}/stage.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/finetune-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/finetune-seed{{seed}}-{{fingerprint}}.tsv"
    priority: longest_first
    conda:
        "../../envs/train.yaml"
    threads: SCALE.resources.cpus
    resources:
        **TRAINING_RESOURCES,
    params:
        asked=ASKED,
    message:
        "Fine-tuning {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec python -m clipa train {params.asked} --run {wildcards.run} --kind finetune"
        " --seed {wildcards.seed} --fingerprint {wildcards.fingerprint} > {log} 2>&1"


rule negclip:
    input:
        parent_stage,
        training_data,
    output:
        f"{RUNS}/{{scale}}/{{run}}/negclip/seed{{seed}}-{{fingerprint}}/stage.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/negclip-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/negclip-seed{{seed}}-{{fingerprint}}.tsv"
    priority: longest_first
    conda:
        "../../envs/train.yaml"
    threads: SCALE.resources.cpus
    resources:
        **TRAINING_RESOURCES,
    params:
        asked=ASKED,
    message:
        "NegCLIP after {wildcards.run}, seed {wildcards.seed}"
    shell:
        "exec python -m clipa train {params.asked} --run {wildcards.run} --kind negclip"
        " --seed {wildcards.seed} --fingerprint {wildcards.fingerprint} > {log} 2>&1"
