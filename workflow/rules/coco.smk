"""COCO's images and captions, which NegCLIP trains on at the paper's scale (Table 14): a training set of its own, then
indexed, tagged and paired as every other. Needs the network and 25 gigabytes.
"""

COCO = str(PLAN.data_of(SCALE.sources["COCO-2014"]))


# COCO's images come from COCO's own list, not from metadata of the Hugging Face hub.
ruleorder: download_coco_images > download_shards


rule download_coco_captions:
    output:
        f"{COCO}/annotations_trainval2014.zip",
    log:
        f"{LOGS}/data/{SCALE.name}/download_coco_captions.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/download_coco_captions.tsv"
    retries: 3
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    message:
        "Downloading COCO's captions"
    shell:
        f"python -m clipa download annotations_trainval2014.zip {COCO} > {{log}} 2>&1"


rule list_coco_images:
    input:
        rules.download_coco_captions.output,
    output:
        f"{COCO}/images.jsonl",
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
        touch(f"{COCO}/train/complete"),
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
        "Downloading COCO's images (started again, it resumes)"
    shell:
        "img2dataset --url_list {input} --input_format jsonl --url_col url --caption_col caption"
        f" --output_format webdataset --output_folder {COCO}/train --number_sample_per_shard 1000"
        " --image_size 256 --resize_mode border --processes_count {threads} --thread_count 64 --enable_wandb False"
        """ --save_additional_columns '["captions","image_id"]' --incremental_mode incremental > {log} 2>&1"""
