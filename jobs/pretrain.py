"""`raymds pretrain` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/pretrain.py demo-pretrain data.uri=s3://my-bucket/scenes run.uri=s3://my-bucket/runs/old
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
