"""`raymds finetune` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/finetune.py jobs/presets/foggy.yaml data.uri=s3://my-bucket/bdd100k
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
