"""Data made from the captions: the vocabulary, parts of speech beside the shards, the prepared copy, and NegCLIP's set."""


rule vocabulary:
    input:
        manifest=f"{DATA}/train/manifest.json",
        ready_made=[] if SCALE.vocabulary_size else f"{DATA}/vocabulary/vocab.txt",
    output:
        f"{DATA}/vocabulary/vocabulary.json",
    log:
        f"{LOGS}/data/{SCALE.name}/vocabulary.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/vocabulary.tsv"
    priority: 90
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        asked=ASKED,
    message:
        "Making the vocabulary"
    shell:
        "kept {log}; python -m clipa vocabulary {params.asked} >> {log} 2>&1"


rule annotate:
    input:
        f"{DATA_ROOT}/{{data}}/train/manifest.json",
        f"{DATA}/vocabulary/vocabulary.json",
    output:
        f"{DATA_ROOT}/{{data}}/train/annotation.json",
    log:
        f"{LOGS}/data/{{data}}/annotate.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/annotate.tsv"
    conda:
        "../../envs/train.yaml" if SCALE.data.kind == "pictograms" else "../../envs/tagger.yaml"
    threads: 1 if SCALE.data.kind == "pictograms" else 32
    resources:
        mem_mb=3000 if SCALE.data.kind == "pictograms" else 32000,
        runtime=24 * 60,
    params:
        asked=asked_of_data,
    message:
        "Tagging parts of speech in the captions and the vocabulary"
    shell:
        "kept {log}; python -m clipa annotate {params.asked} --processes {threads} >> {log} 2>&1"


rule prepare:
    input:
        f"{DATA_ROOT}/{{data}}/train/manifest.json",
        f"{DATA}/vocabulary/vocabulary.json",
    output:
        f"{DATA_ROOT}/{{data}}/prepared-{{size}}/manifest.json",
    log:
        f"{LOGS}/data/{{data}}/prepare-{{size}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/prepare-{{size}}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 32
    resources:
        mem_mb=64000,
        runtime=3 * 24 * 60,
    params:
        asked=asked_of_data,
    message:
        "Making small images and cut captions of {wildcards.data}"
    shell:
        "kept {log}; python -m clipa prepare {params.asked} --processes {threads} >> {log} 2>&1"


rule negatives:
    input:
        f"{DATA_ROOT}/{{data}}/train/manifest.json",
        f"{DATA_ROOT}/{{data}}/train/annotation.json",
    output:
        f"{DATA_ROOT}/{{data}}/negclip/manifest.json",
    log:
        f"{LOGS}/data/{{data}}/negatives.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/negatives.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 16 if SCALE.device == "cuda" else 2
    resources:
        mem_mb=3000 if SCALE.device == "cpu" else 16000,
        runtime=8 * 60,
    params:
        asked=asked_of_data,
    message:
        "Exchanging words of captions and finding similar images, for NegCLIP"
    shell:
        "kept {log}; python -m clipa negatives {params.asked} --processes {threads} >> {log} 2>&1"
