"""Data of one's own (docs/own-data.md): shards and test sets that are there are linked, checked, counted and hashed.

What such a scale has not of its own (BERT's vocabulary, CLIP_benchmark's test sets) is downloaded by laion.smk's rules.
"""

LOCAL = [folder for folder, data in SOURCES.items() if data.kind == "local"]


ruleorder: index_local > index_shards
ruleorder: index_own_test_set > index_test_set


rule index_local:
    output:
        f"{DATA_ROOT}/{{data}}/train/manifest.json",
    log:
        f"{LOGS}/data/{{data}}/index_local.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/index_local.tsv"
    wildcard_constraints:
        data="|".join(LOCAL),
    priority: 100
    conda:
        "../../envs/train.yaml"
    threads: 16
    resources:
        mem_mb=8000,
        runtime=24 * 60,
    params:
        asked=asked_of_data,
    message:
        "Checking, counting and hashing the shards of {wildcards.data}"
    shell:
        "python -m clipa index train {params.asked} --processes {threads} > {log} 2>&1"


rule index_own_test_set:
    output:
        f"{DATA}/test/{{dataset}}/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/index_own_{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/index_own_{{dataset}}.tsv"
    wildcard_constraints:
        dataset="|".join(SCALE.data.tests) or "(?!)",
    priority: 100  # before the training: a mistake in it should not be found after days
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        asked=ASKED,
    message:
        "Reading every item of the test set {wildcards.dataset}"
    shell:
        "python -m clipa index {wildcards.dataset} {params.asked} > {log} 2>&1"
