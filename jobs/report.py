"""`raymds report` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/report.py s3://my-bucket/runs/foggy
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
