"""COCO's images and captions, which NegCLIP trains on at the paper's scale (Table 14): a training set of its own, then
indexed, tagged and paired as every other. Needs the network and 25 gigabytes.
"""

COCO = str(PLAN.data_of(SCALE.sources["COCO-2014"]))


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
        f"kept {{log}}; python -m clipa download annotations_trainval2014.zip {COCO} >> {{log}} 2>&1"


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
        "kept {log}; python -m clipa coco {input} {output} >> {log} 2>&1"
