"""`raymds evaluate` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/evaluate.py jobs/presets/foggy.yaml --weights s3://my-bucket/runs/foggy/weights.safetensors
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
