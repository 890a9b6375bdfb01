"""ARO's four test sets (Table 14). What has a plain address is downloaded; Visual Genome's files and Flickr30k's images
a person must place (docs/data.md): a conversion without them ends in one line that names the file and its source.
"""

import re

from clipa.data.aro import SETS

ARO = f"{PLAN.project.data_directory}/aro"


# The other test sets are copies of CLIP_benchmark's, which has none of these.
ruleorder: convert_aro > index_test_set


def aro_downloads(wildcards):
    """The files of an ARO set that have a direct address."""
    return [f"{ARO}/{name}" for name in SETS[wildcards.aro].downloads]


rule download_aro:
    output:
        f"{ARO}/{{file}}",
    log:
        f"{LOGS}/data/{SCALE.name}/download_aro_{{file}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/download_aro_{{file}}.tsv"
    wildcard_constraints:
        file="|".join(re.escape(name) for one in SETS.values() for name in one.downloads),
    retries: 3
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=12 * 60,
    message:
        "Downloading {wildcards.file} for ARO"
    shell:
        f"kept {{log}}; python -m clipa download {{wildcards.file}} {ARO} >> {{log}} 2>&1"


rule convert_aro:
    input:
        aro_downloads,
    output:
        f"{DATA}/test/aro-{{aro}}/manifest.json",
    log:
        f"{LOGS}/data/{SCALE.name}/convert_aro_{{aro}}.log",
    benchmark:
        f"{BENCHMARKS}/data/{SCALE.name}/convert_aro_{{aro}}.tsv"
    wildcard_constraints:
        aro="|".join(SETS),
    priority: 100  # so that a missing file is reported before days of training
    conda:
        "../../envs/tagger.yaml"
    resources:
        mem_mb=4000,
        runtime=4 * 60,
    params:
        asked=f"{ASKED} --source-folder {ARO}",
    message:
        "Converting ARO's {wildcards.aro}"
    shell:
        "kept {log}; python -m clipa aro {wildcards.aro} {params.asked} >> {log} 2>&1"
