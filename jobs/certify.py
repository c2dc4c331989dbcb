"""`raymds certify` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/certify.py jobs/presets/foggy.yaml --old s3://my-bucket/old.safetensors --new s3://my-bucket/new.safetensors
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["certify", *sys.argv[1:]]))
