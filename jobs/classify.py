"""`raymds classify` as the entrypoint of a Ray job, on all machines of the cluster.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/classify.py s3://my-bucket/runs/foggy s3://my-bucket/drive-17 --out s3://my-bucket/labels.parquet
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["classify", *sys.argv[1:]]))
