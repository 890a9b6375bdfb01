"""COCO's images and captions, on which NegCLIP goes on at the paper's scale (Table 14): a training set of its own in
`coco`, made like LAION's, with parts of speech, negatives and neighbours. Needs the network and 25 gigabytes.
"""


rule download_coco_captions:
    output:
        f"{DATA}/coco/annotations_trainval2014.zip",
    log:
        f"{LOGS}/data/{SCALE.name}/download_coco_captions.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/download_coco_captions.tsv"
    retries: 3
    conda:
        "../../envs/data.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    message:
        "Downloading COCO's captions"
    shell:
        "curl --fail --location --silent --show-error --output {output}"
        " http://images.cocodataset.org/annotations/annotations_trainval2014.zip > {log} 2>&1"


rule list_coco_images:
    input:
        rules.download_coco_captions.output,
    output:
        f"{DATA}/coco/images.jsonl",
    log:
        f"{LOGS}/data/{SCALE.name}/list_coco_images.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/list_coco_images.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Listing COCO's images with their captions"
    shell:
        "python -m clipa coco {input} {output} > {log} 2>&1"


rule download_coco_images:
    input:
        rules.list_coco_images.output,
    output:
        touch(f"{DATA}/coco/train/complete"),
    log:
        f"{LOGS}/data/{SCALE.name}/download_coco_images.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/download_coco_images.tsv"
    retries: 3
    conda:
        "../../envs/data.yaml"
    threads: 16
    resources:
        mem_mb=16000,
        runtime=24 * 60,
    message:
        "Downloading COCO's images (started again, it goes on where it was)"
    shell:
        "img2dataset --url_list {input} --input_format jsonl --url_col url --caption_col caption"
        f" --output_format webdataset --output_folder {DATA}/coco/train --number_sample_per_shard 1000"
        " --image_size 256 --resize_mode border --processes_count {threads} --thread_count 64 --enable_wandb False"
        """ --save_additional_columns '["captions","image_id"]' --incremental_mode incremental > {log} 2>&1"""


rule index_coco:
    input:
        rules.download_coco_images.output,
    output:
        f"{DATA}/coco/train/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/index_coco.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/index_coco.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        asked=ASKED,
    message:
        "Counting and hashing COCO's shards"
    shell:
        "python -m clipa index train {params.asked} --within coco --processes {threads} > {log} 2>&1"


rule annotate_coco:
    input:
        rules.index_coco.output,
    output:
        f"{DATA}/coco/train/annotation.json",
    log:
        f"{LOGS}/data/{SCALE.name}/annotate_coco.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/annotate_coco.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        asked=ASKED,
    message:
        "Tagging parts of speech in COCO's captions"
    shell:
        "python -m clipa annotate {params.asked} --within coco --processes {threads} > {log} 2>&1"


rule negatives_coco:
    input:
        rules.annotate_coco.output,
    output:
        f"{DATA}/coco/negclip/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/negatives_coco.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/negatives_coco.tsv"
    conda:
        "../../envs/train.yaml"
    threads: 16
    resources:
        mem_mb=16000,
        runtime=8 * 60,
    params:
        asked=ASKED,
    message:
        "Exchanging words of COCO's captions and finding like pictures by their CLIP features"
    shell:
        "python -m clipa negatives {params.asked} --within coco --neighbours ViT-B-32/openai"
        " --processes {threads} > {log} 2>&1"
