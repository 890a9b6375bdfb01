"""Data from the web (§4.1, §6): image links, images, test sets. Needs the network and tens of terabytes.

`{data}` is the folder of LAION-400M, or of another source that recipes name. The original host of LAION-400M's metadata
is gone; `laion/relaion400m` is the filtered re-release of the same list (docs/data.md says what is missing). Images are
downloaded as the authors did: img2dataset, 256 pixels and its defaults (resize mode border, 10,000 pairs a shard), which
gave them 41,408 shards.
"""


def source(wildcards):
    """The data source with this folder; one line of error when the scale has none."""
    if wildcards.data not in SOURCES:
        sys.exit(f"{wildcards.data}: no data source of scale {SCALE.name}")
    return SOURCES[wildcards.data]


def repository(wildcards):
    return source(wildcards).download.repository


def jobs(wildcards):
    """How many jobs download the images of a source; at most 256."""
    asked = source(wildcards)
    return links_of(asked.download).download.jobs(asked.shards)


def job_minutes(wildcards):
    """The longest that one of these jobs may take."""
    return 60 * links_of(source(wildcards).download).download.hours


def job_cores(wildcards):
    """Of one of these jobs: where a Ray cluster downloads it only hands out the work."""
    return 1 if links_of(source(wildcards).download).download.distributor == "ray" else 16


def job_memory(wildcards):
    """In MB: four gigabytes a process, and a file of the list."""
    return 16000 if job_cores(wildcards) == 1 else 64000


def list_of_links(wildcards):
    """The image links of a source: metadata of the Hugging Face hub, or COCO's own list."""
    links = links_of(source(wildcards).download)
    listed = f"{DATA_ROOT}/{wildcards.data}/{links.listed}"
    return f"{listed}/complete" if links.listed == "metadata" else listed


def all_parts(wildcards):
    """The marks of all jobs that download the images of a source."""
    count = jobs(wildcards)
    return [f"{DATA_ROOT}/{wildcards.data}/parts/{part}-of-{count}" for part in range(count)]


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
        runtime=12 * 60,
    params:
        repository=repository,
    message:
        "Downloading the image links of {wildcards.data}"
    shell:
        f"kept {{log}}; python -m clipa download {{params.repository}} {DATA_ROOT}/{{wildcards.data}}/metadata"
        f" >> {{log}} 2>&1"


rule download_images:
    input:
        list_of_links,
    output:
        touch(f"{DATA_ROOT}/{{data}}/parts/{{part}}-of-{{parts}}"),
    log:
        f"{LOGS}/data/{{data}}/download_images-{{part}}-of-{{parts}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/download_images-{{part}}-of-{{parts}}.tsv"
    retries: 5
    conda:
        "../../envs/data.yaml"
    threads: job_cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        asked=asked_of_data,
    message:
        "Downloading images of {wildcards.data}, part {wildcards.part} of {wildcards.parts} (started again, it resumes)"
    shell:
        "kept {log}; python -m clipa data fetch {params.asked} --part {wildcards.part}/{wildcards.parts}"
        " --processes {threads}"
        " >> {log} 2>&1"


rule complete_images:
    input:
        all_parts,
    output:
        touch(f"{DATA_ROOT}/{{data}}/train/complete"),
    log:
        f"{LOGS}/data/{{data}}/complete_images.log",
    benchmark:
        f"{BENCHMARKS}/data/{{data}}/complete_images.tsv"
    retries: 5
    conda:
        "../../envs/data.yaml"
    threads: job_cores
    resources:
        mem_mb=job_memory,
        runtime=job_minutes,
    params:
        asked=asked_of_data,
    message:
        "Downloading again what an outage left out of {wildcards.data}"
    shell:
        "kept {log}; python -m clipa data fetch {params.asked} --processes {threads} >> {log} 2>&1"


rule index_shards:
    input:
        rules.complete_images.output,
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
        "kept {log}; python -m clipa index train {params.asked} --processes {threads} >> {log} 2>&1"


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
        "kept {log}; python -m clipa download clip-benchmark/wds_{wildcards.dataset}"
        f" {DATA}/test/{{wildcards.dataset}} >> {{log}} 2>&1"


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
        "kept {log}; python -m clipa index {wildcards.dataset} {params.asked} >> {log} 2>&1"


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
        f"kept {{log}}; python -m clipa download vocab.txt {DATA}/vocabulary >> {{log}} 2>&1"
