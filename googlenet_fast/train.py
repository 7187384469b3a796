"""Train GoogLeNet: `torchrun -m googlenet_fast.train` or `python -m googlenet_fast.train`."""

import json
import logging
import sys
from contextlib import closing

from googlenet_fast.engine.config import load_config
from googlenet_fast.errors import log_to_stderr, long_imports, printable, run_command


def main() -> None:
    """Run the command; print one RESULT line at the end."""
    log_to_stderr(logging.INFO)
    config = load_config(sys.argv[1:])

    # After the command line, whose help and mistakes need not wait for torch.
    with long_imports():
        from googlenet_fast.engine.distributed import distributed
        from googlenet_fast.engine.trainer import Trainer

    with distributed(config.device, config.timeout) as process:
        with closing(Trainer(config, process)) as trainer:
            result = trainer.run()
        if trainer.folder is None:
            return
        if trainer.stopped_by is not None:
            print(
                f"stopped at step {trainer.step}; to continue: "
                f"{printable(trainer.folder.resume_command())}"
            )
            sys.exit(128 + trainer.stopped_by)
        print(f"RESULT {json.dumps(result)}", flush=True)


if __name__ == "__main__":
    run_command(main)
