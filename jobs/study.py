"""`raymds study` as the entrypoint of a Ray job.

    ray job submit --runtime-env jobs/runtime_env.yaml -- \\
        python jobs/study.py jobs/studies/scenes.yaml uri=s3://my-bucket/studies/scenes
"""

import sys

from raymds.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
