"""Data from the web (§4.1, §6): image links, images, test sets. Needs the network and tens of terabytes.

`{data}` is the folder of LAION-400M, or of another source that recipes name. The original host of LAION-400M's metadata
is gone; `laion/relaion400m` is the filtered re-release of the same list (docs/data.md says what is missing). The image
command is the authors' own: 256 pixels and img2dataset's defaults (resize mode border, 10,000 pairs a shard). It gave
them 41,408 shards.
"""


def source(wildcards):
    """The data source with this folder; one line of error when the scale has none."""
    if wildcards.data not in SOURCES:
        sys.exit(f"{wildcards.data}: no data source of scale {SCALE.name}")
    return SOURCES[wildcards.data]


def repository(wildcards):
    return source(wildcards).download.repository


def columns(wildcards):
    """img2dataset's options for the metadata's columns."""
    asked = source(wildcards).download
    return f"--url_col {asked.url_column} --caption_col {asked.caption_column}"


rule download_metadata:
    output:
        touch(f"{DATA_ROOT}/{{data}}/metadata/complete"),
    log:
        f"{LOGS}/data/{{data}}/download_metadata.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/download_metadata.tsv"
    retries: 3
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=8000,
        runtime=24 * 60,
    params:
        repository=repository,
    message:
        "Downloading the image links of {wildcards.data}"
    shell:
        f"python -m clipa download {{params.repository}} {DATA_ROOT}/{{wildcards.data}}/metadata > {{log}} 2>&1"


rule download_shards:
    input:
        rules.download_metadata.output,
    output:
        touch(f"{DATA_ROOT}/{{data}}/train/complete"),
    log:
        f"{LOGS}/data/{{data}}/download_shards.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/download_shards.tsv"
    retries: 3
    conda:
        "../../envs/data.yaml"
    threads: 32
    resources:
        mem_mb=128000,
        runtime=14 * 24 * 60,
    params:
        columns=columns,
    message:
        "Downloading the images of {wildcards.data} (days; started again, it resumes)"
    shell:
        f"img2dataset --url_list {DATA_ROOT}/{{wildcards.data}}/metadata --input_format parquet"
        f" --output_format webdataset --output_folder {DATA_ROOT}/{{wildcards.data}}/train"
        " {params.columns} --number_sample_per_shard 10000 --image_size 256 --resize_mode border --enable_wandb False"
        " --processes_count {threads} --thread_count 128 --incremental_mode incremental > {log} 2>&1"


rule index_shards:
    input:
        rules.download_shards.output,
    output:
        f"{DATA_ROOT}/{{data}}/train/manifest.json",
    log:
        f"{LOGS}/data/{{data}}/index_shards.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/index_shards.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 16
    resources:
        mem_mb=8000,
        runtime=24 * 60,
    params:
        asked=asked_of_data,
    message:
        "Counting and hashing the shards of {wildcards.data}"
    shell:
        "python -m clipa index train {params.asked} --processes {threads} > {log} 2>&1"


rule download_test_set:
    output:
        touch(f"{DATA}/test/{{dataset}}/complete"),
    log:
        f"{LOGS}/data/{SCALE.name}/download_{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/download_{{dataset}}.tsv"
    retries: 3
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=4 * 60,
    message:
        "Downloading the test set {wildcards.dataset} in CLIP_benchmark's layout"
    shell:
        "python -m clipa download clip-benchmark/wds_{wildcards.dataset}"
        f" {DATA}/test/{{wildcards.dataset}} > {{log}} 2>&1"


rule index_test_set:
    input:
        rules.download_test_set.output,
    output:
        f"{DATA}/test/{{dataset}}/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/index_{{dataset}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/index_{{dataset}}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        asked=ASKED,
    message:
        "Counting and hashing the test set {wildcards.dataset}"
    shell:
        "python -m clipa index {wildcards.dataset} {params.asked} > {log} 2>&1"


rule download_vocabulary:
    output:
        f"{DATA}/vocabulary/vocab.txt",
    log:
        f"{LOGS}/data/{SCALE.name}/download_vocabulary.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/download_vocabulary.tsv"
    retries: 3
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    message:
        "Downloading the vocabulary of bert-base-uncased (A.1)"
    shell:
        f"python -m clipa download vocab.txt {DATA}/vocabulary > {{log}} 2>&1"
