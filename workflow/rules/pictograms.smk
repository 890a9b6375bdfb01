"""The embedded world (docs/world.md): drawn, not downloaded."""


rule draw_training:
    output:
        f"{DATA}/train/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/draw_training.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/draw_training.tsv"
    priority: 100
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        asked=ASKED,
    message:
        "Drawing the training shards of {SCALE.data.name}"
    shell:
        "kept {log}; python -m clipa draw train {params.asked} --processes {threads} >> {log} 2>&1"


rule draw_test_set:
    output:
        f"{DATA}/test/{{dataset}}/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/draw_{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/draw_{{dataset}}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        asked=ASKED,
    message:
        "Drawing the test set {wildcards.dataset}"
    shell:
        "kept {log}; python -m clipa draw {wildcards.dataset} {params.asked} >> {log} 2>&1"
