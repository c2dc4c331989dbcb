"""`raymds data ingest` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/ingest.py bdd100k --images /mnt/bdd100k/images --labels /mnt/bdd100k/labels --out s3://my-bucket/bdd100k
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "ingest", *sys.argv[1:]]))
