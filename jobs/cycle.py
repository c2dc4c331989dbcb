"""`raymds cycle` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/cycle.py jobs/cycles/scenes.yaml uri=s3://my-bucket/history \\
        model=s3://my-bucket/weather.safetensors base.data.uri=s3://my-bucket/scenes
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["cycle", *sys.argv[1:]]))
